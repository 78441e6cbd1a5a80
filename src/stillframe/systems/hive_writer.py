r"""A file of the Windows registry with other keys and values in it.

Answers: "what must this hive be so that this key says that?" In memory only, from bytes to bytes. A value that keeps
its size is changed where it is; what is new goes behind what is there; what is removed becomes free cells. A hive that
was not closed, or whose cells do not fit, is refused (``hive_cells``).

Source: "Windows registry file format specification", github.com/msuhanov/regf, sections "Base block" to "Unallocated
cell". That a subkey list of Windows' own has at most some 500 entries before it is divided: ReactOS,
``sdk/lib/cmlib/cmindex.c`` (``CmpMaxIndexPerHblock``).
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from stillframe.systems.hive_cells import LATIN, NO_CELL, HiveCells, broken, offset_of, u16, u32

REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_MULTI_SZ = 1, 2, 3, 4, 7
"""Types of values. Source: winnt.h."""
VALUE_MAX: Final = 16_344
"""Bytes of a value that is written: larger ones lie in several cells."""

_IN_PLACE: Final = 0x80000000
_SEGMENT_SIZE: Final = 16_344
_LEAF_MAX: Final = 500
_ENTRY: Final = {b"lf": 8, b"lh": 8, b"li": 4}
_SUBKEYS_AT, _SUBKEY_LIST_AT, _VALUES_AT, _VALUE_LIST_AT, _SECURITY_AT, _CLASS_AT = 20, 28, 36, 40, 44, 48
_LONGEST_SUBKEY_AT, _LONGEST_VALUE_AT, _LARGEST_VALUE_AT = 52, 60, 64
_HASHED_SINCE_MINOR: Final = 5
_SEGMENTS_SINCE_MINOR: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NewValue:
    """A value to be written.

    Attributes:
        name: Empty for the default value.
        kind: ``REG_SZ`` and so on.
        data: At most ``VALUE_MAX`` bytes.
    """

    name: str
    kind: int
    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) > VALUE_MAX:
            raise ValueError(f"{len(self.data)} bytes are too many for a value that is written here")


def text_value(name: str, text: str, kind: int = REG_SZ) -> NewValue:
    """A value that is a text."""
    return NewValue(name=name, kind=kind, data=f"{text}\0".encode("utf-16-le"))


def texts_value(name: str, *texts: str) -> NewValue:
    """A value that is a list of texts."""
    return NewValue(name=name, kind=REG_MULTI_SZ, data="".join(f"{one}\0" for one in (*texts, "")).encode("utf-16-le"))


def number_value(name: str, number: int) -> NewValue:
    """A value that is a number of 32 bits."""
    return NewValue(name=name, kind=REG_DWORD, data=number.to_bytes(4, "little"))


class HiveWriter:
    """A hive that is being changed. ``open`` makes it, ``finish`` gives its bytes.

    After an error of ``set_value`` or ``delete_key`` it is good for nothing more.
    """

    def __init__(self, cells: HiveCells) -> None:
        self._cells = cells
        self._raw = cells.raw
        self._minor = u32(cells.raw, 24)
        self._written = bytes(cells.raw[12:20])
        self._changed = False

    @classmethod
    def open(cls, contents: bytes) -> Self:
        """A hive that may be changed.

        Raises:
            DiskFormatError: It is none, was not closed, or its cells do not fit.
        """
        return cls(HiveCells.open(contents))

    def find_key(self, path: str) -> int | None:
        r"""The cell of a key by its path, such as ``ControlSet001\Services``; ``None`` when there is none.

        Raises:
            DiskFormatError: What leads there is broken.
        """
        place = self._root()
        for name in path.split("\\"):
            found = self._find_subkey(place, name)
            if found is None:
                return None
            place = found
        return place

    def set_value(self, path: str, value: NewValue) -> bool:
        """Give a key a value, and make the key when there is none. Returns whether anything changed.

        Raises:
            DiskFormatError: What leads there is broken.
        """
        key = self._make_key(path)
        wanted = value.name.upper()
        found = next((cell for cell in self._values(key) if self._cells.name(cell, b"vk").upper() == wanted), None)
        if found is None:
            self._add_value(key, value)
        elif not self._change_value(key, found, value):
            return False
        self._changed = True
        return True

    def delete_key(self, path: str) -> bool:
        """Remove a key and everything below it. Returns whether it was there.

        Raises:
            DiskFormatError: What leads there, or what is below it, is broken.
        """
        above, _, name = path.rpartition("\\")
        parent = self.find_key(above) if above else self._root()
        key = None if parent is None else self._find_subkey(parent, name)
        if parent is None or key is None:
            return False
        rest = [cell for cell in self._subkeys(parent) if cell != key]
        self._write_subkeys(parent, rest)
        stack = [key]
        while stack:
            cell = stack.pop()
            stack += self._subkeys(cell)
            self._free_key(cell)
        self._changed = True
        return True

    def finish(self) -> bytes:
        """The hive as it is now, closed; the very bytes that it was made of when nothing changed."""
        if not self._changed:
            return bytes(self._raw)
        return self._cells.close()

    # Keys

    def _root(self) -> int:
        return self._cells.at(u32(self._raw, 36), b"nk")

    def _find_subkey(self, key: int, name: str) -> int | None:
        wanted = name.upper()
        return next((cell for cell in self._subkeys(key) if self._cells.name(cell, b"nk").upper() == wanted), None)

    def _make_key(self, path: str) -> int:
        place = self._root()
        for name in path.split("\\"):
            place = self._find_subkey(place, name) or self._add_key(place, name)
        return place

    def _add_key(self, parent: int, name: str) -> int:
        raw, flags = _packed(name, b"nk")
        security = u32(self._raw, parent + _SECURITY_AT)
        record = struct.pack(
            "<2sH8sIIIIIIIIIIIIIIIHH", b"nk", flags, self._written, 0, offset_of(parent), 0, 0, NO_CELL, NO_CELL, 0,
            NO_CELL, security, NO_CELL, 0, 0, 0, 0, 0, len(raw), 0,
        )  # fmt: skip
        key = self._cells.allocate(record + raw)
        if security != NO_CELL:
            self._count_security(security, 1)
        upper, cells = name.upper(), self._subkeys(parent)
        names = [self._cells.name(cell, b"nk").upper() for cell in cells]
        at = next((index for index, known in enumerate(names) if known > upper), len(cells))
        self._write_subkeys(parent, [*cells[:at], key, *cells[at:]])
        self._cells.raise_to(parent + _LONGEST_SUBKEY_AT, 2 * len(name), bits=16)
        return key

    def _free_key(self, key: int) -> None:
        for cell in self._values(key):
            self._free_data(cell)
            self._cells.free(cell)
        for at in (_VALUE_LIST_AT, _CLASS_AT):
            if (at != _VALUE_LIST_AT or u32(self._raw, key + _VALUES_AT)) and u32(self._raw, key + at) != NO_CELL:
                self._cells.free(self._cells.at(u32(self._raw, key + at)))
        for cell in self._subkey_lists(key):
            self._cells.free(cell)
        security = u32(self._raw, key + _SECURITY_AT)
        if security != NO_CELL:
            self._count_security(security, -1)
        self._cells.free(key)

    def _count_security(self, offset: int, by: int) -> None:
        """Source: as above, "Key security": a list of all, each with how many keys name it."""
        cell = self._cells.at(offset, b"sk")
        count = u32(self._raw, cell + 12) + by
        if count < 0:
            raise broken("a security descriptor is named more often than it says")
        struct.pack_into("<I", self._raw, cell + 12, count)
        before, after = (u32(self._raw, cell + at) for at in (8, 4))
        if count == 0 and before != offset:
            struct.pack_into("<I", self._raw, self._cells.at(before, b"sk") + 4, after)
            struct.pack_into("<I", self._raw, self._cells.at(after, b"sk") + 8, before)
            self._cells.free(cell)

    def _subkeys(self, key: int) -> list[int]:
        """The cells of the keys of a key, in their order."""
        found = list[int]()
        for cell in self._subkey_lists(key):
            signature, count = bytes(self._raw[cell : cell + 2]), u16(self._raw, cell + 2)
            if signature == b"ri":
                continue
            step = _ENTRY[signature]
            found += [self._cells.at(u32(self._raw, cell + 4 + step * index), b"nk") for index in range(count)]
        if len(found) != u32(self._raw, key + _SUBKEYS_AT) or len(set(found)) != len(found):
            raise broken(f"key {self._cells.name(key, b'nk')!r} has another number of keys than it says")
        return found

    def _subkey_lists(self, key: int) -> list[int]:
        """The cells that list the keys of a key: one, or a list of lists and those."""
        if not u32(self._raw, key + _SUBKEYS_AT):
            return []
        head = self._cells.at(u32(self._raw, key + _SUBKEY_LIST_AT))
        lists = [head]
        if self._raw[head : head + 2] == b"ri":
            count = u16(self._raw, head + 2)
            self._cells.require(head, 4 + 4 * count)
            lists += [self._cells.at(u32(self._raw, head + 4 + 4 * index)) for index in range(count)]
        for cell in lists[1:] if len(lists) > 1 else lists:
            step = _ENTRY.get(bytes(self._raw[cell : cell + 2]))
            if step is None:
                raise broken(f"key {self._cells.name(key, b'nk')!r} has a list of keys that is none")
            self._cells.require(cell, 4 + step * u16(self._raw, cell + 2))
        return lists

    def _write_subkeys(self, key: int, cells: list[int]) -> None:
        old = self._subkey_lists(key)
        usual = b"lh" if self._minor >= _HASHED_SINCE_MINOR else b"lf"
        kind = bytes(self._raw[old[-1] : old[-1] + 2]) if old else usual
        parts = [cells[at : at + _LEAF_MAX] for at in range(0, len(cells), _LEAF_MAX)]
        if len(parts) == 1 and len(old) == 1:
            place = offset_of(self._cells.write(old[0], self._leaf(kind, parts[0])))
        else:
            for cell in old:
                self._cells.free(cell)
            leaves = [offset_of(self._cells.allocate(self._leaf(kind, part))) for part in parts]
            if len(leaves) > 1:
                root = struct.pack(f"<2sH{len(leaves)}I", b"ri", len(leaves), *leaves)
                leaves = [offset_of(self._cells.allocate(root))]
            place = leaves[0] if leaves else NO_CELL
        struct.pack_into("<I", self._raw, key + _SUBKEYS_AT, len(cells))
        struct.pack_into("<I", self._raw, key + _SUBKEY_LIST_AT, place)

    def _leaf(self, kind: bytes, cells: list[int]) -> bytes:
        make = {b"lh": _hash, b"lf": _name_hint}.get(kind)
        names = [self._cells.name(cell, b"nk") for cell in cells] if make else []
        entries = [struct.pack("<I", offset_of(cell)) for cell in cells]
        if make:
            entries = [one + make(name) for one, name in zip(entries, names, strict=True)]
        return struct.pack("<2sH", kind, len(cells)) + b"".join(entries)

    # Values

    def _values(self, key: int) -> list[int]:
        count = u32(self._raw, key + _VALUES_AT)
        if not count:
            return []
        cell = self._cells.at(u32(self._raw, key + _VALUE_LIST_AT))
        self._cells.require(cell, 4 * count)
        return [self._cells.at(u32(self._raw, cell + 4 * index), b"vk") for index in range(count)]

    def _add_value(self, key: int, value: NewValue) -> None:
        raw, flags = _packed(value.name, b"vk")
        size, place = self._store(value.data)
        record = struct.pack("<2sHIIIHH", b"vk", len(raw), size, place, value.kind, flags, 0)
        cells = [*self._values(key), self._cells.allocate(record + raw)]
        listed = struct.pack(f"<{len(cells)}I", *(offset_of(cell) for cell in cells))
        old = self._cells.at(u32(self._raw, key + _VALUE_LIST_AT)) if len(cells) > 1 else None
        place = offset_of(self._cells.allocate(listed)) if old is None else offset_of(self._cells.write(old, listed))
        struct.pack_into("<II", self._raw, key + _VALUES_AT, len(cells), place)
        self._cells.raise_to(key + _LONGEST_VALUE_AT, 2 * len(value.name))
        self._cells.raise_to(key + _LARGEST_VALUE_AT, len(value.data))

    def _change_value(self, key: int, cell: int, value: NewValue) -> bool:
        size, place, kind = struct.unpack_from("<III", self._raw, cell + 4)
        if kind == value.kind and self._data(size, place) == value.data:
            return False
        if len(value.data) != size & ~_IN_PLACE:
            self._cells.raise_to(key + _LARGEST_VALUE_AT, len(value.data))
        if not size & _IN_PLACE and 4 < size <= _SEGMENT_SIZE and len(value.data) > 4:
            size, place = len(value.data), offset_of(self._cells.write(self._cells.at(place), value.data))
        else:
            self._free_data(cell)
            size, place = self._store(value.data)
        struct.pack_into("<III", self._raw, cell + 4, size, place, value.kind)
        return True

    def _store(self, data: bytes) -> tuple[int, int]:
        """The size and place of data, as a value notes them."""
        if len(data) <= 4:
            return len(data) | _IN_PLACE, int.from_bytes(data.ljust(4, b"\0"), "little")
        return len(data), offset_of(self._cells.allocate(data))

    def _data(self, size: int, place: int) -> bytes | None:
        """The bytes of a value; ``None`` for one in several cells."""
        if size & _IN_PLACE:
            return place.to_bytes(4, "little")[: size & ~_IN_PLACE]
        if size > _SEGMENT_SIZE:
            return None
        if not size:
            return b""
        cell = self._cells.at(place)
        self._cells.require(cell, size)
        return bytes(self._raw[cell : cell + size])

    def _free_data(self, value: int) -> None:
        size, place = struct.unpack_from("<II", self._raw, value + 4)
        if size & _IN_PLACE or not size:
            return
        cell = self._cells.at(place)
        if size > _SEGMENT_SIZE and self._minor >= _SEGMENTS_SINCE_MINOR:
            count, listed = u16(self._raw, cell + 2), self._cells.at(u32(self._raw, cell + 4))
            self._cells.require(listed, 4 * count)
            for index in range(count):
                self._cells.free(self._cells.at(u32(self._raw, listed + 4 * index)))
            self._cells.free(listed)
        self._cells.free(cell)


def _packed(name: str, signature: bytes) -> tuple[bytes, int]:
    try:
        return name.encode("latin-1"), LATIN[signature]
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), 0


def _hash(name: str) -> bytes:
    found = 0
    for letter in name.upper():
        found = (found * 37 + ord(letter)) & 0xFFFFFFFF
    return found.to_bytes(4, "little")


def _name_hint(name: str) -> bytes:
    return bytes(ord(letter) if ord(letter) < 256 else 0 for letter in name[:4]).ljust(4, b"\0")
