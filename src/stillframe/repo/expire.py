"""Doing what was planned: images are forgotten, packs announced dead, and deleted later.

Answers: "carry this expiry out, so that a crash or another run at any moment loses nothing." Everything that a deletion
relies on is read again here, in the order that ``expire_plan`` argues for. Normative: ``docs/format/v1.md``,
section 13.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, StillframeError
from stillframe.repo.compaction import drop_packs, write_tables
from stillframe.repo.copying import Copier
from stillframe.repo.deletion_records import ForgottenImage, TombstoneRecord
from stillframe.repo.ending import clear_ended, end_sessions, read_ends
from stillframe.repo.expire_plan import (
    GRACE,
    UNDELETE,
    ExpirePlan,
    Waiting,
    notes_of,
    plan_expire,
    why_wait,
)
from stillframe.repo.expire_view import View, look, needed_chunks
from stillframe.repo.forgetting import (
    IMAGES_MAX,
    PACKS_MAX,
    delete_manifests,
    forget_images,
    to_forget,
    write_tombstone,
)
from stillframe.repo.format import CHUNK_ID_SIZE, ObjectType
from stillframe.repo.id_sets import IdSet
from stillframe.repo.index import ChunkIndex
from stillframe.repo.inventory import rows_by_pack
from stillframe.repo.packs import plan_fetches
from stillframe.repo.parity.sidecars import orphaned_sidecars
from stillframe.repo.patches import Expander
from stillframe.repo.put.warnings import clear_warnings
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import build_record, parse_time
from stillframe.repo.repository import Repository
from stillframe.repo.rows import EntryKind, Ids, Location, ids_array
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Session
from stillframe.repo.usage import index_use

__all__ = [
    "GRACE",
    "UNDELETE",
    "ExpirePlan",
    "ExpireResult",
    "Waiting",
    "apply_expire",
    "plan_expire",
]

_BATCH: Final = 8192
"""Chunks that are located in one go."""
_PATCHES_MAX: Final = 256
"""Patches that wait for their bases: at most 16 MiB at the usual size of chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireResult:
    """What an expiry did.

    Attributes:
        forgotten: Images.
        announced: Packs named in new tombstones.
        deleted: Packs deleted.
        bytes_freed: Their size, less what was written to replace them.
        kept: Packs that had been announced dead and are needed after all: what is needed of them is copied first.
    """

    forgotten: int
    announced: int
    deleted: int
    bytes_freed: int
    kept: tuple[str, ...]


