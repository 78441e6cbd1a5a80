"""Which packs can go, and when: the plan of an expiry.

Answers: "what will be forgotten, what is dead, what may be deleted now, and what must wait for whom?" Reads only;
``expire`` does what the plan says after it has looked again. Normative: ``docs/format/v1-draft.md``, section 13.

Why nothing that is needed is deleted. A run writes its session before it reads tombstones, and treats what rests in
tombstoned packs as absent. A tombstone is durable before sessions are listed for a deletion. So a run that relies on a
tombstoned pack began before the tombstone, and its session is either still there, and the deletion waits; or it has
ended, and its manifest is there to be counted, because sessions are listed before manifests; or it was taken away or
damaged, and the run refuses to write its manifest. Clocks of machines differ, so a session counts as older than a
tombstone unless it says that it began a day later; with a grace below a day, every other session counts.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from stillframe.errors import DamagedError, RepositoryNotFound, StillframeError, StorageError, UnsupportedFormat
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.index import ChunkIndex
from stillframe.repo.inventory import State, examine_pack, examine_records, read_image
from stillframe.repo.lineage import UNKNOWN_MACHINE, find_gaps
from stillframe.repo.objects import TornObject
from stillframe.repo.parity.sidecars import orphaned_sidecars, torn_sidecars
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import (
    ForgottenImage,
    SessionRecord,
    TombstoneRecord,
    parse_time,
    require_known_features,
)
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.usage import PackUse, pack_uses
from stillframe.repo.walk import IdSet, referenced_chunks
from stillframe.store import ObjectMissing

GRACE: Final = timedelta(hours=24)
"""How long a tombstone stands at least."""
CLOCK_MARGIN: Final = timedelta(hours=24)
"""How far clocks of machines may be apart."""
_STORES_NOTHING: Final = frozenset({"verify", "forget", "key", "parity"})
"""Verbs whose sessions leave no packs."""
_RECORDS: Final = (
    ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SESSION, ObjectType.TOMBSTONE, ObjectType.PROOF,
    ObjectType.SCREENSHOT, ObjectType.KEPT_TABLE, ObjectType.SETTING,
)  # fmt: skip


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
        dead_packs: Packs that no image needs, to be announced dead. With a ``grace`` of 0 they go at once.
        repack: Packs that are mostly dead, to be copied and announced dead.
        ripe: Tombstones whose packs can be deleted now.
        put_back: Forgotten images whose manifests lie there again.
        garbage: Names of objects that were never complete, of sessions that have ended, of parity without its object.
        waiting: What could go and must wait.
        bytes_dead: Size of ``dead_packs``.
        bytes_ripe: Size of the packs of ``ripe``.
        grace: How long a tombstone stands at least.
    """

    forget: tuple[ForgottenImage, ...]
    dead_packs: tuple[str, ...]
    repack: tuple[RepackedPack, ...]
    ripe: tuple[str, ...]
    put_back: tuple[str, ...]
    garbage: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    bytes_dead: int
    bytes_ripe: int
    grace: timedelta

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.forget or self.dead_packs or self.repack or self.ripe or self.put_back or self.garbage)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A repository as a deletion sees it, read in an order that makes it safe to rely on.

    Attributes:
        there: Packs and their sizes, listed first: what comes later belongs to runs that this view does not know.
        torn: Names of objects, packs excepted, that were never complete; sought before sessions are listed.
        sessions: Open sessions of others, listed before manifests.
        ended: Names of sessions of other machines whose time is over, and of damaged ones.
    """

    there: dict[bytes, int]
    torn: tuple[str, ...]
    sessions: tuple[SessionRecord, ...]
    ended: tuple[str, ...]
    tombstones: tuple[TombstoneRecord, ...]
    images: tuple[StoredImage, ...]
    put_back: tuple[str, ...]
    index: ChunkIndex

    @property
    def announced(self) -> set[bytes]:
        """Packs that some tombstone names."""
        return {bytes.fromhex(pack) for record in self.tombstones for pack in record.packs}

    @property
    def writers(self) -> list[SessionRecord]:
        """Open sessions that may have left packs that no image needs yet."""
        return [session for session in self.sessions if session.verb not in _STORES_NOTHING]


def plan_expire(
    repository: Repository, *, forget: Collection[str] = (), own_session: str = "", grace: timedelta = GRACE
) -> ExpirePlan:
    """Plan which images are forgotten and what can be deleted.

    Args:
        repository: Open. For the real thing begin a session ``expire`` first: it takes dead sessions away.
        forget: Ids of images to forget, as ``plan_retention`` chose them.
        own_session: Id of the caller's own session, which nothing waits for.
        grace: How long a tombstone stands at least. Below a day nothing is deleted while any other session is open.

    Raises:
        DamagedError: A manifest or block map cannot be read: nothing may be deleted then.
        UnsupportedFormat: An image needs a feature that this program does not know.
    """
    view = look(repository, own_session=own_session, forget=forget, with_torn=True)
    leaving = frozenset(forget)
    reader = ChunkReader(view.index, repository.packs)
    needed = referenced_chunks(reader, (kept.manifest for kept in view.images if kept.manifest.image not in leaving))
    census = PackCensus(repository, view, needed)
    waiting: list[Waiting] = []
    dead = [*census.left_by(reader, [gone for gone in view.images if gone.manifest.image in leaving])]
    orphans = sorted(census.dead.difference(dead))
    if orphans and view.writers:
        waiting.append(Waiting(what=f"{len(orphans)} packs that no image needs", why=_wait_for(view.writers)))
    else:
        dead += orphans
    garbage = (*view.torn, *(object_name(ObjectType.PACK, pack) for pack in census.torn))
    if garbage and view.sessions:
        waiting.append(Waiting(what=f"{len(garbage)} objects that were never complete", why=_wait_for(view.sessions)))
        garbage = ()
    ripe = []
    for record in (record for record in view.tombstones if record.packs):
        why = why_wait(repository, record, view.sessions, grace=grace)
        if why:
            waiting.append(Waiting(what=f"{len(record.packs)} packs announced dead at {record.created}", why=why))
        else:
            ripe.append(record)
    ripe_packs = {bytes.fromhex(pack) for record in ripe for pack in record.packs}
    return ExpirePlan(
        forget=to_forget(repository, sorted(leaving.difference(view.put_back))),
        dead_packs=tuple(pack.hex() for pack in sorted(dead)),
        repack=census.mostly_dead(),
        ripe=tuple(record.tombstone for record in ripe),
        put_back=view.put_back,
        garbage=(*view.ended, *orphaned_sidecars(repository.box), *garbage),
        waiting=tuple(waiting),
        bytes_dead=sum(view.there.get(pack, 0) for pack in dead),
        bytes_ripe=sum(view.there.get(pack, 0) for pack in ripe_packs),
        grace=grace,
    )


def to_forget(repository: Repository, image_ids: Iterable[str]) -> tuple[ForgottenImage, ...]:
    """What a tombstone says of images. Of one whose manifest cannot be read it does not say whose it was.

    Raises:
        RepositoryNotFound: There is no such image.
    """
    found = []
    for image_id in image_ids:
        try:
            manifest = read_image(repository, bytes.fromhex(image_id)).manifest
        except ObjectMissing:
            raise RepositoryNotFound(f"no image {image_id}", hint="'stillframe images' lists them.") from None
        except (DamagedError, UnsupportedFormat):
            found.append(ForgottenImage(image=image_id, machine=UNKNOWN_MACHINE, sequence=0))
        else:
            found.append(ForgottenImage(image=image_id, machine=manifest.machine.id, sequence=manifest.sequence))
    return tuple(found)


def why_wait(
    repository: Repository, tombstone: TombstoneRecord, sessions: Iterable[SessionRecord], *, grace: timedelta
) -> str:
    """Why the packs of a tombstone must not be deleted yet, in words; empty when they may."""
    created = parse_time(tombstone.created)
    if repository.clock.now() < created + grace:
        return f"until {(created + grace).strftime('%Y-%m-%d %H:%M')} UTC"
    older = [
        session for session in sessions if grace < CLOCK_MARGIN or parse_time(session.started) <= created + CLOCK_MARGIN
    ]
    return _wait_for(older) if older else ""


def look(repository: Repository, *, own_session: str, forget: Collection[str] = (), with_torn: bool = False) -> View:
    """Read a repository in the order that a deletion relies on: packs, sessions, tombstones, manifests, index.

    Args:
        repository: Open.
        own_session: Id of a session that does not count.
        forget: Images that are on their way out: these alone may be unreadable.
        with_torn: Whether to open every object in search of torn ones.

    Raises:
        DamagedError: A manifest cannot be read.
        UnsupportedFormat: As ``plan_expire``.
    """
    there = repository.stored_packs()
    kinds = _RECORDS if with_torn else (ObjectType.SESSION,)
    found = [examined for kind in kinds for examined, _ in examine_records(repository, kind)]
    torn_parity = tuple(torn_sidecars(repository.box)) if with_torn else ()
    bad_sessions = sorted(
        examined.name
        for examined in found
        if examined.state is State.DAMAGED and examined.name.startswith(ObjectType.SESSION.folder)
    )
    sessions, ended = _split_sessions(repository, own_session)
    tombstones = repository.tombstones()
    forgotten = [image for record in tombstones for image in record.images]
    images, torn_images, put_back = _read_images(repository, {image.image for image in forgotten}, frozenset(forget))
    if torn_images and find_gaps(images, forgotten):
        raise DamagedError(
            f"{torn_images[0]} is not whole, and an image of a machine is missing: it may be this one",
            hint="Nothing was deleted. Run 'stillframe check'; forget the image if it cannot be brought back.",
        )
    return View(
        there=there,
        torn=(*(examined.name for examined in found if examined.state is State.TORN), *torn_parity),
        sessions=sessions,
        ended=(*ended, *bad_sessions),
        tombstones=tombstones,
        images=images,
        put_back=put_back,
        index=repository.load_index(),
    )


class PackCensus:
    """Which packs of a view nothing needs, and which are mostly dead."""

    def __init__(self, repository: Repository, view: View, needed: IdSet) -> None:
        self._view = view
        self._uses = pack_uses(view.index, needed)
        announced = view.announced
        free = [pack for pack in view.there if pack not in announced]
        self.dead = {pack for pack in free if pack in self._uses and self._uses[pack].is_dead}
        self.torn: list[bytes] = []
        self._free = free
        if view.index.contains(needed.ids).all():  # else what is missing may rest in packs that no run names
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
        uses = pack_uses(self._view.index, theirs)
        return {pack for pack in self.dead if not uses.get(pack, PackUse(0, 0)).is_dead}

    def mostly_dead(self) -> tuple[RepackedPack, ...]:
        """Packs of which less than half is needed."""
        found = [(pack, self._uses[pack]) for pack in sorted(self._free) if pack in self._uses]
        return tuple(
            RepackedPack(pack=pack.hex(), live=use.live, total=use.total) for pack, use in found if use.is_mostly_dead
        )


def _split_sessions(repository: Repository, own_session: str) -> tuple[tuple[SessionRecord, ...], tuple[str, ...]]:
    """Sessions of others that count as open, and the names of those that have expired."""
    now = repository.clock.now()
    still_open, ended = [], []
    for session in repository.sessions():
        if session.session == own_session:
            continue
        if parse_time(session.expires) + CLOCK_MARGIN > now:
            still_open.append(session)
        else:
            ended.append(object_name(ObjectType.SESSION, bytes.fromhex(session.session)))
    return tuple(still_open), tuple(ended)


def _read_images(
    repository: Repository, forgotten: set[str], leaving: frozenset[str]
) -> tuple[tuple[StoredImage, ...], list[str], tuple[str, ...]]:
    """Manifests that count, names of torn ones, and ids of forgotten ones that lie there again."""
    images, torn, put_back = [], [], []
    for image_id in sorted(repository.box.ids(ObjectType.IMAGE)):
        if image_id.hex() in forgotten:
            put_back.append(image_id.hex())
            continue
        try:
            image = read_image(repository, image_id)
            require_known_features(image.manifest)
            if image.manifest.image != image_id.hex():
                raise DamagedError(f"manifest {image_id.hex()} describes image {image.manifest.image}")
        except ObjectMissing:
            continue
        except TornObject:
            torn.append(object_name(ObjectType.IMAGE, image_id))
        except StorageError:
            raise
        except StillframeError as error:
            if image_id.hex() not in leaving:
                raise type(error)(
                    f"{error.message}; nothing is deleted while an image cannot be read",
                    hint="Run 'stillframe check'; forget the image if it cannot be brought back.",
                ) from error
        else:
            images.append(image)
    return tuple(images), torn, tuple(put_back)


def _wait_for(sessions: Iterable[SessionRecord]) -> str:
    first = min(sessions, key=lambda session: session.started)
    return (
        f"until '{first.verb}' on {first.machine.name}, at work since {first.started}, has ended "
        f"(it counts until {first.expires})"
    )
