"""The medium on a USB stick: a partition that starts, and the rest for the person.

Answers: "may this stick be written, what is lost on it, and which bytes make it start by BIOS and by UEFI?" It gets a
GPT: an EFI system partition with everything of the medium, a BIOS boot partition with GRUB, and in the rest a volume
``STILLFRAME`` that every system reads, for answers or a repository. Cleared first, table last, and read back.

Sources: UEFI Specification 2.10, sections 5.2.3 and 5.3; GRUB 2.06 ``include/grub/i386/pc/boot.h`` (places in the boot
sector), ``grub-core/boot/i386/pc/diskboot.S`` (block list at the end of the first sector of the core image),
``util/setup.c`` (the check of the drive is made to do nothing on hard disks); GNU GRUB manual 2.06, section 3.4.
"""

import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stillframe.block import BlockReader, BlockWriter, ExtentKind
from stillframe.block.file import open_file_reader
from stillframe.disk import Layout, Partition
from stillframe.disk.new_table import build_table
from stillframe.disk.other_scheme import BIOS_BOOT_GUID, ESP_GUID
from stillframe.disk.placement import Patch
from stillframe.errors import DeviceError, TargetError
from stillframe.events import BytesMoved, Notice, PhaseStarted
from stillframe.extents import Extent, ExtentSet
from stillframe.host.disks import describe
from stillframe.host.target import TargetIdentity, identify_target, open_target, require_free
from stillframe.jobs.looking import require_target
from stillframe.jobs.restoring.targets import describe_contents, refuse_repository
from stillframe.rescue.medium.base import Base, Step
from stillframe.rescue.medium.tree import label_of
from stillframe.units import MIB, align_down, align_up, format_size

DATA_LABEL: Final = "STILLFRAME"
"""Of the volume in the rest of the stick: where answers and repositories are looked for."""
_DATA_GUID: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"  # Microsoft basic data
_SECTOR: Final = 512
_STEP: Final = 4 * MIB
_BIOS: Final = Extent(MIB, 2 * MIB)
_ESP_START: Final = 2 * MIB
_ESP_SPARE: Final = 64 * MIB
_FAT_LARGE: Final = 288 * MIB
_DATA_MIN: Final = 64 * MIB
_END: Final = MIB
"""Left free at the end, for the second table."""
_CODE_SIZE: Final = 440
_KERNEL_SECTOR: Final = 0x5C
_DRIVE_CHECK: Final = 0x66
_NO_CHECK: Final = b"\x90\x90"
_ACTIVE: Final = 0x80
_STATUS_OFFSET: Final = 446
_LIST: Final = struct.Struct("<QHH")
_LIST_AT: Final = _SECTOR - _LIST.size
_LOAD_SEGMENT: Final = 0x820
_NOT_REMOVABLE: Final = Notice(
    code="not-removable",
    message="this is not a stick or a card, as far as its maker says: it may be a disk of this computer",
    hint="Look twice at model, serial number and contents.",
)
_AGAIN: Final = "Write it again; when that happens twice, take another stick."


@dataclass(frozen=True, slots=True, kw_only=True)
class StickPlan:
    """What will be done to a stick.

    Attributes:
        identity: Which it is.
        lost: What is on it, in words.
        notices: What a person should know.
    """

    identity: TargetIdentity
    lost: tuple[str, ...]
    notices: tuple[Notice, ...]


