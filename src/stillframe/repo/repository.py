"""A repository, made or opened: its images, its tombstones, its chunks.

Answers: "which images are there?", "what did this one say?", "what was forgotten?" Looks only; what writes is in
``session`` (backups), ``expire`` and ``repair``.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stillframe.clock import Clock, SystemClock, rfc3339
from stillframe.errors import (
    DamagedError,
    RepositoryNotFound,
    StillframeError,
    StorageError,
    UnsupportedFormat,
    UsageError,
    WrongKey,
)
from stillframe.events import Finding
from stillframe.repo.announcements import Announcements, read_records
from stillframe.repo.deletion_records import SessionRecord, TombstoneRecord
from stillframe.repo.forgotten import Forgotten, judge_ends, judge_forgotten
from stillframe.repo.format import (
    CHECK_HINT,
    CHUNK_SIZE_MAX,
    CHUNK_SIZE_MIN,
    ObjectType,
    parse_object_name,
)
from stillframe.repo.identity import FORMAT, FoundIdentity, Identity, build_identity, read_identity, write_identity
from stillframe.repo.index import ChunkIndex, RunCache
from stillframe.repo.keys import DEFAULT_COST, Cost, KeyRing
from stillframe.repo.manifest_rules import parse_manifest
from stillframe.repo.objects import ObjectBox, TornObject
from stillframe.repo.packs import PackReader
from stillframe.repo.parity.sidecars import Covering
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest, ProofRecord, require_known_features
from stillframe.repo.rows import Table, parse_table
from stillframe.repo.sealing import OPEN_MASTER_KEY, make_id, make_salt
from stillframe.store import ObjectMissing, Store

CHUNK_SIZE: Final = 256 << 10
"""Bytes of a chunk in a new repository; ADR 0003 says why."""
_LOADS_MAX: Final = 5

if TYPE_CHECKING:
    from stillframe.repo.put.machine import PutMachine


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image's manifest, and the digest by which the next one names it."""

    manifest: Manifest
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """Every image that can be read, oldest first; what is wrong with others; what was forgotten."""

    images: tuple[StoredImage, ...]
    findings: tuple[Finding, ...]
    forgotten: tuple[str, ...]


