"""A disk that fails as planned, and counts what is asked of it.

Every planned fault must happen: a test whose fault never fired has tested nothing, and fails.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from stillframe.block.base import BlockReader, Buffer, ReadFault, WrappedReader
from stillframe.extents import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFault:
    """Reads that touch ``extent`` fail: the first ``times`` of them, or all of them when it is ``None``."""

    extent: Extent
    times: int | None = None


class FaultyDisk(WrappedReader):
    """``inner`` with planned read faults. As a context manager it raises when a planned fault never fired.

    ``bytes_read`` and ``reads`` count what succeeded, ``faults_fired`` what failed as planned.
    """

    def __init__(self, inner: BlockReader, faults: Iterable[PlannedFault] = ()) -> None:
        super().__init__(inner)
        self._faults = tuple(faults)
        self._fired = [0] * len(self._faults)
        self._lock = threading.Lock()
        self.bytes_read = 0
        self.reads = 0

    @property
    def faults_fired(self) -> int:
        """How many reads failed as planned."""
        return sum(self._fired)

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, unless a fault is planned there."""
        self._fail_if_planned(offset, length)
        result = self._inner.read_at(offset, length)
        self._count(length)
        return result

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``, unless a fault is planned there."""
        self._fail_if_planned(offset, len(buffer))
        self._inner.read_into(offset, buffer)
        self._count(len(buffer))

    def check_all_fired(self) -> None:
        """Raise ``AssertionError`` when a planned fault has not happened as often as planned."""
        for fault, fired in zip(self._faults, self._fired, strict=True):
            planned = 1 if fault.times is None else fault.times
            if fired < planned:
                raise AssertionError(f"{fault} fired {fired} times, not {planned}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.check_all_fired()

    def _fail_if_planned(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            return  # the inner reader says what is wrong with such a range
        asked = Extent(offset, offset + length)
        with self._lock:
            for number, fault in enumerate(self._faults):
                if fault.extent.clipped(asked) is None or self._fired[number] == fault.times:
                    continue
                self._fired[number] += 1
                raise ReadFault(f"planned fault in bytes {offset} to {offset + length}", extent=asked)

    def _count(self, size: int) -> None:
        with self._lock:
            self.bytes_read += size
            self.reads += 1
