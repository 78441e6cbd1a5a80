"""The kernel's own client: an image is mounted, written to, and gone on with, over /dev/nbd0."""

from pathlib import Path

import pytest

from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]

# Numbers of the ioctls: Linux include/uapi/linux/nbd.h. The negotiation is the old one, by name alone.
CLIENT = """
import fcntl, os, socket, struct, sys
device = os.open("/dev/nbd0", os.O_RDWR)
sockets = []
for _ in range(2):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    assert client.recv(18, socket.MSG_WAITALL)[:16] == b"NBDMAGICIHAVEOPT"
    client.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 5) + b"disk1")
    size, flags = struct.unpack(">QH", client.recv(10, socket.MSG_WAITALL))
    sockets.append(client)
fcntl.ioctl(device, 0xAB01, 512)
fcntl.ioctl(device, 0xAB07, size // 512)
fcntl.ioctl(device, 0xAB0A, flags)
for client in sockets:
    fcntl.ioctl(device, 0xAB00, client.fileno())
fcntl.ioctl(device, 0xAB03)
fcntl.ioctl(device, 0xAB04)
"""

SCRIPT = r"""
modprobe nbd max_part=0
mkfs.ext4 -q /dev/disk/by-id/virtio-source
mount /dev/disk/by-id/virtio-source /mnt
cp -r /job/src /mnt/doc
head -c 20M /dev/urandom > /mnt/noise
(cd /mnt && find . -type f -print0 | sort -z | xargs -0 sha256sum) > /run/sums
umount /mnt
stillframe init /run/repo --encryption none
stillframe backup /dev/disk/by-id/virtio-source -r /run/repo --no-verify
connect() {
    rm -f /run/out
    stillframe nbd latest -r /run/repo --socket /run/s --json "$@" > /run/out &
    server=$!
    for i in $(seq 600); do grep -q nbd-ready /run/out && break; sleep 0.5; done
    python3 /job/client.py /run/s &
    client=$!
    for i in $(seq 600); do [ "$(cat /sys/block/nbd0/size)" -gt 0 ] && break; sleep 0.2; done
}
disconnect() {
    python3 -c 'import fcntl, os; fcntl.ioctl(os.open("/dev/nbd0", os.O_RDWR), 0xAB08)'
    wait $client
    kill -TERM $server
    wait $server
    cat /run/out
}
connect
echo "read-only: $(cat /sys/block/nbd0/ro)"
cmp /dev/nbd0 /dev/disk/by-id/virtio-source && echo "disk equal"
mount -o ro /dev/nbd0 /mnt
(cd /mnt && sha256sum --quiet -c /run/sums) && echo "files equal"
umount /mnt
disconnect
connect --writable --keep /run/kept
mount -o discard /dev/nbd0 /mnt
rm /mnt/noise
cp -r /mnt/doc /mnt/again
sync -f /mnt
umount /mnt
disconnect
connect --writable --keep /run/kept
e2fsck -fn /dev/nbd0 && echo "clean"
mount /dev/nbd0 /mnt
diff -r /mnt/doc /mnt/again && [ ! -e /mnt/noise ] && echo "changes kept"
umount /mnt
disconnect
"""


def test_the_kernel_mounts_an_image_and_its_changes_are_kept(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "client.py").write_text(CLIENT)
    disk = make_disk(tmp_path / "source.img", 200 << 20)
    done = run_job(tmp_path, SCRIPT, [Drive(file=disk, serial="source")], limit_s=900, files=files)
    assert done.code == 0, done.output
    for words in ("read-only: 1", "disk equal", "files equal", "clean", "changes kept", '"failures":0'):
        assert words in done.output, done.output
