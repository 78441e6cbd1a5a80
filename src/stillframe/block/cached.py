"""A reader that remembers the pages it read last: for whoever asks for many small pieces of something slow.

A file system's parser reads a few hundred bytes here and there; each of them would open and expand a whole chunk of a
stored image again.
"""

import threading
from collections import OrderedDict
from typing import Final

from stillframe.block.base import BlockReader, Buffer, ReadFault, WrappedReader, check_range


class CachedReader(WrappedReader):
    """``inner``, read a page at a time; the pages that were used last are kept.

    Args:
        inner: What is read.
        page_size: Bytes of a page.
        pages_max: Pages that are kept: the memory that it takes, in pages.
    """

    def __init__(self, inner: BlockReader, *, page_size: int = 256 << 10, pages_max: int = 128) -> None:
        super().__init__(inner)
        self._page_size: Final = page_size
        self._pages_max: Final = pages_max
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``; errors as ``read_at``."""
        check_range(self.size, offset, len(buffer))
        end = offset + len(buffer)
        for number in range(offset // self._page_size, -(-end // self._page_size)):
            start = number * self._page_size
            first, last = max(start, offset), min(start + self._page_size, end)
            try:
                page = self._page(number)
            except ReadFault:  # what is wanted may be whole, though something beside it in the page is not
                self._inner.read_into(first, memoryview(buffer)[first - offset : last - offset])
            else:
                buffer[first - offset : last - offset] = page[first - start : last - start]

    def _page(self, number: int) -> bytes:
        with self._lock:
            if number in self._pages:
                self._pages.move_to_end(number)
                return self._pages[number]
        start = number * self._page_size
        page = self._inner.read_at(start, min(self._page_size, self.size - start))
        with self._lock:
            self._pages[number] = page
            if len(self._pages) > self._pages_max:
                self._pages.popitem(last=False)
        return page
