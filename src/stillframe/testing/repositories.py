"""Small repositories for tests: machines, and images whose chunks the test chooses.

Answers: "make me a repository with these images in it." Images are written as a backup writes them, through a session
and an ``ImageWriter``; the contents of a chunk follow from its number, so that a test can say which chunks are shared.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from stillframe.clock import Clock, rfc3339
from stillframe.repo.blockmap import FANOUT, UNUSED, Kind, MapBuilder, MapRoot, iter_spans
from stillframe.repo.keys import Cost
from stillframe.repo.put.machine import Link
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Consistency, MachineName, Manifest, StoredDisk, StoredPartition, stored_map
from stillframe.repo.repository import Repository, StoredImage, create_repository, open_repository
from stillframe.repo.rows import EntryKind
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner, Session, begin_session
from stillframe.repo.walk import referenced_chunks
from stillframe.repo.writing import ImageWriter, Lane
from stillframe.store import Store
from stillframe.testing.clocks import FakeClock

CHEAP: Final = Cost(time_cost=1, memory_kib=8192, lanes=1)
"""As little work as a key slot may ask for."""
CHUNK_SIZE: Final = 65_536
VERSIONS: Final = 1000
"""Chunk ``n + k * VERSIONS`` is version ``k`` of chunk ``n``."""
_DISK, _PARTITION = "/dev/sda", 1


@dataclass(slots=True)
class Processes:
    """Which processes of the machines of a test are alive."""

    dead: set[str] = field(default_factory=set)

    def is_alive(self, boot_id: str, process: str) -> bool:  # noqa: ARG002 - the signature of Owner.is_alive
        """Whether a process lives."""
        return process not in self.dead


def make_owner(name: str = "anna", *, process: str = "1", processes: Processes | None = None) -> Owner:
    """A process on the machine of this name; its id follows from the name."""
    alive = processes or Processes()
    machine = MachineName(id=name.encode().hex().ljust(32, "0")[:32], name=name)
    return Owner(machine=machine, boot_id="boot", process=process, is_alive=alive.is_alive)


def make_repository(store: Store, *, passphrase: str | None = None, clock: Clock | None = None) -> Repository:
    """A new repository, open to everybody unless a passphrase is given."""
    return create_repository(
        store, passphrase=passphrase, chunk_size=CHUNK_SIZE, cost=CHEAP, clock=clock or FakeClock()
    )


def reopen(store: Store, *, clock: Clock, passphrase: str | None = None) -> Repository:
    """The repository in a store, opened anew."""
    return open_repository(store, where="the test", secret=passphrase, clock=clock)


def chunk_bytes(number: int) -> bytes:
    """The contents of chunk ``number``: 1 KiB of noise, and then nothing much, so that packs stay small.

    From ``VERSIONS`` on 8 KiB; numbers that are that far apart are versions of one chunk, which differ in 16 bytes.
    """
    version, kind = divmod(number, VERSIONS)
    noise = bytearray(random.Random(kind).randbytes(8192 if version else 1024))  # noqa: S311 - a test repeats it
    noise[512 : 512 + 16 * bool(version)] = random.Random(number).randbytes(16 * bool(version))  # noqa: S311
    return bytes(noise) + bytes([kind % 251 + 1]) * (CHUNK_SIZE - len(noise))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An image that a test wants.

    Attributes:
        chunks: The number of each chunk of the one partition; ``None`` for one that is not in use.
        name: Of the job.
        consistency: Of the partition.
        chunks_per_pack: A new pack is begun after so many new chunks; 0: all in one.
        compress: Whether chunks are compressed.
        patches: Whether chunks may be patches of what the machine's newest image has at their place.
    """

    chunks: Sequence[int | None]
    name: str = "everything"
    consistency: Consistency = "offline"
    chunks_per_pack: int = 0
    compress: bool = True
    patches: bool = False

    def contents(self) -> bytes:
        """What the partition holds; zeros where nothing is in use."""
        return b"".join(bytes(CHUNK_SIZE) if number is None else chunk_bytes(number) for number in self.chunks)


def store_image(repository: Repository, owner: Owner, draft: Draft) -> StoredImage:
    """Back an image up, from the session to its end."""
    run = BackupRun(repository, owner, draft)
    run.write_chunks()
    image = run.commit()
    run.end()
    return image


