# In a system that was restored: looks whether all came back, tells what it sees on the second serial line (no login
# prompt takes that), and ends the machine with its verdict: through the port of QEMU's isa-debug-exit, where N becomes
# the exit code 2 N + 1.
exec > /dev/ttyS1 2>&1
echo  # firmware may have left a line open
wrong=0
wrong() { echo "WRONG $*"; wrong=1; }

# What /etc/fstab names is there, where and as what it says, whether or not the system could start without it.
while read -r spec where kind rest; do
    case $spec in
    *=*) device=$(findfs "$spec") || { wrong "no device is $spec"; continue; } ;;
    *) device=$spec ;;
    esac
    device=$(readlink -f "$device")
    if [ "$kind" = swap ]; then
        swapon --noheadings --show=NAME | while read -r name; do readlink -f "$name"; done | grep -qx "$device" \
            || wrong "$device is no swap"
        continue
    fi
    found=$(findmnt --noheadings --nofsroot --output SOURCE "$where")
    [ "$(readlink -f "$found")" = "$device" ] || wrong "$where is $found, not $device"
    found=$(findmnt --noheadings --output FSTYPE "$where")
    [ "$found" = "$kind" ] || wrong "$where is $found, not $kind"
done < /etc/fstab

sha256sum --check --quiet --strict /root/list || wrong "files differ"
# Files in which ids are written, or drivers are: whether they may differ is known to who restored it.
starts=same
sha256sum --check --quiet --strict /root/list-of-starts || starts=changed
[ ! -e /root/kept/loader ] || cmp /root/kept/loader /boot/efi/EFI/BOOT/BOOTX64.EFI || starts=changed
failed=$(systemctl list-units --failed --plain --no-legend)
[ -z "$failed" ] || wrong "failed: $failed"
echo written > /root/written && sync || wrong "the root file system cannot be written to"

firmware=bios
[ ! -d /sys/firmware/efi ] || firmware=uefi
root=$(findmnt --noheadings --nofsroot --output SOURCE /)
disk=$(lsblk --inverse --noheadings --list --output NAME,TYPE "$root" | awk '$2 == "disk" { print $1 }')
part=$(lsblk --inverse --noheadings --list --output NAME,TYPE "$root" | awk '$2 == "part" { print $1 }')
at=$(readlink -f "/sys/class/block/$disk/device")
while [ "$at" != / ] && [ "$(basename "$(readlink -f "$at/subsystem")")" != pci ]; do at=$(dirname "$at"); done
echo "REPORT firmware=$firmware"
echo "REPORT root=$root"
echo "REPORT filesystem=$(findmnt --noheadings --output FSTYPE /)"
echo "REPORT bytes=$(findmnt --bytes --noheadings --output SIZE /)"
echo "REPORT disk=$disk"
echo "REPORT driver=$(basename "$(readlink -f "$at/driver")")"
echo "REPORT disk_bytes=$(($(cat "/sys/class/block/$disk/size") * 512))"
echo "REPORT start=$(($(cat "/sys/class/block/$part/start") * 512))"
echo "REPORT size=$(($(cat "/sys/class/block/$part/size") * 512))"
echo "REPORT part_id=$(lsblk --noheadings --nodeps --output PARTUUID "/dev/$part")"
echo "REPORT root_id=$(findmnt --noheadings --output UUID /)"
echo "REPORT starts=$starts"
echo "REPORT files=$(wc -l < /root/list)"
echo "REPORT end"
exec > /dev/null 2>&1  # the line is closed when all of it was sent
[ "$wrong" = 0 ] && code='\020' || code='\001'
printf "$code" | dd of=/dev/port bs=1 seek=$((0x501)) status=none
systemctl poweroff
