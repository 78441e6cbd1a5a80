"""Sizes, rates and times in the words people read, and alignment of numbers.

Answers: "how is this number of bytes or seconds written for a person?" Knows nothing of disks or repositories.
"""

import re
from decimal import Decimal
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

_DECIMAL: Final = ("bytes", "kB", "MB", "GB", "TB", "PB")
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
_BINARY: Final = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def format_size(size: int) -> str:
    """Write a number of bytes with three digits and a decimal unit, as disk makers and file managers do."""
    if abs(size) < 1000:
        return f"{size} bytes"
    value = float(size)
    for unit in _DECIMAL:
        if abs(value) < 999.5 or unit == _DECIMAL[-1]:
            return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:.0f} {unit}"
        value /= 1000
    raise AssertionError


def format_rate(size: int, seconds: float) -> str:
    """Write a speed, such as ``812 MB/s``; nothing measured gives ``-``."""
    return f"{format_size(int(size / seconds))}/s" if seconds > 0 else "-"


def format_duration(seconds: float) -> str:
    """Write a time as people say it: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_count(count: int, noun: str) -> str:
    """Write a number with its noun: ``1 image``, ``3 images``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parse_size(text: str) -> int:
    """Read ``20G``, ``512M``, ``1T`` or a plain number of bytes; units are powers of 1024.

    Raises:
        ValueError: The text is not a size.
    """
    word = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = word[-1:] if word[-1:].isalpha() else ""
    if unit not in _BINARY:
        raise ValueError(f"not a size: {text!r}; write for example 500G or 2T")
    number = word.removesuffix(unit).strip()
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"not a size: {text!r}; write for example 500G or 2T")
    value = int(Decimal(number) * _BINARY[unit])  # a float would round sizes above 8 PiB
    if value >= 1 << 63:
        raise ValueError(f"not a size: {text!r}; the largest is 8 EiB")
    return value


def align_down(value: int, step: int) -> int:
    """Round down to a multiple of ``step``."""
    return value - value % step


def align_up(value: int, step: int) -> int:
    """Round up to a multiple of ``step``."""
    return -(-value // step) * step