def apply_expire(session: Session, plan: ExpirePlan) -> ExpireResult:
    """Carry a plan out. References are computed again before each deletion.

    Raises:
        DamagedError: A manifest or block map cannot be read. What was done until then is sound.
        StorageError: This run lasted too long or lost its session: it deletes nothing more.
        StorageFull: There is no room to copy what is alive out of mostly dead packs. Dead packs are gone already.
    """
    repository, sweep = session.repository, _Sweep(session, plan.grace)
    leaving = [image.image for image in plan.forget]
    view = look(repository, own_session=session.id, forget=leaving)  # may refuse
    end_sessions(repository, plan.endings, session.record.machine)
    clear_ended(repository)
    still_there = {image_id.hex() for image_id in repository.box.ids(ObjectType.IMAGE)} - view.forgotten.ids
    forget_images(session, [image for image in leaving if image in still_there])
    void = to_forget(repository, sorted(set(plan.void) & still_there))
    for first in range(0, len(void), IMAGES_MAX):  # so that nobody misses their numbers
        write_tombstone(session, images=void[first : first + IMAGES_MAX])
    delete_manifests(repository, (*plan.put_back, *plan.void))
    for name in _still_garbage(session, plan):
        repository.box.store.delete(name)
    sweep.delete_ripe()
    announced = [bytes.fromhex(pack) for pack in plan.dead_packs]
    _announce(session, announced, plan.purge)
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
    """The second phase: deletes what ripe tombstones announced."""

    def __init__(self, session: Session, grace: timedelta) -> None:
        self._session = session
        self._grace = grace
        self.deleted = 0
        self.bytes_freed = 0
        self.kept: set[bytes] = set()

    def delete_ripe(self) -> None:
        """Look, and delete what may go now."""
        repository = self._session.repository
        tombstones = repository.tombstones()
        announced = [record for record in tombstones if record.announces]
        for record in announced:
            if _needs_note(repository, record, tombstones):
                _note_who_is_at_work(self._session, record.tombstone)
        if all(why_wait(repository, record, tombstones, (), grace=self._grace) for record in announced):
            return
        view = look(repository, own_session=self._session.id)
        ripe = [] if view.bad_sessions else [record for record in view.tombstones if self._is_ripe(record, view)]
        if ripe:
            self._delete(view, ripe)

    def _is_ripe(self, record: TombstoneRecord, view: View) -> bool:
        if not record.announces or not notes_of(record, view.tombstones):
            return False
        repository = self._session.repository
        return not why_wait(repository, record, view.tombstones, view.sessions, grace=self._grace)

    def _delete(self, view: View, ripe: list[TombstoneRecord]) -> None:
        repository = self._session.repository
        gone_images = _purged(view, ripe)
        for first in range(0, len(gone_images), IMAGES_MAX):
            write_tombstone(self._session, images=gone_images[first : first + IMAGES_MAX])
        gone = {image.image for image in gone_images}
        named = {bytes.fromhex(pack) for record in ripe for pack in record.packs}
        kept = self._keep_what_is_needed(view, gone, named.intersection(view.there))
        packs = sorted(named - kept)
        self._session.require_fresh()
        drop_packs(repository, packs)
        for pack in packs:
            repository.box.delete(ObjectType.PACK, pack)
        delete_manifests(repository, gone)
        for record in ripe:  # nobody may rely on a pack again that was announced dead: it goes before its tombstone
            if kept.isdisjoint(bytes.fromhex(pack) for pack in record.packs):
                _delete_tombstone(repository, record, view.tombstones)
        self.kept |= kept
        self.deleted += sum(pack in view.there for pack in packs)
        self.bytes_freed += sum(view.there.get(pack, 0) for pack in packs)

    def _keep_what_is_needed(self, view: View, gone: set[str], packs: set[bytes]) -> set[bytes]:
        """Packs of these that are needed after all, after what is needed of them was copied into new ones."""
        repository = self._session.repository
        images = [one.manifest for one in view.all_images if one.manifest.image not in gone]
        needed = needed_chunks(repository, view, images)
        kept = _needed_packs(repository, view, needed, packs)
        if kept:
            view.index.exclude_packs(())
            _, written = _copy_out(repository, view, needed, kept)
            self.bytes_freed -= written
        return kept


def _purged(view: View, ripe: Iterable[TombstoneRecord]) -> tuple[ForgottenImage, ...]:
    """Images whose end these tombstones announced and that nobody has brought back."""
    named = {image.image: image for record in ripe for image in record.purging}
    return tuple(image for image_id, image in sorted(named.items()) if image_id in view.forgotten.binned)


def _needed_packs(repository: Repository, view: View, needed: IdSet, packs: set[bytes]) -> set[bytes]:
    """Those of these announced packs that hold something which cannot be read from a pack that stays.

    The other copy is read, not only looked up: only what opens allows the deletion of another.
    """
    is_complete = index_use(view.index, needed).is_complete
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
    """Which of these chunks have no copy, in a pack that the index does not exclude, that opens as it lies there.

    Of a patch its base too.
    """
    bad = [ids_array(b"")]
    for first in range(0, len(ids), _BATCH):
        batch = ids[first : first + _BATCH]
        opened, patches = set[bytes](), list[tuple[Location, bytes]]()
        for place, data in _open_strictly(repository, index.locate(batch)):
            if place.kind is EntryKind.PATCH:
                patches.append((place, data))
            else:
                opened.add(place.chunk_id)
            if len(patches) == _PATCHES_MAX:
                opened.update(_expand_strictly(repository, index, patches))
                patches = []
        opened.update(_expand_strictly(repository, index, patches))
        bad.append(batch[np.array([chunk_id.tobytes() not in opened for chunk_id in batch], bool)])
    return np.concatenate(bad)


def _open_strictly(repository: Repository, places: Iterable[Location | None]) -> Iterator[tuple[Location, bytes]]:
    for fetch in plan_fetches([place for place in places if place is not None]):
        with suppress(StillframeError):
            for place, data in repository.strict_packs.fetch(fetch):
                if not isinstance(data, DamagedError):
                    yield place, data


