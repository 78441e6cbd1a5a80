"""From all names of a volume to what it holds, in numbers, without the path of any file.

Answers: "how many, how much, and in which upper folders?" Sums are rolled up along the numbers of folders; only folders
near the root get a path.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.fs.files.names import show_name
from stillframe.fs.files.sums import DEPTH_MAX, FileCounts, FolderSums
from stillframe.fs.files.walk import Limits
from stillframe.fs.listing import NAMES_MAX, Flags, Listing, Numbers, find_places

_HINT: Final = "A walk through the folders counts such a volume."
_SIZE_MAX: Final = 1 << 62
# Of a name; below it and this one are control characters, which the walk may show in another way.
_SPACE, _DELETE = " ", "\x7f"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """The folders: one element for each that has a name, sorted by number, and the root last.

    Attributes:
        numbers: Without the root's.
        parents: Element of the folder that it is in; -1 where that is not known.
        depth: 0 is the root; -1 what cannot be reached from it.
        upper: Element of the folder at most ``DEPTH_MAX`` deep that it is, or is below of.
        names: Place of its name in ``Listing.folder_names``.
    """

    numbers: Numbers = field(repr=False)
    parents: Numbers = field(repr=False)
    depth: Numbers = field(repr=False)
    upper: Numbers = field(repr=False)
    names: Numbers = field(repr=False)

    def find(self, root: int, wanted: Numbers) -> Numbers:
        """The element of each folder number; -1 for those that are no folder with a name."""
        return np.where(wanted == root, len(self.numbers), find_places(self.numbers, wanted))


def sum_listing(listing: Listing) -> FileCounts:
    """Count what can be reached from the root.

    Raises:
        DiskFormatError: The listing contradicts itself, or holds what a walk may count in another way.
    """
    _demand(len(listing.numbers) <= NAMES_MAX, "too many names")
    tree = _grow(listing)
    holders = tree.find(listing.root, listing.parents)
    files = np.flatnonzero(listing.is_file & (holders >= 0))
    files = files[tree.depth[holders[files]] >= 0]
    sizes, links, numbers = listing.sizes[files], listing.links[files], listing.numbers[files]
    _demand(bool((sizes >= 0).all()), "a file without a size")
    _demand(float(sizes.sum(dtype=np.float64)) < _SIZE_MAX, "more bytes than there can be")
    upper = tree.upper[holders[files]]
    single = links == 1
    linked = ~single
    ordered = np.sort(numbers[single])
    _demand(not (ordered[1:] == ordered[:-1]).any(), "a file with more names than it says")
    _demand(not np.isin(numbers[linked], ordered).any(), "a file with two counts of names")

    paths = _Paths(listing, tree)
    sums = FolderSums()
    totals, counts = _add_up(upper[single], sizes[single], len(tree.depth))
    firsts = _choose(numbers[linked], upper[linked], paths)
    more, further = _add_up(upper[linked][firsts], sizes[linked][firsts], len(tree.depth))
    totals, counts = totals + more, counts + further
    for node in np.flatnonzero(counts).tolist():
        sums.add(paths.path(node), int(totals[node]), int(counts[node]))
    return sums.count(int(np.count_nonzero(tree.depth > 0)))


def _grow(listing: Listing) -> _Tree:
    """The folders as a tree, level by level from the root."""
    places = np.flatnonzero(listing.is_folder)
    order = np.argsort(listing.numbers[places], kind="stable")
    numbers = listing.numbers[places[order]]
    _demand(not (numbers[1:] == numbers[:-1]).any() and listing.root not in numbers, "a folder with two names")
    count = len(numbers)
    above = listing.parents[places[order]]
    parents = np.where(above == listing.root, count, find_places(numbers, above))
    depth, upper = np.full(count + 1, -1, np.int64), np.full(count + 1, -1, np.int64)
    depth[count], upper[count] = 0, count
    waiting = np.flatnonzero(parents >= 0)
    # Each step takes one level away; what is left when none is found hangs in the air, or in a circle.
    while len(waiting):
        ready = depth[parents[waiting]] >= 0
        if not ready.any():
            break
        found = waiting[ready]
        depth[found] = depth[parents[found]] + 1
        # The root's depth is 1 in a walk.
        _demand(int(depth[found].max()) < Limits().depth, "a folder that lies too deep")
        upper[found] = np.where(depth[found] <= DEPTH_MAX, found, upper[parents[found]])
        waiting = waiting[~ready]
    return _Tree(numbers=numbers, parents=parents, depth=depth, upper=upper, names=order)


def _add_up(nodes: Numbers, sizes: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """Bytes and files of each node."""
    totals = np.zeros(count, np.int64)
    np.add.at(totals, nodes, sizes)
    return totals, np.bincount(nodes, minlength=count).astype(np.int64)


def _choose(numbers: Numbers, upper: Numbers, paths: "_Paths") -> Numbers:
    """Of the names of each file with several, the place of one whose upper folder has the first path."""
    nodes, inverse = np.unique(upper, return_inverse=True)
    shown = [paths.path(node) for node in nodes.tolist()]
    ranks = np.empty(len(nodes), np.int64)
    ranks[np.array(sorted(range(len(nodes)), key=shown.__getitem__), np.int64)] = np.arange(len(nodes))
    order = np.lexsort((ranks[inverse.reshape(-1)], numbers))
    ordered = numbers[order]
    is_first: Flags = np.ones(len(order), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return order[is_first]


class _Paths:
    """Paths of upper folders, each made once."""

    def __init__(self, listing: Listing, tree: _Tree) -> None:
        self._listing = listing
        self._tree = tree
        self._known: dict[int, str] = {len(tree.numbers): ""}

    def path(self, node: int) -> str:
        """The path of a folder, as a walk shows it; at most ``DEPTH_MAX`` steps."""
        known = self._known.get(node)
        if known is None:
            known = f"{self.path(int(self._tree.parents[node]))}/{self._name(node)}"
            self._known[node] = known
        return known

    def _name(self, node: int) -> str:
        raw = self._listing.folder_names[int(self._tree.names[node])]
        try:
            text = raw.decode(self._listing.encoding)
        except UnicodeDecodeError:
            if self._listing.encoding != "utf-8":
                raise DiskFormatError("a folder's name is no text", hint=_HINT) from None
            text = show_name(raw)
        _demand(bool(text) and "/" not in text and min(text) >= _SPACE and _DELETE not in text, "a folder's name")
        return show_name(text.encode()) if self._listing.encoding != "utf-8" else show_name(raw)


def _demand(fulfilled: bool, what: str) -> None:
    if not fulfilled:
        raise DiskFormatError(f"counting at once: {what}", hint=_HINT)
