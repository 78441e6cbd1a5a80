"""Packs: many sealed chunks in one object.

Answers: "add this chunk to a pack", "which chunks does this pack hold?", "give me these chunks of it". A pack is
written from front to back, once, by one thread; reading is safe for several threads.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import zstandard

from stillframe.errors import DamagedError, StorageError
from stillframe.repo.format import (
    CHECK_HINT,
    CHUNK_SIZE_MAX,
    CIPHER_PUT,
    FOOTER_SIZE,
    HEADER_SIZE,
    TAG_SIZE,
    Footer,
    ObjectType,
    build_payload,
    decompress,
    object_name,
    parse_footer,
    parse_header,
    parse_payload,
)
from stillframe.repo.objects import ObjectBox, ObjectSource, without_footer
from stillframe.repo.patches import Patch
from stillframe.repo.put.rules import require_own_words
from stillframe.repo.rows import EntryKind, Location, Table, build_table, ids_array, make_rows, parse_table
from stillframe.repo.sealing import Seal
from stillframe.store import ObjectMissing, ObjectWriter

PACK_SIZE: Final = 64 << 20
"""Where a pack is full. The last chunk may go over it, far below the format's limit."""
_ENTRIES_MAX: Final = 65_536
"""A pack is full with so many entries too: tiny ones would outgrow its table."""
_BATCH_SIZE: Final = 1 << 20
"""Sealed entries are handed to the store in pieces of about this size."""
_READ_GAP: Final = 128 << 10
_READ_SIZE_MAX: Final = 8 << 20
_PLAIN_SIZE_MAX: Final = 16 << 20
"""What one read expands to, so that memory stays bounded however well the chunks pack."""

_Result = TypeVar("_Result")
Compress = Callable[[bytes | bytearray | memoryview], bytes]


def compressor(level: int | None) -> Compress | None:
    """A function that makes one Zstandard frame at ``level``, for one thread; ``None`` stores as is."""
    return None if level is None else zstandard.ZstdCompressor(level=level).compress


class PackWriter:
    """One pack being written, by one thread."""

    def __init__(self, box: ObjectBox, compress: Compress | None) -> None:
        self.pack_id: Final = box.make_id()
        self._box = box
        self._header = box.new_header(ObjectType.PACK, self.pack_id)
        self._seal: Final = box.seal(self._header)
        self._compress = compress
        self._out: ObjectWriter = box.store.create(object_name(ObjectType.PACK, self.pack_id))
        self._batch = bytearray(_BATCH_SIZE + CHUNK_SIZE_MAX + TAG_SIZE)
        self._batch[:HEADER_SIZE] = self._header.build()
        self._filled = HEADER_SIZE
        self._flushed = 0
        self._entries: list[tuple[bytes, int, int, int, EntryKind, bool]] = []
        self._bases: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._flushed + self._filled

    @property
    def is_full(self) -> bool:
        """Whether the next chunk belongs to another pack."""
        return self.size >= PACK_SIZE or len(self._entries) >= _ENTRIES_MAX

    def add(
        self, chunk_id: bytes, plain: bytes | memoryview, kind: EntryKind = EntryKind.CHUNK, patch: Patch | None = None
    ) -> int:
        """Compress where that pays, seal, and append; as a patch where that pays more. Returns the stored size."""
        if patch is not None and patch.is_clear:
            return self.add_patch(chunk_id, patch, len(plain))
        packed: bytes | memoryview = plain
        if self._compress is not None:
            tried = self._compress(plain)
            if len(tried) < len(plain) - len(plain) // 32:
                packed = tried
        if patch is not None and patch.pays_against(len(packed)):
            return self.add_patch(chunk_id, patch, len(plain))
        return self._append(packed, (chunk_id, len(plain), kind, packed is not plain))

    def add_patch(self, chunk_id: bytes, patch: Patch, plain_size: int) -> int:
        """Seal a patch, and append it; returns the stored size."""
        self._bases.append(patch.base_id)
        return self._append(patch.frame, (chunk_id, plain_size, EntryKind.PATCH, True))

    def _append(self, packed: bytes | memoryview, entry: tuple[bytes, int, EntryKind, bool]) -> int:
        offset, (chunk_id, plain_size, kind, compressed) = self.size, entry
        room = memoryview(self._batch)[self._filled :]
        sealed = self._seal.close_into(packed, offset=offset, subject=chunk_id, buffer=room)
        room.release()
        self._filled += sealed
        self._entries.append((chunk_id, offset, sealed, plain_size, kind, compressed))
        if self._filled >= _BATCH_SIZE:
            self._flush()
        return sealed

    def finish(self) -> Table:
        """Write trailer and footer; durable on return. Returns where its chunks rest."""
        table = Table.of((self.pack_id,), make_rows(self._entries), ids_array(b"".join(self._bases)))
        self._flush()
        offset, head = self._flushed, self._header.build()
        trailer = self._seal.close(build_payload(build_table(table)), offset=offset)
        footer = Footer.over(head, trailer, trailer_offset=offset, trailer_size=len(trailer))
        self._out.append(trailer + footer.build())
        self._out.commit()
        self._box.on_written(ObjectType.PACK, self.pack_id)
        return table

    def abandon(self) -> None:
        """Give the pack up."""
        self._out.abandon()

    def _flush(self) -> None:
        with memoryview(self._batch) as whole:
            self._out.append(whole[: self._filled])
        self._flushed += self._filled
        self._filled = 0


