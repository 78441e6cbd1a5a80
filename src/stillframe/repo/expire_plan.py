"""Which packs can go, and when: the plan of an expiry.

Answers: "what will be forgotten, what is dead, what may be deleted now, and what must wait for whom?" Reads only;
``expire`` does what the plan says after it has looked again. Normative: ``docs/format/v1.md``, section 13.

Why nothing that is needed is deleted. A run writes its session before it reads tombstones, and treats what rests in
tombstoned packs as absent, for good: what was announced dead is never used again, only copied. A tombstone is durable
before the sessions that are open are noted. So a run that relies on a tombstoned pack has its session in that note; the
deletion waits until it has ended; and then its manifest is there to be counted, or never counts (``ending``). No clock
has a part in this. The grace, and the look at when a session says that it began, are for stores whose listings lag.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from stillframe.errors import DamagedError
from stillframe.repo.deletion_records import ForgottenImage, SessionRecord, TombstoneRecord
from stillframe.repo.ending import Ending, ending_of
from stillframe.repo.expire_view import View, look, needed_chunks
from stillframe.repo.forgetting import to_forget
from stillframe.repo.forgotten import BinnedImage
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.id_sets import IdSet
from stillframe.repo.inventory import State, examine_pack
from stillframe.repo.lineage import UNKNOWN_MACHINE
from stillframe.repo.parity.sidecars import orphaned_sidecars
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import MachineName, parse_time
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.usage import PackUse, index_use
from stillframe.repo.walk import referenced_chunks

GRACE: Final = timedelta(hours=24)
"""How long a tombstone stands at least."""
UNDELETE: Final = timedelta(days=7)
"""How long a forgotten image can be brought back."""
CLOCK_MARGIN: Final = timedelta(hours=24)
"""How far clocks of machines may be apart."""
_T = TypeVar("_T")
_STORES_NOTHING: Final = frozenset({"verify", "forget", "undelete", "key", "parity", "retire"})
"""Verbs whose sessions leave no packs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackedPack:
    """A pack of which little is needed; that is copied, and then the pack can go. Sizes in stored bytes."""

    pack: str
    live: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something that could go and must wait, and for whom or until when."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpirePlan:
    """What an expiry will do.

    Attributes:
        forget: Images to be forgotten.
        purge: Forgotten images whose time to come back is over.
        binned: Forgotten images that can still be brought back, and stay whole.
        dead_packs: Packs that no image needs, to be announced dead. With a ``grace`` of 0 they go at once.
        repack: Packs that are mostly dead, to be copied and announced dead.
        ripe: Tombstones whose packs can be deleted now.
        put_back: Images that are gone and whose manifests lie there.
        void: Images that never counted: their runs had lost their sessions.
        garbage: Names of objects that were never complete, and of parity without its object.
        endings: Sessions that have expired or cannot be read.
        waiting: What could go and must wait.
        bytes_dead: Size of ``dead_packs``.
        bytes_ripe: Size of the packs of ``ripe``.
        grace: How long a tombstone stands at least.
        undelete: How long a forgotten image can be brought back.
    """

    forget: tuple[ForgottenImage, ...]
    purge: tuple[ForgottenImage, ...]
    binned: tuple[BinnedImage, ...]
    dead_packs: tuple[str, ...]
    repack: tuple[RepackedPack, ...]
    ripe: tuple[str, ...]
    put_back: tuple[str, ...]
    void: tuple[str, ...]
    garbage: tuple[str, ...]
    endings: tuple[Ending, ...]
    waiting: tuple[Waiting, ...]
    bytes_dead: int
    bytes_ripe: int
    grace: timedelta
    undelete: timedelta

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        to_do = (self.forget, self.purge, self.dead_packs, self.repack, self.ripe, self.put_back, self.garbage)
        return not (any(to_do) or self.void or self.endings)


