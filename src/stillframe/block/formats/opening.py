"""Opening a disk file of any program.

Answers: "which disk is in this file?" The format is told from the content, never from the name: a name is what people
get wrong. A file that no format claims is a raw disk.
"""

from collections.abc import Callable
from typing import Final

from stillframe.block.file import FileReader, open_file_reader
from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import DiskFile, unsupported
from stillframe.block.formats.qcow2 import open_qcow2
from stillframe.block.formats.raw import open_raw_disk
from stillframe.block.formats.vdi import open_vdi
from stillframe.block.formats.vhd import open_vhd
from stillframe.block.formats.vhdx import open_vhdx
from stillframe.block.formats.vmdk import open_vmdk

Opener = Callable[[FileReader, Chain], DiskFile | None]
"""Looks at a file that is open: ``None`` when it is not of its format."""

OPENERS: Final[tuple[Opener, ...]] = (open_qcow2, open_vhdx, open_vmdk, open_vdi, open_vhd)

# How disk files begin. Sources: QEMU docs/interop/qcow2.txt, docs/interop/qed_spec.txt, block/parallels.c and
# block/vmdk.c (SE sparse); [MS-VHDX] 2.2.1; VMware Virtual Disk Format 5.0; Virtual Hard Disk Image Format
# Specification 1.0; libewf documentation, "EVF".
_BEGINNINGS: Final = (
    (b"QFI\xfb", "QCOW2"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"QED\0", "QED"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"EVF\x09\x0d\x0a\xff\x00", "Expert Witness (E01)"),
    (b"\xbe\xba\xfe\xca\x00\x00\x00\x00", "VMware SE sparse"),
)
_VDI_SIGNATURE: Final = (64, bytes.fromhex("7f10dabe"))  # QEMU block/vdi.c: VDI_SIGNATURE 0xbeda107f
_VHD_FOOTER: Final = b"conectix"


def open_disk_file(path: str) -> DiskFile:
    """Open a disk file for reading only, with every file that it rests on.

    Args:
        path: A regular file.

    Raises:
        UsageError: There is nothing there, or no regular file.
        DiskFormatError: It is of a known format and broken, or uses what is not read.
        MachineRefusal: This user may not read it, or a file that it rests on.
        DeviceError: It cannot be read.
    """
    return open_in_chain(path, Chain())


def open_in_chain(path: str, chain: Chain) -> DiskFile:
    """Open a disk file on which others rest; errors as ``open_disk_file``."""
    file = open_file_reader(path)
    try:
        return recognise(file, chain.entered(path, open_in_chain))
    except BaseException:
        file.close()
        raise


def recognise(file: FileReader, chain: Chain) -> DiskFile:
    """The disk in a file that is open; the file belongs to it from now on."""
    for opener in OPENERS:
        found = opener(file, chain)
        if found is not None:
            return found
    name = container_name(file)
    if name is not None:
        hint = f"Make a raw file of it with 'qemu-img convert -O raw {file.path} disk.raw', or with its own program."
        raise unsupported(file.path, f"it is a file of the format {name}", hint)
    return open_raw_disk(file)


def container_name(file: FileReader) -> str | None:
    """The format of a file that is not the raw bytes of a disk, told by how it begins or ends; ``None`` for raw."""
    head = file.read_at(0, min(512, file.size))
    for magic, name in _BEGINNINGS:
        if head.startswith(magic):
            return name
    place, signature = _VDI_SIGNATURE
    if head[place : place + len(signature)] == signature:
        return "VDI"
    for size in (512, 511):  # Virtual PC before 2004 wrote a footer of 511 bytes
        if file.size >= size and file.read_at(file.size - size, len(_VHD_FOOTER)) == _VHD_FOOTER:
            return "VHD"
    return None
