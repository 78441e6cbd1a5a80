"""What a deletion sees of a repository, read in an order that makes it safe to rely on.

Answers: "which images may still need something, and who is at work?" Refuses where an image cannot be read. Reads only.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from stillframe.errors import DamagedError, StillframeError, StorageError
from stillframe.repo.deletion_records import SessionRecord, TombstoneRecord
from stillframe.repo.forgotten import Forgotten
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.id_sets import IdSet
from stillframe.repo.index import ChunkIndex
from stillframe.repo.inventory import State, examine_records, read_image
from stillframe.repo.lineage import find_gaps
from stillframe.repo.objects import TornObject
from stillframe.repo.parity.sidecars import torn_sidecars
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, require_known_features
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.walk import referenced_chunks, with_bases
from stillframe.store import ObjectMissing

_RECORDS: Final = (
    ObjectType.INDEX, ObjectType.IMAGE, ObjectType.SESSION, ObjectType.TOMBSTONE, ObjectType.PROOF,
    ObjectType.SCREENSHOT, ObjectType.KEPT_TABLE, ObjectType.SETTING, ObjectType.SESSION_END, ObjectType.RETIREMENT,
    ObjectType.GRANT, ObjectType.WARNING, ObjectType.REVOCATION,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A repository as a deletion sees it, read in an order that makes it safe to rely on.

    Attributes:
        there: Packs and their sizes, listed first: what comes later belongs to runs that this view does not know.
        torn: Names of objects, packs excepted, that were never complete; sought before sessions are listed.
        sessions: Of others, that nobody has ended, whatever they say of their time; listed before manifests.
        bad_sessions: Ids of sessions that cannot be read and that nobody has ended.
        forgotten: Which images do not count.
        images: Those that count.
        binned: Forgotten ones that are not gone and can be read.
        unreadable: Ids of forgotten ones that cannot be read.
        put_back: Ids of images that are gone and lie there.
        void: Ids of images that never counted and lie there.
    """

    there: dict[bytes, int]
    torn: tuple[str, ...]
    sessions: tuple[SessionRecord, ...]
    bad_sessions: tuple[str, ...]
    forgotten: Forgotten
    images: tuple[StoredImage, ...]
    binned: tuple[StoredImage, ...]
    unreadable: frozenset[str]
    put_back: tuple[str, ...]
    void: tuple[str, ...]
    index: ChunkIndex

    @property
    def tombstones(self) -> tuple[TombstoneRecord, ...]:
        """Every announcement, oldest first."""
        return self.forgotten.tombstones

    @property
    def announced(self) -> set[bytes]:
        """Packs that some tombstone names."""
        return {bytes.fromhex(pack) for record in self.tombstones for pack in record.packs}

    @property
    def all_images(self) -> tuple[StoredImage, ...]:
        """Those that count, and those that can still be brought back."""
        return (*self.images, *self.binned)


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
    torn_parity = torn_sidecars(repository.box) if with_torn else ()
    torn = (*(examined.name for examined in found if examined.state is State.TORN), *torn_parity)
    sessions = repository.sessions()
    forgotten = repository.forgotten()
    bad = (
        examined.name[-32:]
        for examined in found
        if examined.state is State.DAMAGED and examined.name.startswith(ObjectType.SESSION.folder)
    )
    images = _read_images(repository, forgotten, frozenset(forget))
    if images.torn and find_gaps(images.counting, forgotten.images):
        raise DamagedError(
            f"{images.torn[0]} is not whole, and an image of a machine is missing: it may be this one",
            hint="Nothing was deleted. Run 'stillframe check'; forget the image if it cannot be brought back.",
        )
    ends = forgotten.ends
    return View(
        there=there,
        torn=torn,
        sessions=tuple(one for one in sessions if one.session != own_session and not ends.has_ended(one.session)),
        bad_sessions=tuple(sorted(session for session in bad if not ends.has_ended(session))),
        forgotten=forgotten,
        images=tuple(images.counting),
        binned=tuple(images.binned),
        unreadable=frozenset(images.unreadable),
        put_back=tuple(images.put_back),
        void=tuple(images.void),
        index=repository.load_index(),
    )


def needed_chunks(repository: Repository, view: View, manifests: Sequence[Manifest]) -> IdSet:
    """Every chunk and node that images need, with the bases of all patches that may stand for one of them.

    Where the index does not have them all, the rest may rest as patches in packs that no run names. Their trailers say
    of what, and that must stay too.

    Raises:
        DamagedError: A block map cannot be read.
        StorageError: Such a pack cannot be read this time: nobody knows what it needs.
    """
    needed = referenced_chunks(ChunkReader(view.index, repository.packs), manifests)
    if view.index.contains(needed.ids).all():
        return needed
    tables = []
    for pack_id in sorted(view.there.keys() - view.index.packs()):
        with suppress(DamagedError, ObjectMissing):  # then nobody can open what it holds
            tables.append(repository.packs.read_table(pack_id))
    return with_bases(needed, tables)


@dataclass(slots=True)
class _Images:
    """What lies under the names of images."""

    counting: list[StoredImage] = field(default_factory=list)
    binned: list[StoredImage] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)

    def take(self, image: StoredImage, forgotten: Forgotten) -> None:
        """Put an image where it belongs."""
        manifest = image.manifest
        if manifest.image in forgotten.binned:
            self.binned.append(image)
        elif forgotten.ends.counts(manifest.session, manifest.image):
            self.counting.append(image)
        else:
            self.void.append(manifest.image)


def _read_images(repository: Repository, forgotten: Forgotten, leaving: frozenset[str]) -> _Images:
    """Read every manifest. Only of images that are forgotten or on their way out it may fail."""
    found = _Images()
    for image_id in sorted(repository.box.ids(ObjectType.IMAGE)):
        name = image_id.hex()
        if name in forgotten.gone:
            found.put_back.append(name)
            continue
        try:
            image = read_image(repository, image_id)
            require_known_features(image.manifest)
            if image.manifest.image != name:
                raise DamagedError(f"manifest {name} describes image {image.manifest.image}")
        except ObjectMissing:
            continue
        except StillframeError as error:
            if isinstance(error, StorageError):
                raise
            if name in forgotten.binned:
                found.unreadable.append(name)
            elif isinstance(error, TornObject):
                found.torn.append(object_name(ObjectType.IMAGE, image_id))
            elif name not in leaving:
                raise type(error)(
                    f"{error.message}; nothing is deleted while an image cannot be read",
                    hint="Run 'stillframe check'; forget the image if it cannot be brought back.",
                ) from error
        else:
            found.take(image, forgotten)
    return found
