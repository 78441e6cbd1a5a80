"""A target that has something of an image already: what is written, and what is left."""

import itertools
from dataclasses import replace

import pytest

from stillframe.block import MemoryDisk, ReadFault
from stillframe.block.base import Buffer
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs.restoring.placing import PlacedMap, Placer, PlacingOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.writing import ChunkNamer
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise
from stillframe.testing.job_runs import backup, job_context, make_repository

CHUNK = 65_536
SIZE = 200 * CHUNK + 5 * 512
NOISE = (Extent(0, 70 * CHUNK), Extent(90 * CHUNK + 512, 91 * CHUNK), Extent(130 * CHUNK, SIZE))
DELTA = PlacingOptions(delta=True)


class Target(MemoryDisk):
    """Counts what is written, and cannot be read in bad sectors until they are written."""

    def __init__(self, contents: bytes, *bad: Extent) -> None:
        super().__init__(contents)
        self.bad = list(bad)
        self.writes: list[Extent] = []

    def read_into(self, offset: int, buffer: Buffer) -> None:
        asked = Extent(offset, offset + len(buffer))
        for one in self.bad:
            if one.clipped(asked) is not None:
                raise ReadFault("a bad sector", extent=one)
        super().read_into(offset, buffer)

    def write_at(self, offset: int, data: bytes | Buffer) -> None:
        written = Extent(offset, offset + len(data))
        self.writes.append(written)
        self.bad = [one for one in self.bad if one.clipped(written) is None]
        super().write_at(offset, data)


@pytest.fixture(scope="module")
def stored() -> tuple[Repository, Manifest, bytes]:
    disk = MemoryDisk(bytes(SIZE))
    for number, extent in enumerate(NOISE):
        fill_with_noise(disk, extent, number + 1)
    repository = make_repository(MemoryStore(), chunk_size=CHUNK)
    return repository, backup(repository, disk).manifest, bytes(disk.contents)


def place(
    stored: tuple[Repository, Manifest, bytes], target: Target, options: PlacingOptions = DELTA, *,
    allowed: ExtentSet | None = None,
) -> Placer:  # fmt: skip
    repository, manifest, _ = stored
    namer = ChunkNamer(repository, bytes.fromhex(manifest.domain))
    placer = Placer(
        target, repository.reader(), namer, chunk_size=CHUNK, options=options, context=job_context()
    )  # fmt: skip
    roots = [part.blocks.root() for part in manifest.disks[0].partitions] or [manifest.disks[0].outside.root()]
    assert [root.size for root in roots] == [SIZE]
    placer.place([PlacedMap(root=roots[0], offset=0, allowed=allowed)])
    return placer


def test_a_delta_onto_the_same_writes_nothing(stored: tuple[Repository, Manifest, bytes]) -> None:
    target = Target(stored[2])
    placer = place(stored, target)
    assert target.writes == []
    assert (placer.written.bytes_written, placer.written.bytes_skipped) == (0, SIZE)


@pytest.mark.parametrize("changed", [[0], [SIZE - 1], [63 * CHUNK, 64 * CHUNK], [90 * CHUNK], [99 * CHUNK + 7]])
def test_a_delta_writes_the_chunks_that_differ(stored: tuple[Repository, Manifest, bytes], changed: list[int]) -> None:
    contents = bytearray(stored[2])
    for at in changed:
        contents[at] ^= 1
    target = Target(bytes(contents))
    place(stored, target)
    assert bytes(target.contents) == stored[2]
    assert all(any(one.start <= at < one.end for one in target.writes) for at in changed)
    chunks = {at // CHUNK for at in changed}
    in_noise = {n for n in chunks if any(one.start // CHUNK <= n <= (one.end - 1) // CHUNK for one in NOISE)}
    if in_noise == chunks:  # what is to be zeros is cleared as a whole
        assert {one.start // CHUNK for one in target.writes} == chunks
        assert all(one.size <= CHUNK for one in target.writes)


def test_a_bad_sector_of_the_target_is_written_and_not_the_end_of_it(
    stored: tuple[Repository, Manifest, bytes],
) -> None:
    bad = [Extent(3 * CHUNK, 3 * CHUNK + 512), Extent(100 * CHUNK, 100 * CHUNK + 512), Extent(SIZE - 512, SIZE)]
    target = Target(stored[2], *bad)
    place(stored, target)
    assert target.bad == []
    assert bytes(target.contents) == stored[2]


def test_what_may_not_be_written_stays_though_its_chunk_reaches_into_it(
    stored: tuple[Repository, Manifest, bytes],
) -> None:
    allowed = ExtentSet.of(Extent(CHUNK // 2, 2 * CHUNK), Extent(64 * CHUNK - 512, 64 * CHUNK + 512))
    target = Target(b"\xff" * SIZE)
    place(stored, target, allowed=allowed)
    edges = [0, *itertools.chain.from_iterable((one.start, one.end) for one in allowed), SIZE]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        expected = stored[2][start:end] if number % 2 else b"\xff" * (end - start)
        assert bytes(target.contents[start:end]) == expected, (start, end)


@pytest.mark.parametrize("delta", [True, False])
def test_whatever_was_there_becomes_the_image(stored: tuple[Repository, Manifest, bytes], delta: bool) -> None:
    target = Target(b"\xff" * SIZE)
    place(stored, target, replace(DELTA, delta=delta, wipe=True))
    assert bytes(target.contents) == stored[2]
