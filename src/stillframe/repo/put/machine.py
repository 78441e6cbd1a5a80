"""A put-only machine at work: a repository of which it can read nothing but what it wrote in this run.

Answers: "what may this machine rely on, though it reads nothing?" It keeps a table of the chunks that it stored,
outside the repository; relies on a pack only while that is listed and no warning names it; and reads warnings where
others read tombstones, ends and retirements. Normative: ``docs/format/v1.md``, section 17.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from stillframe.clock import Clock, SystemClock
from stillframe.errors import DamagedError, PutOnly, UsageError, WrongKey
from stillframe.repo.announcements import Announcements
from stillframe.repo.deletion_records import Retirement, SessionEnd, SessionRecord, TombstoneRecord
from stillframe.repo.forgotten import Forgotten
from stillframe.repo.format import FOOTER_SIZE, Header, ObjectType, object_name, parse_footer
from stillframe.repo.identity import read_identity
from stillframe.repo.index import ChunkIndex, Run, RunCache, make_run
from stillframe.repo.objects import ObjectBox, TornObject
from stillframe.repo.put.credential import TAG_SIZE, Credential, ImageNames, is_of
from stillframe.repo.put.records import WarningRecord
from stillframe.repo.put.sealing import PutSeal, new_put_header, warning_seal
from stillframe.repo.records import ProofRecord, parse_record
from stillframe.repo.repository import ImageList, Repository, StoredImage
from stillframe.repo.rows import Table
from stillframe.repo.sealing import Seal, make_id
from stillframe.store import ObjectMissing, Store

_WHO: Final = "Do it on a machine that has the passphrase or the recovery key."


def refuse_reading(what: str) -> NoReturn:
    """Say that a put key does not do this.

    Raises:
        PutOnly: Always.
    """
    raise PutOnly(f"a put key adds images and reads none: {what}", hint=_WHO)


class PutBox(ObjectBox):
    """Objects of a repository as a put-only machine has them: it seals new ones, and opens those of this run alone."""

    def __init__(self, store: Store, credential: Credential) -> None:
        super().__init__(store, bytes.fromhex(credential.repository), b"")
        self._machine_id: Final = credential.machine_id
        self._public: Final = bytes.fromhex(credential.public)
        self._secret: Final = bytes.fromhex(credential.secret)
        self._chunks: Final = bytes.fromhex(credential.chunks)
        self._seals: Final = dict[tuple[ObjectType, bytes], tuple[Header, Seal]]()

    @property
    def master_key(self) -> bytes:
        """A put key has none. Raises ``PutOnly``."""
        refuse_reading("the master key is not in it")

    def make_id(self) -> bytes:
        """An id that says whose object it is."""
        return make_id()[:TAG_SIZE] + self._machine_id[-TAG_SIZE:]

    def new_header(self, kind: ObjectType, object_id: bytes) -> Header:
        """The header of a new object, with a public key of its own."""
        header, key = new_put_header(
            kind, object_id, repository_id=self.repository_id, public=self._public, secret=self._secret
        )
        self._seals[kind, object_id] = header, PutSeal(header, key, self._chunks)
        return header

    def seal(self, header: Header) -> Seal:
        """The seal of an object that was made in this run, or of a warning. Raises ``PutOnly`` for any other."""
        if header.kind is ObjectType.WARNING:
            return warning_seal(header, self._secret)
        mine = self._seals.get((header.kind, header.object_id))
        if mine is None or mine[0] != header:
            refuse_reading(f"{header.kind.words} {header.object_id.hex()} was not made in this run")
        return mine[1]

    def was_made_here(self, kind: ObjectType, object_id: bytes) -> bool:
        """Whether an object was made in this run."""
        return (kind, object_id) in self._seals


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a new image stands in the chain of its machine."""

    image_id: bytes
    sequence: int
    previous: str


