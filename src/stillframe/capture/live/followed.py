"""One source whose writes are followed on every disk that it lies on.

Answers: "what of this source has changed since it was read, and is it proven that every write was seen?" A write to any
copy of a mirror counts: which copy a read is answered from is the kernel's choice.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from stillframe.capture.live.source import LiveSource
from stillframe.extents import Extent, ExtentSet
from stillframe.host.live.trace import WriteTrace, open_trace


class FollowedSource:
    """A source and the traces of its disks. ``follow`` makes it; for one thread."""

    def __init__(self, source: LiveSource, traces: Sequence[WriteTrace]) -> None:
        self.source = source
        self._traces = tuple(zip(source.shares, traces, strict=True))

    def drain(self) -> None:
        """Take what the kernel has recorded."""
        for _, trace in self._traces:
            trace.drain()

    def begin_again(self) -> None:
        """Forget everything: whatever is needed is read after this."""
        for _, trace in self._traces:
            trace.begin_again()
            trace.changed.clear(ExtentSet.of(Extent(0, trace.changed.size)))

    def changed(self) -> ExtentSet:
        """What has changed, in bytes of the source. Drain first."""
        found = ExtentSet.empty()
        for share, trace in self._traces:
            found |= share.pieces.up(trace.changed.changed())
        return found

    def clear(self, extents: ExtentSet) -> None:
        """These bytes are about to be read: forget that they have changed."""
        for share, trace in self._traces:
            trace.changed.clear(share.pieces.down(extents))

    def mark(self, extents: ExtentSet) -> None:
        """These bytes were cleared and then not read: they count as changed again."""
        for share, trace in self._traces:
            for extent in share.pieces.down(extents):
                trace.changed.mark(extent)

    def shortfalls(self) -> Iterator[str]:
        """Why it is not proven that every write was seen; nothing when it is."""
        yield from filter(None, [trace.shortfall() for _, trace in self._traces])


@contextmanager
def follow(source: LiveSource) -> Iterator[FollowedSource]:
    """Record what the disks of a source complete, until the block ends.

    Raises:
        MachineRefusal: The kernel's trace cannot be used.
    """
    with ExitStack() as stack:
        yield FollowedSource(source, [stack.enter_context(open_trace(share.disk)) for share in source.shares])
