"""The program file of a driver: for which processors it is, and whether it carries a signature.

Answers: "would this Windows even load this file?" A 64-bit Windows loads a driver that starts with it only when the
file itself is signed; whether it trusts the signature is for Windows to say.

Source: Microsoft, "PE Format": "COFF File Header", "Optional Header Data Directories", "The Attribute Certificate
Table"; "Kernel-Mode Code Signing Requirements" (boot-start drivers carry their signature in the file).
"""

import struct
from dataclasses import dataclass
from typing import Final

from stillframe.systems.driver_inf import Architecture

_MACHINES: Final[dict[int, Architecture]] = {0x014C: "x86", 0x8664: "amd64", 0xAA64: "arm64"}
_SECURITY_AT: Final = {0x10B: 96 + 4 * 8, 0x20B: 112 + 4 * 8}  # PE32, PE32+: the fifth directory
HEAD_SIZE: Final = 64 << 10
"""Bytes of a file in which its headers are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFile:
    """A program file of Windows.

    Attributes:
        architecture: ``None`` for processors that Windows is not known to be restored for here.
        is_signed: Whether there is a signature in it; it is not verified.
    """

    architecture: Architecture | None
    is_signed: bool


def parse_program(head: bytes, *, size: int) -> ProgramFile | None:
    """Read the headers of a program; ``None`` when it is none.

    Args:
        head: Its first bytes, ``HEAD_SIZE`` or all of them.
        size: Of the whole file.
    """
    if len(head) < 64 or head[:2] != b"MZ":
        return None
    at = struct.unpack_from("<I", head, 60)[0]
    if at > len(head) - 26 or head[at : at + 4] != b"PE\0\0":
        return None
    machine = struct.unpack_from("<H", head, at + 4)[0]
    optional = at + 24
    directory = _SECURITY_AT.get(struct.unpack_from("<H", head, optional)[0])
    signed = False
    if directory is not None and optional + directory + 8 <= len(head):
        where, length = struct.unpack_from("<II", head, optional + directory)
        signed = length > 8 and where >= optional and where + length <= size
    return ProgramFile(architecture=_MACHINES.get(machine), is_signed=signed)
