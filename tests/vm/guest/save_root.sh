# In a running system whose root file system is a logical volume: it is saved from a snapshot, while programs write to
# it, with this program and LVM's own on what LVM suspends. One run is killed while LVM is at work.
#   sh save_root.sh VOLUME REPOSITORY_DISK TARGET_DISK
set -eux
volume=$1; repository=$2; target=$3
export STILLFRAME_PASSWORD=secret PYTHONFAULTHANDLER=1
cp -a /job/src /opt/stillframe        # the program lies on what is suspended
mkdir -p /mnt/repository /var/kept /var/stir /mnt/copy
mkfs.ext4 -q "$repository"
mount "$repository" /mnt/repository
stillframe init /mnt/repository/images
nice -n 19 python3 /job/src/stillframe/testing/busy_writer.py /var/kept /job/ledger 1 &
writer=$!
nice -n 19 fio --name=a --rw=randwrite --bs=4k --size=30M --time_based --runtime=3600 --rate=2m --thread --directory=/var/stir > /dev/null &
fio=$!
while [ "$(cat /job/ledger | wc -l)" -lt 20 ]; do sleep 0.5; done

# Killed in the middle of lvcreate, when that has the volume suspended or is about to.
stillframe backup "$volume" --repo /mnt/repository/images --json > /job/killed.json &
killed=$!
: > /job/line
until grep -q -- -owner= /job/line && ! grep -q -- --test /job/line; do
    kill -0 "$killed"
    pid=$(pgrep -x lvcreate) && tr '\0' ' ' < "/proc/$pid/cmdline" > /job/line || :
done
kill -KILL "$killed"
wait "$killed" || echo "killed: $?"
while pgrep -x lvcreate; do sleep 0.2; done
[ "$(dmsetup info -c --noheadings -o suspended "$volume")" = Active ]
touch /var/kept.touched; sync /var/kept.touched
lvs --noheadings -o lv_name,lv_tags | grep stillframe-owner > /job/left

cp /job/ledger /job/promised          # these were synced before: they must be in the image
stillframe backup "$volume" --repo /mnt/repository/images --json > /job/backup.json || { tail -n 1 /job/backup.json; exit 1; }
kill "$writer" "$fio" || true
tail -n 1 /job/backup.json > /job/result.json
if lvs --noheadings -o lv_name | grep stillframe-; then exit 1; fi
[ "$(dmsetup info -c --noheadings -o suspended "$volume")" = Active ]
stillframe restore latest "$target" --yes --repo /mnt/repository/images
e2fsck -fn "$target"
mount -o ro "$target" /mnt/copy
count=0
while read -r name digest; do
    found=$(sha256sum < "/mnt/copy/var/kept/$name" | cut -d' ' -f1)
    [ "$found" = "$digest" ] || { echo "WRONG $name"; exit 1; }
    count=$((count + 1))
done < /job/promised
echo "RIGHT $count"
