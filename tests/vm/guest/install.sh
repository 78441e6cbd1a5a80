# Installs this guest's own system onto an empty disk (or two), so that it boots by itself.
#   sh install.sh plain|lvm|luks|mirror DISK [DISK]
# plain: UEFI, FAT boot files partition at /boot/efi, ext4.  lvm: ext4 and swap on LVM.  luks: ext4 and swap on LVM in
# LUKS, /boot apart.  mirror: ext4 on MD RAID 1, GRUB on both disks.
set -eux
layout=$1; disk=$2; second=${3:-}
mkdir -p /target

partition() {
    case $layout in
    plain) sgdisk -n1:2048:+64M -t1:ef00 -n2:0:0 -t2:8300 "$1" ;;
    lvm) sgdisk -n1:2048:+1M -t1:ef02 -n2:0:0 -t2:8e00 "$1" ;;
    luks) sgdisk -n1:2048:+1M -t1:ef02 -n2:0:+200M -t2:8300 -n3:0:0 -t3:8309 "$1" ;;
    mirror) sgdisk -n1:2048:+1M -t1:ef02 -n2:0:0 -t2:fd00 "$1" ;;
    esac
    udevadm settle
}

partition "$disk"
[ -z "$second" ] || partition "$second"
boot= swap=
case $layout in
plain) root=${disk}2; boot=${disk}1; mkfs.vfat -F32 -n ESP "$boot" ;;
lvm) pv=${disk}2 ;;
luks)
    boot=${disk}2
    mkfs.ext4 -q -L boot "$boot"
    mkdir -p /tmp/keys
    head -c 64 /dev/urandom > /tmp/keys/root.key
    cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "${disk}3" /tmp/keys/root.key
    cryptsetup open --key-file /tmp/keys/root.key "${disk}3" root_crypt
    pv=/dev/mapper/root_crypt ;;
mirror)
    mdadm --create /dev/md0 --run --level=1 --metadata=1.2 --raid-devices=2 "${disk}2" "${second}2"
    root=/dev/md0 ;;
esac
if [ -n "${pv:-}" ]; then
    pvcreate -q "$pv"
    vgcreate -q vg0 "$pv"
    lvcreate -q -y -L 128M -n swap vg0
    lvcreate -q -y -l 60%FREE -n root vg0
    root=/dev/vg0/root swap=/dev/vg0/swap
    mkswap "$swap"
fi
mkfs.ext4 -q -E lazy_itable_init=0,nodiscard -L system "$root"
mount "$root" /target
[ "$layout" != luks ] || { mkdir /target/boot; mount "$boot" /target/boot; }
tar -C / --one-file-system -cf - --exclude=./job --exclude=./target --exclude=./tmp/keys . | tar -C /target -xpf -
mkdir -p /target/job /target/proc /target/sys /target/dev /target/run /target/tmp
if [ "$layout" = plain ]; then mkdir -p /target/boot/efi; mount "$boot" /target/boot/efi; fi

{
    echo "UUID=$(blkid -s UUID -o value "$root") / ext4 errors=remount-ro 0 1"
    [ -z "$swap" ] || echo "$swap none swap sw 0 0"
    [ "$layout" != plain ] || echo "UUID=$(blkid -s UUID -o value "$boot") /boot/efi vfat umask=0077 0 1"
    [ "$layout" != luks ] || echo "UUID=$(blkid -s UUID -o value "$boot") /boot ext4 defaults 0 2"
} > /target/etc/fstab
if [ "$layout" = luks ]; then
    mkdir -p /target/etc/keys
    cp /tmp/keys/root.key /target/etc/keys/
    chmod 700 /target/etc/keys
    echo "root_crypt UUID=$(blkid -s UUID -o value "${disk}3") /etc/keys/root.key luks,discard,initramfs" > /target/etc/crypttab
    echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >> /target/etc/cryptsetup-initramfs/conf-hook
    echo 'UMASK=0077' >> /target/etc/initramfs-tools/initramfs.conf
    printf 'COMPRESS=gzip\nCOMPRESSLEVEL=1\nMODULES=list\n' > /target/etc/initramfs-tools/conf.d/quick
    printf '%s\n' virtio_pci virtio_blk ext4 dm_mod dm_crypt aes_generic xts sha256_generic algif_skcipher \
        >> /target/etc/initramfs-tools/modules
fi
[ "$layout" != mirror ] || mdadm --detail --scan > /target/etc/mdadm/mdadm.conf

for name in proc sys dev; do mount --bind "/$name" "/target/$name"; done
mkdir -p /target/etc/default
echo 'GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX="console=ttyS0,115200 systemd.show_status=0"
GRUB_TERMINAL="serial console"
GRUB_DISABLE_OS_PROBER=true' > /target/etc/default/grub
# The initial RAM disk of the base knows LVM and MD; it takes many minutes to make one here.
[ "$layout" != luks ] || chroot /target update-initramfs -u
if [ "$layout" = plain ]; then
    chroot /target grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram
else
    for one in $disk $second; do chroot /target grub-install --target=i386-pc "$one"; done
fi
chroot /target update-grub
umount -R /target
[ -z "${pv:-}" ] || vgchange -an vg0
[ "$layout" != luks ] || cryptsetup close root_crypt
[ "$layout" != mirror ] || { mdadm --wait /dev/md0 || true; mdadm --stop /dev/md0; }
sync
