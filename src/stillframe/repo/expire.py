"""Doing what was planned: images are forgotten, packs announced dead, and deleted later.

Answers: "carry this expiry out, so that a crash or another run at any moment loses nothing." Everything that a deletion
relies on is read again here, in the order that ``expire_plan`` argues for. Normative: ``docs/format/v1-draft.md``,
section 13.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, StillframeError
from stillframe.repo.compaction import drop_packs, write_tables
from stillframe.repo.copying import Copier
from stillframe.repo.expire_plan import GRACE, ExpirePlan, View, Waiting, look, plan_expire, to_forget, why_wait
from stillframe.repo.format import CHUNK_ID_SIZE, ObjectType
from stillframe.repo.index import ChunkIndex
from stillframe.repo.inventory import rows_by_pack
from stillframe.repo.packs import plan_fetches
from stillframe.repo.parity.sidecars import orphaned_sidecars
from stillframe.repo.proofs import delete_proof
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import ForgottenImage, TombstoneRecord, build_record
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Ids, ids_array
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Session
from stillframe.repo.walk import IdSet, referenced_chunks

__all__ = [
    "GRACE",
    "ExpirePlan",
    "ExpireResult",
    "Waiting",
    "apply_expire",
    "forget_images",
    "plan_expire",
]

_IMAGES_MAX: Final = 100_000
_PACKS_MAX: Final = 1_000_000
"""Of one tombstone (section 11)."""
_BATCH: Final = 8192
"""Chunks that are located in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireResult:
    """What an expiry did.

    Attributes:
        forgotten: Images.
        announced: Packs named in new tombstones.
        deleted: Packs deleted.
        bytes_freed: Their size, less what was written to replace them.
        kept: Packs that had been announced dead, are needed after all, and stay.
    """

    forgotten: int
    announced: int
    deleted: int
    bytes_freed: int
    kept: tuple[str, ...]


def forget_images(session: Session, image_ids: Iterable[str]) -> tuple[ForgottenImage, ...]:
    """Make images as if they had never been. Their storage comes back with ``expire``.

    A tombstone is durable before anything is deleted, so a manifest that comes back is known for what it is. An image
    whose manifest cannot be read can be forgotten too.

    Raises:
        RepositoryNotFound: There is no such image. Nothing was changed.
    """
    images = to_forget(session.repository, image_ids)
    for first in range(0, len(images), _IMAGES_MAX):
        _write_tombstone(session, images=images[first : first + _IMAGES_MAX])
    _delete_manifests(session.repository, [image.image for image in images])
    return images


def apply_expire(session: Session, plan: ExpirePlan) -> ExpireResult:
    """Carry a plan out. References are computed again before each deletion.

    Raises:
        DamagedError: A manifest or block map cannot be read. What was done until then is sound.
        StorageFull: There is no room to copy what is alive out of mostly dead packs. Dead packs are gone already.
    """
    repository, sweep = session.repository, _Sweep(session, plan.grace)
    look(repository, own_session=session.id, forget=[image.image for image in plan.forget])  # may refuse
    still_there = {image_id.hex() for image_id in repository.box.ids(ObjectType.IMAGE)}
    forget_images(session, [image.image for image in plan.forget if image.image in still_there])
    _delete_manifests(repository, plan.put_back)
    for name in _still_garbage(session, plan):
        repository.box.store.delete(name)
    sweep.delete_ripe()
    announced = [bytes.fromhex(pack) for pack in plan.dead_packs]
    _announce(session, announced)
    sweep.delete_ripe()
    copied, written = _repack(session, [bytes.fromhex(found.pack) for found in plan.repack])
    _announce(session, copied)
    sweep.delete_ripe()
    return ExpireResult(
        forgotten=len(plan.forget),
        announced=len(announced) + len(copied),
        deleted=sweep.deleted,
        bytes_freed=sweep.bytes_freed - written,
        kept=tuple(sorted(pack.hex() for pack in sweep.kept)),
    )


class _Sweep:
    """The second phase: deletes packs whose tombstones are ripe."""

    def __init__(self, session: Session, grace: timedelta) -> None:
        self._session = session
        self._grace = grace
        self.deleted = 0
        self.bytes_freed = 0
        self.kept: set[bytes] = set()

    def delete_ripe(self) -> None:
        """Look, and delete what may go now."""
        repository = self._session.repository
        announced = [record for record in repository.tombstones() if record.packs]
        if all(why_wait(repository, record, (), grace=self._grace) for record in announced):
            return
        view = look(repository, own_session=self._session.id)
        ripe = [
            record
            for record in view.tombstones
            if record.packs and not why_wait(repository, record, view.sessions, grace=self._grace)
        ]
        if not ripe:
            return
        named = {bytes.fromhex(pack) for record in ripe for pack in record.packs}
        kept = _needed_packs(repository, view, named.intersection(view.there))
        gone = sorted(named - kept)
        drop_packs(repository, gone)
        for pack in gone:
            repository.box.delete(ObjectType.PACK, pack)
        for record in ripe:
            _delete_tombstone(repository, record)
        self.kept |= kept
        self.deleted += sum(pack in view.there for pack in gone)
        self.bytes_freed += sum(view.there.get(pack, 0) for pack in gone)


