"""Walking the block maps of images: what they refer to, and which bytes of them are lost.

Answers: "which chunks does this set of images need?" and "which bytes of this map rest in chunks that fail a test?"
Each distinct node is read once, however many images share it, and ids stay in arrays. Restoring reads a map in order
with ``blockmap.iter_spans``; that is not here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DamagedError
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.blockmap import FANOUT, LEVEL_MAX, Kind, MapRoot, Node, chunk_count, parse_node, root_level
from stillframe.repo.format import CHECK_HINT, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN
from stillframe.repo.id_sets import IdGathering, IdSet
from stillframe.repo.reading import ChunkReader, missing_chunk
from stillframe.repo.records import Manifest, StoredMap
from stillframe.repo.rows import Ids, Table, ids_array

_BATCH: Final = 256
"""Nodes read in one go: at most 9 MB."""
_RANGES_MAX: Final = 10_000
"""More lost ranges than this in one subtree are told as one."""

LostTest = Callable[[Ids], NDArray[np.bool_]]
"""Tells of each chunk id whether its chunk is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPlace:
    """One block map of an image. ``partition_number`` is ``None`` for what lies outside all partitions."""

    disk_number: int
    partition_number: int | None
    root: MapRoot
    chunk_size: int

    @property
    def words(self) -> str:
        """The place as people read it."""
        if self.partition_number is None:
            return f"disk {self.disk_number}, outside its partitions"
        return f"disk {self.disk_number}, partition {self.partition_number}"


def iter_maps(manifest: Manifest) -> Iterator[MapPlace]:
    """Every block map of an image.

    Raises:
        DamagedError: A map's root, size or chunk size is not what the format allows.
    """
    for disk in manifest.disks:
        parts: list[tuple[int | None, StoredMap]] = [(None, disk.outside)]
        parts += [(part.number, part.blocks) for part in disk.partitions]
        for number, stored in parts:
            place = MapPlace(
                disk_number=disk.number, partition_number=number, root=stored.root(), chunk_size=manifest.chunk_size
            )
            _check_shape(manifest, place)
            yield place


def referenced_chunks(reader: ChunkReader, manifests: Iterable[Manifest]) -> IdSet:
    """Every chunk and node that these images need, the bases of patches among them.

    Raises:
        DamagedError: A node cannot be read, so what lies below is not known; the image and the place are named.
    """
    gathering = _Gathering(reader)
    for manifest in manifests:
        gathering.add_image(manifest)
    return with_bases(gathering.take_ids(), reader.index.tables())


def with_bases(needed: IdSet, tables: Iterable[Table]) -> IdSet:
    """These chunks, and the bases of all patches that stand for one of them in these tables.

    A patch that nobody reads, because its chunk rests whole elsewhere, counts too: that other copy may go first.
    """
    bases = [table.bases[needed.contains(table.rows["id"][table.patches])] for table in tables if len(table.patches)]
    return needed | IdSet.of(np.concatenate(bases)) if sum(map(len, bases)) else needed


def with_patches(bases: IdSet, tables: Iterable[Table]) -> IdSet:
    """These chunks, and those that rest as patches of one of them."""
    ids = [table.rows["id"][table.patches[bases.contains(table.bases)]] for table in tables if len(table.patches)]
    return bases | IdSet.of(np.concatenate(ids)) if sum(map(len, ids)) else bases


def iter_new_references(reader: ChunkReader, manifests: Iterable[Manifest]) -> Iterator[Ids]:
    """For each image what it needs beyond the nodes that earlier ones share with it; ids may occur again.

    Raises:
        DamagedError: As ``referenced_chunks``.
    """
    gathering = _Gathering(reader)
    for manifest in manifests:
        gathering.add_image(manifest)
        yield with_bases(gathering.take_ids(), reader.index.tables()).ids


def iter_leaves(reader: ChunkReader, place: MapPlace) -> Iterator[tuple[bytes, Node | DamagedError]]:
    """Every leaf of a map by its id, and in the place of each node that cannot be read its error. It goes on after one.

    Leaves that occur several times come several times.
    """
    count = chunk_count(place.root.size, place.chunk_size)
    if place.root.root.kind is Kind.DATA and count:
        yield from _iter_leaves(reader, [_Place(place.root.root.id, root_level(count), count)])


def _iter_leaves(reader: ChunkReader, places: list["_Place"]) -> Iterator[tuple[bytes, Node | DamagedError]]:
    for place, node in _read_nodes(reader, places):
        if isinstance(node, DamagedError) or place.level == 0:
            yield place.node_id, node
        else:
            yield from _iter_leaves(reader, [child for _, child in _children(place, node)])


