# In the restored system: every promised file must be there with its contents, and the system must be as it was.
#   sh check.sh
set -eu
lsblk
grep -E '^/dev' /proc/mounts
count=0
while read -r name digest; do
    found=$(sha256sum < "/var/kept/$name" | cut -d' ' -f1)
    [ "$found" = "$digest" ] || { echo "WRONG $name"; exit 1; }
    count=$((count + 1))
done < /job/promised

# What /etc/fstab names is mounted, and is swap.
while read -r device where kind rest; do
    if [ "$kind" = swap ]; then
        swapon --noheadings --show=NAME | grep -q .
    else
        mountpoint "$where"
    fi
done < /etc/fstab

# Frozen, the root file system's journal is empty, and a check by another tool shows what is on the disk. It looks
# through a loop device: of a device that is mounted as "/" e2fsck wants to know whether it is writable, by writing.
loop=$(losetup --find --show --read-only "$(findmnt -n -o SOURCE /)")
fsfreeze --freeze /
wrong=0
e2fsck -f -n "$loop" > /job/e2fsck 2>&1 || wrong=$?
fsfreeze --unfreeze /
losetup --detach "$loop"
cat /job/e2fsck
[ "$wrong" = 0 ]

# A mirror has both halves.
for array in /sys/block/md*/md; do
    [ -e "$array/degraded" ] || continue
    cat /proc/mdstat
    [ "$(cat "$array/degraded")" = 0 ]
done
echo "RIGHT $count"
