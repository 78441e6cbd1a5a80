"""Windows registry files made from nested dictionaries.

Answers: "what would Windows have written for these keys?" Another program (``hivexget``) must read the same in them;
the tests ask it.

Source: "Windows registry file format specification", github.com/msuhanov/regf.
"""

import struct
from collections.abc import Mapping
from typing import Final

Tree = Mapping[str, "Tree | str | int | bytes"]
_BASE_SIZE: Final = 4096
_BIN_SIZE: Final = 4096
_NONE: Final = 0xFFFFFFFF
_SEGMENT: Final = 16344


def build_hive(root: Tree, *, lists: str = "lh", dirty: bool = False) -> bytes:
    """A whole hive.

    Args:
        root: Keys are dictionaries; values are texts, numbers of 32 bits, or bytes.
        lists: How subkeys are listed: ``lf``, ``lh``, ``li``, or ``ri`` (lists of at most two, in a list).
        dirty: Leave it as a Windows does that was switched off.
    """
    builder = _Builder(lists)
    root_at = builder.add_key("ROOT", root, parent=_NONE, flags=0x2C)  # KEY_HIVE_ENTRY, KEY_NO_DELETE, KEY_COMP_NAME
    bins = builder.bins()
    base = bytearray(_BASE_SIZE)
    struct.pack_into("<4sII8xIIIIIII", base, 0, b"regf", 7, 6 if dirty else 7, 1, 5, 0, 1, root_at, len(bins), 1)
    checksum = 0
    for word in struct.unpack_from("<127I", base):
        checksum ^= word
    struct.pack_into("<I", base, 508, checksum)
    return bytes(base) + bins


class _Builder:
    def __init__(self, lists: str) -> None:
        self._lists = lists
        self._cells = bytearray(32)  # the head of the one bin
        self._security = _NONE
        self._keys = 0

    def bins(self) -> bytes:
        if self._security != _NONE:  # by how many keys it is named
            struct.pack_into("<I", self._cells, self._security + 4 + 12, self._keys)
        size = -(-(len(self._cells) + 8) // _BIN_SIZE) * _BIN_SIZE
        rest = size - len(self._cells)
        self._cells += struct.pack("<i", rest) + bytes(rest - 4)
        struct.pack_into("<4sII", self._cells, 0, b"hbin", 0, size)
        return bytes(self._cells)

    def add_key(self, name: str, tree: Tree, *, parent: int, flags: int = 0x20) -> int:
        place = self._cell(bytes(76 + len(name)))
        self._keys += 1
        if self._security == _NONE:
            self._security = self._add_security()
        keys = {key: one for key, one in tree.items() if isinstance(one, Mapping)}
        values = {key: one for key, one in tree.items() if not isinstance(one, Mapping)}
        ordered = sorted(keys, key=str.upper)
        places = [self.add_key(key, keys[key], parent=place) for key in ordered]
        list_at = self._add_list(ordered, places) if places else _NONE
        value_places = [self._add_value(key, one) for key, one in values.items()]
        values_at = self._cell(struct.pack(f"<{len(value_places)}I", *value_places)) if value_places else _NONE
        record = struct.pack(
            "<2sH8xIIIIIIIIII20xHH", b"nk", flags, 0, parent, len(places), 0, list_at, _NONE, len(value_places),
            values_at, self._security, _NONE, len(name), 0,
        )  # fmt: skip
        raw = record + name.encode("latin-1")
        self._cells[place + 4 : place + 4 + len(raw)] = raw
        return place

    def _add_security(self) -> int:
        descriptor = struct.pack("<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0)  # self-relative, without owner and lists
        place = len(self._cells)
        return self._cell(struct.pack("<2s2xIIII", b"sk", place, place, 1, len(descriptor)) + descriptor)

    def _add_list(self, names: list[str], places: list[int]) -> int:
        if self._lists == "ri":
            pairs = [places[at : at + 2] for at in range(0, len(places), 2)]
            parts = [self._cell(struct.pack(f"<2sH{len(one)}I", b"li", len(one), *one)) for one in pairs]
            return self._cell(struct.pack(f"<2sH{len(parts)}I", b"ri", len(parts), *parts))
        if self._lists == "li":
            return self._cell(struct.pack(f"<2sH{len(places)}I", b"li", len(places), *places))
        make = _hash if self._lists == "lh" else _hint
        pieces = b"".join(struct.pack("<II", at, make(name)) for name, at in zip(names, places, strict=True))
        return self._cell(struct.pack("<2sH", self._lists.encode(), len(places)) + pieces)

    def _add_value(self, name: str, value: "Tree | str | int | bytes") -> int:
        kind, raw = 3, b""
        if isinstance(value, str):
            kind, raw = 1, f"{value}\0".encode("utf-16-le")
        elif isinstance(value, int):
            kind, raw = 4, value.to_bytes(4, "little")
        elif isinstance(value, bytes):
            raw = value
        size, place = len(raw), 0
        if size <= 4:
            size, place = size | 0x80000000, int.from_bytes(raw.ljust(4, b"\0"), "little")
        elif size <= _SEGMENT:
            place = self._cell(raw)
        else:
            parts = [self._cell(raw[at : at + _SEGMENT]) for at in range(0, size, _SEGMENT)]
            listed = self._cell(struct.pack(f"<{len(parts)}I", *parts))
            place = self._cell(struct.pack("<2sHI", b"db", len(parts), listed))
        return self._cell(struct.pack("<2sHIIIH2x", b"vk", len(name), size, place, kind, 1) + name.encode("latin-1"))

    def _cell(self, raw: bytes) -> int:
        place = len(self._cells)
        size = -(-(len(raw) + 4) // 8) * 8
        self._cells += struct.pack("<i", -size) + raw.ljust(size - 4, b"\0")
        return place


def _hash(name: str) -> int:
    """Source: as above, "Hash leaf"."""
    found = 0
    for letter in name.upper():
        found = (found * 37 + ord(letter)) & 0xFFFFFFFF
    return found


def _hint(name: str) -> int:
    """Source: as above, "Fast leaf": the first four letters."""
    return int.from_bytes(name[:4].encode("latin-1").ljust(4, b"\0"), "little")
