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

# Frozen, the root file system's journal is empty, and a check by another tool shows what is on the disk.
root=$(findmnt -n -o SOURCE /)
fsfreeze --freeze /
wrong=0
e2fsck -f -n "$root" > /job/e2fsck 2>&1 || wrong=$?
fsfreeze --unfreeze /
cat /job/e2fsck
[ "$wrong" = 0 ]

# A mirror has both halves, and they are equal.
if [ -e /sys/block/md0 ]; then
    cat /proc/mdstat
    [ "$(cat /sys/block/md0/md/degraded)" = 0 ]
    mdadm --wait /dev/md0 || true
    echo check > /sys/block/md0/md/sync_action
    mdadm --wait /dev/md0 || true
    echo "halves differ in $(cat /sys/block/md0/md/mismatch_cnt) sectors"
    [ "$(cat /sys/block/md0/md/mismatch_cnt)" = 0 ]
fi
echo "RIGHT $count"
