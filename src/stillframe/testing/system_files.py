"""Volumes of a computer in memory, for tests of what is read from their files.

Answers: "what would be found if these files were on that partition?" Nothing is on a disk: files are a mapping.
"""

from collections.abc import Mapping
from typing import Final, TypedDict, Unpack

from stillframe.block import MemoryDisk
from stillframe.disk.layout import Partition, Scheme
from stillframe.errors import StillframeError
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.systems.chain_records import BootPart
from stillframe.systems.evidence import MAY_BE_WINDOWS, PartEvidence, read_file_evidence

MIB: Final = 1 << 20
DISK_GUID: Final = "5A1B0C2D-1111-4222-8333-0A0B0C0D0E0F"
SIGNATURE: Final = "5EADBEEF"
_CASE_FREE: Final = ("vfat", "ntfs")


class FilesInMemory:
    """``SystemFiles`` of a mapping, whose paths have no ``/`` at their beginning."""

    def __init__(self, files: Mapping[str, bytes], *, ignores_case: bool = False, broken: bool = False) -> None:
        self._fold = str.lower if ignores_case else str
        self._files = {f"/{path}": contents for path, contents in files.items()}
        self._broken = broken
        self.reads = 0

    def list_names(self, path: str) -> tuple[str, ...]:
        """As the Protocol says."""
        self.reads += 1
        if self._broken:
            raise StillframeError("nothing can be read")
        below = self._fold(path.rstrip("/") + "/")
        found = (one[len(below) :].split("/")[0] for one in self._files if self._fold(one).startswith(below))
        return tuple(dict.fromkeys(found))

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """As the Protocol says."""
        self.reads += 1
        raw = next((raw for one, raw in self._files.items() if self._fold(one) == self._fold(path)), None)
        return None if raw is None else raw[offset : offset + size]


def guid_of(number: int, disk: int = 0) -> str:
    """The GUID of a partition."""
    return f"D0C1B2A{number:X}-9999-4999-999{disk:X}-665544332211"


class PartFacts(TypedDict, total=False):
    """What else is known of a partition.

    Attributes:
        disk: Which, from 0.
        scheme: Of its table; ``gpt`` when not said.
        active: Whether a BIOS starts it.
        head: Its first bytes.
        kind: The type in the table.
        type_name: Likewise in words.
        inner: A volume in it, such as ``vg/root``.
        logical: Whether it is in an extended partition.
        opened: Whether all that is inside is known.
    """

    disk: int
    scheme: Scheme
    active: bool
    head: bytes
    kind: str
    type_name: str
    inner: str
    logical: bool
    opened: bool


def boot_part(
    number: int, filesystem: str = "ext4", files: Mapping[str, bytes] | None = None, **facts: Unpack[PartFacts]
) -> BootPart:  # fmt: skip
    """A partition whose UUID is ``u`` and its number; of a volume inside, ``i``, the number and its name.

    Args:
        number: Of the partition.
        filesystem: In it.
        files: ``None``: they are not read.
        facts: What else is known.
    """
    disk, scheme, inner = facts.get("disk", 0), facts.get("scheme", "gpt"), facts.get("inner", "")
    uuid = f"i{number}{inner}" if inner else f"u{number}" + (f"d{disk}" if disk else "")
    names = {f"UUID={uuid}"}
    if inner:
        names |= {f"/dev/{inner}", f"/dev/mapper/{inner.replace('/', '-')}"}
    held = None if files is None else FilesInMemory(files, ignores_case=filesystem in _CASE_FREE)
    found = None if held is None else read_file_evidence(held, may_be_windows=filesystem in MAY_BE_WINDOWS)
    partition = Partition(
        number=number, extent=Extent(number * MIB, (number + 1) * MIB), type=facts.get("kind", ""),
        type_name=facts.get("type_name", "Linux"), name="", guid=guid_of(number, disk) if scheme == "gpt" else "",
        attributes=0x80 if facts.get("active") else 0, index=number - 1, logical=facts.get("logical", False),
    )  # fmt: skip
    evidence = PartEvidence(
        disk=disk, disk_id=DISK_GUID if scheme == "gpt" else f"{int(SIGNATURE, 16) + disk:08X}", scheme=scheme,
        partition=partition, volume=Volume(filesystem=filesystem, uuid=uuid), names=frozenset(names), files=found,
        inner=inner, beneath=((disk, number),) if inner else (), is_opened=facts.get("opened", False),
    )  # fmt: skip
    reader = MemoryDisk(facts.get("head", b"").ljust(8192, b"\0"))
    return BootPart(evidence=evidence, reader=reader, files=held)
