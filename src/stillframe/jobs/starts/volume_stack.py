"""The volumes inside the partitions of a disk that is being changed: RAID 1, LUKS and LVM opened, in any stack.

Answers: "which volumes are on this disk, wherever they lie, and what is not opened?" All of it is done on the bytes of
one disk, without a device mapper, so no group here can be taken for one of this machine. What is written to a volume
goes where its own layers would put it. What is in doubt is not opened, and named with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stillframe.block import BlockWriter, MirroredWriter, WindowWriter
from stillframe.capture.unlocking import LUKS, VolumeKey
from stillframe.disk import Layout
from stillframe.disk.luks import LuksHeader, PlaintextWriter, find_key, is_key_of, read_header
from stillframe.disk.md import ArrayMember, read_member
from stillframe.errors import DeviceError, DiskFormatError
from stillframe.fs.registry import identify
from stillframe.jobs.starts.stack_groups import Home, WholeGroup, gather_whole, read_home
from stillframe.systems.names import partition_names
from stillframe.units import format_size

LVM: Final = "LVM2_member"
RAID: Final = "linux_raid_member"
_NEVER: Final = frozenset({"bcache", "zfs_member"})
_FAULTS: Final = (DiskFormatError, DeviceError)
_DEPTH_MAX: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LuksLayer:
    """An encrypted volume.

    Attributes:
        word: Where it is, for people.
        names: By which a ``crypttab`` may call it.
        number: Of its partition; 0 when it lies inside of something.
        writer: It, from its header on.
        header: What its header says.
    """

    word: str
    names: frozenset[str]
    number: int
    writer: BlockWriter
    header: LuksHeader

    def opens(self, passphrase: bytes) -> VolumeKey | None:
        """Its key; ``None`` when the passphrase does not open it. Errors as ``disk.luks.find_key``."""
        key = find_key(self.writer, self.header, passphrase)
        return None if key is None else VolumeKey(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A RAID 1 whose members are all here: each with what its superblock says."""

    members: tuple[tuple[BlockWriter, ArrayMember], ...]

    @property
    def id(self) -> str:
        """Its UUID, as 32 hex digits."""
        return self.members[0][1].array


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedVolume:
    """A volume, or a layer on the way to one.

    Attributes:
        key: What tells it from all others here; fit for a file name.
        word: Where it is, for people.
        writer: Its bytes.
        names: By which a table of a Linux may call it.
        layers: What it lies in, the lowest first: ``raid``, ``luks``, ``lvm``.
        locks: The encrypted volumes that it lies in, the lowest first.
        number: Of the partition, for a partition itself; else 0.
    """

    key: str
    word: str
    writer: BlockWriter
    names: frozenset[str] = frozenset()
    layers: tuple[str, ...] = ()
    locks: tuple[LuksLayer, ...] = ()
    number: int = 0


@dataclass(slots=True, kw_only=True)
class VolumeStack:
    """What was found on a disk.

    Attributes:
        volumes: Volumes inside of partitions, with a file system or not.
        sealed: Encrypted volumes inside of partitions, as they lie there.
        arrays, locks, groups: The layers that are open.
        locked: Encrypted volumes to which there is no key.
        unopened: What is not opened, in words.
        carriers: Numbers of partitions in which layers lie, open or not, with what ``blkid`` calls them.
    """

    volumes: list[NestedVolume] = field(default_factory=list)
    sealed: list[NestedVolume] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    locks: list[LuksLayer] = field(default_factory=list)
    groups: list[WholeGroup] = field(default_factory=list)
    locked: list[LuksLayer] = field(default_factory=list)
    unopened: list[str] = field(default_factory=list)
    carriers: dict[int, str] = field(default_factory=dict)


def open_stack(
    disk: BlockWriter, layout: Layout, numbers: Sequence[int] | None, keys: Sequence[VolumeKey]
) -> VolumeStack:
    """Open what lies in partitions. Nothing is written.

    Args:
        disk: The disk.
        layout: Its partitions.
        numbers: Which of them are looked into; ``None`` for all.
        keys: Of encrypted volumes, as far as they are known.
    """
    opening = _Opening(keys)
    for part in layout.partitions:
        if numbers is None or part.number in numbers:
            window = WindowWriter(disk, part.extent)
            names = partition_names(layout, part.number)
            place = NestedVolume(
                key=f"partition{part.number}", word=f"partition {part.number}", writer=window, names=names,
                number=part.number,
            )  # fmt: skip
            opening.sort(place)
    opening.join_arrays()
    opening.join_groups()
    return opening.stack


