"""The records that lie in a repository as JSON: manifests and proofs; what deletion needs is in ``deletion_records``.

Answers: "what does an image say of itself?" Normative: ``docs/format/v1.md``, sections 10 and 11. Parsed once,
here, into frozen records with every limit checked; an error names the field.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.events import Notice
from stillframe.extents import Extent, ExtentSet
from stillframe.repo.blockmap import Entry, Kind, MapRoot
from stillframe.repo.format import CHECK_HINT, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, JSON_SIZE_MAX

Hex16 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
OptionalHex16 = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
OptionalHex32 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Small = Annotated[int, Meta(ge=0, le=1 << 32)]
BESIDE_MAX: Final = 256
"""Runs of the machine that are named as at work beside one."""
Word = Annotated[str, Meta(max_length=200)]
PATH_MAX: Final = 4000
Text = Annotated[str, Meta(max_length=PATH_MAX)]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
OptionalTime = Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?\Z")]
LEFT_OUT_MAX: Final = 1000
KERNELS_MAX: Final = 32
INSIDE_MAX: Final = 256
FOLDERS_MAX: Final = 10
Ranges = Annotated[tuple[tuple[Size, Size], ...], Meta(max_length=1_000_000)]

JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``msgspec.json.decode`` raises when its input is not what its type says."""

KNOWN_FEATURES: Final[frozenset[str]] = frozenset()
"""Names that a manifest may list in ``features``; none are defined in this version."""

