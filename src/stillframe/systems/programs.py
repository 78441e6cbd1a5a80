r"""Programs for UEFI, by their sections: kernels in one piece with what they start, and GRUB with what is built in.

Answers: "which command line and which system are in this unified kernel, and where does this GRUB look for its menu?"
Sections are read one by one, each bounded, so a program of any size costs little.

Sources: Microsoft, "PE Format", sections "COFF File Header" and "Section Table"; UAPI Group, "Unified Kernel Image"
(``.linux``, ``.osrel``, ``.cmdline``, ``.uname``); systemd ``src/fundamental`` (``.sdmagic``); GNU GRUB 2.06
``include/grub/kernel.h`` (``grub_module_info``, ``grub_module_header``) and ``util/mkimage.c`` (section ``mods``).
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillframe.systems.fstab import plain

ReadAt = Callable[[int, int], bytes]
"""Bytes of a program: offset and length to bytes, fewer than asked for at its end."""

_PE_OFFSET_AT: Final = 0x3C
_HEAD_SIZE: Final = 24
_SECTION: Final = struct.Struct("<8sIIII16x")  # name, size in memory, address, size in the file, place in the file
_SECTIONS_MAX: Final = 96
_PE_OFFSET_MAX: Final = 1 << 20
_TEXT_MAX: Final = 16 << 10
_MODULES_MAX: Final = 512
_MODULE_MAGIC: Final = 0x676D696D
_MEMDISK_TYPE, _CONFIG_TYPE, _PREFIX_TYPE = 1, 2, 3
_TAR_BLOCK: Final = 512
_TAR_FILES_MAX: Final = 5000
_TAR_SIZE: Final = re.compile(rb"[0-7]{1,11}")
_MENU: Final = "boot/grub/grub.cfg"
_PREFIX_MAX: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a program: its name, and where in the file its bytes are."""

    name: str
    at: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedKernel:
    """A kernel that is a program for UEFI, with what is in it. What is not there is empty."""

    options: str
    release: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubParts:
    """What was built into a GRUB.

    Attributes:
        prefix: Where its files are, such as ``(,gpt2)/boot/grub``.
        config: Commands that it runs first.
        menu: Of a GRUB that brings its files along in a memory disk, the menu in there.
    """

    prefix: str
    config: str
    menu: str = ""


def parse_sections(read: ReadAt) -> tuple[Section, ...]:
    """The sections of a program; none when it is not one."""
    head = read(0, _PE_OFFSET_AT + 4)
    if len(head) < _PE_OFFSET_AT + 4 or not head.startswith(b"MZ"):
        return ()
    at = struct.unpack_from("<I", head, _PE_OFFSET_AT)[0]
    coff = read(at, _HEAD_SIZE) if at <= _PE_OFFSET_MAX else b""
    if len(coff) < _HEAD_SIZE or not coff.startswith(b"PE\0\0"):
        return ()
    count, optional_size = struct.unpack_from("<H12xH", coff, 6)
    table = read(at + _HEAD_SIZE + optional_size, min(count, _SECTIONS_MAX) * _SECTION.size)
    whole = len(table) // _SECTION.size * _SECTION.size
    return tuple(
        Section(name=name.rstrip(b"\0").decode("latin-1"), at=place, size=min(in_memory or in_file, in_file))
        for name, in_memory, _, in_file, place in _SECTION.iter_unpack(table[:whole])
    )


def read_unified(read: ReadAt) -> UnifiedKernel | None:
    """What is in a unified kernel; ``None`` when the program is none."""
    sections = {section.name: section for section in parse_sections(read)}
    if ".linux" not in sections:
        return None
    options, release, version = (_text(read, sections.get(name)) for name in (".cmdline", ".osrel", ".uname"))
    return UnifiedKernel(options=plain_line(options), release=release, version=plain(version))


def is_systemd_boot(read: ReadAt) -> bool:
    """Whether a program is systemd's boot menu."""
    found = next((section for section in parse_sections(read) if section.name == ".sdmagic"), None)
    return "LoaderInfo: systemd-boot" in _text(read, found)


def read_grub_program(read: ReadAt) -> GrubParts | None:
    """What was built into a GRUB for UEFI; ``None`` when the program is none."""
    found = next((section for section in parse_sections(read) if section.name == "mods"), None)
    if found is None:
        return None
    head = read(found.at, 24)  # magic, 4 bytes for alignment, offset and size of 64 bits each
    if len(head) < 24 or struct.unpack_from("<I", head)[0] != _MODULE_MAGIC:
        return None
    first, size = struct.unpack_from("<QQ", head, 8)
    return read_modules(lambda at, length: read(found.at + at, length), first, min(size, found.size))


def read_modules(read: ReadAt, first: int, size: int) -> GrubParts | None:
    """The settings among the modules of a GRUB.

    Args:
        read: Bytes, from the head of the modules on.
        first: Where the first module is.
        size: Where the last one ends.
    """
    at, prefix, config, menu = first, "", "", ""
    for _ in range(_MODULES_MAX):
        head = read(at, 8)
        if len(head) < 8 or at + 8 > size:
            break
        kind, length = struct.unpack("<II", head)
        if length < 8 or at + length > size:
            return None
        if kind == _PREFIX_TYPE:
            prefix = _cut(read(at + 8, min(length - 8, _PREFIX_MAX)))
        elif kind == _CONFIG_TYPE:
            config = _cut(read(at + 8, min(length - 8, _TEXT_MAX)))
        elif kind == _MEMDISK_TYPE:
            menu = _menu_in_tar(read, at + 8, at + length)
        at += length
    return GrubParts(prefix=plain(prefix), config=config, menu=menu)


def _menu_in_tar(read: ReadAt, start: int, end: int) -> str:
    """The menu in a memory disk, which is a tar archive (POSIX.1-1988, "ustar": name, size at 124 in octal)."""
    at = start
    for _ in range(_TAR_FILES_MAX):
        head = read(at, _TAR_BLOCK)
        size = _TAR_SIZE.match(head, 124)
        if len(head) < _TAR_BLOCK or size is None or at + _TAR_BLOCK > end:
            return ""
        length = int(size[0], 8)
        if _cut(head[:100]).removeprefix("./").lstrip("/") == _MENU:
            return read(at + _TAR_BLOCK, min(length, _TEXT_MAX)).decode(errors="replace")
        at += _TAR_BLOCK + -(-length // _TAR_BLOCK) * _TAR_BLOCK
    return ""


def plain_line(text: str) -> str:
    """A command line on one line, without what a terminal would act on; it may be long."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:4096]


def _text(read: ReadAt, section: Section | None) -> str:
    return _cut(read(section.at, min(section.size, _TEXT_MAX))) if section is not None else ""


def _cut(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