class Repository:
    """An open repository.

    Attributes:
        packs: Reads chunks, where they are damaged with the help of parity.
        strict_packs: Reads chunks as they lie there, for whoever wants to know how that is.
        parity: Whether new objects get parity; gives it to them.
        announced: What others have announced.
        put: What this machine must keep in mind itself, where it may only add; ``None`` where it may read.
    """

    def __init__(self, box: ObjectBox, found: FoundIdentity, *, clock: Clock, cache: RunCache | None) -> None:
        self.box = box
        self.identity = found.identity
        self.found_identity = found
        self.clock = clock
        self.packs = PackReader(box, heal=True)
        self.strict_packs = PackReader(box)
        self.announced = Announcements(box)
        self.put: PutMachine | None = None
        self.parity = Covering(box)
        box.on_written = self.parity.cover
        self._cache = cache

    @property
    def keys(self) -> KeyRing:
        """The key slots."""
        if self.identity.encryption == "none":
            raise UsageError("this repository is not encrypted: it has no keys", hint="Nothing is needed to open it.")
        return KeyRing(self.box.store, self.found_identity)

    def images(self) -> ImageList:
        """Read every manifest."""
        forgotten = self.forgotten()
        images, findings = [], []
        for image_id in self.box.ids(ObjectType.IMAGE):
            if image_id.hex() in forgotten.gone:
                findings.append(_put_back(image_id))
            if image_id.hex() in forgotten.ids:
                continue
            try:
                image = self._read_image(image_id)
                if forgotten.ends.counts(image.manifest.session, image.manifest.image):
                    images.append(image)
            except (TornObject, ObjectMissing):
                continue
            except StillframeError as error:
                findings.append(Finding(code=error.code, message=error.message, hint=error.hint, thing=image_id.hex()))
        images.sort(key=lambda image: (image.manifest.created, image.manifest.sequence, image.manifest.image))
        return ImageList(images=tuple(images), findings=tuple(findings), forgotten=tuple(sorted(forgotten.ids)))

    def image(self, image_id: bytes) -> StoredImage:
        """One image.

        Raises:
            RepositoryNotFound: There is none of that id, or it was forgotten.
            DamagedError, UnsupportedFormat: It cannot be used.
        """
        forgotten = self.forgotten()
        if image_id.hex() in forgotten.ids:
            raise RepositoryNotFound(f"image {image_id.hex()} was forgotten", hint=_forgotten_hint(forgotten, image_id))
        try:
            image = self._read_image(image_id)
        except ObjectMissing:
            raise RepositoryNotFound(f"no image {image_id.hex()}", hint="'stillframe images' lists them.") from None
        if not forgotten.ends.counts(image.manifest.session, image.manifest.image):
            raise RepositoryNotFound(
                f"image {image_id.hex()} does not count: its run had lost its session when it was written",
                hint="Run that backup again.",
            )
        require_known_features(image.manifest)
        return image

    def forgotten(self) -> Forgotten:
        """Which images do not count, and why; also which sessions have ended other than by being taken away."""
        ends = judge_ends(self.announced.ends(), self.announced.revocations())
        return judge_forgotten(self.tombstones(), ends)

    def tombstones(self) -> tuple[TombstoneRecord, ...]:
        """Every announcement of deletion, oldest first."""
        return self.announced.tombstones()

    def sessions(self) -> tuple[SessionRecord, ...]:
        """Every session, oldest first."""
        found = read_records(self.box, ObjectType.SESSION, SessionRecord)
        return tuple(sorted(found, key=lambda record: (record.started, record.session)))

    def proofs(self) -> tuple[ProofRecord, ...]:
        """Every proof, oldest first."""
        found = read_records(self.box, ObjectType.PROOF, ProofRecord)
        return tuple(sorted(found, key=lambda record: (record.created, record.proof)))

    def load_index(self, *, unindexed: bool = False) -> ChunkIndex:
        """The index, whole. Damaged runs are left out: ``check`` names them, and packs say the same.

        Args:
            unindexed: Also ask the trailers of packs that no run names, as whoever reads an image must.
        """
        for _ in range(_LOADS_MAX):
            index, run_ids = ChunkIndex(self._cache), set(self.box.ids(ObjectType.INDEX))
            index.load(run_ids, self.read_run)
            if run_ids.issubset(self.box.ids(ObjectType.INDEX)):
                break  # else runs were replaced meanwhile, and their rows stand in runs that were not listed
        if unindexed:
            for pack_id in sorted(self.stored_packs().keys() - index.packs()):
                with contextlib.suppress(DamagedError, UnsupportedFormat, StorageError):
                    index.add(pack_id, self.packs.read_table(pack_id), keep=False)
        return index

    def read_run(self, run_id: bytes) -> Table | None:
        """The rows of one index run; ``None`` when it is torn or damaged."""
        try:
            return self.read_run_strictly(run_id)
        except (DamagedError, ObjectMissing):
            return None

    def read_run_strictly(self, run_id: bytes) -> Table:
        """The rows of one index run.

        Raises:
            DamagedError: It is not what was written.
        """
        opened = self.box.read(ObjectType.INDEX, run_id)
        return parse_table(opened.payload, thing=f"index run {run_id.hex()}")

    def reader(self, index: ChunkIndex | None = None) -> ChunkReader:
        """Chunks by id; without an index given, packs that no run names are searched too."""
        return ChunkReader(index or self.load_index(unindexed=True), self.packs, load_index=self.load_index)

    def stored_packs(self) -> dict[bytes, int]:
        """The packs that are there, torn ones too, with their sizes."""
        found = {}
        for stored in self.box.store.list(ObjectType.PACK.folder):
            pack_id = parse_object_name(ObjectType.PACK, stored.name)
            if pack_id is not None:
                found[pack_id] = stored.size
        return found

    def _read_image(self, image_id: bytes) -> StoredImage:
        opened = self.box.read(ObjectType.IMAGE, image_id)
        manifest = parse_manifest(opened.payload, thing=f"manifest {image_id.hex()}")
        if manifest.image != image_id.hex():
            raise DamagedError(f"manifest {image_id.hex()} describes image {manifest.image}", hint=CHECK_HINT)
        if manifest.chunk_size != self.identity.chunk_size:
            raise DamagedError(
                f"manifest {image_id.hex()} speaks of chunks of {manifest.chunk_size} bytes, the repository of "
                f"{self.identity.chunk_size}",
                hint=CHECK_HINT,
            )
        return StoredImage(manifest=manifest, digest=opened.digest)


