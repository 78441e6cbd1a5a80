"""Reading back after a backup: all that this run stored, and a share of what it relied on.

Answers: "did what I just wrote reach the disk?" Over twenty backups the rotating share comes round to everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, StorageError
from stillframe.events import EventSink, Finding, PhaseStarted
from stillframe.jobs.examining import Examination, keep_proof
from stillframe.jobs.pipeline import CancelToken
from stillframe.repo.blockmap import iter_spans
from stillframe.repo.index import ChunkIndex
from stillframe.repo.packs import Fetch, plan_fetches
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.rows import ids_array
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner
from stillframe.repo.walk import iter_maps, referenced_chunks
from stillframe.repo.writing import ChunkNamer

SHARE: Final = 20
"""One leaf of the block map in so many is read back though this run did not store its chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What was read back after a backup. ``is_whole`` when that was every chunk of the image."""

    findings: tuple[Finding, ...]
    bytes_examined: int
    is_whole: bool
    how: str


def read_back(
    repository: Repository, manifest: Manifest, packs: list[bytes], *, index: ChunkIndex, owner: Owner,
    events: EventSink, cancel: CancelToken,
) -> ReadBack:  # fmt: skip
    """Read packs back, and a rotating share of the image's other chunks; keep a proof when that was all of it."""
    reader = repository.reader(index)
    examination = Examination(reader, ChunkNamer(repository, bytes.fromhex(manifest.domain)), events)
    events.emit(PhaseStarted(name="reading back what was stored"))
    seen: list[bytes] = []
    troubles: list[str] = []
    examination.examine(_pack_fetches(repository, packs, index, seen, troubles), cancel)
    needed, stored = referenced_chunks(reader, [manifest]), ids_array(b"".join(seen))
    whole = int(np.unique(stored[needed.contains(stored)], axis=0).shape[0]) == len(needed)
    if not whole:
        examination.examine(_share_fetches(repository, manifest, index), cancel)
    findings = tuple(_finding(reason, manifest) for reason in [*troubles, *examination.bad.values()])
    for finding in findings:
        events.emit(finding)
    if whole or findings:
        keep_proof(repository, _proof(repository, manifest, examination, owner=owner), events)
    return ReadBack(findings=findings, bytes_examined=examination.bytes_examined, is_whole=whole, how=examination.how)


def _pack_fetches(
    repository: Repository, packs: list[bytes], index: ChunkIndex, seen: list[bytes], troubles: list[str]
) -> Iterator[Fetch]:
    """All entries of these packs. The packs' own trailers are read too: they are the second copy of the index."""
    for pack_id in packs:
        try:
            repository.packs.forget_cached(pack_id)
            repository.packs.read_table(pack_id)
        except (DamagedError, StorageError) as error:
            troubles.append(error.message)
        places = index.locations_in(pack_id)
        seen += [place.chunk_id for place in places]
        yield from plan_fetches(places)


def _share_fetches(repository: Repository, manifest: Manifest, index: ChunkIndex) -> Iterator[Fetch]:
    """A share of the leaves, another one after each backup."""
    reader, number = repository.reader(index), 0
    for place in iter_maps(manifest):
        for span in iter_spans(place.root, place.chunk_size, reader.read_node):
            number += 1
            if span.leaf is not None and number % SHARE == manifest.sequence % SHARE:
                raw = span.leaf.ids
                fetches, missing = reader.plan([raw[at : at + 32] for at in range(0, len(raw), 32)])
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


def _proof(repository: Repository, manifest: Manifest, examination: Examination, *, owner: Owner) -> ProofRecord:
    bad = sorted(examination.bad)
    return ProofRecord(
        proof=make_id().hex(), image=manifest.image, created=rfc3339(repository.clock.now()), machine=owner.machine,
        kind="read-back", ok=not bad, bytes=examination.bytes_examined, how=examination.how,
        bad_chunks=tuple(chunk_id.hex() for chunk_id in bad[:100_000]),
        findings=tuple(examination.bad[chunk_id][:4000] for chunk_id in bad[:1000]),
    )  # fmt: skip