class BackupRun:
    """A backup that a test takes step by step."""

    def __init__(self, repository: Repository, owner: Owner, draft: Draft, *, disks: Sequence[str] = ()) -> None:
        self.repository = repository
        self.session: Final[Session] = begin_session(repository, owner, "backup", disks)
        self._domain: Final = "00" * 16 if repository.put is None else repository.put.name.id
        self.writer: Final = ImageWriter(
            self.session, domain=bytes.fromhex(self._domain), level=1 if draft.compress else None
        )
        self._owner = owner
        self._draft = draft
        self._root = MapRoot(0, UNUSED)
        self._started = rfc3339(repository.clock.now())
        newest = max(self._mine(), key=lambda image: image.manifest.sequence, default=None)
        if draft.patches and newest is not None:
            root = newest.manifest.disks[0].partitions[0].blocks.root()
            self.writer.patch_against({(_DISK, _PARTITION): root})

    def write_chunks(self) -> None:
        """Store what is not stored yet, and the block map."""
        ids: list[bytes] = []
        lane, fresh = self.writer.lane(), 0
        for place, number in enumerate(self._draft.chunks):
            data = b"" if number is None else chunk_bytes(number)
            ids.append(self.writer.namer.name(data) if data else b"")
            if data and not self.writer.known([ids[-1]])[0]:
                if fresh and self._draft.chunks_per_pack and fresh % self._draft.chunks_per_pack == 0:
                    lane.close()
                bases = self.writer.bases((_DISK, _PARTITION), {place: ids[-1]})
                lane.add(ids[-1], data, base=bases.get(place))
                fresh += 1
        lane.close()
        lane = self.writer.lane()
        self._root = self._build_map(ids, lane)
        lane.close()

    def commit(self) -> StoredImage:
        """Write the manifest, and read it back."""
        return self.repository.image(bytes.fromhex(self.write_manifest().image))

    def write_manifest(self, manifest: Manifest | None = None) -> Manifest:
        """Write the manifest, as the last thing that a backup does; one made earlier has the number of then."""
        manifest = manifest or self.make_manifest()
        self.writer.commit(manifest, lambda: self._relied_on(manifest))
        return manifest

    def end(self) -> None:
        """End the session."""
        self.session.end()

    def _relied_on(self, manifest: Manifest) -> list[bytes]:
        needed = referenced_chunks(ChunkReader(self.writer.index, self.repository.packs), [manifest])
        return [needed.ids[number].tobytes() for number in range(len(needed))]

    def _build_map(self, ids: list[bytes], lane: Lane) -> MapRoot:
        def store_node(raw: bytes) -> bytes:
            node_id = self.writer.namer.name(raw)
            if not self.writer.known([node_id])[0]:
                lane.add(node_id, raw, EntryKind.NODE)
            return node_id

        builder = MapBuilder(len(ids) * CHUNK_SIZE, CHUNK_SIZE, store_node)
        for first in range(0, len(ids), FANOUT):
            part = ids[first : first + FANOUT]
            kinds = np.array([Kind.DATA if chunk_id else Kind.UNUSED for chunk_id in part], np.uint8)
            builder.add_leaf(kinds, b"".join(part))
        return builder.finish()

    def _mine(self) -> list[StoredImage]:
        if self.repository.put is not None:  # it reads none
            return []
        images = self.repository.images().images
        return [image for image in images if image.manifest.machine.id == self._owner.machine.id]

    def _link(self) -> Link:
        if self.repository.put is not None:
            return self.repository.put.next_link()
        last = max(self._mine(), key=lambda image: image.manifest.place, default=None)
        forgotten = [
            image.sequence for image in self.repository.forgotten().images if image.machine == self._owner.machine.id
        ]
        return Link(
            image_id=make_id(), sequence=max([last.manifest.sequence if last else 0, *forgotten]) + 1,
            previous=last.digest.hex() if last else "",
        )  # fmt: skip

    def make_manifest(self) -> Manifest:
        """The manifest, with the number that is next now."""
        size, link = len(self._draft.chunks) * CHUNK_SIZE, self._link()
        partition = StoredPartition(
            number=_PARTITION, index=0, start=1 << 20, size=size, blocks=stored_map(self._root),
            consistency=self._draft.consistency, map="used",
        )  # fmt: skip
        disk = StoredDisk(
            number=1, path=_DISK, size=size + (2 << 20), sector_size=512, scheme="gpt",
            outside=stored_map(MapRoot(size + (2 << 20), UNUSED)), partitions=(partition,),
        )  # fmt: skip
        return Manifest(
            image=link.image_id.hex(), program="0", created=self._started, finished=self._started,
            machine=self._owner.machine, name=self._draft.name, kind="full",
            sequence=link.sequence, previous=link.previous, beside=self.session.beside, domain=self._domain,
            chunk_size=CHUNK_SIZE, session=self.session.id, bytes_total=size, bytes_used=size, bytes_read=size,
            bytes_added=self.writer.bytes_added, disks=(disk,),
        )  # fmt: skip


def read_image(repository: Repository, manifest: Manifest) -> bytes:
    """What the one partition of an image holds, read back. Raises ``DamagedError`` where it cannot be had."""
    reader, out = repository.reader(), []
    for span in iter_spans(manifest.disks[0].partitions[0].blocks.root(), manifest.chunk_size, reader.read_node):
        if span.leaf is None:
            out.append(bytes(span.count * manifest.chunk_size))
        else:
            out += [reader.read(entry) if entry else bytes(manifest.chunk_size) for entry in span.leaf.entry_ids()]
    return b"".join(out)


def read_all_images(repository: Repository) -> Mapping[str, bytes]:
    """Every image that is listed, read back."""
    return {image.manifest.image: read_image(repository, image.manifest) for image in repository.images().images}


def with_sequence(manifest: Manifest, sequence: int) -> Manifest:
    """The same manifest as another image of its machine."""
    return replace(manifest, image=make_id().hex(), sequence=sequence)