def _forgotten_hint(forgotten: Forgotten, image_id: bytes) -> str:
    binned = forgotten.binned.get(image_id.hex())
    if binned is None or binned.purging:
        return "'stillframe images' lists the rest."
    return f"'stillframe forget --undo {image_id.hex()[:8]}' brings it back."


def _put_back(image_id: bytes) -> Finding:
    return Finding(
        code="image-put-back",
        message=f"image {image_id.hex()[:8]} was forgotten, and its manifest lies there again; it is ignored",
        hint="An older copy of the folder came back, or a deletion was cut off. 'stillframe expire' removes it.",
        thing=image_id.hex(),
    )


def create_repository(
    store: Store, *, passphrase: str | None, recovery_key: str | None = None, chunk_size: int = CHUNK_SIZE,
    cost: Cost = DEFAULT_COST, clock: Clock | None = None,
) -> Repository:  # fmt: skip
    """Make a new repository in an empty store: key slots first, the identity file last.

    Args:
        store: Where; must not hold a repository.
        passphrase: ``None`` makes it open to everybody.
        recovery_key: Its printed text, to get a slot of its own.
        chunk_size: A power of two.
        cost: Of guessing the passphrase.
        clock: For the date.

    Raises:
        UsageError: There is a repository already, or the chunk size is none.
    """
    clock = clock or SystemClock()
    try:
        read_identity(store, where="there")
    except RepositoryNotFound:
        pass
    else:
        raise UsageError("there is a repository already", hint="Use it, or choose an empty folder.")
    if not CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX or chunk_size & (chunk_size - 1):
        raise UsageError(
            f"{chunk_size} bytes are no chunk size", hint=f"A power of two, {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}."
        )
    identity = Identity(
        format=FORMAT, id=make_id().hex(), created=rfc3339(clock.now()), chunk_size=chunk_size,
        encryption="aes256" if passphrase is not None else "none",
    )  # fmt: skip
    found = _found(identity)
    master = OPEN_MASTER_KEY
    if passphrase is not None:
        master = make_salt()
        ring = KeyRing(store, found)
        ring.add_passphrase(master, passphrase, label="first passphrase", created=identity.created, cost=cost)
        if recovery_key is not None:
            ring.add_recovery(master, recovery_key, created=identity.created)
    write_identity(store, identity)
    return Repository(ObjectBox(store, identity.repository_id, master), found, clock=clock, cache=None)


def open_repository(
    store: Store, *, where: str, secret: str | None, cache_folder: str | None = None, clock: Clock | None = None
) -> Repository:
    """Open a repository with a passphrase or a recovery key; ``None`` for one without encryption.

    Raises:
        RepositoryNotFound, WrongKey, DamagedError, UnsupportedFormat: As their names say.
        UsageError: A secret was given, and the repository says it is not encrypted: nobody may turn that off unseen.
    """
    found = read_identity(store, where=where)
    master = OPEN_MASTER_KEY
    if found.identity.encryption == "aes256":
        if secret is None:
            raise WrongKey(
                f"the repository at {where} is encrypted and no passphrase was given",
                hint="Set STILLFRAME_PASSWORD, or use --password-file.",
            )
        master, _ = KeyRing(store, found).unlock(secret)
    else:
        _check_open(store, where, secret)
    cache = RunCache(f"{cache_folder}/{found.identity.id}") if cache_folder else None
    box = ObjectBox(store, found.identity.repository_id, master)
    return Repository(box, found, clock=clock or SystemClock(), cache=cache)


def _check_open(store: Store, where: str, secret: str | None) -> None:
    """Refuse a repository that says it is open to everybody where something speaks against it."""
    if any(True for _ in store.list(ObjectType.KEY_SLOT.folder)):
        raise DamagedError(
            f"the repository at {where} says it is not encrypted, but has key slots: its identity file was changed",
            hint="Do not write to it. Copy stillframe.json back from another copy of the repository.",
        )
    if secret is not None:
        raise UsageError(
            f"a passphrase was given, and the repository at {where} says it is not encrypted",
            hint="Give none if it was made without encryption. Else somebody replaced it: do not write to it.",
        )


def _found(identity: Identity) -> FoundIdentity:
    """The identity as it will be found once it is written: key slots name its digest before it is there."""
    return FoundIdentity(identity=identity, digest=hashlib.sha256(build_identity(identity)).digest(), copies=())
