"""The grammar of LVM's metadata, and its bounds."""

import time

import pytest

from stillframe.disk.lvm import parse_group
from stillframe.disk.lvm.text import TEXT_SIZE_MAX, parse_text
from stillframe.errors import DiskFormatError

GROUP = """
contents = "Text Format Volume Group"  # a comment with "quotes" and { braces
version = 1
house {
    id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAAA"
    seqno = 7
    extent_size = 8
    physical_volumes {
        pv0 { id = "BBBBBB" pe_start = 2048 pe_count = 100 status = ["ALLOCATABLE"] }
    }
    logical_volumes {
        root {
            id = "CCCCCC"
            status = ["READ", "VISIBLE"]
            segment_count = 1
            segment1 { start_extent = 0 extent_count = 10 type = "striped" stripe_count = 1 stripes = ["pv0", 5] }
        }
    }
}
"""


def test_settings_sections_arrays_and_comments() -> None:
    root = parse_text(b'a = 1 b = -5 # x\nc = "q\\"u\\\\o" d { e = [] f = [ "x", 2, ] 5x { } 7 { } }\n\0\0')
    assert (root.values["a"], root.values["b"], root.values["c"]) == (1, -5, 'q"u\\o')
    inner = root.section("d")
    assert (inner.array("e"), inner.array("f"), inner.array("g")) == ([], ["x", 2], [])
    assert list(inner.sections) == ["5x", "7"]


@pytest.mark.parametrize(
    "text",
    [
        "a", "a =", "a = [", "a = [1", "a = [1 2]", "a {", "a }", "}", "a = 1 a = 2", "a { } a { }", "a = {", "= 1",
        'a = "x', "a = b", "a = 1.5", f"a = {'9' * 30}", "a { " * 20 + "}" * 20, "@", '[ "x" ]', "a = [1, , 2]",
    ],
)  # fmt: skip
def test_what_is_not_of_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(DiskFormatError):
        parse_text(text.encode())


def test_text_is_bounded_and_hostile_text_costs_no_time() -> None:
    with pytest.raises(DiskFormatError, match="at most"):
        parse_text(bytes(TEXT_SIZE_MAX + 1))
    hostile = (b"# " * 500_000 + b"\n\x01", b"\n# #" * 200_000 + b"\n@", b'"\\' * 300_000, b" " * 1_000_000 + b"@")
    began = time.monotonic()
    for text in hostile:
        with pytest.raises(DiskFormatError):
            parse_text(text)
    assert time.monotonic() - began < 5


def test_a_group_is_read() -> None:
    group = parse_group(GROUP.encode())
    (root,) = group.logical
    assert (group.name, group.seqno, root.name, root.type, root.size) == ("house", 7, "root", "linear", 40960)
    assert root.segments[0].stripes[0][1] == (2048 + 5 * 8) * 512


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"), ("seqno = 7", ""), ("extent_size = 8", "extent_size = 0"),
        ("extent_size = 8", 'extent_size = "8"'), ("pe_count = 100", "pe_count = 14"),
        ("pe_count = 100", "pe_count = -1"),
        ("segment_count = 1", "segment_count = 2"), ("start_extent = 0", "start_extent = 1"),
        ("extent_count = 10", "extent_count = 0"), ("extent_count = 10", "extent_count = 99999999999999"),
        ("stripe_count = 1", "stripe_count = 2"), ("stripe_count = 1", "stripe_count = 0"),
        ('["pv0", 5]', '["pv0", -1]'), ('["pv0", 5]', '["pv0", "5"]'), ('["pv0", 5]', "[]"),
        ('["pv0", 5]', '["pv0", 5, "pv0"]'), ("root {", '"../x" {'), ("house {", "a = 5 } house {"),
        ('stripe_count = 1 stripes = ["pv0", 5]', 'stripe_count = 2 stripe_size = 3 stripes = ["pv0", 5, "pv0", 20]'),
        ('stripe_count = 1 stripes = ["pv0", 5]', 'stripe_count = 2 stripes = ["pv0", 5, "pv0", 20]'),
        ('pv0 { id = "BBBBBB"', 'pv1 { id = "BBBBBB" pe_start = 1 pe_count = 1 } pv0 { id = "BBBBBB"'),
    ],
)  # fmt: skip
def test_a_group_that_contradicts_itself_is_refused(old: str, new: str) -> None:
    assert old in GROUP
    with pytest.raises(DiskFormatError) as caught:
        parse_group(GROUP.replace(old, new, 1).encode())
    assert "LVM" in caught.value.message


def test_a_volume_on_other_volumes_and_one_that_is_merged_into_are_named_only() -> None:
    stacked = parse_group(GROUP.replace('["pv0", 5]', '["pvmove0", 5]').encode()).logical[0]
    assert (stacked.type, stacked.segments) == ("stacked", ())
    merging = """logical_volumes {
        snapshot0 { id = "D" status = [] segment_count = 1
            segment1 { start_extent = 0 extent_count = 1 type = "snapshot" merging_store = "old" origin = "root" } }
    """
    group = parse_group(GROUP.replace("logical_volumes {", merging).encode())
    assert {one.name: one.type for one in group.logical} == {"snapshot0": "snapshot", "root": "snapshot"}
