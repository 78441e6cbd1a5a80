"""The container of objects, byte by byte from the tables of the format page, section 4, and its limits."""

import hashlib
import struct
import tracemalloc

import pytest
import zstandard

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.repo.format import (
    Expected,
    Footer,
    Header,
    ObjectType,
    build_payload,
    decompress,
    object_name,
    parse_footer,
    parse_header,
    parse_object_name,
    parse_payload,
)

REPOSITORY, OBJECT, SALT = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64))
EXPECTED = Expected(kind=ObjectType.IMAGE, repository_id=REPOSITORY, object_id=OBJECT)
TRAILER_MAX = 134_217_728


def header_bytes(
    magic: bytes = b"STILLFRM", version: int = 1, kind: int = 3, cipher: int = 1, ids: bytes = REPOSITORY + OBJECT
) -> bytes:
    """Section 4, first table: offsets 0, 8, 10, 11, 12, 16, 32, 48."""
    return magic + struct.pack("<H", version) + bytes([kind, cipher, 0, 0, 0, 0]) + ids + SALT


def footer_bytes(offset: int, length: int, whole: int, digest: bytes = bytes(32)) -> bytes:
    """Section 4, second table: offsets 0, 8, 12, 16, 24, 56."""
    return struct.pack("<QIIQ", offset, length, 0, whole) + digest + b"MRFLLITS"


def test_a_header_is_the_table_of_the_page() -> None:
    header = Header(kind=ObjectType.IMAGE, repository_id=REPOSITORY, object_id=OBJECT, salt=SALT)
    assert header.build() == header_bytes()
    assert len(header_bytes()) == 80
    assert parse_header(header_bytes(), EXPECTED) == header


@pytest.mark.parametrize(
    "raw",
    [
        header_bytes()[:79],
        b"",
        header_bytes(magic=b"STILLFRN"),
        header_bytes(kind=1),
        header_bytes(kind=0),
        header_bytes(kind=255),
        header_bytes(ids=OBJECT + OBJECT),
        header_bytes(ids=REPOSITORY + REPOSITORY),
        header_bytes()[:12] + b"\x01" + header_bytes()[13:],
        header_bytes()[:15] + b"\x80" + header_bytes()[16:],
    ],
)
def test_a_header_of_something_else_is_damage(raw: bytes) -> None:
    with pytest.raises(DamagedError, match=OBJECT.hex()):
        parse_header(raw, EXPECTED)


@pytest.mark.parametrize("raw", [header_bytes(version=2), header_bytes(version=0), header_bytes(cipher=3)])
def test_a_later_version_is_not_damage(raw: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="version"):
        parse_header(raw, EXPECTED)


def test_what_a_put_key_may_not_make_is_damage() -> None:
    assert parse_header(header_bytes(cipher=2), EXPECTED).cipher == 2
    raw = header_bytes(kind=ObjectType.PROOF, cipher=2)
    with pytest.raises(DamagedError, match="may not make"):
        parse_header(raw, Expected(kind=ObjectType.PROOF, repository_id=REPOSITORY, object_id=OBJECT))


def test_a_footer_is_the_table_of_the_page() -> None:
    trailer = bytes(25)
    head = footer_bytes(80, 25, 169)[:24]
    digest = hashlib.sha256(b"head" + b"body" + head).digest()
    footer = Footer.over(b"head", b"body", trailer_offset=80, trailer_size=len(trailer))
    assert footer.build() == footer_bytes(80, 25, 169, digest)
    assert parse_footer(footer.build(), object_size=169) == footer
    assert footer.covers(b"headbody")
    assert not footer.covers(b"headbodz")


@pytest.mark.parametrize(
    ("offset", "length", "valid"),
    [
        (80, 25, True),
        (79, 25, False),
        (80, 24, False),
        (80, TRAILER_MAX, True),
        (80, TRAILER_MAX + 1, False),
        (1 << 40, 25, True),
    ],
)
def test_limits_of_a_footer(offset: int, length: int, valid: bool) -> None:
    whole = offset + length + 64
    assert (parse_footer(footer_bytes(offset, length, whole), object_size=whole) is not None) == valid
    if valid:
        assert Footer.over(trailer_offset=offset, trailer_size=length).object_size == whole
    else:
        with pytest.raises(ValueError, match="limits"):
            Footer.over(trailer_offset=offset, trailer_size=length)


@pytest.mark.parametrize("size", [168, 170, 0])
def test_a_footer_of_a_file_of_another_length_is_none(size: int) -> None:
    assert parse_footer(footer_bytes(80, 25, 169), object_size=size) is None


@pytest.mark.parametrize("whole", [168, 170])
def test_a_footer_with_a_gap_or_overlap_is_none(whole: int) -> None:
    assert parse_footer(footer_bytes(80, 25, whole), object_size=whole) is None


