"""Laws of the repository core, over generated maps, indexes, packs and plans."""

import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stillframe.errors import DamagedError
from stillframe.repo import index as index_module
from stillframe.repo.blockmap import Entry, Kind, MapBuilder, MapRoot, iter_spans, root_level
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.index import ChunkIndex, RunCache
from stillframe.repo.objects import ObjectBox
from stillframe.repo.packs import PackReader, PackWriter, compressor, plan_fetches
from stillframe.repo.rows import EntryKind, Location, Table, build_table, ids_array, make_rows, parse_table
from stillframe.store import MemoryStore

CHUNK = 65_536
UNIFORM = [Kind.UNUSED, Kind.ZERO, Kind.EXCLUDED, Kind.UNREADABLE]


def numbered(number: int) -> bytes:
    """An id that spreads over all values, as a hash does, and tells its number."""
    return (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big") + number.to_bytes(24, "big")


# --- Block maps: what was built is what is read ----------------------------------------------------------------------

Pattern = list[tuple[Kind, int]]
"""Kinds and how many leaves (or, at the end, entries) have them; DATA means every third entry is data."""


class Nodes(dict[bytes, bytes]):
    """A store of nodes; a node stored twice is one."""

    def store(self, raw: bytes) -> bytes:
        return self.setdefault(b"n" + numbered(len(self))[1:], raw) and list(self)[-1]


def kinds_of_leaf(kind: Kind, first: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    kinds = np.full(size, kind, np.uint8)
    if kind is Kind.DATA:
        kinds = np.where((np.arange(first, first + size) - first) % 3 == 0, Kind.DATA, Kind.ZERO).astype(np.uint8)
    return kinds


def build(count: int, pattern: Pattern, nodes: Nodes) -> tuple[MapRoot, list[Kind]]:
    """A map of ``count`` chunks whose leaves follow the pattern over and over; and the kind of each leaf."""
    builder = MapBuilder(count * CHUNK, CHUNK, nodes.store)
    leaves: list[Kind] = []
    wanted = [kind for kind, times in pattern for _ in range(times)]
    total = -(-count // 1024)
    while len(leaves) < total:
        kind = wanted[len(leaves) % len(wanted)]
        first = len(leaves) * 1024
        if kind is Kind.DATA:
            kinds = kinds_of_leaf(kind, first, min(1024, count - first))
            ids = b"".join(numbered(first + int(n)) for n in np.flatnonzero(kinds == Kind.DATA))
            builder.add_leaf(kinds, ids)
        else:
            builder.add_uniform(kind, 1)
        leaves.append(kind)
    return builder.finish(), leaves


edges = st.sampled_from([1, 2, 1023, 1024, 1025, 2047, 2048, 2049, 5000, 1024**2 - 1, 1024**2, 1024**2 + 1])
patterns = st.lists(st.tuples(st.sampled_from([*UNIFORM, Kind.DATA]), st.integers(1, 700)), min_size=1, max_size=3)


@given(edges, patterns)
@settings(max_examples=15, deadline=None)
def test_a_map_is_read_as_it_was_built(count: int, pattern: Pattern) -> None:
    nodes = Nodes()
    root, leaves = build(count, pattern, nodes)
    at, reads = 0, 0

    def read(node_id: bytes) -> bytes:
        nonlocal reads
        reads += 1
        return nodes[node_id]

    for span in iter_spans(root, CHUNK, read):
        assert span.first == at
        at += span.count
        if span.leaf is None:
            inside = leaves[span.first // 1024 : -(-at // 1024)]
            assert set(inside) == {span.kind}
            continue
        assert leaves[span.first // 1024] is Kind.DATA
        expected = kinds_of_leaf(Kind.DATA, span.first, span.count)
        assert (span.leaf.kinds == expected).all()
        assert span.leaf.entry_ids() == [
            numbered(span.first + n) if kind == 2 else b"" for n, kind in enumerate(expected)
        ]
    assert at == count
    assert reads == len(nodes)
    level = root_level(count)
    data_leaves = leaves.count(Kind.DATA)
    if not data_leaves and len(set(leaves)) == 1:
        assert (root.root, nodes) == (Entry(leaves[0]), {})
    else:
        assert root.root.kind is Kind.DATA
        assert data_leaves <= len(nodes) <= data_leaves + sum(-(-len(leaves) // 1024**n) for n in range(1, level + 1))


# --- Fetches: every place once, in reads of bounded size -------------------------------------------------------------


def place(pack: int, offset: int, size: int, number: int) -> Location:
    return Location(
        chunk_id=numbered(number), pack_id=bytes([pack]) * 16, offset=offset, sealed_size=size,
        plain_size=size - 16, kind=EntryKind.CHUNK, compressed=False,
    )  # fmt: skip


places = st.lists(
    st.tuples(st.integers(0, 2), st.integers(80, 30 << 20), st.integers(17, (4 << 20) + 16)), max_size=40
).map(lambda found: [place(*one, number) for number, one in enumerate(found)])


@given(places)
def test_fetches_bring_each_place_once_in_bounded_reads(wanted: list[Location]) -> None:
    fetches = list(plan_fetches(wanted))
    found = [one for fetch in fetches for one in fetch.locations]
    assert sorted(one.chunk_id for one in found) == sorted(one.chunk_id for one in wanted)
    for fetch in fetches:
        assert {one.pack_id for one in fetch.locations} == {fetch.pack_id}
        assert fetch.size <= (8 << 20) + (4 << 20)
        assert all(
            fetch.offset <= one.offset and one.offset + one.sealed_size <= fetch.offset + fetch.size
            for one in fetch.locations
        )
    useful = sum(one.sealed_size for one in wanted)
    gaps = sum(max(0, fetch.size - sum(one.sealed_size for one in fetch.locations)) for fetch in fetches)
    assert gaps <= (128 << 10) * len(wanted)
    assert sum(fetch.size for fetch in fetches) <= useful + gaps


@given(st.lists(st.integers(17, (4 << 20) + 16), min_size=1, max_size=40), st.randoms())
def test_a_whole_pack_is_read_in_few_reads(sizes: list[int], chance: object) -> None:
    offsets = np.cumsum([80, *sizes]).tolist()
    wanted = [place(0, offset, size, n) for n, (offset, size) in enumerate(zip(offsets, sizes, strict=False))]
    chance.shuffle(wanted)  # type: ignore[attr-defined]
    fetches = list(plan_fetches(wanted))
    assert all(fetch.size <= 8 << 20 for fetch in fetches)
    assert len(fetches) <= 2 * sum(sizes) // (8 << 20) + 1
    assert sum(fetch.size for fetch in fetches) == sum(sizes)


# --- Packs: what was added is what is read ---------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=20), st.sampled_from([None, 1, 3]))
@settings(max_examples=30)
def test_a_pack_gives_back_what_was_added(chunks: list[bytes], level: int | None) -> None:
    box = ObjectBox(MemoryStore(), bytes(16), bytes(32))
    writer = PackWriter(box, compressor(level))
    end = 80
    for number, plain in enumerate(chunks):
        assert writer.size == end
        end += writer.add(numbered(number), plain)
    table = writer.finish()
    own = PackReader(box).read_table(writer.pack_id)
    assert build_table(own) == build_table(table) == build_table(parse_table(build_table(table), thing="x"))
    found = {
        one.chunk_id: data
        for fetch in plan_fetches([own.location(row) for row in range(len(chunks))])
        for one, data in PackReader(box).fetch(fetch)
    }
    assert found == {numbered(number): plain for number, plain in enumerate(chunks)}
    offsets = own.rows["offset"].tolist()
    assert offsets == sorted(set(offsets))
    footer = int.from_bytes(box.store.read(object_name(ObjectType.PACK, writer.pack_id))[-64:-56], "little")
    assert end == footer > offsets[-1]


@given(st.data())
@settings(max_examples=60)
def test_no_damage_to_a_pack_returns_other_bytes(data: st.DataObject) -> None:
    box = ObjectBox(MemoryStore(), bytes(16), bytes(32))
    chunks = {numbered(n): bytes([n]) * 100 for n in range(5)}
    writer = PackWriter(box, compressor(1))
    for chunk_id, plain in chunks.items():
        writer.add(chunk_id, plain)
    table = writer.finish()
    name = object_name(ObjectType.PACK, writer.pack_id)
    raw = bytearray(box.store.read(name))
    for place_in_pack in data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=5)):
        start = 80 + place_in_pack % (len(raw) - 80)
        new = data.draw(st.binary(min_size=1, max_size=30))
        raw[start : start + len(new)] = new[: len(raw) - start]
    box.store.delete(name)
    out = box.store.create(name)
    out.append(raw)
    for fetch in plan_fetches([table.location(row) for row in range(5)]):
        for one, found in PackReader(box).fetch(fetch):
            assert isinstance(found, DamagedError) or found == chunks[one.chunk_id]


# --- The index: a dictionary -----------------------------------------------------------------------------------------


class IndexModel(RuleBasedStateMachine):
    """``ChunkIndex`` beside a dictionary from chunk to packs; reloads go through a cache on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runs: dict[bytes, Table] = {}
        self.model: dict[int, set[int]] = {}
        self.dead: set[int] = set()
        self.made = 0
        self.limits = index_module._RUNS_MAX, index_module._MERGE_ROWS_MAX
        index_module._RUNS_MAX, index_module._MERGE_ROWS_MAX = 3, 40  # type: ignore[misc]
        self.index = ChunkIndex(RunCache(self.folder.name))

    def teardown(self) -> None:
        index_module._RUNS_MAX, index_module._MERGE_ROWS_MAX = self.limits  # type: ignore[misc]
        self.folder.cleanup()

    @rule(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=12))
    def add(self, rows: list[tuple[int, int]]) -> None:
        packs = sorted({pack for _, pack in rows})
        made = make_rows([(numbered(c), 80 + c * 8 + p, 116, 100, EntryKind.CHUNK, False) for c, p in rows])
        made["pack"] = [packs.index(pack) for _, pack in rows]
        self.made += 1
        table, run_id = Table(tuple(bytes([pack]) * 16 for pack in packs), made), self.made.to_bytes(16, "big")
        self.runs[run_id] = table
        self.index.add(run_id, table)
        for chunk, pack in rows:
            self.model.setdefault(chunk, set()).add(pack)

    @rule(dead=st.sets(st.integers(0, 4)))
    def exclude(self, dead: set[int]) -> None:
        self.dead = dead
        self.index.exclude_packs([bytes([pack]) * 16 for pack in dead])

    @rule(cached=st.booleans())
    def reload(self, cached: bool) -> None:
        self.index = ChunkIndex(RunCache(self.folder.name) if cached else None)
        self.index.load(list(self.runs), self.runs.__getitem__)
        self.index.exclude_packs([bytes([pack]) * 16 for pack in self.dead])

    @rule()
    def lose_a_run(self) -> None:
        if self.runs:
            del self.runs[next(iter(self.runs))]
            self.model = {}
            for table in self.runs.values():
                for row in range(len(table.rows)):
                    found = table.location(row)
                    chunk = int.from_bytes(found.chunk_id[8:], "big")
                    self.model.setdefault(chunk, set()).add(found.pack_id[0])
            self.reload(cached=True)

    @invariant()
    def equal(self) -> None:
        asked = ids_array(b"".join(numbered(chunk) for chunk in range(32)))
        living = {chunk: packs - self.dead for chunk, packs in self.model.items()}
        assert self.index.contains(asked).tolist() == [bool(living.get(chunk)) for chunk in range(32)]
        for chunk, found in enumerate(self.index.locate(asked)):
            if found is None:
                assert not living.get(chunk)
            else:
                assert (found.chunk_id, found.offset) == (numbered(chunk), 80 + chunk * 8 + found.pack_id[0])
                assert found.pack_id[0] in living[chunk]
            copies = {copy.pack_id[0] for copy in self.index.copies(numbered(chunk))}
            assert copies == self.model.get(chunk, set())
        assert self.index.packs() == {pack for table in self.runs.values() for pack in table.packs}


TestIndexModel = IndexModel.TestCase
TestIndexModel.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
