"""The verb ``verify``: every chunk of an image is read back from storage and checked.

Answers: "would this image come back?" Reports all that is wrong and goes on to the end; the verdict is kept as a proof.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError
from stillframe.events import Finding, JobFinished, JobStarted
from stillframe.extents import ExtentSet
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import Examination, healed_packs, keep_proof
from stillframe.jobs.inside.lost_files import name_lost_files
from stillframe.repo.id_sets import IdSet
from stillframe.repo.losses import LostPart, survey_images
from stillframe.repo.packs import Fetch
from stillframe.repo.reading import ChunkReader, missing_chunk
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.rows import ids_array
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner
from stillframe.repo.walk import iter_leaves, iter_maps
from stillframe.repo.writing import ChunkNamer
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The verdict about one image. ``healed`` are packs of which chunks could be had only with the help of parity."""

    image: str
    ok: bool
    findings: tuple[Finding, ...]
    bytes_examined: int
    seconds: float
    how: str
    healed: tuple[str, ...] = ()


def verify_image(repository: Repository, manifest: Manifest, *, quick: bool, context: JobContext) -> VerifyResult:
    """Examine one image and keep the verdict.

    Args:
        repository: Where it is.
        manifest: The image.
        quick: Look at the structure only: that every chunk is indexed in a pack that is there.
        context: Its owner vouches for the verdict; its events get one ``Finding`` for each range that is lost.
    """
    clock = repository.clock
    began = clock.monotonic()
    context.events.emit(JobStarted(verb="verify", what=f"image {manifest.image[:8]}", bytes_total=manifest.bytes_used))
    index = repository.load_index(unindexed=True)
    index.exclude_packs(index.packs() - repository.stored_packs().keys())
    reader = repository.reader(index)
    examination = Examination(reader, ChunkNamer(repository, bytes.fromhex(manifest.domain)), context.events)
    if quick:
        how = "only the structure was looked at: every chunk has a place in a pack that is there"
    else:
        examination.examine(_fetches(manifest, reader, examination), context.cancel)
        how = examination.how
    lost = tuple(_lost_parts(manifest, reader, examination))
    findings = (*_lost_ranges(manifest, lost, examination), *name_lost_files(reader, manifest, lost))
    for finding in findings:
        context.events.emit(finding)
    healed = healed_packs(repository)
    if healed:
        how += f"; {len(healed)} damaged packs could be read only with the help of parity"
    proof = _proof(repository, manifest, examination, findings, owner=context.owner, quick=quick, how=how)
    keep_proof(repository, proof, context.events)
    seconds = clock.monotonic() - began
    context.events.emit(JobFinished(verb="verify", seconds=seconds))
    return VerifyResult(
        image=manifest.image, ok=not findings, findings=findings, bytes_examined=examination.bytes_examined,
        seconds=seconds, how=how, healed=healed,
    )  # fmt: skip


def _fetches(manifest: Manifest, reader: ChunkReader, examination: Examination) -> Iterator[Fetch]:
    """Everything the image refers to, leaf by leaf. What lies below a damaged node is named by the survey."""
    seen: set[bytes] = set()
    for place in iter_maps(manifest):
        for node_id, leaf in iter_leaves(reader, place):
            if isinstance(leaf, DamagedError):
                examination.note_bad(node_id, leaf.message)
            elif node_id not in seen:
                seen.add(node_id)
                raw = leaf.ids
                fetches, missing = reader.plan([raw[at : at + 32] for at in range(0, len(raw), 32)])
                for chunk_id in missing:
                    examination.note_bad(chunk_id, missing_chunk(chunk_id).message)
                yield from fetches


def _lost_parts(manifest: Manifest, reader: ChunkReader, examination: Examination) -> Iterator[LostPart]:
    """What is lost, in bytes of partitions."""
    bad = IdSet.of(ids_array(b"".join(examination.bad)))
    for state in survey_images(reader, [manifest], lambda ids: bad.contains(ids) | ~reader.index.contains(ids)):
        yield from state.lost


def _lost_ranges(manifest: Manifest, parts: Iterable[LostPart], examination: Examination) -> Iterator[Finding]:
    """What is lost, in words."""
    reason = next(iter(examination.bad.values()), "its pack is lost")
    for part in parts:
        yield Finding(
            code="image-damaged", thing=manifest.image,
            message=f"image {manifest.image[:8]}, {part.place}: {format_size(part.lost.size)} cannot be restored, "
            f"at bytes {in_words(part.lost)}. First reason: {reason}",
            hint="While the source still exists, 'stillframe backup' stores them again. Then look at the disk "
            "the repository lies on. 'stillframe restore --salvage' restores all the rest.",
        )  # fmt: skip


def in_words(extents: ExtentSet, *, most: int = 5) -> str:
    """Ranges for a person: a few of them, and how many more."""
    shown = ", ".join(f"{extent.start} to {extent.end}" for extent in list(extents)[:most])
    return shown + (f" and {len(extents) - most} more ranges" if len(extents) > most else "")


def _proof(
    repository: Repository, manifest: Manifest, examination: Examination, findings: tuple[Finding, ...], *,
    owner: Owner, quick: bool, how: str,
) -> ProofRecord:  # fmt: skip
    bad = sorted(examination.bad)[:100_000]
    return ProofRecord(
        proof=make_id().hex(), image=manifest.image, created=rfc3339(repository.clock.now()), machine=owner.machine,
        kind="quick" if quick else "read-back", ok=not findings, bytes=examination.bytes_examined, how=how,
        bad_chunks=tuple(chunk_id.hex() for chunk_id in bad), healed_packs=healed_packs(repository),
        findings=tuple(finding.message[:4000] for finding in findings[:1000]),
    )  # fmt: skip