def test_a_footer_with_zero_bytes_set_covers_nothing_and_one_of_another_size_is_none() -> None:
    raw = Footer.over(b"head", trailer_offset=80, trailer_size=25).build()
    set_bits = parse_footer(raw[:12] + b"\x01" + raw[13:], object_size=169)
    assert set_bits is not None
    assert not set_bits.covers(b"head")
    assert parse_footer(raw[1:], object_size=169) is None
    assert parse_footer(raw[:-1] + b"T", object_size=169) is None


@pytest.mark.parametrize("kind", list(ObjectType))
def test_names_are_those_of_section_2(kind: ObjectType) -> None:
    folders = ["packs", "index", "images", "sessions", "tombstones", "proofs", "keys", "screenshots", "tables"]
    folders += ["parity", "settings"]
    text = OBJECT.hex()
    later = {12: "ended", 13: "retired", 14: "grants", 15: "warnings", 16: "revoked"}
    folder = later[kind] if kind in later else folders[kind - 1]
    expected = f"keys/{text}.a" if kind == 7 else f"{folder}/{text[:2]}/{text}"
    assert object_name(kind, OBJECT, copy="a") == expected
    assert parse_object_name(kind, expected) == OBJECT


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ObjectType.PACK, "packs/10/" + "11" * 16),
        (ObjectType.PACK, "packs/" + "11" * 16),
        (ObjectType.PACK, "packs/AA/" + "AA" * 16),
        (ObjectType.PACK, "packs/11/" + "11" * 15),
        (ObjectType.PACK, "packs/11/" + "11" * 16 + ".a"),
        (ObjectType.PACK, "packs/11/" + "11" * 16 + ".part"),
        (ObjectType.PACK, "index/11/" + "11" * 16),
        (ObjectType.PACK, "packs/"),
        (ObjectType.KEY_SLOT, "keys/" + "11" * 16),
        (ObjectType.KEY_SLOT, "keys/" + "aa" * 16),
        (ObjectType.KEY_SLOT, "keys/" + "11" * 16 + ".c"),
        (ObjectType.KEY_SLOT, "keys/" + "11" * 16 + ".b.a"),
        (ObjectType.KEY_SLOT, "keys/" + "11" * 16 + ".a.b"),
        (ObjectType.KEY_SLOT, "keys/11/" + "11" * 16 + ".a"),
    ],
)
def test_other_names_are_left_alone(kind: ObjectType, name: str) -> None:
    assert parse_object_name(kind, name) is None


def test_a_payload_is_codec_zeros_length_data() -> None:
    assert build_payload(b"short") == bytes([0, 0, 0, 0, 5, 0, 0, 0]) + b"short"
    long = build_payload(b"a" * 1000)
    assert long[:8] == bytes([1, 0, 0, 0]) + (1000).to_bytes(4, "little")
    assert zstandard.ZstdDecompressor().decompress(long[8:]) == b"a" * 1000
    noise = hashlib.shake_256(b"noise").digest(1000)
    assert build_payload(noise) == bytes([0, 0, 0, 0]) + (1000).to_bytes(4, "little") + noise
    for data in (b"", b"short", b"a" * 1000, noise):
        assert parse_payload(build_payload(data), thing="x") == data


def frame(data: bytes, *, told: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=told).compress(data)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(7),
        struct.pack("<BxxxI", 0, 6) + b"short",
        struct.pack("<BxxxI", 0, 4) + b"short",
        struct.pack("<BxxxI", 2, 5) + b"short",
        struct.pack("<BxxxI", 0, TRAILER_MAX + 1),
        struct.pack("<BxxxI", 1, 100) + frame(b"a" * 99),
        struct.pack("<BxxxI", 1, 100) + frame(b"a" * 100, told=False),
        struct.pack("<BxxxI", 1, 100) + frame(b"a" * 100)[:-1],
        struct.pack("<BxxxI", 1, 100) + frame(b"a" * 100) + b"x",
        struct.pack("<BxxxI", 1, 100) + b"no frame",
        struct.pack("<BxxxI", 1, 100),
    ],
)
def test_a_payload_that_is_not_what_it_says_is_damage(raw: bytes) -> None:
    with pytest.raises(DamagedError):
        parse_payload(raw, thing="x")


def test_the_largest_payload_is_read() -> None:
    data = bytes(TRAILER_MAX)
    assert len(parse_payload(struct.pack("<BxxxI", 1, TRAILER_MAX) + frame(data), thing="x")) == TRAILER_MAX
    over = struct.pack("<BxxxI", 1, TRAILER_MAX + 1) + frame(data + b"\0")
    with pytest.raises(DamagedError):
        parse_payload(over, thing="x")


def test_a_frame_that_lies_of_its_length_takes_no_memory() -> None:
    bomb = frame(bytes(64 << 20))
    liar = bytearray(frame(bytes(100_000)))
    field = bytes(liar).find((100_000).to_bytes(4, "little"))
    assert field > 0
    liar[field : field + 4] = (1000).to_bytes(4, "little")
    tracemalloc.start()
    for raw in (bomb, bytes(liar)):
        with pytest.raises(DamagedError):
            decompress(raw, 1000, thing="x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
