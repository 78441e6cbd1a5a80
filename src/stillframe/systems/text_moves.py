r"""Texts of a Windows that name partitions, as they must be after a move.

Answers: "which bytes of this ``ReAgent.xml``, or of this ``boot.ini``, must say something else?" The size of the file
stays. A number of other length is fitted in by the spaces that XML lets stand between attributes and between elements;
where there are not enough of them, the file stays as it is and that is said.

Sources: ``ReAgent.xml`` as public copies of it show it: ``offset`` is the partition's first byte, ``guid`` the GUID of
the disk, which is zero on an MBR disk, where ``id`` is its signature as a decimal number (seen in no copy, so a file
that says otherwise is left). ``boot.ini``: Microsoft, KB 102873.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from stillframe.block.edits import Edit
from stillframe.events import Notice
from stillframe.systems.windows_moves import Moves, Rewriting, left_out

TEXT_SIZE_MAX: Final = 64 << 10
_BYTE_ORDER_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_TAG: Final = re.compile(rb"<[^<>]*>")
_ATTRIBUTE: Final = re.compile(rb"""(?<![\w:.-])([\w:.-]+)\s*=\s*(["'])([^"'<>]*)\2""")
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_SPACES: Final = b" \t\r\n"  # XML 1.0, section 2.3
_GUID: Final = re.compile(rb"\{?([0-9A-Fa-f-]{36})\}?")
_NO_GUID: Final = "00000000-0000-0000-0000-000000000000"
_ARC: Final = re.compile(rb"(?i)multi\(0\)disk\(0\)rdisk\(0\)partition\(([0-9]{1,3})\)")
_ARC_SIGNATURE: Final = re.compile(
    rb"(?i)signature\(([0-9a-f]{1,8})\)disk\([0-9]{1,3}\)rdisk\([0-9]{1,3}\)partition\(([0-9]{1,3})\)"
)
_REAGENT_HINT: Final = "In that Windows run 'reagentc /disable', then 'reagentc /enable'."
_BOOT_INI_HINT: Final = "Edit boot.ini: the number behind 'partition' counts the partitions of the disk from 1."


class _Gap(NamedTuple):
    """Spaces of the file: how many, and how many of them must stay."""

    at: int
    size: int
    least: int


class _Change(NamedTuple):
    """Another text for a range of the file."""

    start: int
    end: int
    new: bytes


def move_reagent(text: bytes, moves: Moves) -> Rewriting:
    """The places of recovery environments in ``ReAgent.xml``."""
    if text[:2] in _BYTE_ORDER_MARKS:
        return Rewriting(notices=(_reagent("it is not written in bytes as expected"),))
    edits, notices = list[Edit](), list[Notice]()
    for tag in _TAG.finditer(text):
        changes, unclear = _move_tag(text, tag.start(), tag.end(), moves)
        notices += [_reagent(unclear)] if unclear else []
        edit = _fit(text, tag.start(), tag.end(), changes) if changes else None
        if edit is not None:
            edits.append(edit)
        elif changes:
            notices.append(_reagent("a number in it became longer, and there is no room for it"))
    done = ("the recovery environment is looked for where its partition is now",) if edits else ()
    return Rewriting(edits=tuple(edits), done=done, notices=tuple(dict.fromkeys(notices)))


def move_boot_ini(text: bytes, moves: Moves) -> Rewriting:
    """The partitions of this disk in ``boot.ini``; it is the first one, else Windows would not have read the file."""
    if moves.scheme != "mbr":
        return Rewriting()
    changes, lost = list[_Change](), set[int]()
    for found in _ARC.finditer(text):
        changes += _move_number(found, 1, moves, lost)
    for found in _ARC_SIGNATURE.finditer(text):
        if found[1].decode().upper().zfill(8) == moves.old_disk:
            moved = list(_move_number(found, 2, moves, lost))
            new = moves.new_disk.encode() if found[1].isupper() else moves.new_disk.lower().encode()
            changes += [*moved, _Change(*found.span(1), new)] if moved and moves.old_disk != moves.new_disk else moved
    changes = [change for change in changes if change.new != text[change.start : change.end]]
    notices = [left_out(f"partition({number}) is not on the new disk") for number in sorted(lost)]
    if any(len(change.new) != change.end - change.start for change in changes):
        message = "a number in it became longer or shorter, and it keeps its size: it is not changed"
        notices.append(Notice(code="boot-ini-not-moved", message=message, hint=_BOOT_INI_HINT))
        changes = []
    edits = tuple(Edit(offset=one.start, old=text[one.start : one.end], new=one.new) for one in changes)
    done = (f"the numbers of partitions and disks follow them ({len(edits)})",) if edits else ()
    return Rewriting(edits=edits, done=done, notices=tuple(notices))


def _move_number(found: re.Match[bytes], group: int, moves: Moves, lost: set[int]) -> Iterator[_Change]:
    number = int(found[group])
    new = moves.find_arc_number(number)
    if new:
        yield _Change(*found.span(group), b"%d" % new)
    else:
        lost.add(number)


def _move_tag(text: bytes, start: int, end: int, moves: Moves) -> tuple[list[_Change], str]:
    """What changes in a tag that names a place on this disk, and what of it is unclear."""
    fields = {found[1]: found for found in _ATTRIBUTE.finditer(text, start, end)}
    guid, number, offset = (fields.get(name) for name in (b"guid", b"id", b"offset"))
    if guid is None or number is None or offset is None:
        return [], ""
    disk = _GUID.fullmatch(text, *guid.span(3))
    if disk is None or not _NUMBER.fullmatch(number[3]) or not _NUMBER.fullmatch(offset[3]):
        return [], ""
    named, new_start = disk[1].decode().upper(), moves.find_start(int(offset[3]))
    is_gpt = moves.scheme == "gpt" and named == moves.old_disk
    is_mbr = moves.scheme == "mbr" and named == _NO_GUID and int(number[3]) == int(moves.old_disk, 16) != 0
    if not is_gpt and not is_mbr:
        is_near = moves.scheme == "mbr" and named == _NO_GUID and int(number[3]) and new_start is not None
        return [], "it names a disk in a way that is not known" if is_near else ""
    if new_start is None:
        return [], "it names a partition that is not on the new disk" if int(offset[3]) else ""
    changes = [_Change(*offset.span(3), b"%d" % new_start)]
    if is_gpt:
        new = moves.new_disk.encode()
        changes.append(_Change(*disk.span(1), new if disk[1].isupper() else new.lower()))
    else:
        changes.append(_Change(*number.span(3), b"%d" % int(moves.new_disk, 16)))
    return [change for change in changes if change.new != text[change.start : change.end]], ""


def _fit(text: bytes, start: int, end: int, changes: list[_Change]) -> Edit | None:
    """One edit that makes the changes to a tag; ``None`` when it has no room for them.

    What an attribute gives or takes comes from the spaces behind it, then from those behind others, at last from those
    behind the tag. So the way back gives the same text again wherever the first was enough.
    """
    limit = end + len(text[end:]) - len(text[end:].lstrip(_SPACES))
    gaps = [*_iter_gaps(text, start, end), _Gap(end, limit - end, 0)]
    sizes = [gap.size for gap in gaps]
    for change in changes:
        own = next(index for index, gap in enumerate(gaps) if gap.at > change.end)
        sizes[own] += change.end - change.start - len(change.new)
    debt = sum(max(gap.least - size, 0) for gap, size in zip(gaps, sizes, strict=True))
    for index, gap in enumerate(gaps):
        taken = min(max(sizes[index] - gap.least, 0), debt)
        sizes[index], debt = max(sizes[index], gap.least) - taken, debt - taken
    if debt:
        return None
    spaces = [
        _Change(gap.at, gap.at + gap.size, text[gap.at : gap.at + gap.size].ljust(size)[:size])
        for gap, size in zip(gaps, sizes, strict=True)
    ]
    new, position = b"", start
    for change in sorted([*changes, *spaces]):
        new += text[position : change.start] + change.new
        position = change.end
    return Edit(offset=start, old=text[start:limit], new=new)


def _iter_gaps(text: bytes, start: int, end: int) -> Iterator[_Gap]:
    """The spaces behind each attribute of a tag; before another one, one must be left."""
    for attribute in _ATTRIBUTE.finditer(text, start, end):
        rest = text[attribute.end() : end]
        size = len(rest) - len(rest.lstrip(_SPACES))
        yield _Gap(attribute.end(), size, 0 if rest[size : size + 1] in (b"/", b">") else min(size, 1))


def _reagent(message: str) -> Notice:
    return Notice(code="recovery-not-moved", message=message, hint=_REAGENT_HINT)