def _needed_packs(repository: Repository, view: View, packs: set[bytes]) -> set[bytes]:
    """Those of these announced packs that hold something which cannot be read from a pack that stays.

    The other copy is read, not only looked up: only what opens allows the deletion of another.
    """
    reader = ChunkReader(view.index, repository.packs)
    needed = referenced_chunks(reader, (image.manifest for image in view.images))
    is_complete = bool(view.index.contains(needed.ids).all())
    holders = [(pack, ids) for pack, ids in _ids_of(view.index, packs) if len(ids)]
    indexed = view.index.packs()
    kept = set() if is_complete else packs - indexed  # what no run names may hold what is missing
    view.index.exclude_packs(view.announced | (indexed - view.there.keys()))
    for pack, ids in holders:
        if pack not in kept and not _can_be_read(repository, view.index, ids[needed.contains(ids)]):
            kept.add(pack)
    return kept


def _ids_of(index: ChunkIndex, packs: set[bytes]) -> Iterator[tuple[bytes, Ids]]:
    """What these packs hold, as far as the index says."""
    for table in index.tables():
        for pack, numbers in rows_by_pack(table):
            if pack in packs:
                yield pack, table.rows["id"][numbers]


def _can_be_read(repository: Repository, index: ChunkIndex, ids: Ids) -> bool:
    return not len(_unreadable(repository, index, ids))


def _unreadable(repository: Repository, index: ChunkIndex, ids: Ids) -> Ids:
    """Which of these chunks have no copy, in a pack that the index does not exclude, that opens as it lies there."""
    bad = [ids_array(b"")]
    for first in range(0, len(ids), _BATCH):
        batch = ids[first : first + _BATCH]
        places = index.locate(batch)
        opened: set[bytes] = set()
        for fetch in plan_fetches([place for place in places if place is not None]):
            try:
                opened.update(
                    place.chunk_id
                    for place, data in repository.strict_packs.fetch(fetch)
                    if not isinstance(data, DamagedError)
                )
            except StillframeError:
                continue
        bad.append(batch[np.array([chunk_id.tobytes() not in opened for chunk_id in batch], bool)])
    return np.concatenate(bad)


def _repack(session: Session, packs: Sequence[bytes]) -> tuple[list[bytes], int]:
    """Copy what is needed of these packs to new ones, durable and indexed on return.

    Returns:
        The packs of which nothing is needed any more, and the bytes of the new ones.
    """
    if not packs:
        return [], 0
    repository = session.repository
    view = look(repository, own_session=session.id)
    chosen = set(packs).intersection(view.there).difference(view.announced)
    reader = ChunkReader(view.index, repository.packs)
    needed = referenced_chunks(reader, (image.manifest for image in view.images))
    holders = [(pack, ids[needed.contains(ids)]) for pack, ids in _ids_of(view.index, chosen)]
    wanted = IdSet.of(np.concatenate([ids_array(b""), *(ids for _, ids in holders)]))
    gone = view.announced | (view.index.packs() - view.there.keys())
    view.index.exclude_packs(gone | chosen)
    missing = _unreadable(repository, view.index, wanted.ids)
    view.index.exclude_packs(gone)
    copier = Copier(repository)
    try:
        failed = _copy(reader, copier, missing)
        tables = copier.finish()
    except BaseException:
        copier.abandon()
        raise
    write_tables(repository, tables)
    return [pack for pack, ids in holders if not failed.contains(ids).any()], copier.bytes_written


def _copy(reader: ChunkReader, copier: Copier, ids: Ids) -> IdSet:
    """Copy these chunks; returns those that cannot be read."""
    failed = [b""]
    for first in range(0, len(ids), _BATCH):
        raw = ids[first : first + _BATCH].tobytes()
        fetches, unknown = reader.plan([raw[at : at + CHUNK_ID_SIZE] for at in range(0, len(raw), CHUNK_ID_SIZE)])
        failed += unknown
        for fetch in fetches:
            for place, data in reader.fetch(fetch):
                if isinstance(data, DamagedError):
                    failed.append(place.chunk_id)
                else:
                    copier.add(place, data)
    return IdSet.of(ids_array(b"".join(failed)))


def _announce(session: Session, packs: Sequence[bytes]) -> None:
    for first in range(0, len(packs), _PACKS_MAX):
        _write_tombstone(session, packs=tuple(pack.hex() for pack in packs[first : first + _PACKS_MAX]))


def _write_tombstone(session: Session, *, images: tuple[ForgottenImage, ...] = (), packs: tuple[str, ...] = ()) -> None:
    repository, tombstone = session.repository, make_id()
    record = TombstoneRecord(
        tombstone=tombstone.hex(), created=rfc3339(repository.clock.now()), machine=session.record.machine,
        images=images, packs=packs,
    )  # fmt: skip
    repository.box.write(ObjectType.TOMBSTONE, tombstone, build_record(record))


def _delete_tombstone(repository: Repository, record: TombstoneRecord) -> None:
    if record.images:
        return  # it is how a manifest put back is noticed
    repository.box.delete(ObjectType.TOMBSTONE, bytes.fromhex(record.tombstone))


def _delete_manifests(repository: Repository, image_ids: Iterable[str]) -> None:
    gone = set(image_ids)
    for image_id in sorted(gone):
        repository.box.delete(ObjectType.IMAGE, bytes.fromhex(image_id))
    if gone:
        for proof in repository.proofs():
            if proof.image in gone:
                delete_proof(repository, proof)


def _still_garbage(session: Session, plan: ExpirePlan) -> list[str]:
    """What the plan calls garbage and still is: a session that was torn may have been the beginning of a run."""
    if not plan.garbage:
        return []
    view = look(session.repository, own_session=session.id, with_torn=True)
    allowed = {*view.ended, *orphaned_sidecars(session.repository.box)}
    if not view.sessions:
        allowed.update(view.torn)
        allowed.update(name for name in plan.garbage if name.startswith(ObjectType.PACK.folder))
    return [name for name in plan.garbage if name in allowed]