@dataclass(frozen=True, slots=True)
class Fetch:
    """Entries of one pack that are read in one go, in order of offset."""

    pack_id: bytes
    locations: tuple[Location, ...]

    @property
    def offset(self) -> int:
        """Where the read begins."""
        return self.locations[0].offset

    @property
    def size(self) -> int:
        """Bytes to read, small gaps included."""
        return max(place.offset + place.sealed_size for place in self.locations) - self.offset


def plan_fetches(locations: Sequence[Location]) -> Iterator[Fetch]:
    """Group locations into reads: per pack, in order of offset, small gaps read over, 8 MiB at most, 16 expanded."""
    ordered = sorted(locations, key=lambda place: (place.pack_id, place.offset))
    group: list[Location] = []
    plain = 0
    for place in ordered:
        if group and (plain + place.plain_size > _PLAIN_SIZE_MAX or not _continues(group, place)):
            yield Fetch(group[0].pack_id, tuple(group))
            group, plain = [], 0
        group.append(place)
        plain += place.plain_size
    if group:
        yield Fetch(group[0].pack_id, tuple(group))


def _continues(group: list[Location], place: Location) -> bool:
    last = group[-1]
    near = place.pack_id == last.pack_id and place.offset - (last.offset + last.sealed_size) <= _READ_GAP
    return near and place.offset + place.sealed_size - group[0].offset <= _READ_SIZE_MAX