def plan_stick(path: str, repository_folder: str, size: int) -> StickPlan:
    """Look at a stick.

    Args:
        path: The device; or a disk file that exists.
        repository_folder: Of this person's repository, if it is a folder: never on the stick.
        size: Bytes that a medium may take.

    Raises:
        TargetError: It is not there, is a partition, is in use, too small, or holds the repository.
        UsageError: It is no disk.
    """
    require_target(path)
    if not os.path.exists(path):
        raise TargetError(f"there is no {path}", hint="'stillframe disks' lists the disks of this machine.")
    facts = describe(path)
    if facts.kind == "partition":
        raise TargetError(f"{path} is a partition", hint=f"Name the whole stick: {facts.parent}.")
    if facts.sector_size != _SECTOR:
        raise TargetError(
            f"{path} has sectors of {facts.sector_size} bytes: a BIOS does not start it", hint="Take another stick."
        )
    refuse_repository(repository_folder, facts.path)
    require_free(facts.path)
    identity = identify_target(path)
    needed = align_up(size, MIB) + _ESP_START + _ESP_SPARE + _END
    if identity.size < needed:
        raise TargetError(
            f"{path} has {format_size(identity.size)}, too small: {format_size(needed)} are needed",
            hint="Take a stick of 1 GB or more; with 8 GB there is room for a small repository too.",
        )
    notices = () if facts.removable or facts.kind == "file" else (_NOT_REMOVABLE,)
    return StickPlan(identity=identity, lost=tuple(describe_contents(facts.path)), notices=notices)


def write_stick(plan: StickPlan, base: Base, tree: str, room: str, step: Step) -> int:
    """Make the file systems as files, then write them, then the table, and read all of it back.

    Returns:
        Bytes written.

    Raises:
        TargetError: It is not the stick that was shown, or is in use; nothing was written then.
        DeviceError: It cannot be written, or does not keep what is written.
    """
    step.events.emit(PhaseStarted(name="making the stick's file systems"))
    layout = _layout(plan.identity.size, tree)
    esp = os.path.join(room, "esp.img")
    _make_esp(layout.partitions[0].extent, label_of(base), tree, esp, step)
    images = [(layout.partitions[0].extent, esp, os.path.getsize(esp))]
    if len(layout.partitions) > 2:
        place = layout.partitions[2].extent
        rest = os.path.join(room, "rest.img")
        images.append((place, rest, _make_rest(place, rest, step)))
    core, table = _core(base), _table(layout, base)
    total = sum(size for _, _, size in images)
    with open_target(plan.identity) as target:
        step.events.emit(PhaseStarted(name="writing the stick", bytes_total=total))
        _clear(target)
        for place, image, size in images:
            _copy(image, size, target, place.start, step)
        target.write_at(_BIOS.start, core)
        target.flush()
        for patch in sorted(table, key=lambda one: -one.offset):
            target.write_at(patch.offset, patch.data)
        target.flush()
        step.events.emit(PhaseStarted(name="reading the stick back", bytes_total=total))
        for place, image, size in images:
            _compare(image, size, target, place.start, step)
        for patch in (*table, Patch(offset=_BIOS.start, data=core)):
            if target.read_at(patch.offset, len(patch.data)) != patch.data:
                raise _not_kept(plan.identity.path, patch.offset)
        target.reread_partitions()
    for _, image, _ in images:
        os.unlink(image)
    return total + len(core) + sum(len(patch.data) for patch in table)


def _layout(size: int, tree: str) -> Layout:
    content = sum(os.path.getsize(os.path.join(here, name)) for here, _, names in os.walk(tree) for name in names)
    esp = Extent(_ESP_START, align_up(_ESP_START + content + _ESP_SPARE, _STEP))
    end = align_down(size, MIB) - _END
    if esp.end > end:
        raise TargetError(
            f"the stick is too small: {format_size(esp.end + _END)} are needed", hint="Take a larger one."
        )
    parts = [_partition(1, esp, ESP_GUID, "Stillframe rescue"), _partition(2, _BIOS, BIOS_BOOT_GUID, "GRUB")]
    if end - esp.end >= _DATA_MIN:
        parts.append(_partition(3, Extent(esp.end, end), _DATA_GUID, DATA_LABEL))
    return Layout(
        scheme="gpt", disk_id=str(uuid.uuid4()).upper(), size=size, sector_size=_SECTOR, partitions=tuple(parts),
        notices=(), table=ExtentSet.empty(),
    )  # fmt: skip


def _partition(number: int, extent: Extent, kind: str, name: str) -> Partition:
    return Partition(
        number=number, extent=extent, type=kind, type_name="", name=name, guid=str(uuid.uuid4()).upper(), attributes=0,
        index=number - 1, logical=False,
    )  # fmt: skip


