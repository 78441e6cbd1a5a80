r"""A file of the Windows registry: keys and values by their paths.

Answers: "what does this hive say at this key, and where in the file?" Only what recognising a Windows and repairing its
start take: keys are found by name, the keys and values below one are listed; nothing is written. Every offset, count
and size is bounded before it is used, so that a damaged or hostile hive costs an error of ours and never more than a
few thousand small reads.

Transaction logs are not applied: ``is_dirty`` says that the newest changes may be missing.

Source: "Windows registry file format specification", github.com/msuhanov/regf, sections "Base block" to "Big data";
libregf, "Windows NT Registry File (REGF) format specification".
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, Self

from stillframe.errors import DiskFormatError

ReadAt = Callable[[int, int], bytes]
"""Bytes of the hive: offset and length to bytes, fewer than asked for at its end."""
OnFault = Callable[[DiskFormatError], None]
"""Is told of what is broken, while the rest goes on."""

_BASE_SIZE: Final = 4096
_BASE: Final = Struct("<4sII")  # signature, primary and secondary sequence number
_ROOT_AT, _CHECKSUM_AT, _MINOR_AT = 36, 508, 24
_NO_CELL: Final = 0xFFFFFFFF
_LISTED_KEY_SIZES: Final = {b"lf": 8, b"lh": 8, b"li": 4}
_INDEX_ROOT: Final = b"ri"
_KEY: Final = Struct("<2sH16xI4xI4xII28xH2x")  # signature, flags, subkeys, their list, values, their list, name's size
_KEY_NAME_AT: Final = 76
_KEY_NAME_ASCII: Final = 0x20
_VALUE: Final = Struct("<2sHIIIH2x")  # signature, name's size, data's size, data or its place, type, flags
_VALUE_NAME_ASCII: Final = 0x01
_IN_PLACE: Final = 0x80000000
_BIG: Final = Struct("<2sHI")  # signature, segments, their list
_SEGMENT_SIZE: Final = 16344
_BIG_SINCE_MINOR: Final = 4

SUBKEYS_MAX: Final = 100_000
"""Subkeys of one key that are looked at; ``HKEY_CLASSES_ROOT``, the largest known, has a few ten thousand."""
VALUES_MAX: Final = 10_000
VALUE_SIZE_MAX: Final = 1 << 20
"""Bytes of a value that is read: what is asked for here has a few hundred at most."""
_NAME_MAX: Final = 2 * 16_383  # Microsoft, "Registry element size limits": names of values, in bytes of UTF-16
_TEXTS: Final = frozenset({1, 2})  # winnt.h: REG_SZ, REG_EXPAND_SZ
_DWORD, _QWORD = 4, 11  # winnt.h: REG_DWORD, REG_QWORD
_HINT: Final = "Start that Windows once and shut it down; it repairs its registry itself."


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, by what leads further.

    Attributes:
        name: As it is written in the hive.
        subkeys_count, subkeys_at: How many, and the cell that lists them.
        values_count, values_at: Likewise.
    """

    name: str
    subkeys_count: int
    subkeys_at: int
    values_count: int
    values_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of a key.

    Attributes:
        name: As it is written in the hive.
        data: Its bytes.
        at: Where in the file they lie in one piece; ``None`` when they are in its own record, or in several cells.
    """

    name: str
    data: bytes
    at: int | None


class _ValueRecord(NamedTuple):
    """What a hive notes of a value: ``size`` and ``place`` as they are written there."""

    name: str
    size: int
    place: int
    kind: int


class Hive:
    """One hive. ``open`` makes it."""

    def __init__(self, read: ReadAt, *, root_at: int, minor: int, is_dirty: bool) -> None:
        self._read = read
        self._root_at = root_at
        self._minor = minor
        self.is_dirty: Final = is_dirty

    @classmethod
    def open(cls, read: ReadAt) -> Self | None:
        """A hive; ``None`` when the bytes are none."""
        base = read(0, _BASE_SIZE)
        if len(base) < _BASE_SIZE or base[:4] != b"regf":
            return None
        _, first, second = _BASE.unpack_from(base)
        root_at, minor = _u32(base, _ROOT_AT), _u32(base, _MINOR_AT)
        dirty = first != second or _u32(base, _CHECKSUM_AT) != _checksum(base)
        return cls(read, root_at=root_at, minor=minor, is_dirty=dirty)

    def find_key(self, path: str) -> Key | None:
        r"""A key by its path, such as ``Select`` or ``Microsoft\Windows NT``; ``None`` when there is none.

        Raises:
            DiskFormatError: What leads there is broken.
        """
        key = self._read_key(self._root_at)
        for name in path.split("\\"):
            found = self._find_subkey(key, name)
            if found is None:
                return None
            key = found
        return key

    def iter_keys(self, key: Key, on_fault: OnFault) -> Iterator[Key]:
        """The keys of a key; those that are broken are told to ``on_fault``.

        Raises:
            DiskFormatError: The list of them is broken.
        """
        for place in self._iter_subkeys(key):
            try:
                found = self._read_key(place)
            except DiskFormatError as error:
                on_fault(error)
                continue
            yield found

    def iter_names(self, key: Key) -> Iterator[str]:
        """The names of the keys of a key; those that are broken are left out.

        Raises:
            DiskFormatError: The list of them is broken.
        """
        for place in self._iter_subkeys(key):
            with contextlib.suppress(DiskFormatError):
                yield self._read_key(place).name

    def _find_subkey(self, key: Key, name: str) -> Key | None:
        """One key of a key. Broken ones beside it are no matter, unless it is not found."""
        fault = None
        for place in self._iter_subkeys(key):
            try:
                found = self._read_key(place)
            except DiskFormatError as error:
                fault = error
                continue
            if found.name.upper() == name.upper():
                return found
        if fault is not None:
            raise fault
        return None

    def read_value(self, key: Key, name: str) -> str | int | bytes | None:
        """A value of a key: a text, a number, else its bytes; ``None`` when there is none of that name.

        Raises:
            DiskFormatError: It is broken, or larger than ``VALUE_SIZE_MAX``.
        """
        faults = list[DiskFormatError]()
        for found in self._iter_value_records(key, faults.append):
            if found.name.upper() == name.upper():
                return _decode(found.kind, self._data(found.size, found.place))
        if faults:
            raise faults[-1]
        return None

    def iter_values(self, key: Key, on_fault: OnFault) -> Iterator[Value]:
        """The values of a key, with their places; what is broken is told to ``on_fault``.

        Raises:
            DiskFormatError: The list of them is broken.
        """
        for found in self._iter_value_records(key, on_fault):
            try:
                data = self._data(found.size, found.place)
            except DiskFormatError as error:
                on_fault(error)
                continue
            is_one_piece = not found.size & _IN_PLACE and data and not self._is_in_segments(found.size)
            yield Value(name=found.name, data=data, at=_BASE_SIZE + found.place + 4 if is_one_piece else None)

    def _iter_value_records(self, key: Key, on_fault: OnFault) -> Iterator[_ValueRecord]:
        if not key.values_count:
            return
        if key.values_count > VALUES_MAX:
            raise _broken(f"key {key.name!r} says that it has {key.values_count} values")
        cell = self._cell(key.values_at, 4 * key.values_count)
        for index in range(key.values_count):
            try:
                raw = self._cell(_u32(cell, 4 * index), _VALUE.size, whole=True)
                signature, name_size, size, place, kind, flags = _VALUE.unpack_from(raw)
                if signature != b"vk":
                    raise _broken(f"key {key.name!r}: value {index + 1} has no signature")
                found = _name(raw, _VALUE.size, name_size, is_ascii=bool(flags & _VALUE_NAME_ASCII))
            except DiskFormatError as error:
                on_fault(error)
                continue
            yield _ValueRecord(found, size, place, kind)

    def _is_in_segments(self, size: int) -> bool:
        return size > _SEGMENT_SIZE and self._minor >= _BIG_SINCE_MINOR

    def _data(self, size: int, place: int) -> bytes:
        """The bytes of a value: in its own record, in one cell, or in several."""
        if size & _IN_PLACE:
            return place.to_bytes(4, "little")[: min(size & ~_IN_PLACE, 4)]
        if size > VALUE_SIZE_MAX:
            raise _broken(f"a value says that it has {size} bytes")
        if not size:
            return b""
        if not self._is_in_segments(size):
            return self._cell(place, size)
        signature, count, list_at = _BIG.unpack(self._cell(place, _BIG.size))
        if signature != b"db" or count != -(-size // _SEGMENT_SIZE):
            raise _broken("a large value has no list of its segments")
        cells = self._cell(list_at, 4 * count)
        sizes = [min(_SEGMENT_SIZE, size - index * _SEGMENT_SIZE) for index in range(count)]
        return b"".join(self._cell(_u32(cells, 4 * index), one) for index, one in enumerate(sizes))

    def _iter_subkeys(self, key: Key) -> Iterator[int]:
        if key.subkeys_count and key.subkeys_at != _NO_CELL:
            yield from itertools.islice(self._iter_listed(key.subkeys_at), min(key.subkeys_count, SUBKEYS_MAX))

    def _iter_listed(self, place: int, *, below_root: bool = False) -> Iterator[int]:
        """The cells that a list of subkeys names; a list of lists has only one level."""
        head = self._cell(place, 4)
        signature, count = head[:2], int.from_bytes(head[2:4], "little")
        if signature == _INDEX_ROOT and not below_root:
            cell = self._cell(place, 4 + 4 * count)
            for index in range(count):
                yield from self._iter_listed(_u32(cell, 4 + 4 * index), below_root=True)
            return
        step = _LISTED_KEY_SIZES.get(signature)
        if step is None:
            raise _broken(f"a list of subkeys has the signature {signature!r}")
        cell = self._cell(place, 4 + step * count)
        yield from (_u32(cell, 4 + step * index) for index in range(count))

    def _read_key(self, place: int) -> Key:
        raw = self._cell(place, _KEY_NAME_AT, whole=True)
        signature, flags, subkeys, subkeys_at, values, values_at, name_size = _KEY.unpack_from(raw)
        if signature != b"nk":
            raise _broken(f"the cell at {place:#x} is no key")
        name = _name(raw, _KEY_NAME_AT, name_size, is_ascii=bool(flags & _KEY_NAME_ASCII))
        return Key(
            name=name, subkeys_count=subkeys, subkeys_at=subkeys_at, values_count=values, values_at=values_at
        )  # fmt: skip

    def _cell(self, place: int, size: int, *, whole: bool = False) -> bytes:
        """The first bytes of a cell in use; ``whole`` also gives what is behind them, as far as a name may reach."""
        if place == _NO_CELL or place % 8:
            raise _broken(f"a cell at {place:#x} is named, where none can be")
        at = _BASE_SIZE + place
        wanted = size + (_NAME_MAX if whole else 0)
        head = self._read(at, 4)
        held = -int.from_bytes(head, "little", signed=True) - 4
        if len(head) < 4 or held < size:
            raise _broken(f"the cell at {place:#x} is free, or too small for what is in it")
        raw = self._read(at + 4, min(wanted, held))
        if len(raw) < size:
            raise _broken(f"the cell at {place:#x} lies behind the end of the file")
        return raw


def _name(raw: bytes, start: int, size: int, *, is_ascii: bool) -> str:
    part = raw[start : start + size]
    if len(part) < size:
        raise _broken("a name is longer than the cell that it is in")
    return part.decode("latin-1") if is_ascii else part.decode("utf-16-le", errors="replace")


def _decode(kind: int, raw: bytes) -> str | int | bytes:
    if kind in _TEXTS:
        text = raw[: len(raw) & ~1].decode("utf-16-le", errors="replace")
        return text.partition("\0")[0]
    if (kind, len(raw)) in ((_DWORD, 4), (_QWORD, 8)):
        return int.from_bytes(raw, "little")
    return raw


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _checksum(base: bytes) -> int:
    """XOR of the words before it, with 0 and -1 avoided. Source: as above, "Base block", "Checksum calculation"."""
    found = 0
    for offset in range(0, _CHECKSUM_AT, 4):
        found ^= _u32(base, offset)
    return {0xFFFFFFFF: 0xFFFFFFFE, 0: 1}.get(found, found)


def _broken(what: str) -> DiskFormatError:
    return DiskFormatError(f"Windows registry: {what}", hint=_HINT)
