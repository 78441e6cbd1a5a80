"""Other tools that save disks, as lines of shell, with the options that their own programs give them.

Answers: "what does one type?" Variables: SRC the disk file, DAY 1 or 2, REPO a folder, TGT the file to restore into,
TGTDIR its folder, S1... and T1... loop devices over the partitions of both. Sources of the options: Clonezilla 5
(``-z9p``: partclone with its checksums, ``zstdmt -3``), ntfsclone(8), qemu-img(1), restic(1), casync(1).
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison.extents import PARTCLONE, Part

EVERYTHING: Final = frozenset[str]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A tool. Scripts that are empty are phases that it does not have.

    Attributes:
        name: As it is called in tables.
        programs: What must be installed.
        covers: The file systems that it can save; ``EVERYTHING`` for one that reads the whole disk.
        loops: Whether it wants devices.
        says: What it does not do, in words.
    """

    name: str
    programs: tuple[str, ...]
    backup: str
    second: str
    restore: str
    verify: str = ""
    covers: frozenset[str] = EVERYTHING
    loops: bool = False
    says: str = ""

    @property
    def missing(self) -> list[str]:
        """Programs that are not installed."""
        return [name for name in self.programs if shutil.which(name) is None]


def peers(parts: Sequence[Part]) -> list[Peer]:
    """The tools that can save a disk with these partitions."""
    found = [_clonezilla([part for part in parts if part.filesystem in PARTCLONE]), _qemu_img(), _restic(), _casync()]
    ntfs = [part for part in parts if part.filesystem == "ntfs"]
    return [*found, _ntfsclone(ntfs)] if ntfs else found


def _clonezilla(parts: Sequence[Part]) -> Peer:
    save = "partclone.{fs} -z 10485760 -L $LOG -c -s $S{n} --output - | zstdmt -q -c -3 > $REPO/day$DAY.p{n}"
    load = "zstdmt -q -dc < $REPO/day$DAY.p{n} | partclone.{fs} -z 10485760 -L $LOG -s - -r -o $T{n}"
    check = "zstdmt -q -dc < $REPO/day$DAY.p{n} | partclone.chkimg -L $LOG -s -"
    table = "sgdisk --backup=$REPO/day$DAY.gpt $SRC\n"
    return Peer(
        name="Clonezilla (partclone, zstdmt -3)", programs=("partclone.ext4", "zstdmt", "sgdisk"), loops=True,
        backup=table + _each(parts, save), second=table + _each(parts, save),
        restore="sgdisk --load-backup=$REPO/day$DAY.gpt $TGT\n" + _each(parts, load), verify=_each(parts, check),
        covers=frozenset(PARTCLONE), says="not encrypted; every image is a full one",
    )  # fmt: skip


def _ntfsclone(parts: Sequence[Part]) -> Peer:
    save = "ntfsclone -q --save-image -o - $S{n} | zstd -q -T2 > $REPO/day$DAY.p{n}"
    return Peer(
        name="ntfsclone, zstd -T2", programs=("ntfsclone", "zstd"), loops=True,
        backup=_each(parts, save), second=_each(parts, save),
        restore=_each(parts, "zstd -q -dc < $REPO/day$DAY.p{n} | ntfsclone -q --restore-image -O $T{n} -"),
        covers=frozenset({"ntfs"}), says="not encrypted; no verify; every image is a full one",
    )  # fmt: skip


def _qemu_img() -> Peer:
    save = "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -m 8 -W $SRC $REPO/day$DAY.qcow2"
    return Peer(
        name="qemu-img (QCOW2, zstd)", programs=("qemu-img",), backup=save, second=save,
        restore="qemu-img convert -f qcow2 -O raw -m 8 -W $REPO/day$DAY.qcow2 $TGT",
        says="not encrypted; its check reads no data; stale data is saved too; every image is a full one",
    )  # fmt: skip


def _restic() -> Peer:
    head = "export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=$REPO/../restic-cache RESTIC_REPOSITORY=$REPO/r\n"
    save = "restic -q backup --compression auto $SRC"
    return Peer(
        name="restic", programs=("restic",), backup=f"{head}restic -q init --repository-version 2\n{save}",
        second=head + save,
        restore=f"{head}restic -q restore latest --target $TGTDIR/x\nmv $(find $TGTDIR/x -type f) $TGT",
        verify=f"{head}restic -q check --read-data", says="the disk as one file: stale data is saved too",
    )  # fmt: skip


def _casync() -> Peer:
    store = "--store=$REPO/store.castr $REPO/day$DAY.caibx"
    save = f"casync make {store} $SRC"
    return Peer(
        name="casync", programs=("casync",), backup=save, second=save, restore=f"casync extract {store} $TGT",
        says="not encrypted; the disk as one file: stale data is saved too",
    )  # fmt: skip


def _each(parts: Sequence[Part], line: str) -> str:
    return "\n".join(line.format(n=part.number, fs=PARTCLONE[part.filesystem]) for part in parts)