def plan_expire(
    repository: Repository, *, forget: Collection[str] = (), own_session: str = "", grace: timedelta = GRACE,
    undelete: timedelta = timedelta(0),
) -> ExpirePlan:  # fmt: skip
    """Plan which images are forgotten and what can be deleted.

    Args:
        repository: Open. For the real thing begin a session ``expire`` first: it ends dead sessions.
        forget: Ids of images to forget, as ``plan_retention`` chose them.
        own_session: Id of the caller's own session, which nothing waits for.
        grace: How long a tombstone stands at least. Below a day nothing is deleted while any other session is open.
        undelete: How long a forgotten image stays whole, so that it can be brought back.

    Raises:
        DamagedError: A manifest or block map cannot be read: nothing may be deleted then.
        UnsupportedFormat: An image needs a feature that this program does not know.
    """
    view = look(repository, own_session=own_session, forget=forget, with_torn=True)
    new = to_forget(repository, sorted(set(forget).difference(view.put_back, view.void, view.forgotten.binned)))
    purge, stay = _split_bin(repository, view, undelete)
    purge += [] if undelete else new
    leaving = {image.image for image in purge} | {one.image.image for one in stay if one.purging}
    reader = ChunkReader(view.index, repository.packs)
    kept = [one.manifest for one in view.all_images if one.manifest.image not in leaving]
    census = PackCensus(repository, view, needed_chunks(repository, view, kept))
    sessions, expired = _split_sessions(repository, view.sessions)
    writers = [session for session in sessions if session.verb not in _STORES_NOTHING]
    waiting = _Waits()
    dead = [*census.left_by(reader, [gone for gone in view.all_images if gone.manifest.image in leaving])]
    orphans = sorted(census.dead.difference(dead))
    dead += waiting.unless(writers, orphans, "packs that no image needs")
    torn = (*view.torn, *(object_name(ObjectType.PACK, pack) for pack in census.torn))
    garbage = waiting.unless(sessions, torn, "objects that were never complete")
    ripe = []
    for record in (record for record in view.tombstones if record.announces):
        why = why_wait(repository, record, view.tombstones, sessions, grace=grace)
        if why:
            words = f"{len(record.packs)} packs announced dead at {record.created}"
            waiting.found.append(Waiting(what=words, why=why))
        else:
            ripe.append(record)
    ripe_packs = {bytes.fromhex(pack) for record in ripe for pack in record.packs}
    return ExpirePlan(
        forget=new, purge=tuple(purge), binned=tuple(one for one in stay if not one.purging),
        dead_packs=tuple(pack.hex() for pack in sorted(dead)), repack=census.mostly_dead(),
        ripe=tuple(record.tombstone for record in ripe), put_back=view.put_back, void=view.void,
        garbage=(*orphaned_sidecars(repository.box), *garbage),
        endings=(*expired, *_bad_endings(view)), waiting=tuple(waiting.found),
        bytes_dead=sum(view.there.get(pack, 0) for pack in dead),
        bytes_ripe=sum(view.there.get(pack, 0) for pack in ripe_packs), grace=grace, undelete=undelete,
    )  # fmt: skip


class _Waits:
    """What could go, and waits for somebody."""

    def __init__(self) -> None:
        self.found: list[Waiting] = []

    def unless(self, sessions: Collection[SessionRecord], things: Collection[_T], words: str) -> list[_T]:
        """These things, unless somebody is at work; then none, and it is said why."""
        if not things or not sessions:
            return list(things)
        self.found.append(Waiting(what=f"{len(things)} {words}", why=_wait_for(sessions)))
        return []


