"""What a device of the device mapper or of MD is made of, from the kernel's own tables.

Answers: "which bytes of which devices are this device's bytes?" for partitions, linear and striped tables, encryption
(each sector has its own place), MD RAID 1 and MD RAID 0. Everything else is refused: thin volumes, caches, snapshots,
parity.

Source: Linux Documentation/admin-guide/device-mapper/{linear,striped,dm-crypt}.rst; Documentation/admin-guide/md.rst
(sysfs); drivers/md/raid0.c (raid0_map_sector; one zone when all members have the same size).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import SYSFS_SECTOR, BlockNode, BlockTree, names_in, read_number, read_text
from stillframe.host.linux import parse_device_number
from stillframe.host.live.bytemap import PIECES_MAX, ByteMap
from stillframe.host.run import run

HINT: Final = "Use an LVM snapshot where the volume lies on LVM, or back up from the rescue medium."
_LINE: Final = re.compile(r"(?P<start>\d+) (?P<length>\d+) (?P<target>\S+)(?: (?P<rest>.*))?")
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Below:
    """A device that another one is made of, and where on it that one's bytes lie."""

    node: BlockNode
    pieces: ByteMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """A run of a device on one device below.

    Attributes:
        device: As in the table, ``major:minor``.
        start: Of the run in the upper device, in bytes.
        lower: Of the run in the lower device, in bytes.
        size: Bytes of the run on this device.
        unit: Bytes of a stripe; 0 when the run is in one piece.
        index: Which of the stripes is this device's, from 0.
        count: Devices among which the stripes are shared out.
    """

    device: str
    start: int
    lower: int
    size: int
    unit: int = 0
    index: int = 0
    count: int = 1


def read_below(tree: BlockTree, node: BlockNode) -> tuple[Below, ...]:
    """The devices right below a partition, a mapped device or an array.

    Raises:
        MachineRefusal: Its table is of a kind that is not translated, or cannot be read.
    """
    if node.partition is not None:
        return (Below(tree.disk_of(node), ByteMap.of((0, node.place.start, node.size))),)
    if node.mapped_name:
        table = run(["dmsetup", "table", node.mapped_name]).require_success(hint=HINT).text
        stripes = parse_table(table, name=node.path)
    elif read_text(f"{node.folder}/md/level"):
        stripes = tuple(_array_stripes(node))
    else:
        raise _refused(node.path, "it is neither a disk nor made of disks in a known way")
    return tuple(_gathered(tree, node, stripes))


def parse_table(text: str, *, name: str) -> tuple[Stripe, ...]:
    """Parse what ``dmsetup table`` prints for one device.

    Raises:
        MachineRefusal: A target is not one whose bytes have fixed places.
    """
    found: list[Stripe] = []
    for line in filter(None, text.splitlines()):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise _refused(name, f"its table has a line that is not understood: {line[:60]!r}")
        start, length = int(match["start"]) * SYSFS_SECTOR, int(match["length"]) * SYSFS_SECTOR
        fields = (match["rest"] or "").split()
        try:
            found += _target_stripes(match["target"], fields, start, length)
        except (IndexError, ValueError) as error:
            raise _refused(name, f"it has a part of the kind {match['target']!r}, which is not followed") from error
    return tuple(found)


def _target_stripes(target: str, fields: Sequence[str], start: int, length: int) -> Iterator[Stripe]:
    """Raises ``ValueError`` or ``IndexError`` for what has no fixed places."""
    if target == "linear":  # <device> <offset>
        yield Stripe(device=fields[0], start=start, lower=int(fields[1]) * SYSFS_SECTOR, size=length)
    elif target == "crypt":  # <cipher> <key> <iv offset> <device> <offset> [<options>]
        if any(option.startswith("integrity") for option in fields[5:]):
            raise ValueError(target)
        yield Stripe(device=fields[3], start=start, lower=int(fields[4]) * SYSFS_SECTOR, size=length)
    elif target == "striped":  # <count> <unit> (<device> <offset>)...
        count, unit = int(fields[0]), int(fields[1]) * SYSFS_SECTOR
        if count < 1 or unit < SYSFS_SECTOR or length % (count * unit):
            raise ValueError(target)
        for index in range(count):
            device, lower = fields[2 + 2 * index], int(fields[3 + 2 * index]) * SYSFS_SECTOR
            yield Stripe(
                device=device, start=start, lower=lower, size=length // count, unit=unit, index=index, count=count
            )
    else:
        raise ValueError(target)


