"""Chains of clusters in a FAT, as runs.

Answers: "which clusters belong to the file that begins here?" A piece of the table is looked at as a whole: a chain is
followed from fragment to fragment, not from cluster to cluster.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block.formats.mapped import TableCache
from stillframe.errors import DiskFormatError

WINDOW: Final = 1 << 14
"""Entries that are looked at together."""
_KEPT_MAX: Final = 64

Entries = NDArray[np.uint32]
ClusterRun = tuple[int, int]
"""The first cluster, and how many follow each other."""


class ClusterChains:
    """The chains of one table.

    Args:
        load: The entries of a window, by its number; the last window may be shorter.
        cluster_count: Clusters that exist; the first has number 2.
        end_from: Entries from this number on end a chain.
        name: What the table is called in errors.
        hint: Their next step.
    """

    def __init__(
        self, load: Callable[[int], Entries], *, cluster_count: int, end_from: int, name: str, hint: str
    ) -> None:
        self._load = load
        self._windows = TableCache(self._look, kept_max=_KEPT_MAX)
        self._end: Final = cluster_count + 2
        self._end_from: Final = end_from
        self._name: Final = name
        self._hint: Final = hint

    def runs(self, first: int, *, count_max: int) -> list[ClusterRun]:
        """The clusters of a chain, at most ``count_max``; fewer when it ends before.

        Raises:
            DiskFormatError: It names a cluster that does not exist.
        """
        found, cluster, left = list[ClusterRun](), first, count_max
        while left > 0:
            if not 2 <= cluster < self._end:
                raise DiskFormatError(
                    f"{self._name}: the chain from cluster {first} leads to {cluster:#x}", hint=self._hint
                )
            length, following = self._run(cluster, left)
            found.append((cluster, length))
            left -= length
            if following >= self._end_from:
                break
            cluster = following
        return found

    def _run(self, cluster: int, most: int) -> tuple[int, int]:
        """How many clusters follow each other from here, and what the last of them says comes next."""
        length = 0
        while True:
            number, index = divmod(cluster + length, WINDOW)
            entries, breaks = self._windows.get(number)
            if index >= len(entries):  # the one before named the first cluster behind the last
                return length, cluster + length
            at = int(np.searchsorted(breaks, index))
            stop = int(breaks[at]) if at < len(breaks) else len(entries) - 1
            length += stop - index + 1
            if length >= most or at < len(breaks):
                return min(length, most), int(entries[stop])

    def _look(self, number: int) -> tuple[Entries, NDArray[np.int64]]:
        """A window, and where in it an entry does not name the next cluster."""
        entries = self._load(number)
        following = np.arange(number * WINDOW + 1, number * WINDOW + 1 + len(entries), dtype=np.int64)
        return entries, np.flatnonzero(entries.astype(np.int64) != following)