def why_wait(
    repository: Repository, tombstone: TombstoneRecord, others: Iterable[TombstoneRecord],
    sessions: Collection[SessionRecord], *, grace: timedelta,
) -> str:  # fmt: skip
    """Why what a tombstone announces must not be deleted yet, in words; empty when it may.

    Args:
        repository: Its clock tells how long the tombstone stands.
        tombstone: The announcement.
        others: All tombstones; some say who was at work when this one was there.
        sessions: Those that are open.
        grace: How long it stands at least.
    """
    notes = notes_of(tombstone, others)
    # A clock that was wrong may have dated it into the future: it stands since the first of what was said of it.
    since = min(parse_time(record.created) for record in (tombstone, *notes))
    if repository.clock.now() < since + grace:
        return f"until {(since + grace).strftime('%Y-%m-%d %H:%M')} UTC"
    there_then = [[session for session in sessions if session.session in note.sessions] for note in notes]
    older = min(there_then, key=len) if there_then else list(sessions)
    older += [
        session for session in sessions if grace < CLOCK_MARGIN or parse_time(session.started) <= since + CLOCK_MARGIN
    ]
    return _wait_for(older) if older else ""


def notes_of(tombstone: TombstoneRecord, others: Iterable[TombstoneRecord]) -> list[TombstoneRecord]:
    """What was noted of a tombstone afterwards."""
    return [record for record in others if record.follows == tombstone.tombstone]


class PackCensus:
    """Which packs of a view nothing needs, and which are mostly dead."""

    def __init__(self, repository: Repository, view: View, needed: IdSet) -> None:
        self._view = view
        use = index_use(view.index, needed)
        self._uses = use.packs
        announced = view.announced
        free = [pack for pack in view.there if pack not in announced]
        self.dead = {pack for pack in free if pack in self._uses and self._uses[pack].is_dead}
        self.torn: list[bytes] = []
        self._free = free
        if use.is_complete:  # else what is missing may rest in packs that no run names
            for pack in (pack for pack in free if pack not in self._uses):
                state = examine_pack(repository, pack).found.state
                if state is State.TORN:
                    self.torn.append(pack)
                elif state is not State.UNREADABLE:
                    self.dead.add(pack)

    def left_by(self, reader: ChunkReader, leaving: list[StoredImage]) -> set[bytes]:
        """Dead packs that images on their way out refer to: these belong to no run that is at work."""
        if not leaving:
            return set()
        try:
            theirs = referenced_chunks(reader, (image.manifest for image in leaving))
        except DamagedError:
            return set()
        uses = index_use(self._view.index, theirs).packs
        return {pack for pack in self.dead if not uses.get(pack, PackUse(0, 0)).is_dead}

    def mostly_dead(self) -> tuple[RepackedPack, ...]:
        """Packs of which less than half is needed."""
        found = [(pack, self._uses[pack]) for pack in sorted(self._free) if pack in self._uses]
        return tuple(
            RepackedPack(pack=pack.hex(), live=use.live, total=use.total) for pack, use in found if use.is_mostly_dead
        )


def _split_bin(
    repository: Repository, view: View, undelete: timedelta
) -> tuple[list[ForgottenImage], list[BinnedImage]]:
    """Forgotten images whose end is to be announced, and the others."""
    now, purge, stay = repository.clock.now(), [], []
    for image_id, binned in sorted(view.forgotten.binned.items()):
        is_over = not undelete or image_id in view.unreadable or parse_time(binned.since) + undelete <= now
        if is_over and not binned.purging:
            purge.append(binned.image)
        else:
            stay.append(binned)
    return purge, stay


def _split_sessions(
    repository: Repository, sessions: Iterable[SessionRecord]
) -> tuple[list[SessionRecord], list[Ending]]:
    """Sessions that count as open, and endings of those that have expired."""
    now = repository.clock.now()
    still_open, ended = [], []
    for session in sessions:
        if parse_time(session.expires) + CLOCK_MARGIN > now:
            still_open.append(session)
        else:
            ended.append(ending_of(session, "expired"))
    return still_open, ended


def _bad_endings(view: View) -> list[Ending]:
    nobody = MachineName(id=UNKNOWN_MACHINE, name="")
    return [Ending(session, nobody, "damaged") for session in view.bad_sessions]


def _wait_for(sessions: Iterable[SessionRecord]) -> str:
    first = min(sessions, key=lambda session: session.started)
    return (
        f"until '{first.verb}' on {first.machine.name}, at work since {first.started}, has ended "
        f"(it counts until {first.expires})"
    )