BackupKind = Literal["full", "incremental", "differential"]
Consistency = Literal["offline", "snapshot", "frozen", "torn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineName:
    """Which machine: an id that stays, and the name people know."""

    id: Hex16
    name: Word


def extents_of(*ranges: Ranges) -> ExtentSet:
    """Ranges as they are kept, as bytes that can be reckoned with."""
    return ExtentSet.from_extents(Extent(start, end) for pairs in ranges for start, end in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNotice:
    """Something a person should know of an image."""

    code: Word
    message: Text
    hint: Text = ""


def stored_notice(notice: Notice) -> StoredNotice:
    """A notice as it is kept."""
    return StoredNotice(code=notice.code, message=notice.message[:4000], hint=notice.hint[:4000])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMap:
    """The root of a block map."""

    size: Size
    kind: Annotated[int, Meta(ge=0, le=4)]
    id: OptionalHex32 = ""

    def root(self) -> MapRoot:
        """As the block map module knows it.

        Raises:
            DamagedError: Kind and id do not belong together.
        """
        kind, node_id = Kind(self.kind), bytes.fromhex(self.id)
        if (kind is Kind.DATA) != bool(node_id) or (self.size == 0 and kind is not Kind.UNUSED):
            raise DamagedError("a manifest names a block map without its root", hint=CHECK_HINT)
        return MapRoot(self.size, Entry(kind, node_id))


def stored_map(root: MapRoot) -> StoredMap:
    """A map's root as it is kept."""
    return StoredMap(size=root.size, kind=int(root.root.kind), id=root.root.id.hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file whose contents were left out: ``paging``, ``hibernation``, ``swap``, ``excluded`` (by a person)."""

    path: Text
    size: Size
    kind: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFolder:
    """A large folder: bytes and files in it and below it, without the folders that are named beside it."""

    path: Text
    size: Size
    files: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSystem:
    """An operating system that was found. ``family`` is ``linux`` or ``windows``; what is not known is empty."""

    family: Word
    name: Word
    version: Word = ""
    build: Word = ""
    edition: Word = ""
    host: Word = ""
    machine_id: Word = ""
    architecture: Word = ""
    root: Word = ""
    kernels: Annotated[tuple[Word, ...], Meta(max_length=KERNELS_MAX)] = ()
    elsewhere: Annotated[tuple[Word, ...], Meta(max_length=FOLDERS_MAX)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCatalogue:
    """What a volume holds, as its own folders say it. ``complete`` is false when not all of them could be read."""

    files: Size
    folders: Size
    bytes: Size
    complete: bool = True
    largest: Annotated[tuple[StoredFolder, ...], Meta(max_length=FOLDERS_MAX)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInside:
    """A volume inside of a partition, such as ``vg/root`` of LVM, and what was found in it."""

    name: Word
    size: Size
    filesystem: Word = ""
    label: Word = ""
    uuid: Word = ""
    installed: StoredSystem | None = None
    catalogue: StoredCatalogue | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPartition:
    """A partition as it was, and where its bytes are. ``start`` and ``size`` in bytes of the disk."""

    number: Small
    index: Small
    start: Size
    size: Size
    blocks: StoredMap
    type: Word = ""
    type_name: Word = ""
    name: Word = ""
    guid: Word = ""
    attributes: Annotated[str, Meta(pattern=r"^[0-9a-f]{1,16}\Z")] = "0"
    logical: bool = False
    filesystem: Word = ""
    label: Word = ""
    uuid: Word = ""
    block_size: Small = 0
    bytes_used: Size = 0
    system: Word | None = None
    installed: StoredSystem | None = None
    catalogue: StoredCatalogue | None = None
    inside: Annotated[tuple[StoredInside, ...], Meta(max_length=INSIDE_MAX)] = ()
    consistency: Consistency = "offline"
    map: Literal["used", "raw"] = "raw"
    excluded: Ranges = ()
    unreadable: Ranges = ()
    left_out: Annotated[tuple[StoredFile, ...], Meta(max_length=LEFT_OUT_MAX)] = ()
    notices: Annotated[tuple[StoredNotice, ...], Meta(max_length=1000)] = ()

    @property
    def is_left_out(self) -> bool:
        """Whether no byte of it is in the image: only where it was, and what was in it."""
        return self.blocks.kind == Kind.EXCLUDED


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDisk:
    """A disk as it was."""

    number: Small
    path: Text
    size: Size
    sector_size: Annotated[int, Meta(ge=512, le=65536)]
    scheme: Literal["gpt", "mbr", "none"]
    outside: StoredMap
    disk_id: Word = ""
    model: Word = ""
    serial: Word = ""
    unreadable: Ranges = ()
    partitions: Annotated[tuple[StoredPartition, ...], Meta(max_length=1024)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHold:
    """How disks in use were held still: milliseconds frozen, rounds of copying, bytes that were read again."""

    milliseconds: Size
    rounds: Size
    bytes_again: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImport:
    """Of an image that another program made: in which format, where it was, and when it says that it was made."""

    format: Word
    path: Text
    made: OptionalTime = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image."""

    version: Literal[1] = 1
    image: Hex16
    features: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    program: Word
    created: Time
    finished: Time
    machine: MachineName
    name: Word = ""
    comment: Text = ""
    kind: BackupKind
    baseline: OptionalHex16 = ""
    sequence: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    previous: OptionalHex32 = ""
    beside: Annotated[tuple[Hex16, ...], Meta(max_length=BESIDE_MAX)] = ()
    domain: Hex16
    chunk_size: Annotated[int, Meta(ge=CHUNK_SIZE_MIN, le=CHUNK_SIZE_MAX)]
    session: Hex16
    bytes_total: Size
    bytes_used: Size
    bytes_read: Size
    bytes_added: Size
    held: StoredHold | None = None
    imported: StoredImport | None = None
    notices: Annotated[tuple[StoredNotice, ...], Meta(max_length=10_000)] = ()
    disks: Annotated[tuple[StoredDisk, ...], Meta(min_length=1, max_length=256)]

    def __post_init__(self) -> None:
        if self.chunk_size & (self.chunk_size - 1):
            raise ValueError(f"a chunk size of {self.chunk_size} bytes is no power of two")

    @property
    def place(self) -> tuple[int, str, str]:
        """Where it stands among the images of its machine: two of one number were made at the same time."""
        return self.sequence, self.created, self.image

    @property
    def is_partial(self) -> bool:
        """Whether partitions were left out of it as a whole."""
        return any(part.is_left_out for disk in self.disks for part in disk.partitions)

    @property
    def is_torn(self) -> bool:
        """Whether some volume changed while it was copied: never good, never a baseline."""
        return any(part.consistency == "torn" for disk in self.disks for part in disk.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRecord:
    """Evidence about an image.

    Attributes:
        kind: What was done; section 11 says what each word means.
        ok: Whether the image stood the test.
        bytes: How many were read for it.
        how: In words; of a start, what was seen.
        outcome: Of a start; empty else.
        seconds: That a start took until its outcome was known; of a rehearsal, the recovery time.
        medium_seconds, restore_seconds, start_seconds: Its parts: until it wrote, until that was done, the start.
        emulated: The machine of a rehearsal was emulated, so a real one is faster.
        firmware: That a start used.
        screenshot: Whether a screenshot with this proof's id lies beside it.
        healed_packs: Packs of which chunks could be had only with the help of parity.
    """

    proof: Hex16
    image: Hex16
    created: Time
    machine: MachineName
    kind: Literal["read-back", "quick", "checked", "sampled", "booted", "rehearsed"]
    ok: bool
    bytes: Size
    how: Text = ""
    outcome: Literal["", "booted", "failed", "unclear"] = ""
    seconds: Size = 0
    medium_seconds: Size = 0
    restore_seconds: Size = 0
    start_seconds: Size = 0
    emulated: bool = False
    firmware: Word = ""
    screenshot: bool = False
    bad_chunks: Annotated[tuple[Hex32, ...], Meta(max_length=100_000)] = ()
    healed_packs: Annotated[tuple[Hex16, ...], Meta(max_length=100_000)] = ()
    findings: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()


R = TypeVar("R")


def build_record(record: R) -> bytes:
    """The JSON of a record.

    Raises:
        ValueError: A field is outside the format's limits: nobody could read it again.
    """
    raw = msgspec.json.encode(record)
    try:
        parse_record(raw, type(record), thing=type(record).__name__)
    except DamagedError as error:
        raise ValueError(error.message) from error
    return raw


def parse_record(raw: bytes, kind: type[R], *, thing: str) -> R:
    """Parse the JSON of a record and check every limit.

    Raises:
        DamagedError: It is not JSON, or a field is missing or outside its limits; the field is named.
    """
    if len(raw) > JSON_SIZE_MAX:
        raise DamagedError(f"{thing}: {len(raw)} bytes are more than the format allows", hint=CHECK_HINT)
    try:
        return msgspec.json.decode(raw, type=kind)
    except JSON_ERRORS as error:
        raise DamagedError(f"{thing}: not what the format says: {error}", hint=CHECK_HINT) from error


def require_known_features(manifest: Manifest) -> None:
    """Refuse an image that needs what this program does not know.

    Raises:
        UnsupportedFormat: With the names of the features.
    """
    unknown = sorted(set(manifest.features) - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedFormat(
            f"image {manifest.image[:8]} needs {', '.join(unknown)}, which this version does not know",
            hint=f"Use Stillframe {manifest.program} or newer.",
        )


def parse_time(text: str) -> datetime:
    """A record's time, with its time zone.

    Raises:
        DamagedError: There is no such day or hour.
    """
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")
    except ValueError as error:
        raise DamagedError(f"a record says {text!r}, which is no time", hint=CHECK_HINT) from error
