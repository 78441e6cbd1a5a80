#!/usr/bin/env python3
"""Make golden repositories of format version 1, and what must be read from them.

Usage: make_golden.py FOLDER     (root; stillframe, sfdisk, mkfs.fat, mcopy, losetup, unshare)

Writes ``open.tar.xz``, ``sealed.tar.xz`` and ``expected.json`` into FOLDER. They were made once, when the format was
frozen, and lie in tests/data/format-v1: every later program must read them (tests/e2e/test_format_v1.py). Running this
again makes others, with other keys; it is kept to show how they came about, and for the next version of the format.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

from stillframe.repo.repository import open_repository
from stillframe.repo.session import Owner, begin_session
from stillframe.store import LocalStore

MIB: Final = 1 << 20
PASSPHRASE: Final = "golden passphrase"  # noqa: S105 - it protects nothing
MACHINES: Final = {"desk": "11" * 16, "attic": "22" * 16}
TABLE: Final = "label: gpt\nstart=1MiB, size=4MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=data\n"


class Bench:
    """A folder with disks and repositories, and machines that use them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk.img"
        self.files = list[str]()
        self.environment = {
            **os.environ, "STILLFRAME_PASSWORD": PASSPHRASE, "STILLFRAME_CACHE_DIR": str(folder / "cache"),
            "STILLFRAME_STATE_DIR": str(folder / "state"),
        }  # fmt: skip

    def make_disk(self) -> None:
        """A disk of 6 MiB with a FAT volume."""
        self.disk.touch()
        os.truncate(self.disk, 6 * MIB)
        run("sh", "-c", f"printf '{TABLE}' | sfdisk -q '{self.disk}'")
        (self.folder / "letter.txt").write_text("All that is kept here can be read.\n" * 4000)
        self.files = ["letter.txt"]
        self.put_file("noise.bin", 20_000, 1)

    def put_file(self, name: str, size: int, seed: int) -> None:
        """Put a file of noise into the volume, which is made anew: nothing is left of what was there before."""
        self.files = [*(other for other in self.files if other != name), name]
        (self.folder / name).write_bytes(random.Random(seed).randbytes(size))
        volume = self.folder / "volume.img"
        volume.write_bytes(b"")
        os.truncate(volume, 4 * MIB)
        run("mkfs.fat", "-F", "12", "-n", "GOLDEN", "-i", "01020304", str(volume))
        run("mcopy", "-m", "-i", str(volume), *(str(self.folder / one) for one in self.files), "::/")
        with open(self.disk, "r+b") as file:
            file.seek(MIB)
            file.write(volume.read_bytes())

    def call(self, *words: str, machine: str = "desk") -> dict[str, Any]:
        """One command of a machine; its result."""
        ids = self.folder / f"{machine}.id"
        ids.write_text(f"{MACHINES[machine]}\n")
        script = 'mount --bind "$0" /etc/machine-id && hostname "$1" && shift && exec "$@"'
        own = ["unshare", "--mount", "--propagation=slave", "--uts", "sh", "-c", script, str(ids), machine]
        command = [*own, sys.executable, "-m", "stillframe", *words, "--json"]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode:
            raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stdout}")
        result: dict[str, Any] = lines[-1]
        return result

    def backup(self, repository: str, *words: str, machine: str = "desk") -> dict[str, str]:
        """One image, and the bytes that it must give back."""
        made = self.call("backup", str(self.disk), "--repo", repository, *words, machine=machine)
        digest = hashlib.sha256(self.disk.read_bytes()).hexdigest()
        return {"image": made["image"], "sha256": digest, "kind": made["kind"], "machine": machine}


def run(*command: str) -> str:
    """Run a tool, and end when it fails."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_open(bench: Bench) -> dict[str, Any]:
    """Without encryption: two images."""
    repository = str(bench.folder / "open")
    environment = bench.environment.pop("STILLFRAME_PASSWORD")
    bench.call("init", repository, "--encryption", "none")
    images = [bench.backup(repository, "--name", "first")]
    bench.put_file("second.bin", 9_000, 2)
    images.append(bench.backup(repository, "--name", "second"))
    bench.environment["STILLFRAME_PASSWORD"] = environment
    return {"passphrase": None, "images": images, "forgotten": []}


def make_sealed(bench: Bench) -> dict[str, Any]:
    """With everything the format knows: parity, patches, a put key, deletion in both phases, a kept table."""
    repository, kit = str(bench.folder / "sealed"), bench.folder / "kit.txt"
    bench.call("init", repository, "--parity", "--recovery-kit", str(kit))
    images = [bench.backup(repository, "--name", "daily")]
    bench.put_file("third.bin", 20_000, 3)
    images.append(bench.backup(repository, "--name", "daily"))
    bench.put_file("noise.bin", 30_000, 4)
    images.append(bench.backup(repository, "--kind", "differential", "--compression", "high"))
    images.append(bench.backup(repository, machine="attic"))
    images.append(put_only(bench, repository, "cellar")[0])
    bench.put_file("shed.bin", 8_000, 5)
    shed, key_id = put_only(bench, repository, "shed")
    bench.call("verify", images[1]["image"], "--repo", repository)
    onto(bench, repository, images[1]["image"])
    bench.call("forget", shed["image"], "--repo", repository, "--yes")
    bench.call("expire", "--undelete-days", "0", "--repo", repository, "--yes")
    bench.call("key", "remove", key_id, "--repo", repository, "--yes")
    forgotten = images.pop(0)
    bench.call("forget", forgotten["image"], "--repo", repository, "--yes")
    leave_session(repository)
    bench.call("retire", "attic", "--repo", repository, "--yes")
    key = next(word for word in kit.read_text().split() if word.startswith("SF1-"))
    return {"passphrase": PASSPHRASE, "recovery_key": key, "images": images, "forgotten": [forgotten]}


def leave_session(repository: str) -> None:
    """A run of the machine ``attic`` that was switched off in the middle."""
    opened = open_repository(LocalStore(repository), where=repository, secret=PASSPHRASE)
    machine = next(image.manifest.machine for image in opened.images().images if image.manifest.machine.name == "attic")
    begin_session(opened, Owner(machine=machine, boot_id="x", process="1", is_alive=lambda _boot, _id: False), "backup")


def put_only(bench: Bench, repository: str, name: str) -> tuple[dict[str, str], str]:
    """An image of a machine that has a put key, and that key's id."""
    file = bench.folder / f"{name}.put"
    made = bench.call("key", "add", "--put-only", str(file), "--label", name, "--repo", repository)
    secret = bench.environment.pop("STILLFRAME_PASSWORD")
    image = {**bench.backup(repository, "--put-key", str(file)), "machine": name}
    bench.environment["STILLFRAME_PASSWORD"] = secret
    return image, made["key"]


def onto(bench: Bench, repository: str, image: str) -> None:
    """Restore onto a disk, whose table is kept then."""
    target = bench.folder / "target.img"
    target.touch()
    os.truncate(target, 8 * MIB)
    run("sh", "-c", f"printf '{TABLE}' | sfdisk -q '{target}'")
    device = run("losetup", "--find", "--show", str(target)).strip()
    try:
        bench.call("restore", image, device, "--repo", repository, "--yes")
    finally:
        run("losetup", "--detach", device)


def main() -> None:
    """Make them."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.make_disk()
        expected = {}
        for kind, make in (("open", make_open), ("sealed", make_sealed)):
            expected[kind] = make(bench)
            with tarfile.open(out / f"{kind}.tar.xz", "w:xz") as archive:
                archive.add(bench.folder / kind, kind, filter=as_anybody)
        (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def as_anybody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without names and times of who made it."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
