"""Whether the restored disk is the saved one, asked of programs that are not ours.

Answers: "would a person find every file again, and would every tool call the disk sound?" It mounts both disks
read-only with the system's own drivers and compares file by file; nothing of ``disk``, ``fs`` or ``repo`` takes part.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DamagedError
from stillframe.host.run import run
from stillframe.jobs.demo.disk import PAGING_FILES, PARTS, Part
from stillframe.jobs.demo.tools import attached, call, mounted

_HINT: Final = "This is a defect of Stillframe: please report it with this message. Do not trust this version."
_CHECKS: Final = {"ntfs": ("ntfsfix", "-n"), "ext4": ("e2fsck", "-fn"), "vfat": ("fsck.fat", "-n")}
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of a volume by path with a digest of each, and its folders and links."""

    files: dict[str, str]
    others: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What one comparison found equal, in words."""

    words: str
    files: int = 0


def compare_disks(saved: str, restored: str) -> Iterator[Compared]:
    """Compare two disk files; each thing that is right is a record.

    Raises:
        DamagedError: Something differs; the message names it.
    """
    yield _compare_tables(saved, restored)
    for part in PARTS:
        if not part.filesystem:
            continue
        program = _CHECKS[part.filesystem]
        with attached(restored, part.extent, read_only=True) as device:
            done = run([*program, device])
            if done.exit_code != 0:
                said = (done.output + done.errors).decode("utf-8", "replace").strip()
                raise DamagedError(f"{' '.join(program)} finds partition {part.number} unsound: {said}", hint=_HINT)
        yield Compared(words=f"partition {part.number}, {part.words}: {' '.join(program)} finds it sound")
        yield _compare_files(saved, restored, part)


def _compare_tables(saved: str, restored: str) -> Compared:
    one, other = _dump_table(saved), _dump_table(restored)
    if one != other:
        differing = sorted(set(one) ^ set(other))[:_NAMED_MAX]
        raise DamagedError(f"sfdisk shows another partition table: {differing}", hint=_HINT)
    verified = call("sgdisk", "--verify", restored)
    said = (verified.output + verified.errors).decode("utf-8", "replace")
    # sgdisk ends with 0 also when it found problems; and it cautions, but finds none, when one copy is lost.
    if "No problems found" not in said or "Caution" in said:
        raise DamagedError(f"sgdisk finds the partition table unsound: {said.strip()}", hint=_HINT)
    return Compared(words=f"partition table: sfdisk shows the same {len(PARTS)} partitions, sgdisk finds it sound")


def _dump_table(disk: str) -> list[str]:
    """What ``sfdisk --dump`` says, without what belongs to the size and the path of the disk."""
    lines = call("sfdisk", "--dump", disk).text.splitlines()
    kept = (line for line in lines if not line.startswith(("last-lba:", "device:")))
    return [line.replace(disk, "disk") for line in kept]


def _compare_files(saved: str, restored: str, part: Part) -> Compared:
    paging = PAGING_FILES if part.has_paging else {}
    one = _read_volume(saved, part, leaving_out=frozenset(paging))
    other = _read_volume(restored, part, leaving_out=frozenset())
    files = dict(other.files)
    for name, size in paging.items():
        if files.pop(name, "") != hashlib.sha256(bytes(size)).hexdigest():
            raise DamagedError(f"{name} was left out and is not {size} bytes of zeros in the restored disk", hint=_HINT)
    if one.files != files or one.others != other.others:
        differing = sorted({path for path, _ in (one.files | one.others).items() ^ (files | other.others).items()})
        raise DamagedError(
            f"partition {part.number} has other files, {len(differing)} in all: {differing[:_NAMED_MAX]}", hint=_HINT
        )
    left = f"; {' and '.join(paging)} read as zeros" if paging else ""
    return Compared(
        words=f"partition {part.number}, {part.words}: {len(one.files)} files have the same SHA-256{left}",
        files=len(one.files),
    )


def _read_volume(disk: str, part: Part, *, leaving_out: frozenset[str]) -> Contents:
    with attached(disk, part.extent, read_only=True) as device:
        if part.filesystem == "vfat":
            with tempfile.TemporaryDirectory(prefix="stillframe-demo-fat-") as folder:
                call("mcopy", "-s", "-n", "-i", device, "::/", folder)
                return _read_tree(folder, leaving_out)
        with mounted(device, part.filesystem, read_only=True) as folder:
            return _read_tree(folder, leaving_out)


def _read_tree(root: str, leaving_out: frozenset[str]) -> Contents:
    files, others = {}, {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            shown = os.path.relpath(path, root)
            if os.path.islink(path):
                others[shown] = f"link to {os.readlink(path)}"
            elif os.path.isdir(path):
                others[shown] = "folder"
            elif shown not in leaving_out:
                with open(path, "rb") as file:
                    files[shown] = hashlib.file_digest(file, "sha256").hexdigest()
    return Contents(files=files, others=others)
