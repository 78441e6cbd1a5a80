# In a running system: programs write to its root file system while its disks are saved into a repository on another
# disk, and then the image goes onto empty disks.
#   sh save.sh "SOURCE..." REPOSITORY_DISK "TARGET..."
set -eux
sources=$1; repository=$2; targets=$3
export STILLFRAME_PASSWORD=secret
cp -a /job/src /opt/stillframe        # the program lies on what is frozen
mkdir -p /mnt/repository /var/kept /var/stir
mkfs.ext4 -q "$repository"
mount "$repository" /mnt/repository
lsblk
nice -n 19 python3 /job/src/stillframe/testing/busy_writer.py /var/kept /job/ledger 1 &
writer=$!
nice -n 19 fio --name=a --rw=randwrite --bs=4k --size=30M --time_based --runtime=3600 --rate=2m --thread --directory=/var/stir > /dev/null &
fio=$!
while [ "$(cat /job/ledger | wc -l)" -lt 20 ]; do sleep 0.5; done
stillframe init /mnt/repository/images
cp /job/ledger /job/promised          # these were synced before: they must be in the image
stillframe backup $sources --no-verify --repo /mnt/repository/images --json > /job/backup.json || { tail -n 1 /job/backup.json; exit 1; }
kill "$writer" "$fio" || true
tail -n 1 /job/backup.json > /job/result.json
stillframe show latest --repo /mnt/repository/images
number=1
for target in $targets; do
    stillframe restore latest "$target" --disk "$number" --yes --repo /mnt/repository/images
    number=$((number + 1))
done
sync