def _make_esp(place: Extent, label: str, tree: str, path: str, step: Step) -> None:
    Path(path).touch()
    os.truncate(path, place.size)
    cluster = 8 if place.size >= _FAT_LARGE else 1  # FAT32 has 65,525 clusters at least
    command = ["mkfs.fat", "-F", "32", "-s", str(cluster), "-h", str(place.start // _SECTOR), "-n", label, path]
    step.run(command, what="making the stick's start partition")
    entries = [os.path.join(tree, name) for name in sorted(os.listdir(tree))]
    step.run(["mcopy", "-s", "-Q", "-i", path, *entries, "::/"], what="filling the stick's start partition")


def _make_rest(place: Extent, path: str, step: Step) -> int:
    """An empty exFAT; returns how many of its first bytes say something."""
    Path(path).touch()
    os.truncate(path, place.size)
    step.run(["mkfs.exfat", "-L", DATA_LABEL, path], what="making the stick's volume for data")
    with open_file_reader(path) as reader:
        known = [one for one in reader.known_extents(Extent(0, reader.size)) if one.kind is ExtentKind.DATA]
        end = max((one.extent.end for one in known), default=0)
        return min(align_up(end + MIB, MIB), reader.size)  # the rest of the root folder's cluster is zeros


def _core(base: Base) -> bytes:
    """GRUB's core image, told where it lies: one piece behind its own first sector."""
    core = bytearray(Path(base.piece("grub/stick.img")).read_bytes())
    sectors = -(-len(core) // _SECTOR)
    if sectors * _SECTOR > _BIOS.size:
        raise DeviceError(f"GRUB's core image has {len(core)} bytes, too many for its partition", hint="Report this.")
    _LIST.pack_into(core, _LIST_AT, _BIOS.start // _SECTOR + 1, sectors - 1, _LOAD_SEGMENT)
    return bytes(core.ljust(sectors * _SECTOR, b"\0"))


def _table(layout: Layout, base: Base) -> tuple[Patch, ...]:
    """The table, with GRUB's boot code in sector 0, which it shares."""
    code = bytearray(Path(base.piece("grub/boot.img")).read_bytes()[:_CODE_SIZE])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, _BIOS.start // _SECTOR)
    code[_DRIVE_CHECK : _DRIVE_CHECK + len(_NO_CHECK)] = _NO_CHECK
    return tuple(_with_code(patch, bytes(code)) if patch.offset == 0 else patch for patch in build_table(layout))


def _with_code(patch: Patch, code: bytes) -> Patch:
    """Some BIOSes start no disk without an active partition; UEFI ignores that byte of a protective MBR (table 5.4)."""
    data = bytearray(patch.data)
    data[: len(code)] = code
    data[_STATUS_OFFSET] = _ACTIVE
    return replace(patch, data=bytes(data))


def _clear(target: BlockWriter) -> None:
    """Whatever table was there is none any more, and no program takes the stick for what it was."""
    target.zero(Extent(0, _ESP_START))
    target.zero(Extent(align_down(target.size, _SECTOR) - _END, align_down(target.size, _SECTOR)))
    target.flush()


def _copy(image: str, size: int, target: BlockWriter, start: int, step: Step) -> None:
    with open_file_reader(image) as reader:
        for offset, data in _pieces(reader, size):
            step.check()
            target.write_at(start + offset, data)
            step.events.emit(BytesMoved(size=len(data)))
    target.flush()


def _compare(image: str, size: int, target: BlockReader, start: int, step: Step) -> None:
    with open_file_reader(image) as reader:
        for offset, data in _pieces(reader, size):
            step.check()
            if target.read_at(start + offset, len(data)) != data:
                raise _not_kept("the stick", start + offset)
            step.events.emit(BytesMoved(size=len(data)))


def _pieces(reader: BlockReader, size: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, size, _STEP):
        yield offset, reader.read_at(offset, min(_STEP, size - offset))


def _not_kept(path: str, offset: int) -> DeviceError:
    return DeviceError(f"{path} does not hold what was written to it, at byte {offset} and behind", hint=_AGAIN)