def _array_stripes(node: BlockNode) -> Iterator[Stripe]:
    """The members of an MD array."""
    folder = f"{node.folder}/md"
    level = read_text(f"{folder}/level")
    members = [f"{folder}/{name}" for name in names_in(folder) if name.startswith("dev-")]
    members = [member for member in members if "faulty" not in read_text(f"{member}/state").split(",")]
    if level == "raid1":
        for member in members:  # spares too: they may become members
            yield Stripe(device=_member_device(member), start=0, lower=_member_number(member, "offset"), size=node.size)
    elif level == "raid0":
        yield from _raid0_stripes(node, folder, members)
    else:
        raise _refused(node.path, f"it is an array of the kind {level!r}, which is not followed")


def _raid0_stripes(node: BlockNode, folder: str, members: Sequence[str]) -> Iterator[Stripe]:
    unit, count = read_number(f"{folder}/chunk_size") or 0, read_number(f"{folder}/raid_disks") or 0
    if unit < SYSFS_SECTOR or count != len(members) or node.size % (unit * count):
        raise _refused(node.path, "its stripes are not in one zone of equal members")
    for member in members:
        index, size = read_number(f"{member}/slot"), read_number(f"{member}/size")
        if index is None or size is None or size * _KIB // unit * unit * count != node.size:
            raise _refused(node.path, "its stripes are not in one zone of equal members")
        yield Stripe(
            device=_member_device(member), start=0, lower=_member_number(member, "offset"), size=node.size // count,
            unit=unit, index=index, count=count,
        )  # fmt: skip


def _member_device(member: str) -> str:
    return read_text(f"{member}/block/dev")


def _member_number(member: str, name: str) -> int:
    value = read_number(f"{member}/{name}")
    if value is None:
        raise _refused(member, f"the kernel does not show its {name}")
    return value * SYSFS_SECTOR


def _gathered(tree: BlockTree, node: BlockNode, stripes: Sequence[Stripe]) -> Iterator[Below]:
    """One entry for each device below and, where bytes of the upper device overlap (mirrors), for each copy."""
    by_device: dict[str, ByteMap] = {}
    for stripe in stripes:
        pieces = _pieces_of(stripe, node.path)
        before = by_device.get(stripe.device)
        by_device[stripe.device] = pieces if before is None else before.joined(pieces)
    for device, pieces in by_device.items():
        number = parse_device_number(device)
        lower = tree.nodes.get(number) if number is not None else None
        if lower is None:
            raise _refused(node.path, f"the device {device} below it is not known")
        yield Below(lower, pieces)


def _pieces_of(stripe: Stripe, name: str) -> ByteMap:
    if not stripe.unit:
        return ByteMap.of((stripe.start, stripe.lower, stripe.size))
    rows = stripe.size // stripe.unit
    if rows > PIECES_MAX:
        raise _refused(name, f"it has more than {PIECES_MAX} stripes")
    numbers = np.arange(rows, dtype=np.int64)
    return ByteMap(
        stripe.start + (numbers * stripe.count + stripe.index) * stripe.unit, stripe.lower + numbers * stripe.unit,
        np.full(rows, stripe.unit, np.int64),
    )  # fmt: skip


def _refused(name: str, reason: str) -> MachineRefusal:
    return MachineRefusal(f"the writes to {name} cannot be followed: {reason}", hint=HINT)
