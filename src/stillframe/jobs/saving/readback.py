"""Reading back after a backup: all that this run stored, and a share of what it relied on.

Answers: "did what I just wrote reach the disk?" Over twenty backups the rotating share comes round to everything. When
all that this run did not store belongs to a baseline that is good, every chunk of the image has been read back once:
then the image is good too, and its proof says since when.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, StorageError
from stillframe.events import Finding, PhaseStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import Examination, healed_packs, keep_proof
from stillframe.repo.blockmap import iter_spans
from stillframe.repo.id_sets import IdGathering, IdSet
from stillframe.repo.index import ChunkIndex
from stillframe.repo.packs import Fetch, plan_fetches
from stillframe.repo.proofs import judge
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.rows import ids_array
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner
from stillframe.repo.walk import iter_maps, referenced_chunks
from stillframe.repo.writing import ChunkNamer

SHARE: Final = 20
"""One chunk in so many is read back though this run did not store it; another one after each backup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What was read back after a backup.

    Attributes:
        findings: What was wrong.
        bytes_examined: Bytes that were read back, expanded.
        is_whole: Whether every chunk of the image has been read back: now, or when the baseline was proven.
        proven_by: The baseline that the rest was proven with; empty when all was read back now.
        how: Which way the bytes came, in words.
    """

    findings: tuple[Finding, ...]
    bytes_examined: int
    is_whole: bool
    proven_by: str
    how: str


def read_back(
    repository: Repository, manifest: Manifest, packs: list[bytes], *, index: ChunkIndex, context: JobContext
) -> ReadBack:
    """Read packs back, and a rotating share of the image's other chunks; keep a proof when that was all of it."""
    reader = repository.reader(index)
    examination = Examination(reader, ChunkNamer(repository, bytes.fromhex(manifest.domain)), context.events)
    context.events.emit(PhaseStarted(name="reading back what was stored"))
    seen = IdGathering()
    troubles: list[str] = []
    examination.examine(_pack_fetches(repository, packs, index, seen, troubles), context.cancel)
    needed = referenced_chunks(reader, [manifest])
    rest = needed.without(seen.finish())
    proven_by = _proven_baseline(repository, reader, manifest, rest)
    if len(rest):
        examination.examine(_share_fetches(repository, manifest, index), context.cancel)
    findings = tuple(_finding(reason, manifest) for reason in [*troubles, *examination.bad.values()])
    for finding in findings:
        context.events.emit(finding)
    whole = not findings and (not len(rest) or proven_by != "")
    how = examination.how + (f"; the rest when image {proven_by[:8]} was" if proven_by else "")
    if whole or findings:
        proof = _proof(repository, manifest, examination, owner=context.owner, ok=whole, how=how)
        keep_proof(repository, proof, context.events)
    return ReadBack(
        findings=findings, bytes_examined=examination.bytes_examined, is_whole=whole, proven_by=proven_by, how=how
    )


def read_back_own(
    repository: Repository, manifest: Manifest, packs: list[bytes], *, index: ChunkIndex, context: JobContext
) -> ReadBack:
    """Read back what this run stored, while its keys are still in memory; for a machine that can read nothing else.

    It keeps no proof: what such a machine says of itself is evidence of nothing.
    """
    reader = ChunkReader(index, repository.packs)
    examination = Examination(reader, ChunkNamer(repository, bytes.fromhex(manifest.domain)), context.events)
    context.events.emit(PhaseStarted(name="reading back what was stored"))
    troubles: list[str] = []
    examination.examine(_pack_fetches(repository, packs, index, IdGathering(), troubles), context.cancel)
    findings = tuple(_finding(reason, manifest) for reason in [*troubles, *examination.bad.values()])
    for finding in findings:
        context.events.emit(finding)
    if findings and repository.put is not None:
        repository.put.forget_packs()
    return ReadBack(
        findings=findings, bytes_examined=examination.bytes_examined, is_whole=False, proven_by="", how=examination.how
    )


def _proven_baseline(repository: Repository, reader: ChunkReader, manifest: Manifest, rest: IdSet) -> str:
    """The baseline's id when it is good and holds all of ``rest``; else empty."""
    found = [image.manifest for image in repository.images().images if image.manifest.image == manifest.baseline]
    if not len(rest) or not found or judge(found[0], repository.proofs()) != "good":
        return ""
    return "" if len(rest.without(referenced_chunks(reader, found))) else manifest.baseline


def _pack_fetches(
    repository: Repository, packs: list[bytes], index: ChunkIndex, seen: IdGathering, troubles: list[str]
) -> Iterator[Fetch]:
    """All entries of these packs. The packs' own trailers are read too: they are the second copy of the index."""
    for pack_id in packs:
        try:
            repository.packs.forget_cached(pack_id)
            repository.packs.read_table(pack_id)
        except (DamagedError, StorageError) as error:
            troubles.append(error.message)
        places = index.locations_in(pack_id)
        seen.add(ids_array(b"".join(place.chunk_id for place in places)))
        yield from plan_fetches(places)


def _share_fetches(repository: Repository, manifest: Manifest, index: ChunkIndex) -> Iterator[Fetch]:
    """A share of every leaf, in one piece, another one after each backup."""
    reader = repository.reader(index)
    for place in iter_maps(manifest):
        for number, span in enumerate(iter_spans(place.root, place.chunk_size, reader.read_node)):
            if span.leaf is None:
                continue
            ids = [chunk_id for chunk_id in span.leaf.entry_ids() if chunk_id]
            turn = (manifest.sequence + number) % SHARE
            fetches, missing = reader.plan(ids[len(ids) * turn // SHARE : len(ids) * (turn + 1) // SHARE])
            if missing:
                raise DamagedError(
                    f"{len(missing)} chunks of the new image are in no index run",
                    hint="Run 'stillframe repair', then the backup again.",
                )
            yield from fetches


def _finding(reason: str, manifest: Manifest) -> Finding:
    return Finding(
        code="chunk-damaged", message=reason, thing=manifest.image,
        hint="The repository's disk or the memory of this machine fails. Run the backup again: it stores them anew.",
    )  # fmt: skip


def _proof(
    repository: Repository, manifest: Manifest, examination: Examination, *, owner: Owner, ok: bool, how: str
) -> ProofRecord:
    bad = sorted(examination.bad)
    return ProofRecord(
        proof=make_id().hex(), image=manifest.image, created=rfc3339(repository.clock.now()), machine=owner.machine,
        kind="read-back", ok=ok, bytes=examination.bytes_examined, how=how,
        bad_chunks=tuple(chunk_id.hex() for chunk_id in bad[:100_000]), healed_packs=healed_packs(repository),
        findings=tuple(examination.bad[chunk_id][:4000] for chunk_id in bad[:1000]),
    )  # fmt: skip