class MapSurvey:
    """Finds what is lost of maps; remembers every node, so that images that share nodes cost no more than one.

    Args:
        reader: Reads nodes.
        is_lost: Tells which chunks are lost. Asked for chunks only: a node is lost when it cannot be read.
    """

    def __init__(self, reader: ChunkReader, is_lost: LostTest) -> None:
        self._reader = reader
        self._is_lost = is_lost
        self._lost: dict[_Place, ExtentSet] = {}

    def lost_bytes(self, place: MapPlace) -> ExtentSet:
        """The bytes of a map that are lost, counted from the start of the map."""
        root, count = place.root, chunk_count(place.root.size, place.chunk_size)
        if root.root.kind is not Kind.DATA or count == 0:
            return ExtentSet.empty()
        top = _Place(root.root.id, root_level(count), count)
        self._survey([top])
        lost = self._lost[top]
        return ExtentSet(lost.starts * place.chunk_size, np.minimum(lost.ends * place.chunk_size, root.size))

    def _survey(self, places: list["_Place"]) -> None:
        """Judge nodes of one level."""
        places = [place for place in dict.fromkeys(places) if place not in self._lost]
        for place, node in _read_nodes(self._reader, places):
            if isinstance(node, DamagedError):
                self._lost[place] = ExtentSet.of(Extent(0, place.count))
            elif place.level == 0:
                data = np.flatnonzero(node.kinds == Kind.DATA)[self._is_lost(ids_array(node.ids))]
                self._lost[place] = ExtentSet.from_arrays(data, data + 1)
            else:
                children = _children(place, node)
                self._survey([child for _, child in children])
                self._lost[place] = _joined([(first, self._lost[child]) for first, child in children])


@dataclass(frozen=True, slots=True)
class _Place:
    """A node where it stands: its id, its level, and how many chunks it covers."""

    node_id: bytes
    level: int
    count: int


class _Gathering:
    """Ids of all nodes and chunks below some roots."""

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._seen: set[_Place] = set()
        self._ids = IdGathering()

    def add_image(self, manifest: Manifest) -> None:
        for place in iter_maps(manifest):
            try:
                self._add(place)
            except DamagedError as error:
                raise DamagedError(
                    f"image {manifest.image[:8]}, {place.words}: its block map cannot be read: {error.message}",
                    hint=error.hint,
                ) from error

    def _add(self, place: MapPlace) -> None:
        count = chunk_count(place.root.size, place.chunk_size)
        if place.root.root.kind is Kind.DATA and count:
            self._ids.add(ids_array(place.root.root.id))
            self._visit([_Place(place.root.root.id, root_level(count), count)])

    def take_ids(self) -> IdSet:
        """What was found since the last time."""
        gathered, self._ids = self._ids, IdGathering()
        return gathered.finish()

    def _visit(self, places: list[_Place]) -> None:
        places = [place for place in dict.fromkeys(places) if place not in self._seen]
        self._seen.update(places)
        for place, node in _read_nodes(self._reader, places):
            if isinstance(node, DamagedError):
                raise node
            self._ids.add(ids_array(node.ids))
            if place.level:
                self._visit([child for _, child in _children(place, node)])


def _read_nodes(reader: ChunkReader, places: Sequence[_Place]) -> Iterator[tuple[_Place, Node | DamagedError]]:
    """Nodes of one level in the order asked, read in batches."""
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        raw = _read_chunks(reader, [place.node_id for place in batch])
        for place in batch:
            data = raw.get(place.node_id, None) or missing_chunk(place.node_id)
            if not isinstance(data, DamagedError):
                try:
                    yield place, parse_node(data, level=place.level, count=-(-place.count // FANOUT**place.level))
                    continue
                except DamagedError as error:
                    data = error
            yield place, data


def _read_chunks(reader: ChunkReader, chunk_ids: list[bytes]) -> dict[bytes, bytes | DamagedError]:
    fetches, _ = reader.plan(chunk_ids)
    return {place.chunk_id: data for fetch in fetches for place, data in reader.fetch(fetch)}


def _children(place: _Place, node: Node) -> list[tuple[int, _Place]]:
    """Children of kind DATA with the chunk, counted from the start of this node, at which each begins."""
    below = FANOUT**place.level
    return [
        (number * below, _Place(child, place.level - 1, min(below, place.count - number * below)))
        for number, child in enumerate(node.entry_ids())
        if child
    ]


def _joined(parts: list[tuple[int, ExtentSet]]) -> ExtentSet:
    """Lost ranges of children as those of their parent; very many become one, so that memory stays bounded."""
    parts = [(first, lost) for first, lost in parts if len(lost)]
    if not parts:
        return ExtentSet.empty()
    starts = np.concatenate([lost.starts + first for first, lost in parts])
    ends = np.concatenate([lost.ends + first for first, lost in parts])
    if len(starts) > _RANGES_MAX:
        return ExtentSet.of(Extent(int(starts.min()), int(ends.max())))
    return ExtentSet.from_arrays(starts, ends)


def _check_shape(manifest: Manifest, place: MapPlace) -> None:
    size = place.chunk_size
    right = CHUNK_SIZE_MIN <= size <= CHUNK_SIZE_MAX and size & (size - 1) == 0
    if not right or chunk_count(place.root.size, size) > FANOUT ** (LEVEL_MAX + 1):
        raise DamagedError(
            f"image {manifest.image[:8]}, {place.words}: {place.root.size} bytes in chunks of {size} are no block map",
            hint=CHECK_HINT,
        )