class _TableOnce(RunCache):
    """The table as it was read once: what a run beside this one adds meanwhile must not be dropped as unknown."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._runs: Final = tuple(super().load())

    def load(self) -> Iterator[Run]:
        """What was there."""
        return iter(self._runs)


class PutMachine:
    """What a put-only machine keeps in mind itself.

    Args:
        box: Its objects.
        credential: Its put key.
        folder: Where the table of what it stored rests; without one everything is stored again each time.
        last_sequence: The number of its last image, as far as is known elsewhere.
    """

    def __init__(self, box: PutBox, credential: Credential, folder: str, last_sequence: int) -> None:
        self.name: Final = credential.machine_name
        self._chunks: Final = bytes.fromhex(credential.chunks)
        self._names: Final = ImageNames(credential)
        self._box = box
        self._folder = folder
        self._cache: Final = RunCache(folder) if folder else None
        self._last_sequence = last_sequence

    def chunk_key(self, domain: bytes) -> bytes:
        """The key that names this machine's own chunks. Raises ``PutOnly`` for any other domain."""
        if domain.hex() != self.name.id:
            refuse_reading(f"it has no key for the chunks of domain {domain.hex()}")
        return self._chunks

    def load_index(self) -> ChunkIndex:
        """What this machine stored, by its own table: whether it is still there and may be relied on is not asked."""
        found = _TableOnce(self._folder) if self._folder else None
        index = ChunkIndex(found)
        index.load({member for run in found.load() for member in run.members} if found else (), lambda _: None)
        return index

    def note_pack(self, table: Table) -> None:
        """A pack of this machine is durable: keep where its chunks rest, also for a run after one that is killed."""
        if self._cache is not None:
            self._cache.save(make_run(table.packs, table))

    def forget_packs(self) -> None:
        """Rely on nothing that was stored until now: something of it was bad."""
        if self._cache is not None:
            for run in self._cache.load():
                self._cache.drop(run)

    def next_link(self) -> Link:
        """Id and number of the next image, and the digest of the one before, which stands openly in its footer."""
        sequence, image_id = self._names.newest(self._box.ids(ObjectType.IMAGE))
        following = max(sequence, self._last_sequence) + 1
        return Link(
            image_id=self._names.make(following),
            sequence=following,
            previous=self._digest(image_id) if sequence else "",
        )

    def _digest(self, image_id: bytes) -> str:
        name = object_name(ObjectType.IMAGE, image_id)
        try:
            size = self._box.store.size(name)
            tail = self._box.store.read(name, max(0, size - FOOTER_SIZE), min(size, FOOTER_SIZE))
        except ObjectMissing:
            return ""
        footer = parse_footer(tail, object_size=size)
        return footer.digest.hex() if footer is not None else ""


class Warnings(Announcements):
    """What was announced, as warnings tell it to one put-only machine.

    A warning that cannot be read may name any of the packs that were there then, and any session: nothing that is older
    may be relied on.
    """

    def __init__(self, box: PutBox, credential: Credential) -> None:
        super().__init__(box)
        self._put_box = box
        self._machine_id: Final = credential.machine_id
        self._name: Final = credential.machine_name
        self._unread: dict[bytes, tuple[frozenset[str], frozenset[str]]] = {}

    def tombstones(self) -> tuple[TombstoneRecord, ...]:
        """What may be relied on no more, oldest first."""
        records = [
            TombstoneRecord(tombstone=one.repeats, created=one.created, machine=self._name, packs=one.packs)
            for one in self._read()
            if one.packs
        ]
        records += [
            TombstoneRecord(
                tombstone=warning.hex(), created="1970-01-01T00:00:00Z", machine=self._name, packs=tuple(sorted(packs))
            )
            for warning, (packs, _) in self._unread.items()
            if packs
        ]
        return tuple(sorted(records, key=lambda record: (record.created, record.tombstone)))

    def ends(self) -> tuple[SessionEnd, ...]:
        """Sessions of this machine that somebody ended, or may have."""
        warnings = self._read()
        ended = {session for one in warnings for session in one.sessions}
        ended.update(session for _, sessions in self._unread.values() for session in sessions)
        if any(one.is_revoked for one in warnings) or not self.is_granted():
            ended.update(self._open_sessions())
        return tuple(
            SessionEnd(
                end=session, session=session, machine=self._name, by=self._name, created="1970-01-01T00:00:00Z",
                why="warned", final=False,
            )
            for session in sorted(ended)
        )  # fmt: skip

    def ids_of_ends(self) -> set[bytes]:
        """Under which names that is said."""
        return set(self._mine())

    def retirements(self) -> tuple[Retirement, ...]:
        """Whether this machine was given up."""
        return tuple(one.retirement for one in self._read() if one.retirement is not None)

    def revocations(self) -> tuple[()]:
        """Those are not for this machine to read."""
        return ()

    def require_granted(self) -> None:
        """Refuse to work with a put key that was taken away.

        Raises:
            PutOnly: So it was, or nobody granted it.
        """
        if not self.is_granted() or any(one.is_revoked for one in self._read()):
            raise PutOnly(
                f"the put key of {self._name.name} may not add to this repository any more: it was taken away",
                hint="Somebody with the passphrase makes another one: 'stillframe key add --put-only FILE'.",
            )

    def is_granted(self) -> bool:
        """Whether the grant of this machine is there; what is not granted is warned of nothing."""
        return self._machine_id in set(self._put_box.ids(ObjectType.GRANT))

    def _mine(self) -> list[bytes]:
        return [one for one in self._put_box.ids(ObjectType.WARNING) if is_of(self._machine_id, one.hex())]

    def _open_sessions(self) -> set[str]:
        there = self._put_box.ids(ObjectType.SESSION)
        return {one.hex() for one in there if self._put_box.was_made_here(ObjectType.SESSION, one)}

    def _read(self) -> list[WarningRecord]:
        """Every warning for this machine; of one that cannot be read is noted what was there when it was met."""
        found = []
        for warning in self._mine():
            try:
                opened = self._put_box.read(ObjectType.WARNING, warning)
                found.append(parse_record(opened.payload, WarningRecord, thing=f"warning {warning.hex()}"))
            except (TornObject, ObjectMissing):
                continue  # what it repeats was never written, or is gone
            except DamagedError:
                if warning not in self._unread:
                    self._unread[warning] = (self._packs_now(), frozenset(self._open_sessions()))
        return found

    def _packs_now(self) -> frozenset[str]:
        names = (one.hex() for one in self._put_box.ids(ObjectType.PACK))
        return frozenset(name for name in names if is_of(self._machine_id, name))


