"""Volumes that nobody opened yet: encrypted ones, volumes of LVM, arrays of RAID; opened to look, or to write.

Answers: "what is closed here, and how does one get at what is inside?" To look changes no byte of the disks: each layer
is opened read-only, and only the one that is named. The keeper closes what was opened, also when this process is
killed. A passphrase goes by standard input and never stands on a command line.

Source: cryptsetup-open(8) and cryptsetup(8), "Return codes"; lvmreport(7), lvchange(8), lvm.conf(5), lvmsystemid(7);
mdadm(8); lvm2 ``lib/misc/lvm-string.c``, build_dm_name.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from stillframe.errors import MachineRefusal, StillframeError, WrongKey
from stillframe.host.attaching import Keeper, last_line
from stillframe.host.blocks import THIS_MACHINE, KernelPaths
from stillframe.host.run import run
from stillframe.host.volume_places import VolumeDevice, require_root

Kind = Literal["luks", "bitlocker", "lvm", "raid"]
KINDS: Final[Mapping[str, Kind]] = {
    "crypto_LUKS": "luks", "BitLocker": "bitlocker", "LVM2_member": "lvm", "linux_raid_member": "raid",
}  # fmt: skip
"""By what ``blkid`` calls that which they lie in."""
NAMES: Final[Mapping[Kind, str]] = {"luks": "LUKS", "bitlocker": "BitLocker", "lvm": "LVM", "raid": "RAID"}
_CRYPT_TYPES: Final[Mapping[Kind, str]] = {"luks": "luks", "bitlocker": "bitlk"}
_WRONG_KEY: Final = 2
_OPEN_S: Final = 300.0
"""A key slot may take a slow computer long, and a long way of it is memory."""
_SIMPLE: Final = frozenset({"linear", "striped"})
"""Kinds of segments that keep nothing of their own on the disks; the others write when they are opened."""
_NUMBERS: Final = range(127, 63, -1)
_SHELL: Final = "A person who knows LVM, RAID or cryptsetup can open it in the shell; then choose 'Look again'."


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A device that is a part of something closed.

    Attributes:
        device: It.
        filesystem: One of ``KINDS``.
        label: Its name.
        uuid: Of what it is, where that is known.
    """

    device: VolumeDevice
    filesystem: str
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedVolume:
    """What is closed, and can be opened.

    Attributes:
        kind: Of what opens it.
        id: What tells it from others: its UUID, or its device.
        name: Its label, ``GROUP/VOLUME``, or the name of the array; empty when it has none.
        members: The devices that it lies on.
        disks: The whole disks below them.
        size: Bytes of it, or of its largest member.
        external: All of it can be taken away.
        missing: How many of its members are not here.
        refusal: Why it cannot be opened here; empty when it can.
    """

    kind: Kind
    id: str
    name: str
    members: tuple[str, ...]
    disks: tuple[str, ...]
    size: int
    external: bool = False
    missing: int = 0
    refusal: str = ""

    @property
    def is_locked(self) -> bool:
        """Whether a passphrase opens it."""
        return self.kind in _CRYPT_TYPES


def find_closed(parts: Sequence[Part]) -> tuple[ClosedVolume, ...]:
    """What these parts belong to. Reads their metadata, and nothing is opened."""
    by_kind: dict[Kind, list[Part]] = {kind: [] for kind in NAMES}
    for part in parts:
        by_kind[KINDS[part.filesystem]].append(part)
    locked = [_locked(kind, part) for kind in _CRYPT_TYPES for part in by_kind[kind]]
    arrays = _told("raid", by_kind["raid"], _find_arrays)
    return (*locked, *arrays, *_told("lvm", by_kind["lvm"], _find_logical))


def open_closed(
    keeper: Keeper, closed: ClosedVolume, *, secret: str = "", writes: bool = False, kernel: KernelPaths = THIS_MACHINE
) -> str:  # fmt: skip
    """Open it.

    Args:
        keeper: Closes it.
        closed: As it was found.
        secret: What opens an encrypted one.
        writes: Not only to look: what lies inside can be written.
        kernel: Whose devices.

    Returns:
        The device of what is inside; the same name while it is open.

    Raises:
        WrongKey: The secret does not open it.
        MachineRefusal: It cannot be opened here.
    """
    require_root()
    if closed.refusal:
        raise MachineRefusal(f"{closed_words(closed)} cannot be opened: {closed.refusal}", hint=_SHELL)
    if closed.kind == "bitlocker" and writes:
        raise MachineRefusal(
            f"nothing is written to {closed_words(closed)} from here: that was not tried with Windows",
            hint="Choose another disk for backups; reading from this one is possible.",
        )
    if closed.is_locked:
        return _open_locked(keeper, closed, secret, writes=writes)
    if closed.kind == "lvm":
        return _open_logical(keeper, closed, writes=writes)
    return _open_array(keeper, closed, _free_array(kernel), writes=writes)