def _expand_strictly(
    repository: Repository, index: ChunkIndex, patches: Sequence[tuple[Location, bytes]]
) -> Iterator[bytes]:
    """Ids of those of these patches that become their chunks with a base in a pack that the index does not exclude."""

    def read_bases(base_ids: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | DamagedError]]:
        places = index.locate(ids_array(b"".join(base_ids)), whole=True)
        return ((place.chunk_id, data) for place, data in _open_strictly(repository, places))

    for place, data in Expander(read_bases).expand(patches):
        if not isinstance(data, DamagedError):
            yield place.chunk_id


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
    needed = needed_chunks(repository, view, [one.manifest for one in view.all_images])
    return _copy_out(repository, view, needed, chosen)


def _copy_out(repository: Repository, view: View, needed: IdSet, chosen: set[bytes]) -> tuple[list[bytes], int]:
    """Copy what is needed of packs and rests in no other that stays. Returns as ``_repack``."""
    holders = [(pack, ids[needed.contains(ids)]) for pack, ids in _ids_of(view.index, chosen)]
    wanted = IdSet.of(np.concatenate([ids_array(b""), *(ids for _, ids in holders)]))
    gone = (view.announced | (view.index.packs() - view.there.keys())) - chosen
    view.index.exclude_packs(gone | chosen)
    missing = _unreadable(repository, view.index, wanted.ids)
    view.index.exclude_packs(gone)
    copier = Copier(repository)
    try:
        failed = _copy(ChunkReader(view.index, repository.packs), copier, missing)
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
            for place, data in reader.fetch_stored(fetch):  # the base of a patch is needed too, and stays or is copied
                if isinstance(data, DamagedError):
                    failed.append(place.chunk_id)
                else:
                    copier.add(place, data)
    return IdSet.of(ids_array(b"".join(failed)))


def _announce(session: Session, packs: Sequence[bytes], purge: tuple[ForgottenImage, ...] = ()) -> None:
    """Announce what will be deleted, and note who is at work then."""
    for first in range(0, max(len(packs), 1 if purge else 0), PACKS_MAX):
        named = tuple(pack.hex() for pack in packs[first : first + PACKS_MAX])
        purging, purge = purge[:IMAGES_MAX], purge[IMAGES_MAX:]
        _note_who_is_at_work(session, write_tombstone(session, packs=named, purging=purging))


def _note_who_is_at_work(session: Session, tombstone: str) -> None:
    """Write which sessions are open now that a tombstone is durable: what it announces waits for these alone."""
    repository, note = session.repository, make_id()
    there = [session_id.hex() for session_id in repository.box.ids(ObjectType.SESSION)]
    ends = read_ends(repository)
    record = TombstoneRecord(
        tombstone=note.hex(), created=rfc3339(repository.clock.now()), machine=session.record.machine,
        follows=tombstone, session=session.id,
        sessions=tuple(sorted(one for one in there if one != session.id and not ends.has_ended(one))),
    )  # fmt: skip
    repository.box.write(ObjectType.TOMBSTONE, note, build_record(record))


def _needs_note(repository: Repository, record: TombstoneRecord, tombstones: Sequence[TombstoneRecord]) -> bool:
    """Whether nobody noted who was at work, or only at times that are yet to come."""
    now, notes = repository.clock.now(), notes_of(record, tombstones)
    return not notes or min(parse_time(one.created) for one in (record, *notes)) > now


def _delete_tombstone(repository: Repository, record: TombstoneRecord, others: Iterable[TombstoneRecord]) -> None:
    if not record.images and not record.binned and not record.back:  # those are how a manifest put back is noticed
        repository.box.delete(ObjectType.TOMBSTONE, bytes.fromhex(record.tombstone))
        clear_warnings(repository, [record.tombstone])
    for note in notes_of(record, others):
        repository.box.delete(ObjectType.TOMBSTONE, bytes.fromhex(note.tombstone))


def _still_garbage(session: Session, plan: ExpirePlan) -> list[str]:
    """What the plan calls garbage and still is: a session that was torn may have been the beginning of a run."""
    if not plan.garbage:
        return []
    view = look(session.repository, own_session=session.id, with_torn=True)
    allowed = set(orphaned_sidecars(session.repository.box))
    if not view.sessions and not view.bad_sessions:
        allowed.update(view.torn)
        allowed.update(name for name in plan.garbage if name.startswith(ObjectType.PACK.folder))
    return [name for name in plan.garbage if name in allowed]
