"""New ids for the layers that volumes lie in: groups of LVM with their physical volumes, LUKS, RAID.

Answers: "can this copy stay beside its original, as far as its layers go?" Two disks whose physical volumes, arrays or
encrypted volumes have the same ids cannot be told apart by LVM, md or ``crypttab``. Names of groups stay, as they are
in ``fstab`` and boot menus: that two groups of one name are not both active in one computer is for a person, who is
told.
"""

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockWriter
from stillframe.block.edits import Edit, find_mismatch
from stillframe.disk.luks import rename_luks
from stillframe.disk.lvm import hyphenated, new_lvm_uuid
from stillframe.disk.md import rename_array
from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.events import Notice
from stillframe.jobs.starts.volume_stack import VolumeStack
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.linux_ids import IdChange

SAME_NAMES: Final = "group-names-kept"
_UUID_SIZE: Final = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamedLayers:
    """Old and new ids in every spelling; what was done, in words; and what a person has to know."""

    changes: tuple[IdChange, ...] = ()
    words: tuple[str, ...] = ()
    notice: Notice | None = None


def rename_layers(bench: Workbench, reopen: Callable[[], VolumeStack]) -> RenamedLayers:
    """Give every layer on the workbench new ids.

    Args:
        bench: The workbench; nothing of it is mounted.
        reopen: Looks at its disk again.

    Raises:
        MachineRefusal: It was not possible, or is not there afterwards.
    """
    stack = bench.stack
    new = {one: new_lvm_uuid() for group in stack.groups for one in group.ids}
    new |= {lock.header.uuid: str(uuid.uuid4()) for lock in stack.locks}
    new |= {array.id: secrets.token_hex(16) for array in stack.arrays}
    if not new:
        return RenamedLayers()
    edits = _plan(stack, new)
    bench.forget_cached()  # what tools have written is on the view before it is changed below them
    for writer, found in edits:
        _apply(writer, found)
    bench.forget_cached()
    again = reopen()
    if _ids(again) != {new[one] for one in _ids(stack)} or len(again.volumes) != len(stack.volumes):
        raise MachineRefusal("LVM, LUKS or RAID are not called what they were told", hint="Please report it.")
    return RenamedLayers(
        changes=tuple(_spelled(stack, new)), words=tuple(_words(stack, new)), notice=_same_names(again)
    )


def _plan(stack: VolumeStack, new: dict[str, str]) -> list[tuple[BlockWriter, tuple[Edit, ...]]]:
    """What is to be written where."""
    strange = next((lock.word for lock in stack.locks if len(lock.header.uuid) != _UUID_SIZE), "")
    if strange:
        raise MachineRefusal(f"{strange} has no UUID that could be changed", hint="Without '--new-identity' it stays.")
    edits = list[tuple[BlockWriter, tuple[Edit, ...]]]()
    try:
        for group in stack.groups:
            edits += group.renamed(new)
        edits += [(lock.writer, rename_luks(lock.writer, lock.header, new[lock.header.uuid])) for lock in stack.locks]
        for array in stack.arrays:
            edits += [(writer, rename_array(writer, member, new[array.id])) for writer, member in array.members]
    except DiskFormatError as error:
        raise MachineRefusal(error.message, hint=error.hint) from error
    return edits


def _same_names(stack: VolumeStack) -> Notice | None:
    """That groups keep their names, and what to type where both are in one computer; ``None`` without groups."""
    if not stack.groups:
        return None
    names = ", ".join(f"'{whole.group.name}'" for whole in stack.groups)
    lines = [f"'vgrename {hyphenated(whole.group.uuid)} NAME'" for whole in stack.groups]
    return Notice(
        code=SAME_NAMES,
        message=f"the copy's volume group has a new id and keeps its name, {names}: its fstab and boot menu name it so",
        hint="It starts by itself. In a computer whose own group has that name, give the copy's another name before "
        f"its volumes are used there: {', '.join(lines)}. Its own fstab and boot menu name the old one then.",
    )  # fmt: skip


def _apply(writer: BlockWriter, edits: Sequence[Edit]) -> None:
    mismatch = find_mismatch(writer, edits)
    if mismatch is not None:
        raise MachineRefusal(
            f"what was at byte {mismatch.offset} of a layer is not there any more", hint="Run the same restore again."
        )
    for edit in edits:
        writer.write_at(edit.offset, edit.new)


def _ids(stack: VolumeStack) -> set[str]:
    ids = {one for group in stack.groups for one in group.ids}
    return ids | {lock.header.uuid for lock in stack.locks} | {array.id for array in stack.arrays}


def _spelled(stack: VolumeStack, new: dict[str, str]) -> list[IdChange]:
    """Every id in all spellings in which a Linux notes one: with hyphens and without, with colons and without."""
    found = []
    for one in _ids(stack):
        pairs = [(one, new[one])]
        if one in {array.id for array in stack.arrays}:
            pairs.append((_colons(one), _colons(new[one])))
        elif one in {lock.header.uuid for lock in stack.locks}:
            pairs.append((one.replace("-", ""), new[one].replace("-", "")))  # cryptomount and cryptouuid/ of GRUB
        else:
            pairs.append((hyphenated(one), hyphenated(new[one])))
        found += [IdChange(old=old, new=other) for old, other in pairs]
    return found


def _colons(uuid_hex: str) -> str:
    """As mdadm writes it: mdadm.conf(5)."""
    return ":".join(uuid_hex[start : start + 8] for start in range(0, 32, 8))


def _words(stack: VolumeStack, new: dict[str, str]) -> list[str]:
    words = [
        f"the volume group '{one.group.name}' has a new id, {hyphenated(new[one.group.uuid])}, and its "
        f"{'physical volume' if len(one.homes) == 1 else 'physical volumes'} too"
        for one in stack.groups
    ]
    words += [f"{lock.word} has a new id, {new[lock.header.uuid]}" for lock in stack.locks]
    return words + [f"the RAID 1 {_colons(array.id)} is {_colons(new[array.id])} now" for array in stack.arrays]
