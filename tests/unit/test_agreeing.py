"""A copy that is the same twice, of a volume that may change."""

import pytest

from stillframe.block import MemoryDisk, ReadFault
from stillframe.capture.agreeing import PIECE_SIZE, read_until_agreed
from stillframe.errors import SourceInUse
from stillframe.extents import Extent
from stillframe.testing.block_contract import READER_CHECKS, contents
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault

SIZE = 3 * PIECE_SIZE + 4096
WHOLE = [Extent(0, SIZE)]


class Busy:
    """A pause in which somebody writes, for the first ``times`` pauses."""

    def __init__(self, disk: MemoryDisk, *, times: int, offset: int = 5) -> None:
        self._disk = disk
        self._left = times
        self._offset = offset
        self.pauses = 0

    def __call__(self) -> None:
        self.pauses += 1
        if self._left:
            self._left -= 1
            self._disk.write_at(self._offset, bytes([self.pauses]))


@pytest.mark.parametrize("times", [0, 1, 4])
def test_it_reads_until_two_passes_agree(times: int) -> None:
    disk = MemoryDisk(contents(SIZE))
    busy = Busy(disk, times=times)
    agreed = read_until_agreed(disk, WHOLE, pause=busy)
    assert (agreed.passes, busy.pauses) == (times + 2, times + 1)
    assert agreed.reader.read_at(0, SIZE) == disk.contents


@pytest.mark.parametrize("offset", [0, PIECE_SIZE - 1, SIZE - 1])
def test_a_change_anywhere_is_seen(offset: int) -> None:
    disk = MemoryDisk(contents(SIZE))
    assert read_until_agreed(disk, WHOLE, pause=Busy(disk, times=1, offset=offset)).passes == 3


def test_the_copy_does_not_change_any_more() -> None:
    disk = MemoryDisk(contents(SIZE))
    agreed = read_until_agreed(disk, WHOLE, pause=lambda: None)
    disk.write_at(100, b"later")
    assert agreed.reader.read_at(0, SIZE) == contents(SIZE)
    for check in READER_CHECKS:
        check(agreed.reader, contents(SIZE))


def test_what_does_not_matter_may_change() -> None:
    disk = MemoryDisk(contents(SIZE))
    busy = Busy(disk, times=1000, offset=2 * PIECE_SIZE)
    agreed = read_until_agreed(disk, [Extent(10, 20), Extent(PIECE_SIZE, PIECE_SIZE + 1)], pause=busy)
    assert agreed.passes == 2
    assert agreed.reader.read_at(0, SIZE) == disk.contents  # what was not asked for is shown as it is now


def test_a_volume_that_never_rests_is_refused() -> None:
    disk = MemoryDisk(contents(SIZE))
    with pytest.raises(SourceInUse, match="changed in each of 6 passes; in the last one 1 pieces"):
        read_until_agreed(disk, WHOLE, pause=Busy(disk, times=1000))


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    disk = FaultyDisk(MemoryDisk(contents(SIZE)))
    with pytest.raises(SourceInUse, match="limit"):
        read_until_agreed(disk, WHOLE, pause=lambda: None, size_max=SIZE - 1)
    assert disk.reads == 0
    assert read_until_agreed(disk, WHOLE, pause=lambda: None, size_max=SIZE).passes == 2


def test_what_cannot_be_read_is_said() -> None:
    with (
        FaultyDisk(MemoryDisk(contents(SIZE)), [PlannedFault(extent=Extent(5, 6), times=1)]) as disk,
        pytest.raises(ReadFault),
    ):
        read_until_agreed(disk, WHOLE, pause=lambda: None)


def test_nothing_to_read_agrees_with_itself() -> None:
    assert read_until_agreed(MemoryDisk(b"x" * 100), [], pause=lambda: None).passes == 2
