"""Damaged headers of LUKS let only our own errors out; sectors that are used are kept whole.

The ``fuzz_`` functions take any bytes; ``make fuzz`` runs them for longer. No key is derived here: what that may cost
is bounded by the header's parser, which is what these are about.
"""

import contextlib
import hashlib
import json
import random
import struct
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.capture.unlocking import OpenedVolume
from stillframe.disk.luks import PlaintextReader, Segment, read_header
from stillframe.disk.luks.records import ARGON2_WORK_KIB_MAX, ITERATIONS_MAX, Argon2
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs import Volume

SIZE: Final = 256 * 1024
AREA: Final = {"type": "raw", "size": "65536", "encryption": "aes-xts-plain64", "key_size": 64}
JSON: Final[dict[str, Any]] = {
    "keyslots": {
        "0": {
            "type": "luks2", "key_size": 64,
            "area": AREA | {"offset": "32768"},
            "kdf": {"type": "argon2id", "time": 4, "memory": 65536, "cpus": 4, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="},
            "af": {"type": "luks1", "stripes": 1000, "hash": "sha256"},
        },
        "1": {
            "type": "luks2", "key_size": 64,
            "area": AREA | {"offset": "98304"},
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="},
            "af": {"type": "luks1", "stripes": 1000, "hash": "sha256"},
        },
    },
    "tokens": {},
    "segments": {
        "0": {
            "type": "crypt", "offset": "163840", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64",
            "sector_size": 512,
        }
    },
    "digests": {
        "0": {
            "type": "pbkdf2", "keyslots": ["0", "1"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
            "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "digest": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        }
    },
    "config": {"json_size": "12288", "keyslots_size": "131072"},
}  # fmt: skip
TEXT: Final = json.dumps(JSON).encode()


def with_json(text: bytes) -> bytes:
    """A volume of LUKS2 whose two copies have right checksums, whatever they say."""
    disk = bytearray(SIZE)
    for start, magic in ((0, b"LUKS\xba\xbe"), (16384, b"SKUL\xba\xbe")):
        head = struct.pack(">6sHQQ48s32s64s40s48sQ", magic, 2, 16384, 1, b"", b"sha256", b"", b"u", b"", start)
        copy = bytearray(head.ljust(4096, b"\0") + text[:12288].ljust(12288, b"\0"))
        copy[448:480] = hashlib.sha256(copy).digest()
        disk[start : start + 16384] = copy
    return bytes(disk)


def fuzz_luks(data: bytes) -> None:
    disk = MemoryDisk(data)
    with contextlib.suppress(DiskFormatError):
        header = read_header(disk)
        if header is None:
            return
        segment = header.segment
        assert 0 < segment.extent.start < segment.extent.end <= len(data)
        for slot in header.slots:
            assert slot.area.end <= segment.extent.start
            derivation = slot.derivation
            if isinstance(derivation, Argon2):
                assert derivation.passes * derivation.memory_kib <= ARGON2_WORK_KIB_MAX
            else:
                assert derivation.iterations <= ITERATIONS_MAX
        plain = PlaintextReader(disk, segment, bytes(range(header.slots[0].key_size)))
        plain.read_at(plain.size - 1, 1)


def fuzz_luks1(data: bytes) -> None:
    fuzz_luks((b"LUKS\xba\xbe\0\1" + data).ljust(SIZE, b"\0"))


def fuzz_luks2(data: bytes) -> None:
    fuzz_luks(with_json(data))


def fuzz_luks2_changed(data: bytes) -> None:
    """The good text with some bytes changed: where, and to what, is chosen by the data."""
    choose, text = random.Random(data), bytearray(TEXT)
    for _ in range(choose.randrange(1, 6)):
        text[choose.randrange(len(text))] = choose.choice(b'0123456789-.e"{}[]:,x\xff')
    fuzz_luks2(bytes(text))


def test_the_good_one_is_read() -> None:
    header = read_header(MemoryDisk(with_json(TEXT)))
    assert header is not None
    assert [slot.number for slot in header.slots] == [0, 1]
    assert header.segment.extent == Extent(163840, SIZE)


def test_deep_and_endless_json_is_refused() -> None:
    fuzz_luks2(b"[" * 12288)
    fuzz_luks2(b'{"keyslots":' * 1000)


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_header_of_version_1(data: bytes) -> None:
    fuzz_luks1(data)


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=64))
def test_changed_json(data: bytes) -> None:
    fuzz_luks2_changed(data)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_json(data: bytes) -> None:
    fuzz_luks2(data)


@settings(deadline=None)
@given(
    st.sampled_from([512, 1024, 2048, 4096]), st.sampled_from([512, 32768, 33280]),
    st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 9000)), max_size=12),
)  # fmt: skip
def test_a_sector_of_which_one_byte_is_used_is_kept(sector_size: int, start: int, free: list[tuple[int, int]]) -> None:
    encrypted = Extent(start, start + 65536)
    unused = ExtentSet.from_extents(Extent(start + at, min(start + at + size, encrypted.end)) for at, size in free)
    volume = OpenedVolume(
        name="it", place=Extent(0, 1 << 20), inside=Volume(filesystem="ext4"),
        segment=Segment(extent=encrypted, cipher="aes-xts-plain64", sector_size=sector_size, first_iv=0),
    )  # fmt: skip
    found = volume.whole_sectors(unused)
    for sector in range(encrypted.start, encrypted.end, sector_size):
        whole = Extent(sector, sector + sector_size)
        assert found.clipped(whole).size == (sector_size if unused.contains(whole) else 0)
    assert not len(found - ExtentSet.of(encrypted))