class _Opening:
    """Layers are sorted as they come; arrays and groups are joined when all of their parts may have come."""

    def __init__(self, keys: Sequence[VolumeKey]) -> None:
        self._keys = keys
        self._members = list[tuple[NestedVolume, ArrayMember]]()
        self._homes = list[tuple[NestedVolume, Home]]()
        self._joined = False
        self.stack: Final = VolumeStack()

    def sort(self, place: NestedVolume) -> None:
        """Find out what a place is, and go on inside of it."""
        kind = identify(place.writer).volume.filesystem
        try:
            member = read_member(place.writer) if kind in (RAID, "") else None
            if kind in _NEVER or len(place.layers) > _DEPTH_MAX:
                self._leave(place, kind or "too deep", "it is not read here")
            elif member is not None or kind == RAID:
                self._sort_member(place, member)
            elif kind == LUKS:
                self._open_lock(place)
            elif kind == LVM:
                self._sort_home(place)
            elif not place.number:
                self.stack.volumes.append(place)
        except _FAULTS as error:
            self._leave(place, kind or RAID, error.message)

    def join_arrays(self) -> None:
        """Put the arrays together whose members came, and go on inside of them."""
        for array in dict.fromkeys(member.array for _, member in self._members):
            mine = sorted((one for one in self._members if one[1].array == array), key=lambda one: one[1].role or 0)
            doubt = _array_doubt([member for _, member in mine])
            if doubt:
                for place, _ in mine:
                    self._leave(place, RAID, doubt)
                continue
            self.stack.arrays.append(Array(members=tuple((place.writer, member) for place, member in mine)))
            self.sort(_inside_array(mine))

    def join_groups(self) -> None:
        """Put the groups together whose physical volumes came, and go on inside of them."""
        self._joined = True
        try:
            groups = gather_whole([home for _, home in self._homes])
        except _FAULTS as error:
            for place, _ in self._homes:
                self._leave(place, LVM, error.message)
            return
        self.stack.groups += groups
        for whole in groups:
            below = [place for place, home in self._homes if home in whole.homes]
            for volume in whole.group.logical:
                refusal = whole.refuse(volume)
                word = f"volume {whole.group.name}/{volume.name}"
                if not volume.is_visible:
                    continue
                if refusal:
                    self.stack.unopened.append(f"{word}: {refusal}")
                    continue
                place = _inside_group(below, whole, volume.name, word)
                try:
                    self.sort(replace(place, writer=whole.open(volume)))
                except _FAULTS as error:
                    self._leave(place, LVM, error.message)

    def _sort_member(self, place: NestedVolume, member: ArrayMember | None) -> None:
        self._carry(place, RAID)
        if member is None or place.layers:
            self._leave(place, RAID, "a RAID is opened in partitions only" if member else "its superblock is not found")
        else:
            self._members.append((place, member))

    def _sort_home(self, place: NestedVolume) -> None:
        self._carry(place, LVM)
        if self._joined:
            self._leave(place, LVM, "a group of LVM inside of another one is not opened")
        else:
            self._homes.append((place, read_home(place.writer)))

    def _open_lock(self, place: NestedVolume) -> None:
        self._carry(place, LUKS)
        if not place.number:
            self.stack.sealed.append(place)
        header = read_header(place.writer)
        if header is None:
            raise DiskFormatError("expected a header of LUKS, found none")
        lock = LuksLayer(
            word=f"{place.word} (LUKS{header.version}{_quoted(header.label)}, {format_size(place.writer.size)})",
            names=place.names | {f"UUID={header.uuid}"}, number=place.number, writer=place.writer, header=header,
        )  # fmt: skip
        key = next((one for one in self._keys if is_key_of(header, one.key)), None)
        if key is None:
            self.stack.locked.append(lock)
            self._leave(place, LUKS, "")
            return
        self.stack.locks.append(lock)
        self.sort(
            NestedVolume(
                key=f"luks-{len(self.stack.locks)}", word=f"what {place.word} holds encrypted",
                writer=PlaintextWriter(place.writer, header.segment, key.key),
                names=frozenset({f"/dev/mapper/luks-{header.uuid}"}), layers=(*place.layers, "luks"),
                locks=(*place.locks, lock),
            )
        )  # fmt: skip

    def _carry(self, place: NestedVolume, kind: str) -> None:
        if place.number:
            self.stack.carriers[place.number] = kind

    def _leave(self, place: NestedVolume, kind: str, why: str) -> None:
        self._carry(place, kind)
        self.stack.unopened.append(f"{place.word} ({kind})" + (f": {why}" if why else ""))


def _array_doubt(members: Sequence[ArrayMember]) -> str:
    """Why an array is not opened; empty when it is. Its other half elsewhere would not hear of a change."""
    if members[0].level != 1:
        return f"a RAID of level {members[0].level}"
    refusal = next((one.refusal for one in members if one.refusal), "")
    if refusal:
        return refusal
    if len({(one.events, one.content.size, one.active, one.version) for one in members}) != 1:
        return "its members do not agree"
    roles = [one.role for one in members]
    if len(set(roles)) < len(roles) or set(roles) != set(members[0].active):
        return "other members of this RAID 1 are on another disk, and would not have what is changed here"
    return ""


def _inside_array(mine: Sequence[tuple[NestedVolume, ArrayMember]]) -> NestedVolume:
    member = mine[0][1]
    short = member.name.rpartition(":")[2]
    names = {f"/dev/md/{short}", f"/dev/md/{member.name}", *([f"/dev/md{int(short)}"] if short.isdecimal() else [])}
    writers = [WindowWriter(place.writer, one.content) for place, one in mine]
    where = " and ".join(str(place.number) for place, _ in mine)
    return NestedVolume(
        key=f"md-{member.array}", word=f"RAID 1 '{member.name or member.array}' in partition {where}",
        writer=MirroredWriter(writers), names=frozenset(names) if short else frozenset(), layers=("raid",),
    )  # fmt: skip


def _inside_group(below: Sequence[NestedVolume], whole: WholeGroup, name: str, word: str) -> NestedVolume:
    """A volume of a group, without its bytes; what its physical volumes lie in, it lies in."""
    group = whole.group.name
    mapped = "-".join(part.replace("-", "--") for part in (group, name))  # dm_build_dm_name, libdm/libdm-string.c
    layers = dict.fromkeys(layer for place in below for layer in place.layers)
    locks = {lock.header.uuid: lock for place in below for lock in place.locks}
    return NestedVolume(
        key=f"lvm-{mapped}", word=word, writer=below[0].writer,
        names=frozenset({f"/dev/mapper/{mapped}", f"/dev/{group}/{name}"}), layers=(*layers, "lvm"),
        locks=tuple(locks.values()),
    )  # fmt: skip


def _quoted(label: str) -> str:
    return f" '{label}'" if label else ""
