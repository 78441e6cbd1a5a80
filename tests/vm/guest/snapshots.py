"""Runs in a guest: logical volumes in use are saved from snapshots, and everything that can go wrong does.

Usage: ``python3 snapshots.py CHAPTER...``, in a folder with ``busy_writer.py``; disks ``pv`` and ``repo`` are empty.
Each chapter writes what it has seen to ``CHAPTER.json``; whoever started the guest judges it. A chapter makes its
volumes and takes them away.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
GROUP = "vm-g"  # the dash is doubled in the names of devices
REPO = Path("/mnt/repo")
REPOSITORY = str(REPO / "images")
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}
MIB = 1 << 20


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def run(*command: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    say("+", *command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    say(done.stdout[-2000:], done.stderr[-2000:])
    assert not accept or done.returncode in accept, f"{command}: exit code {done.returncode}"
    return done


def stillframe(*words: str) -> dict[str, object]:
    """Exit code, last line and notices of a call."""
    done = run("stillframe", *words, "--json", accept=())
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {"code": done.returncode, "last": lines[-1] if lines else {}, "errors": done.stderr[-500:]}


def backup(*words: str) -> dict[str, object]:
    return stillframe("backup", *words, "--repo", REPOSITORY)


def volumes() -> dict[str, str]:
    """Names and tags of all volumes."""
    rows = run("lvs", "--noheadings", "--separator", "|", "-o", "lv_name,lv_tags").stdout.splitlines()
    return dict(row.strip().split("|") for row in rows)


def ours() -> dict[str, str]:
    return {name: tags for name, tags in volumes().items() if name.startswith("stillframe-")}


def changes_of_group() -> str:
    """A number that grows with every change of the volume group."""
    return run("vgs", "--noheadings", "-o", "vg_seqno", GROUP).stdout.strip()


class Mounted:
    """A volume with a file system, mounted; with a writer when it is asked for."""

    def __init__(self, name: str, filesystem: str, *, mib: int, thin: bool = False) -> None:
        self.name = name
        self.device = f"/dev/{GROUP}/{name}"
        self.place = Path(f"/mnt/{name}")
        self.ledger = Path(f"/run/{name}.ledger")
        self.writer: subprocess.Popen[bytes] | None = None
        how = ["-V", f"{mib}m", "--thinpool", f"{GROUP}/pool"] if thin else ["-L", f"{mib}m", GROUP]
        run("lvcreate", "-q", "-y", "-Wy", "-n", name, *how)
        run(*MAKE[filesystem], self.device)
        self.place.mkdir(exist_ok=True)

    def mount(self) -> None:
        run("mount", self.device, str(self.place))

    def mount_by_uuid(self) -> None:
        """As most systems do: by the id of the file system, by systemd."""
        run("udevadm", "settle")
        uuid = run("blkid", "-s", "UUID", "-o", "value", self.device).stdout.strip()
        with open("/etc/fstab", "a", encoding="utf-8") as table:
            table.write(f"UUID={uuid} {self.place} ext4 defaults,nofail 0 2\n")
        run("systemctl", "daemon-reload")
        run("systemctl", "start", f"mnt-{self.name}.mount")

    def write(self) -> None:
        command = [sys.executable, str(HERE / "busy_writer.py"), str(self.place), str(self.ledger), "7"]
        self.writer = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not self.ledger.exists() or len(self.ledger.read_text().splitlines()) < 15:
            assert time.monotonic() < deadline, "the writer writes nothing"
            time.sleep(0.2)

    def written(self) -> int:
        return len(self.ledger.read_text().splitlines())

    def stop(self) -> None:
        if self.writer is not None:
            self.writer.send_signal(signal.SIGKILL)
            self.writer.wait()
            self.writer = None

    def is_mounted(self) -> bool:
        return os.path.ismount(self.place)

    def remove(self) -> None:
        self.stop()
        if self.is_mounted():
            run("umount", str(self.place))
        run("lvremove", "-f", f"{GROUP}/{self.name}")


def missing(copy: Path, promised: Path, filesystem: str) -> list[str]:
    """Mount a restored copy, so that it replays; which promised files are not there as they were."""
    place = Path("/mnt/copy")
    place.mkdir(exist_ok=True)
    if filesystem == "btrfs":
        run("btrfs", "device", "scan", "--forget")
    run("mount", "-o", "loop,nouuid" if filesystem == "xfs" else "loop", str(copy), str(place))
    lost = []
    for line in promised.read_text().splitlines():
        name, digest = line.split()
        file = place / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            lost.append(name)
    run("umount", str(place))
    return lost


def save_and_compare(volume: Mounted, filesystem: str) -> dict[str, object]:
    """A busy volume is saved; every file that was synced before the snapshot must come back."""
    promised, copy = Path("/run/promised"), REPO / "copy.img"
    before = changes_of_group()
    dry = backup(volume.device, "--dry-run")
    planned = {"dry": dry, "dry_run_changed_the_group": changes_of_group() != before}
    volume.write()
    saved = backup(volume.device, "--hook-before", f"cp {volume.ledger} {promised}")
    wrote_on = volume.written()
    volume.stop()
    seen = {
        **planned, "saved": saved, "left": ours(), "mounted": volume.is_mounted(), "wrote_on": wrote_on,
        "promised": len(promised.read_text().splitlines()),
    }  # fmt: skip
    volume.remove()
    stillframe("restore", "latest", str(copy), "--repo", REPOSITORY, "--yes")
    if filesystem == "ext4":
        seen["fsck"] = run("e2fsck", "-fn", str(copy), accept=()).returncode
    seen["missing"] = missing(copy, promised, filesystem)
    copy.unlink()
    return seen


def classic(filesystem: str) -> dict[str, object]:
    volume = Mounted(f"v{filesystem}", filesystem, mib=320)
    volume.mount()
    return save_and_compare(volume, filesystem)


def thin() -> dict[str, object]:
    run("lvcreate", "-q", "-y", "--type", "thin-pool", "-n", "pool", "-L", "500m", GROUP)
    volume = Mounted("t", "ext4", mib=320, thin=True)
    volume.mount_by_uuid()
    seen = save_and_compare(volume, "ext4")
    run("lvremove", "-f", f"{GROUP}/pool")
    return seen


def cloned() -> dict[str, object]:
    """A busy XFS on a thin volume is copied into a file."""
    promised, copy = Path("/run/promised"), REPO / "copy.img"
    run("lvcreate", "-q", "-y", "--type", "thin-pool", "-n", "pool", "-L", "500m", GROUP)
    volume = Mounted("c", "xfs", mib=320, thin=True)
    volume.mount()
    volume.write()
    shutil.copy(volume.ledger, promised)
    saved = stillframe("clone", volume.device, str(copy), "--yes")
    seen: dict[str, object] = {"saved": saved, "left": ours(), "mounted": volume.is_mounted()}
    volume.remove()
    run("lvremove", "-f", f"{GROUP}/pool")
    seen["promised"] = len(promised.read_text().splitlines())
    seen["missing"] = missing(copy, promised, "xfs")
    copy.unlink()
    return seen


def killed() -> dict[str, object]:
    """A run is killed while its snapshot exists; foreign ones look nearly like ours."""
    volume = Mounted("k", "ext4", mib=200)
    volume.mount()
    origin = f"{GROUP}/k"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    alive, dead = f"stillframe-owner={boot}.1.{started}", f"stillframe-owner={'0' * 32}.1.1"
    foreign = {  # name -> tags
        "stillframe-deadbeef": [], "stillframe-0badcafe": ["stillframe"], "mine": ["stillframe", dead],
        "stillframe-12345678": [dead], "stillframe-0000000a": ["stillframe", alive],
    }  # fmt: skip
    for name, tags in foreign.items():
        run("lvcreate", "-q", "-s", "-L", "12m", "-n", name, *(f"--addtag={tag}" for tag in tags), origin)
    run("lvcreate", "-q", "-y", "-L", "12m", "-n", "stillframe-0000000b", "--addtag=stillframe", f"--addtag={dead}",
        GROUP)  # fmt: skip
    kept = set(volumes())
    first = backup(volume.device, "--hook-after", "sh -c 'kill -KILL $PPID'")
    left = {name: tags for name, tags in volumes().items() if name not in kept}
    second = backup(volume.device)
    after = set(volumes())
    stopped = backup(volume.device, "--hook-after", "sh -c 'kill -INT $PPID'")
    seen = {
        "first": first, "left": left, "second": second, "gone": sorted(kept - after), "more": sorted(after - kept),
        "stopped": stopped, "more_after_stop": sorted(set(volumes()) - kept), "mounted": volume.is_mounted(),
    }  # fmt: skip
    for name in [*foreign, "stillframe-0000000b"]:
        run("lvremove", "-f", f"{GROUP}/{name}")
    volume.remove()
    return seen


def full() -> dict[str, object]:
    """More is written than the snapshot has room for; then there is too little room for one at all."""
    volume = Mounted("f", "ext4", mib=600)
    volume.mount()
    run("dd", "if=/dev/urandom", f"of={volume.place}/old", "bs=1M", "count=60", "status=none")
    run("sync")
    free = int(run("vgs", "--noheadings", "--units", "b", "--nosuffix", "-o", "vg_free", GROUP).stdout)
    run("lvcreate", "-q", "-y", "-n", "filler", "-L", f"{free - 132 * MIB}b", GROUP)
    images = stillframe("images", "--repo", REPOSITORY)
    burst = f"dd if=/dev/urandom of={volume.place}/new bs=1M count=200 oflag=direct status=none"
    over = backup(volume.device, "--hook-after", burst, "--hook-limit", "300")
    left, later = ours(), stillframe("images", "--repo", REPOSITORY)
    (volume.place / "new").unlink()
    run("lvextend", "-q", "-L", "+12m", f"{GROUP}/filler")
    followed = backup(volume.device)
    seen = {"over": over, "left": left, "images": images["last"], "later": later["last"], "followed": followed}
    seen["mounted"] = volume.is_mounted()
    run("lvremove", "-f", f"{GROUP}/filler")
    volume.remove()
    return seen


def refused() -> dict[str, object]:
    """A repository on the volume itself; two volumes in use; a pool that is nearly full; a snapshot."""
    first, second = Mounted("a", "ext4", mib=160), Mounted("b", "ext4", mib=160)
    first.mount()
    second.mount()
    run("stillframe", "init", f"{first.place}/own", "--encryption", "none")
    before = changes_of_group()
    seen: dict[str, object] = {"own": stillframe("backup", first.device, "--repo", f"{first.place}/own")}
    seen["two"] = backup(first.device, second.device)
    seen["changed_the_group"] = changes_of_group() != before
    second.remove()
    first.remove()
    run("lvcreate", "-q", "-y", "--type", "thin-pool", "-n", "pool", "-L", "200m", GROUP)
    volume = Mounted("n", "ext4", mib=300, thin=True)
    volume.mount()
    run("dd", "if=/dev/urandom", f"of={volume.place}/much", "bs=1M", "count=180", "status=none", "oflag=direct")
    seen["pool"] = backup(volume.device)
    seen["left"] = ours()
    volume.remove()
    run("lvremove", "-f", f"{GROUP}/pool")
    return seen


CHAPTERS: dict[str, Callable[[], dict[str, object]]] = {
    "ext4": lambda: classic("ext4"), "xfs": lambda: classic("xfs"), "btrfs": lambda: classic("btrfs"), "thin": thin,
    "cloned": cloned, "killed": killed, "full": full, "refused": refused,
}  # fmt: skip


def main() -> None:
    run("mkfs.ext4", "-q", "-F", "/dev/disk/by-id/virtio-repo")
    REPO.mkdir()
    run("mount", "/dev/disk/by-id/virtio-repo", str(REPO))
    run("stillframe", "init", REPOSITORY, "--encryption", "none")
    run("pvcreate", "-q", "/dev/disk/by-id/virtio-pv")
    run("vgcreate", "-q", GROUP, "/dev/disk/by-id/virtio-pv")
    for name in sys.argv[1:]:
        say("===", name)
        seen = CHAPTERS[name]()
        (HERE / f"{name}.json").write_text(json.dumps(seen, indent=1))


main()
