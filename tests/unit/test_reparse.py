"""Links of Windows, as [MS-FSCC] 2.1.2 lays them out."""

import struct

import pytest

from stillframe.fs.files.reparse import parse_reparse


def build(tag: int, body: bytes) -> bytes:
    return struct.pack("<IHH", tag, len(body), 0) + body


def names(real: str, shown: str, flags: bytes = b"") -> bytes:
    first, second = real.encode("utf-16-le"), shown.encode("utf-16-le")
    return struct.pack("<HHHH", 0, len(first), len(first), len(second)) + flags + first + second


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (build(0xA0000003, names("\\??\\D:\\Data", "D:\\Data")), b"D:/Data"),
        (build(0xA0000003, names("\\??\\D:\\Data", "")), b"D:/Data"),
        (build(0xA000000C, names("..\\x", "..\\x", b"\1\0\0\0")), b"../x"),
        (build(0xA000001D, b"\2\0\0\0/home/anna"), b"/home/anna"),
    ],
)
def test_links_say_where_they_lead(raw: bytes, target: bytes) -> None:
    assert parse_reparse(raw) == (target, "")


@pytest.mark.parametrize(
    "raw",
    [
        b"", build(0xA0000003, b"\0\0"), build(0xA0000003, struct.pack("<HHHH", 0, 200, 0, 0)),
        build(0xA000000C, names("", "", b"\0\0\0\0")), build(0xA0000003, names("a\0b", "a\0b")),
        build(0x80000017, bytes(16)), build(0x9000301A, bytes(16)), build(0x12345678, b""),
    ],
)  # fmt: skip
def test_what_is_no_link_says_why(raw: bytes) -> None:
    found = parse_reparse(raw)
    assert found.target is None
    assert found.refusal
