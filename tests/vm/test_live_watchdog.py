"""A service of systemd that froze a file system and is stopped or killed with all its processes: the system goes on."""

from pathlib import Path

import pytest

from stillframe.testing.debian_guest import make_disk, run_job
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]

FREEZE = """
import os, sys, time
sys.path[:0] = ["/job/src", "/opt/tool"]
from stillframe.host.live.freezing import frozen, open_mounted
from stillframe.host.live.watchdog import Watchdog
place = open_mounted("/mnt")
with Watchdog([place.descriptor], limit_s=600) as dog, frozen([place], dog):
    with open("/run/frozen", "w") as file:
        file.write(open(f"/proc/{dog.pid}/cgroup").read())
    time.sleep(3600)
"""

SCRIPT = r"""
mkfs.ext4 -q /dev/disk/by-id/virtio-source
mount /dev/disk/by-id/virtio-source /mnt
freeze() {
    rm -f /run/frozen
    systemctl reset-failed backup.service 2>/dev/null || true
    systemd-run --quiet --unit=backup.service python3 /job/freeze.py
    for i in $(seq 600); do [ -s /run/frozen ] && break; sleep 0.2; done
    echo "$1 watchdog in $(cat /run/frozen)"
    # A write that waits for a thaw cannot be killed: it is started aside and looked at.
    (echo early > /mnt/file && touch "/run/early-$1") &
    sleep 2
    if [ -e "/run/early-$1" ]; then echo "$1 NOT FROZEN"; exit 1; fi
}
writable() {
    (echo written > "/mnt/$1" && sync -f /mnt && touch "/run/written-$1") &
    for i in $(seq 100); do [ -e "/run/written-$1" ] && echo "$1 writable" && return; sleep 0.2; done
    echo "$1 FROZEN STILL"
    fsfreeze --unfreeze /mnt
    exit 1
}
freeze kill
systemctl kill --signal=KILL backup.service
writable kill
freeze stop
systemctl stop backup.service
writable stop
sleep 1
systemctl list-units --all --no-legend 'stillframe-watchdog-*' > /job/left
echo "left: $(cat /job/left)"
"""


def test_the_watchdog_outlives_the_service_of_the_backup(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "freeze.py").write_text(FREEZE)
    disk = make_disk(tmp_path / "source.img", 64 << 20)
    done = run_job(tmp_path, SCRIPT, [Drive(file=disk, serial="source")], limit_s=600, files=files)
    assert done.code == 0, done.output
    for way in ("kill", "stop"):
        assert f"{way} watchdog in 0::/system.slice/stillframe-watchdog-" in done.output, done.output
        assert f"{way} writable" in done.output
    assert not (done.folder / "left").read_text().strip(), done.output