def close_opened(keeper: Keeper, closed: ClosedVolume, path: str) -> None:
    """Close what ``open_closed`` opened. What is still in use stays open until the keeper's end."""
    keeper.undo(_array_word(path, closed.id) if closed.kind == "raid" else os.path.basename(path))


def closed_words(closed: ClosedVolume) -> str:
    """What it is, for a person: its kind, its name, where it lies."""
    named = f"{NAMES[closed.kind]} {closed.name}".rstrip()
    return f"{named} ({', '.join(closed.members)})"


def _locked(kind: Kind, part: Part) -> ClosedVolume:
    device = part.device
    return ClosedVolume(
        kind=kind, id=part.uuid or device.path, name=part.label, members=(device.path,), disks=device.disks,
        size=device.size, external=device.external,
    )  # fmt: skip


def _told(
    kind: Kind, parts: Sequence[Part], find: Callable[[Sequence[Part]], Iterable[ClosedVolume]]
) -> tuple[ClosedVolume, ...]:
    """What was found; where the tools cannot tell, each part with the reason."""
    if not parts:
        return ()
    try:
        return tuple(find(parts))
    except StillframeError as error:
        return tuple(
            ClosedVolume(
                kind=kind, id=part.device.path, name=part.label, members=(part.device.path,), disks=part.device.disks,
                size=part.device.size, refusal=error.message,
            )
            for part in parts
        )  # fmt: skip