class PutRepository(Repository):
    """A repository to which this machine may add, and of which it reads nothing."""

    def images(self) -> ImageList:
        """Raises ``PutOnly``."""
        refuse_reading("which images there are is not for it to know")

    def image(self, image_id: bytes) -> StoredImage:
        """Raises ``PutOnly``."""
        refuse_reading(f"image {image_id.hex()[:8]} is not for it to read")

    def forgotten(self) -> Forgotten:
        """Raises ``PutOnly``."""
        refuse_reading("which images were forgotten is not for it to know")

    def sessions(self) -> tuple[SessionRecord, ...]:
        """Those of this run."""
        box = self.box
        assert isinstance(box, PutBox)
        ids = [one for one in box.ids(ObjectType.SESSION) if box.was_made_here(ObjectType.SESSION, one)]
        opened = [box.read(ObjectType.SESSION, one) for one in ids]
        return tuple(parse_record(one.payload, SessionRecord, thing="the session of this run") for one in opened)

    def proofs(self) -> tuple[ProofRecord, ...]:
        """None: what proofs found bad is told by warnings."""
        return ()

    def load_index(self, *, unindexed: bool = False) -> ChunkIndex:  # noqa: ARG002 - the signature of Repository
        """What this machine stored, by its own table."""
        assert self.put is not None
        return self.put.load_index()


def open_to_put(
    store: Store, credential: Credential, *, where: str, cache_folder: str | None = None, last_sequence: int = 0,
    clock: Clock | None = None,
) -> PutRepository:  # fmt: skip
    """Open a repository to add to it.

    Raises:
        RepositoryNotFound, DamagedError, UnsupportedFormat: As ``open_repository``.
        WrongKey: The put key is of another repository.
        PutOnly: It was taken away.
        UsageError: The repository says that it is not encrypted.
    """
    found = read_identity(store, where=where)
    if found.identity.id != credential.repository:
        raise WrongKey(
            f"this put key is for repository {credential.repository[:8]}, and the one at {where} is "
            f"{found.identity.id[:8]}",
            hint="Name the other repository, or use its put key.",
        )
    if found.digest.hex() != credential.identity:
        raise DamagedError(
            f"the identity file of the repository at {where} was changed since this put key was made",
            hint="Do not write to it. Copy stillframe.json back from another copy of the repository.",
        )
    if found.identity.encryption == "none":
        raise UsageError("this repository is not encrypted: it has no put keys", hint="Leave the put key out.")
    box = PutBox(store, credential)
    repository = PutRepository(box, found, clock=clock or SystemClock(), cache=None)
    warnings = repository.announced = Warnings(box, credential)
    warnings.require_granted()
    folder = f"{cache_folder}/{found.identity.id}-{credential.machine}" if cache_folder else ""
    repository.put = PutMachine(box, credential, folder, last_sequence)
    return repository
