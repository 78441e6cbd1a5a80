"""Pictures of a virtual machine's screen.

Answers: "what does it look like, has it changed, and what colour is it?" QEMU gives PPM; what is kept is PNG, which is
written here.

Sources: netpbm.sourceforge.net/doc/ppm.html; W3C, Portable Network Graphics Specification (third edition), 5 and 9.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import MachineRefusal

_HEAD: Final = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")
_SIDE_MAX: Final = 8192
_STEADY_SHARE: Final = 0.002
"""A cursor that blinks is this little of a screen."""
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture: rows of red, green and blue bytes."""

    width: int
    height: int
    pixels: bytes

    def build_png(self) -> bytes:
        """The picture as a PNG file."""
        rows = self._array().reshape(self.height, self.width * 3)
        raw = np.hstack([np.zeros((self.height, 1), np.uint8), rows]).tobytes()  # filter 0 before each row
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, data) for name, data in parts)

    def looks_like(self, other: "Picture") -> bool:
        """Whether nothing but a blinking cursor differs."""
        if (self.width, self.height) != (other.width, other.height):
            return False
        differing = (self._array() != other._array()).any(axis=1)  # noqa: SLF001 - of its own kind
        return bool(differing.mean() <= _STEADY_SHARE)

    def share_of(self, color: Color) -> float:
        """How much of it has exactly a colour, from 0 to 1."""
        return float((self._array() == np.array(color, np.uint8)).all(axis=1).mean())

    @property
    def is_text_size(self) -> bool:
        """Whether it has the size of the text mode of a VGA: 80 by 25 characters of 9 by 16 points."""
        return (self.width, self.height) == (720, 400)

    def _array(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.pixels, np.uint8).reshape(-1, 3)


def parse_ppm(raw: bytes) -> Picture:
    """Parse a PPM picture of one byte a colour.

    Raises:
        MachineRefusal: It is none.
    """
    head = _HEAD.match(raw)
    width, height = (int(head[1]), int(head[2])) if head else (0, 0)
    pixels = raw[head.end() :] if head else b""
    if not 0 < width <= _SIDE_MAX or not 0 < height <= _SIDE_MAX or len(pixels) != width * height * 3:
        raise MachineRefusal("the picture of the screen is not what QEMU writes", hint="Is QEMU 5 or newer?")
    return Picture(width=width, height=height, pixels=pixels)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
