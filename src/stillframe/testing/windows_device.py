"""A volume of Windows in memory, as strict as an unbuffered handle: whole sectors, aligned memory, refused ranges.

Source: learn.microsoft.com "File Buffering" (alignment; ERROR_INVALID_PARAMETER), FSCTL_ALLOW_EXTENDED_DASD_IO. Not
compared with a real Windows.
"""

import mmap
import struct
import threading
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.extents import Extent
from stillframe.host.windows import codes
from stillframe.host.windows.calls import Win32Failure

HANDLE: Final = 0x44


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRange:
    """Reads that reach into ``extent`` fail with ``code``; 0: they give only what lies before it."""

    extent: Extent
    code: int


class MemoryDevice:
    """``DeviceCalls`` of one device.

    Args:
        contents: Its bytes.
        sector_size: What reads are held to.
        refused: Ranges that cannot be read.
        read_size_max: Most bytes that one read gives.
    """

    def __init__(
        self,
        contents: bytes | bytearray | memoryview,
        *,
        sector_size: int = 512,
        refused: tuple[RefusedRange, ...] = (),
        read_size_max: int = 1 << 30,
    ) -> None:
        self._contents = contents
        self._sector_size = sector_size
        self._refused = refused
        self._read_size_max = read_size_max
        self._lock = threading.Lock()
        self.open_handles = 0
        self.reads = 0
        self.asked: list[int] = []

    def open_handle(self, path: str, *, unbuffered: bool) -> int:
        """A handle; only unbuffered ones are given."""
        assert unbuffered, path
        self.open_handles += 1
        return HANDLE

    def close_handle(self, handle: int) -> None:
        """Take it back."""
        assert handle == HANDLE
        self.open_handles -= 1

    def device_io_control(self, handle: int, code: int, given: bytes, size: int) -> bytes:
        """The length; extended access as long as nothing is refused."""
        assert (handle, given) == (HANDLE, b"")
        self.asked.append(code)
        if code == codes.IOCTL_DISK_GET_LENGTH_INFO:
            assert size == 8
            return struct.pack("<q", len(self._contents))
        raise Win32Failure("DeviceIoControl", codes.ERROR_INVALID_FUNCTION)

    def read(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Whole sectors into aligned memory, or ERROR_INVALID_PARAMETER."""
        assert handle == HANDLE
        step = self._sector_size
        address = np.frombuffer(buffer, np.uint8).ctypes.data
        if offset % step or len(buffer) % step or address % min(step, mmap.PAGESIZE):
            raise AssertionError(f"not aligned: {offset}, {len(buffer)}, {address:#x}")
        length = min(len(buffer), self._read_size_max, len(self._contents) - offset)
        for refused in self._refused:
            if refused.extent.clipped(Extent(offset, offset + length)) is not None:
                if refused.code:
                    raise Win32Failure("ReadFile", refused.code)
                length = max(refused.extent.start - offset, 0)
        buffer[:length] = self._contents[offset : offset + length]
        with self._lock:
            self.reads += 1
        return length
