# Puts a root file system that was made elsewhere into a logical volume or an encrypted partition.
#   sh contain.sh lvm|luks PARTITION IMAGE
set -eux
kind=$1; partition=$2; image=$3
udevadm settle
case $kind in
lvm)
    pvcreate -q "$partition"
    vgcreate -q vg0 "$partition"
    lvcreate -q -y -L 96M -n swap vg0
    lvcreate -q -y -L "$(blockdev --getsize64 "$image")b" -n root vg0
    mkswap /dev/vg0/swap
    dd if="$image" of=/dev/vg0/root bs=1M
    sync
    vgchange -an vg0 ;;
luks)
    cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
        --uuid "$(cat /job/uuid)" "$partition" /job/root.key
    cryptsetup open --allow-discards --key-file /job/root.key "$partition" root_crypt
    dd if="$image" of=/dev/mapper/root_crypt bs=1M conv=sparse
    sync
    cryptsetup close root_crypt ;;
esac
