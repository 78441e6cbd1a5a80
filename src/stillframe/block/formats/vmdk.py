"""VMDK, the format of VMware: one file or many, flat or sparse, or compressed for transport.

Answers: "which files make up this disk, and which one does it rest on?" A descriptor in plain text says so; it is a
file of its own, or stands inside the one sparse file. What is in a sparse file is for ``vmdk_sparse``.

Source: VMware Virtual Disks, Virtual Disk Format 5.0, "The Descriptor File".
"""

import os
import re
from dataclasses import dataclass
from typing import Final

from stillframe.block.assembled import AssembledReader, Piece
from stillframe.block.base import BlockReader
from stillframe.block.file import FileReader, open_file_reader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import Closeable, DiskFile, MappedDisk, ZeroMap, broken, unsupported
from stillframe.block.formats.parents import ParentHint, find_parent, require_parent
from stillframe.block.formats.vmdk_sparse import MAGIC, SparseHeader, SparseMap, parse_sparse_header, read_embedded
from stillframe.block.window import WindowReader
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent

_OLD_MAGIC: Final = b"COWD"
_DESCRIPTOR_MAGIC: Final = b"# Disk DescriptorFile"
_DESCRIPTOR_MAX: Final = 1 << 20
_EXTENTS_MAX: Final = 10_000
_SECTORS_MAX: Final = 1 << 50
_NO_PARENT: Final = "ffffffff"
_SECTOR: Final = 512
_EXTENT_LINE: Final = re.compile(
    r'^(RW|RDONLY|NOACCESS)[ \t]+([0-9]{1,16})[ \t]+([A-Z]+)(?:[ \t]+"([^"]{1,1000})"(?:[ \t]+([0-9]{1,16}))?)?[ \t]*$',
    re.ASCII,
)
_VALUE_LINE: Final = re.compile(r'^([A-Za-z.]+)[ \t]*=[ \t]*"?([^"]*)"?[ \t]*$', re.ASCII)
_CONVERT: Final = "Export it from VMware as OVF, or make a raw file of it with 'qemu-img convert -O raw'."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtentLine:
    """One line of the descriptor. ``size`` and ``offset`` in bytes."""

    access: str
    size: int
    kind: str
    name: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What the descriptor says. ``state`` is its CID, which changes with the first write of each use."""

    kind: str
    state: str
    parent_state: str
    parent_name: str
    extents: tuple[ExtentLine, ...]

    @property
    def has_parent(self) -> bool:
        """Whether it holds only what changed since another file."""
        return self.parent_state not in ("", _NO_PARENT)


def open_vmdk(file: FileReader, chain: Chain) -> DiskFile | None:
    """The disk in a VMDK file; ``None`` for other files.

    Raises:
        DiskFormatError: It is broken or of a kind that is not read, or a file that belongs to it is not there.
    """
    head = file.read_at(0, min(len(_DESCRIPTOR_MAGIC), file.size))
    if head.startswith(_OLD_MAGIC):
        raise unsupported(file.path, "it is a sparse file of ESX before 2009 (COWD)", _CONVERT)
    is_sparse = head.startswith(MAGIC)
    if not is_sparse and head.lower() != _DESCRIPTOR_MAGIC.lower():
        return None
    path = file.path
    if is_sparse:
        header = parse_sparse_header(file, path)
        descriptor = parse_descriptor(read_embedded(file, path, header), path)
    else:
        if file.size > _DESCRIPTOR_MAX:
            raise broken(path, 0, "the descriptor", expected=f"at most {_DESCRIPTOR_MAX} bytes", found=file.size)
        header, descriptor = None, parse_descriptor(file.read_at(0, file.size), path)
    opened: list[tuple[str, Closeable]] = [(path, file)]
    try:
        below = _open_parent(descriptor, chain, opened) if descriptor.has_parent else None
        if header is not None:
            disk: BlockReader = _sparse_disk(file, path, header, descriptor, below)
        else:
            disk = _join(descriptor, chain, opened, below)
    except BaseException:
        for _, other in opened[1:]:
            other.close()
        raise
    return DiskFile(disk, format_name="VMDK", files=opened, identity=descriptor.state)


def parse_descriptor(raw: bytes, path: str) -> Descriptor:
    """Parse the descriptor.

    Raises:
        DiskFormatError: It is none, or a line of it is broken.
    """
    text = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    values: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for number, full in enumerate(text.splitlines(), 1):
        line = full.strip()
        if line.startswith(("RW ", "RDONLY ", "NOACCESS ", "RW\t", "RDONLY\t", "NOACCESS\t")):
            extents.append(_parse_extent(line, path, number))
        elif not line.startswith("#") and (value := _VALUE_LINE.match(line)) is not None:
            values.setdefault(value[1].lower(), value[2])
    if "createtype" not in values or not extents or len(extents) > _EXTENTS_MAX:
        found = f"{len(extents)} extents, createType {values.get('createtype', 'missing')}"
        raise broken(path, 0, "the descriptor", expected="its kind and 1 to 10000 extents", found=found)
    return Descriptor(
        kind=values["createtype"], state=values.get("cid", "").lower(),
        parent_state=values.get("parentcid", _NO_PARENT).lower(), parent_name=values.get("parentfilenamehint", ""),
        extents=tuple(extents),
    )  # fmt: skip


def _parse_extent(line: str, path: str, number: int) -> ExtentLine:
    found = _EXTENT_LINE.match(line)
    if found is None or not 0 < int(found[2]) <= _SECTORS_MAX or int(found[5] or 0) > _SECTORS_MAX:
        raise broken(path, 0, f"line {number} of the descriptor", expected="an extent", found=line[:200])
    return ExtentLine(
        access=found[1], size=int(found[2]) * _SECTOR, kind=found[3], name=found[4] or "",
        offset=int(found[5] or 0) * _SECTOR,
    )  # fmt: skip


def _open_parent(descriptor: Descriptor, chain: Chain, opened: list[tuple[str, Closeable]]) -> DiskFile:
    name = descriptor.parent_name
    hints = [ParentHint(name=name, is_relative=not re.match(r"/|\\|[A-Za-z]:", name))] if name else []
    below = find_parent(chain, hints)
    with require_parent(below, [descriptor.parent_state], path=opened[0][0]):
        opened += below.files
    return below


def _sparse_disk(
    file: BlockReader, path: str, header: SparseHeader, descriptor: Descriptor | None, below: BlockReader | None
) -> MappedDisk:
    """The disk, or the part of one, in a sparse file."""
    if descriptor is not None and len(descriptor.extents) != 1:
        raise unsupported(path, f"its descriptor names {len(descriptor.extents)} files and stands in one", _CONVERT)
    sparse_map = SparseMap(file, header, path=path, has_parent=below is not None)
    return MappedDisk(sparse_map, size=header.size, below=below)


def _join(
    descriptor: Descriptor, chain: Chain, opened: list[tuple[str, Closeable]], below: DiskFile | None
) -> BlockReader:
    """The disk that the extents of a descriptor are, one after the other."""
    pieces: list[Piece] = []
    start = 0
    for extent in descriptor.extents:
        reader = _open_extent(extent, chain, opened, _part_of(below, Extent(start, start + extent.size)))
        pieces.append(Piece(start=start, reader=reader))
        start += extent.size
    if start > _SECTORS_MAX * _SECTOR:
        raise broken(chain.above[-1], 0, "the size of the disk", expected="at most 2^50 sectors", found=start)
    return pieces[0].reader if len(pieces) == 1 else AssembledReader(MappedDisk(ZeroMap(), size=start), pieces)


def _part_of(below: DiskFile | None, part: Extent) -> BlockReader | None:
    """The same part of the disk below, which may be smaller."""
    if below is None:
        return None
    end = min(part.end, below.size)
    return WindowReader(below, Extent(min(part.start, end), end))


def _open_extent(
    extent: ExtentLine, chain: Chain, opened: list[tuple[str, Closeable]], below: BlockReader | None
) -> BlockReader:
    named = chain.above[-1]
    if extent.kind == "ZERO":
        return MappedDisk(ZeroMap(), size=extent.size)
    if extent.kind not in ("FLAT", "VMFS", "SPARSE") or extent.access == "NOACCESS":
        raise unsupported(named, f"it has an extent of the kind {extent.access} {extent.kind}", _CONVERT)
    path = chain.beside(extent.name)
    if "\0" in path or not os.path.isfile(path):
        raise DiskFormatError(
            f"{named} is a description, and the file {extent.name} with the data is not there",
            hint=f"Put it into the folder {os.path.dirname(named)}, and all others that belong to the disk.",
        )
    if os.path.realpath(path) in [os.path.realpath(other) for other, _ in opened]:
        raise broken(named, 0, "the descriptor", expected="another file for each extent", found=extent.name)
    file = open_file_reader(path)
    opened.append((path, file))
    if extent.kind == "SPARSE":
        header = parse_sparse_header(file, path)
        if header.size != extent.size:
            raise broken(path, 12, "the size of this part", expected=f"{extent.size} bytes", found=header.size)
        return _sparse_disk(file, path, header, None, below)
    if extent.offset + extent.size > file.size:
        expected = f"{extent.size} bytes from byte {extent.offset} on"
        raise broken(path, extent.offset, "this part", expected=expected, found=f"a file of {file.size}")
    return WindowReader(file, Extent(extent.offset, extent.offset + extent.size))