def _of_members(parts: Iterable[Part]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Paths, disks, and whether all of them can be taken away."""
    found = sorted(parts, key=lambda part: part.device.path)
    disks = dict.fromkeys(disk for part in found for disk in part.device.disks)
    return tuple(part.device.path for part in found), tuple(disks), all(part.device.external for part in found)


def _open_locked(keeper: Keeper, closed: ClosedVolume, secret: str, *, writes: bool) -> str:
    (device,) = closed.members
    name = f"stillframe-{os.getpid()}-{os.path.basename(device)}"
    how = () if writes else ("--readonly",)
    keeper.will("mapping", name)
    # A key file is taken as it is, so that no letter of the passphrase means anything to cryptsetup.
    command = ["cryptsetup", "open", "--type", _CRYPT_TYPES[closed.kind], *how, "--key-file", "-", device, name]
    ended = run(command, given=secret.encode("utf-8", "surrogateescape"), timeout_s=_OPEN_S)
    if ended.exit_code == _WRONG_KEY:
        raise WrongKey(
            f"that passphrase does not open {closed_words(closed)}",
            hint="Capital and small letters differ. Is it the passphrase of another disk?",
        )
    if ended.exit_code:
        raise MachineRefusal(f"{closed_words(closed)} cannot be opened: {last_line(ended.errors)}", hint=_SHELL)
    return f"/dev/mapper/{name}"


class _Row(msgspec.Struct, frozen=True):
    """A line of a report of LVM."""

    pv_name: str = ""
    vg_name: str = ""
    vg_uuid: str = ""
    vg_missing_pv_count: str = "0"
    lv_name: str = ""
    lv_uuid: str = ""
    lv_size: str = "0"
    lv_attr: str = ""
    segtype: str = ""


class _Table(msgspec.Struct, frozen=True):
    pv: tuple[_Row, ...] = ()
    lv: tuple[_Row, ...] = ()
    seg: tuple[_Row, ...] = ()


class _Report(msgspec.Struct, frozen=True):
    report: tuple[_Table, ...] = ()


def _report(command: str, devices: Iterable[str], columns: str) -> tuple[_Row, ...]:
    form = ("--reportformat", "json", "--units", "b", "--nosuffix", "--readonly")
    ended = run([command, *form, "--devices", ",".join(devices), "-o", columns])
    ended.require_success(hint="What is in LVM is not looked into then.")
    try:
        tables = msgspec.json.decode(ended.output, type=_Report).report
    except msgspec.MsgspecError as error:
        raise MachineRefusal(f"what {command} said is not understood: {error}", hint=_SHELL) from error
    return tuple(row for table in tables for rows in (table.pv, table.lv, table.seg) for row in rows)


def _find_logical(parts: Sequence[Part]) -> Iterable[ClosedVolume]:
    """The visible logical volumes, each with the physical volumes of its group."""
    by_path = {os.path.realpath(part.device.path): part for part in parts}
    physical = _report("pvs", by_path, "pv_name,vg_name,vg_uuid")
    columns = "vg_name,vg_uuid,vg_missing_pv_count,lv_name,lv_uuid,lv_size,lv_attr,segtype"
    rows = dict[str, list[_Row]]()
    for row in _report("lvs", by_path, columns):
        rows.setdefault(row.lv_uuid, []).append(row)
    for uuid, (row, *more) in rows.items():
        homes = {os.path.realpath(one.pv_name) for one in physical if one.vg_uuid == row.vg_uuid}
        members, disks, external = _of_members(by_path[path] for path in homes if path in by_path)
        yield ClosedVolume(
            kind="lvm", id=uuid, name=f"{row.vg_name}/{row.lv_name}", members=members, disks=disks,
            size=int(row.lv_size), external=external, missing=int(row.vg_missing_pv_count),
            refusal=_why_not_logical(row, {one.segtype for one in (row, *more)}),
        )  # fmt: skip


def _why_not_logical(row: _Row, kinds: set[str]) -> str:
    # lvs(8), lv_attr: the ninth letter is p where extents lie on a disk that is not there
    if row.lv_attr[8:9] == "p":
        return "a disk of its group is missing"
    if not kinds <= _SIMPLE:
        return f"it is a volume of the kind {', '.join(sorted(kinds - _SIMPLE))}, which writes when it is opened"
    return ""


def _open_logical(keeper: Keeper, closed: ClosedVolume, *, writes: bool) -> str:
    group, _, volume = closed.name.partition("/")
    name = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    path = f"/dev/mapper/{name}"
    if os.path.lexists(path):
        raise MachineRefusal(
            f"a volume named {closed.name} is open already", hint="Close that one first: 'lvchange -an' in the shell."
        )
    listed = "" if writes else f'read_only_volume_list = [ "{closed.name}" ] '
    config = f"global {{ metadata_read_only = 1 }} activation {{ {listed}monitoring = 0 }}"
    keeper.will("mapping", name)
    command = ["lvchange", "--activate", "y", "--config", config, "--devices", ",".join(closed.members), closed.name]
    ended = run(command, timeout_s=_OPEN_S)
    if ended.exit_code:
        raise MachineRefusal(f"{closed_words(closed)} cannot be opened: {last_line(ended.errors)}", hint=_SHELL)
    return path


def _find_arrays(parts: Sequence[Part]) -> Iterable[ClosedVolume]:
    groups = dict[str, list[tuple[Part, dict[str, str]]]]()
    for part in parts:
        ended = run(["mdadm", "--examine", "--export", part.device.path])
        ended.require_success(hint="What is in a RAID is not looked into then.")
        said = parse_export(ended.text)
        groups.setdefault(said.get("MD_UUID", part.device.path), []).append((part, said))
    for uuid, found in groups.items():
        said = found[0][1]
        count = int(said.get("MD_DEVICES", "0") or 0)
        members, disks, external = _of_members(part for part, _ in found)
        name = f"{said.get('MD_LEVEL', '').removeprefix('raid')} {said.get('MD_NAME', '')}".strip()
        yield ClosedVolume(
            kind="raid", id=uuid, name=name, members=members, disks=disks,
            size=max(part.device.size for part, _ in found), external=external, missing=max(count - len(found), 0),
            refusal="" if count else "what mdadm says of it is not understood",
        )  # fmt: skip


def parse_export(text: str) -> dict[str, str]:
    """The lines ``NAME=VALUE`` of ``mdadm --examine --export``."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def _free_array(kernel: KernelPaths) -> str:
    for number in _NUMBERS:
        if not os.path.exists(f"{kernel.sys}/block/md{number}"):
            return f"{kernel.dev}/md{number}"
    raise MachineRefusal("too many arrays are open here", hint="Close some of them: 'mdadm --stop'.")


def _open_array(keeper: Keeper, closed: ClosedVolume, path: str, *, writes: bool) -> str:
    how = () if writes else ("--readonly",)
    keeper.will("array", _array_word(path, closed.id))
    # --run: an array that lacks a member is started too; that it does was said before
    ended = run(["mdadm", "--assemble", *how, "--run", "--config=none", path, *closed.members], timeout_s=_OPEN_S)
    if ended.exit_code:
        raise MachineRefusal(f"{closed_words(closed)} cannot be opened: {last_line(ended.errors)}", hint=_SHELL)
    if writes:
        run(["mdadm", "--readwrite", path])
    return path


def _array_word(path: str, uuid: str) -> str:
    """What the keeper is told: which device, and which array must be on it to be stopped."""
    return f"{path} {uuid}"