class PackReader:
    """Reads entries out of packs. Of a patch it gives the frame: who knows the index expands it (``patches``).

    Args:
        box: The repository's objects.
        heal: Whether what is damaged may be read with the help of its parity.
    """

    def __init__(self, box: ObjectBox, *, heal: bool = False) -> None:
        self._box = box
        self._heal = heal
        self._seal_of = functools.lru_cache(maxsize=1024)(self._read_seal)

    def read_table(self, pack_id: bytes) -> Table:
        """Which chunks a pack holds, by its own trailer.

        Raises:
            ObjectMissing: There is no such pack.
            TornObject: Its writing was cut off.
            DamagedError: Header, trailer or footer are not what was written.
        """
        return self._attempt(pack_id, lambda source: self._table_from(source, pack_id))

    def fetch(self, fetch: Fetch) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """Read and open the entries of one fetch; a damaged one yields its error and the rest go on.

        Raises:
            StorageError: The pack is missing, too short, or the storage failed.
            DamagedError: The pack's header is not what was written.
        """
        seal = self._seal_of(fetch.pack_id)
        try:
            raw = memoryview(self._read(self._box.store, fetch.pack_id, fetch.offset, fetch.size))
        except ObjectMissing:
            raise
        except StorageError:
            if not self._heal or len(fetch.locations) > 1:  # whoever asked tries each alone
                raise
            yield self._alone(seal, fetch.locations[0])
            return
        for place in fetch.locations:
            start = place.offset - fetch.offset
            try:
                yield place, open_entry(seal, place, raw[start : start + place.sealed_size])
            except DamagedError as error:
                yield self._alone(seal, place) if self._heal else (place, error)

    def _alone(self, seal: Seal, place: Location) -> tuple[Location, bytes | DamagedError]:
        """One entry, with the help of its pack's parity if need be."""

        def attempt(source: ObjectSource) -> bytes:
            own = seal if source is self._box.store else self._seal_from(source, place.pack_id)  # the salt may be bad
            return open_entry(own, place, self._read(source, place.pack_id, place.offset, place.sealed_size))

        try:
            return place, self._attempt(place.pack_id, attempt)
        except DamagedError as error:
            return place, error

    def _attempt(self, pack_id: bytes, attempt: Callable[[ObjectSource], _Result]) -> _Result:
        if self._heal:
            return self._box.with_parity(ObjectType.PACK, pack_id, attempt)
        return attempt(self._box.store)

    @staticmethod
    def _read(source: ObjectSource, pack_id: bytes, offset: int, length: int) -> bytes:
        return source.read(object_name(ObjectType.PACK, pack_id), offset, length)

    def _table_from(self, source: ObjectSource, pack_id: bytes) -> Table:
        expected = self._box.expected(ObjectType.PACK, pack_id)
        size = source.size(object_name(ObjectType.PACK, pack_id))
        tail = self._read(source, pack_id, max(0, size - FOOTER_SIZE), min(size, FOOTER_SIZE))
        footer = parse_footer(tail, object_size=size)
        if footer is None:
            raise without_footer(expected, tail, object_size=size)
        head = self._read(source, pack_id, 0, HEADER_SIZE)
        trailer = self._read(source, pack_id, footer.trailer_offset, footer.trailer_size)
        if not footer.covers(head, trailer):
            raise DamagedError(f"{expected.thing}: its trailer is not what was written", hint=CHECK_HINT)
        header = parse_header(head, expected)
        plain = self._box.seal(header).open(trailer, offset=footer.trailer_offset, thing=expected.thing)
        payload = parse_payload(plain, thing=expected.thing)
        if header.cipher == CIPHER_PUT:
            require_own_words(expected, payload)
        table = parse_table(payload, thing=expected.thing)
        ends = table.rows["offset"].astype("<i8") + table.rows["sealed"]
        if table.packs != (pack_id,) or (ends > footer.trailer_offset).any():
            raise DamagedError(f"{expected.thing}: its table is not that of this pack", hint=CHECK_HINT)
        return table

    def forget_cached(self, pack_id: bytes) -> bool:
        """Ask that the next read of a pack comes from the medium."""
        return self._box.store.forget_cached(object_name(ObjectType.PACK, pack_id))

    def _read_seal(self, pack_id: bytes) -> Seal:
        return self._attempt(pack_id, lambda source: self._seal_from(source, pack_id))

    def _seal_from(self, source: ObjectSource, pack_id: bytes) -> Seal:
        head = self._read(source, pack_id, 0, HEADER_SIZE)
        return self._box.seal(parse_header(head, self._box.expected(ObjectType.PACK, pack_id)))


def open_entry(seal: Seal, place: Location, sealed: bytes | memoryview) -> bytes:
    """Open one sealed entry and undo its compression, unless it is a patch.

    Raises:
        DamagedError: It is not what was written there, or a put key made it and may not have.
    """
    thing = f"chunk {place.chunk_id.hex()[:16]} at {place.offset} of pack {place.pack_id.hex()}"
    plain = seal.open(sealed, offset=place.offset, subject=place.chunk_id, thing=thing)
    if place.kind is EntryKind.PATCH:
        seal.require_patches(thing=thing)
        return plain
    data = decompress(plain, place.plain_size, thing=thing) if place.compressed else plain
    seal.require_named(place.chunk_id, data, thing=thing)
    return data
