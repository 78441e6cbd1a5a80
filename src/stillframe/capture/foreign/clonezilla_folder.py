"""What the files of a Clonezilla folder are called, and what the small ones of them say.

Answers: "is this such a folder, which disks are in it, how large are they, and which file holds which partition?"
Putting a disk together is for ``clonezilla``. Names as drbl's ``ocs-functions`` writes them; its words are the source
of every constant here.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.capture.foreign.partclone import parts_of
from stillframe.disk.mbr import LogicalPartition
from stillframe.errors import DiskFormatError, UsageError

_TABLES: Final = ("-pt.sf", "-pt.parted", "-gpt-1st", "-mbr")
_SMALL_MAX: Final = 16 << 20
_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
_SF_LINE: Final = re.compile(r"(/dev/\S+?)\s*:\s*(.*)")
_PARTED_SIZE: Final = re.compile(r"^Disk /dev/\S+:\s*(\d+)s\s*$", re.MULTILINE)
_PARTED_SECTOR: Final = re.compile(r"^Sector size \(logical/physical\):\s*(\d+)B/", re.MULTILINE)
_ASSIGNED: Final = re.compile(r"^(\w+)=\"?([^\"\n]*)\"?$", re.MULTILINE)
_IMAGE: Final = r"\.(?P<kind>[^.]+)-img(?:\.(?P<rest>[A-Za-z0-9.]+))?"
_OWN_FILES: Final = "Each of its images by itself is read: name {}."

ImageKind = Literal["partclone", "dd", "ntfsclone", "partimage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """The files of one partition, and by which program they were made, as their name says."""

    kind: ImageKind
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLine:
    """A partition in a dump of sfdisk, in sectors. ``type_code`` is 0 where the type is a GUID."""

    number: int
    start: int
    size: int
    type_code: int
    is_active: bool

    @property
    def is_container(self) -> bool:
        """Whether it only holds logical partitions."""
        return self.type_code in _EXTENDED

    @property
    def as_logical(self) -> LogicalPartition:
        """It as a partition of a chain."""
        status = 0x80 if self.is_active else 0
        return LogicalPartition(
            status=status, type_code=self.type_code, first_lba=self.start, size_sectors=self.size
        )  # fmt: skip


class ClonezillaFolder:
    """A folder that Clonezilla made.

    Args:
        path: The folder.
        names: Of the files in it.
    """

    def __init__(self, path: str, names: Iterable[str]) -> None:
        self.path = path
        self.names = sorted(names)

    def disks(self) -> tuple[str, ...]:
        """The disks, such as ``sda``, as their files are called.

        Raises:
            DiskFormatError: None is named.
        """
        named = self.words("disk") or [
            name.removesuffix(ending) for ending in ("-pt.sf", "-pt.parted") for name in self.names
            if name.endswith(ending)
        ]  # fmt: skip
        disks = tuple(dict.fromkeys(name.removeprefix("/dev/").replace("/", "-") for name in named))
        if not disks:
            raise DiskFormatError(f"{self.path} names no disk", hint=self._hint("The file 'disk' is missing."))
        return disks

    def saved_parts(self) -> frozenset[str]:
        """The partitions that must have an image, because Clonezilla wrote that it saved them."""
        return frozenset(name.removeprefix("/dev/").replace("/", "-") for name in self.words("parts"))

    def words(self, name: str) -> list[str]:
        """The words in a file; none when there is no such file."""
        return self.text(name).split()

    def text(self, name: str) -> str:
        """The text of a file; empty when there is no such file."""
        return self.raw(name).decode("utf-8", "replace")

    def raw(self, name: str) -> bytes:
        """The bytes of a small file; none when there is no such file.

        Raises:
            DiskFormatError: It is too large to be what it is called.
        """
        if name not in self.names:
            return b""
        path = self.at(name)
        if os.path.getsize(path) > _SMALL_MAX * (64 if name.endswith("-hidden-data-after-mbr") else 1):
            raise DiskFormatError(f"{path} is too large to be what its name says")
        with open(path, "rb") as file:
            return file.read()

    def at(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self.path, name)

    def settings(self, name: str) -> dict[str, str]:
        """``NAME="value"`` lines of a file."""
        return dict(_ASSIGNED.findall(self.text(name)))

    def disk_size(self, disk: str) -> int | None:
        """Bytes of a disk, as parted said; ``None`` where that file is missing.

        Raises:
            DiskFormatError: Its sectors are not those of 512 bytes: Clonezilla copies too little of such tables.
        """
        text = self.text(f"{disk}-pt.parted")
        size, sector = _PARTED_SIZE.search(text), _PARTED_SECTOR.search(text)
        dumped = re.search(r"^sector-size:\s*(\d+)", self.text(f"{disk}-pt.sf"), re.MULTILINE)
        for found in (sector, dumped):
            if found and found[1] != "512":
                raise DiskFormatError(
                    f"the disk {disk} has sectors of {found[1]} bytes, which are not read from such a folder",
                    hint=self._hint(),
                )
        return int(size[1]) * 512 if size else None

    def table(self, disk: str) -> list[TableLine]:
        """The partitions in the dump of sfdisk, in order of their numbers; none where that file is missing."""
        lines = []
        for device, fields in _SF_LINE.findall(self.text(f"{disk}-pt.sf")):
            name = device.removeprefix("/dev/").replace("/", "-")
            number = re.fullmatch(re.escape(disk) + r"p?(\d+)", name)
            places = {key: int(value) for key, value in re.findall(r"\b(start|size)=\s*(\d+)", fields)}
            if number is None or not places.get("size") or "start" not in places:
                continue  # old versions of sfdisk list unused entries with a size of 0
            kind = re.search(r"\b(?:type|Id)=\s*([0-9A-Fa-f]{1,2})(?![-0-9A-Fa-f])", fields)
            code, is_active = int(kind[1], 16) if kind else 0, bool(re.search(r"\bbootable\b", fields))
            start, size = places["start"], places["size"]
            lines.append(TableLine(number=int(number[1]), start=start, size=size, type_code=code, is_active=is_active))
        return sorted(lines, key=lambda line: line.number)

    def image_of(self, part: str) -> SavedImage | None:
        """The files that hold a partition; ``None`` when there are none.

        Raises:
            DiskFormatError: A part is missing, or there are two images of it.
        """
        pattern = re.compile(re.escape(part) + _IMAGE)
        found = [(name, match) for name in self.names if (match := pattern.fullmatch(name))]
        found = [(name, match) for name, match in found if "info" not in (match["rest"] or "").split(".")]
        if not found:
            old = [name for name in self.names if re.fullmatch(re.escape(part) + r"\.(?:[a-z]{2}|\d{3})", name)]
            return SavedImage(kind="partimage", paths=tuple(map(self.at, old))) if old else None
        kind = found[0][1]["kind"]
        paths = parts_of(self.at(found[0][0]))
        others = [name for name, _ in found if self.at(name) not in paths]
        if others:
            raise DiskFormatError(
                f"{self.path} holds two images of {part}: {os.path.basename(paths[0])} and {others[0]}",
                hint="Take the one that is not wanted out of the folder.",
            )
        if kind.startswith("dd"):
            return SavedImage(kind="dd", paths=paths)
        return SavedImage(kind="partclone" if kind.endswith("-ptcl") else "ntfsclone", paths=paths)

    def require_readable(self) -> None:
        """Refuse folders that cannot be put together.

        Raises:
            UsageError: It is encrypted, or of LVM, LUKS or RAID, whose volumes lie on no partition alone.
        """
        if "ecryptfs.info" in self.names:
            raise UsageError(
                f"{self.path} is encrypted (ecryptfs), which is not read",
                hint="Mount it with 'mount -t ecryptfs' as Clonezilla does, and import the folder that is seen then.",
            )
        groups = [name[4:-5] for name in self.names if re.fullmatch(r"lvm_.+\.conf", name)]
        reasons = (
            (bool(groups), f"LVM ({', '.join(groups)})"),
            ("luks-dev.list" in self.names, "LUKS"),
            (
                bool(self.words("mdadm.conf")) or any(re.fullmatch(r"md\d+", name) for name in self.words("disk")),
                "RAID",
            ),
        )
        for is_so, words in reasons:
            if is_so:
                raise UsageError(
                    f"{self.path} is of a disk with {words}; such a disk is not put together", hint=self._hint()
                )

    def _hint(self, first: str = "") -> str:
        """Which of its files are read by themselves."""
        images = [name for name in self.names if re.search(r"-ptcl-img(?:\..+)?\Z", name)]
        images = [name for name in images if not re.search(r"\.(?!aa+\Z|gz\Z|xz\Z|zst\Z)[a-z]{2,3}\Z", name)]
        ways = _OWN_FILES.format(", ".join(map(self.at, images))) if images else "Restore it with Clonezilla."
        return f"{first} {ways}".strip()

    def refuse(self, words: str, *, next_step: str = "") -> DiskFormatError:
        """An error about the folder that says what can be done."""
        return DiskFormatError(f"{self.path}: {words}", hint=self._hint(next_step))


def find_folder(path: str) -> ClonezillaFolder | None:
    """The folder at a path, when Clonezilla made it: it names disks or partitions, and holds tables or images."""
    if not os.path.isdir(path):
        return None
    real = os.path.realpath(path)
    names = [entry.name for entry in os.scandir(real) if entry.is_file()]
    names_what = {"disk", "parts", "ecryptfs.info"} & set(names)
    holds = any(name.endswith(_TABLES) or "-ptcl-img" in name for name in names)
    is_one = holds or "ecryptfs.info" in names
    return ClonezillaFolder(real, names) if names_what and is_one else None
