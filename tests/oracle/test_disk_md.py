"""Superblocks of md as we read them, against ``mdadm --examine`` of the same members."""

import contextlib
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk.md import ArrayMember, read_member, rename_array
from stillframe.errors import DiskFormatError
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_raid import MemberPlan, build_member

MIB = 1 << 20
VERSIONS = ("0.90", "1.0", "1.1", "1.2")
CONTENTS = bytes(range(256)) * (4 * MIB // 256)


def examine(folder: Path, member: bytes) -> str:
    (folder / "member").write_bytes(member)
    return run_tool("mdadm", "--examine", str(folder / "member"))


def found_in(member: bytes) -> ArrayMember:
    found = read_member(MemoryDisk(member))
    assert found is not None
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_member_is_what_mdadm_says_of_it(tmp_path: Path, version: str, number: int) -> None:
    member = build_member(CONTENTS, MemberPlan(version=version, number=number, events=(3 << 32) + 5))
    shown, found = examine(tmp_path, member), found_in(member)
    said = dict(re.findall(r"^ *([A-Z][A-Za-z ]+?) : (.*?) *$", shown, re.MULTILINE))
    assert said["Checksum"].endswith("- correct")
    assert f"{said['Version']} ".startswith(found.version)
    assert str(said.get("Array UUID") or said["UUID"]).split()[0].replace(":", "") == found.array
    assert said["Raid Level"] == f"raid{found.level}"
    events = f"{found.events >> 32}.{found.events & 0xFFFFFFFF}" if version == "0.90" else str(found.events)
    assert said["Events"] in (events, str(found.events))
    role = f"Active device {found.role}" if version != "0.90" else f"{number}       8"
    assert role in shown
    assert int(re.search(r"\d+", said["Array Size"])[0]) * 1024 == found.content.size  # type: ignore[index]
    if "Data Offset" in said:
        assert int(said["Data Offset"].split()[0]) * 512 == found.content.start
    assert found.refusal == ""
    assert member[found.content.start : found.content.end] == CONTENTS


@pytest.mark.parametrize("version", VERSIONS)
def test_one_flipped_bit_of_a_superblock_is_found(version: str) -> None:
    member = bytearray(build_member(CONTENTS, MemberPlan(version=version)))
    place = member.rindex(bytes.fromhex("fc4e2ba9"))
    places = range(12, 256) if version != "0.90" else range(12, 4096, 7)
    for at in places:
        member[place + at] ^= 4
        with contextlib.suppress(DiskFormatError):
            assert read_member(MemoryDisk(member)) is None, at  # the superblock says that it lies elsewhere
        member[place + at] ^= 4
    assert found_in(bytes(member)).role == 0


@pytest.mark.parametrize(
    ("plan", "words", "said"),
    [
        (MemberPlan(roles=(0xFFFF, 1)), "spare", "Device Role : spare"),
        (MemberPlan(roles=(0xFFFE, 1)), "failed", "Device Role : spare"),
        (MemberPlan(features=2), "being rebuilt", "Recovery Offset"),
        (MemberPlan(features=8), "bad blocks", "Feature Map : 0x8"),
        (MemberPlan(features=1 << 20), "not known", "Feature Map : 0x100000"),
        (MemberPlan(version="0.90", roles=(0xFFFE, 1)), "failed", "faulty"),
    ],
)
def test_a_member_whose_bytes_may_be_old_says_so(tmp_path: Path, plan: MemberPlan, words: str, said: str) -> None:
    member = build_member(CONTENTS, plan)
    assert said in examine(tmp_path, member)
    assert words in found_in(member).refusal


@pytest.mark.parametrize("version", VERSIONS)
def test_other_levels_are_known_and_not_taken_for_mirrors(tmp_path: Path, version: str) -> None:
    member = build_member(CONTENTS, MemberPlan(version=version, level=5))
    assert "raid5" in examine(tmp_path, member)
    assert (found_in(member).level, found_in(member).content.size) == (5, 0)


def test_nothing_is_nobodys_and_a_member_that_was_cut_short_is_broken() -> None:
    assert read_member(MemoryDisk(bytes(MIB))) is None
    assert read_member(MemoryDisk(b"")) is None
    member = build_member(CONTENTS, replace(MemberPlan(), version="1.2"))
    with pytest.raises(DiskFormatError, match="inside"):
        read_member(MemoryDisk(member[: 3 * MIB]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("has_bitmap", [False, True])
@pytest.mark.root
def test_a_member_of_a_renamed_array_is_what_mdadm_says(tmp_path: Path, version: str, has_bitmap: bool) -> None:
    raw = bytearray(build_member(CONTENTS, MemberPlan(version=version)))
    found = found_in(bytes(raw))
    bitmap = found.place + (4096 if version == "0.90" else 8 * 512)
    if has_bitmap:
        raw[bitmap : bitmap + 24] = b"bitm" + (4).to_bytes(4, "little") + raw[found.place + 16 : found.place + 32]
        raw[bitmap + 52 : bitmap + 60] = struct.pack("<II", 1 << 16, 5)  # chunksize, daemon_sleep of bitmap_super_t
        set_bitmap(raw, found)
    member, new = found_in(bytes(raw)), "00112233445566778899aabbccddeeff"
    disk = MemoryDisk(bytes(raw))
    edits = rename_array(disk, member, new)
    for edit in edits:
        assert disk.read_at(edit.offset, len(edit.old)) == edit.old
        disk.write_at(edit.offset, edit.new)
    changed = disk.read_at(0, disk.size)
    shown = examine(tmp_path, changed)
    said = dict(re.findall(r"^ *([A-Z][A-Za-z ]+?) : (.*?) *$", shown, re.MULTILINE))
    assert said["Checksum"].endswith("- correct")
    assert str(said.get("Array UUID") or said["UUID"]).split()[0].replace(":", "") == new
    assert found_in(changed) == replace(member, array=new)
    assert changed[member.content.start : member.content.end] == CONTENTS
    if has_bitmap and version != "0.90":
        device = attach_loop(tmp_path / "member")
        try:
            shown = run_tool("mdadm", "--examine-bitmap", device)
        finally:
            detach_loop(device)
        assert new in re.findall(r"UUID : (\S+)", shown)[0].replace(":", "")
    if has_bitmap:
        fresh = bytes.fromhex(new)
        words = [fresh[at : at + 4] for at in range(0, 16, 4)]
        assert changed[bitmap + 8 : bitmap + 24] == b"".join(w[::-1] if version == "0.90" else w for w in words)


def set_bitmap(raw: bytearray, member: ArrayMember) -> None:
    """Say in a superblock that a bitmap lies right behind it; checksum as ``rename_array`` will make it anyway."""
    place = member.place
    if member.version == "0.90":
        raw[place + 133] |= 1
        raw[place + 152 : place + 156] = bytes(4)
        total = sum(struct.unpack_from("<1024I", raw, place))
        raw[place + 152 : place + 156] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")
        return
    raw[place + 8] |= 1
    raw[place + 96 : place + 100] = (8).to_bytes(4, "little", signed=True)
    raw[place + 216 : place + 220] = bytes(4)
    total = sum(struct.unpack_from("<65I", raw, place))
    raw[place + 216 : place + 220] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")
