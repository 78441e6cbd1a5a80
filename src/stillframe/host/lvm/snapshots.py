"""Making, asking and removing snapshots of logical volumes.

Answers: "let this volume be readable as it is now, and take it away afterwards." A snapshot of ours has a name and two
tags of ours; one of them says which process it belongs to. One that lacks any of it is never removed. LVM itself
refuses to remove what somebody has open.

LVM's commands stop the volume for a moment, file system and all: they are never stopped halfway, whatever happens to
this program.

Source: lvcreate(8), lvremove(8), lvmreport(7) "Selection"; LVM2 lib/activate/activate.c (_lv_suspend: an origin is
suspended with ``lockfs``); Linux drivers/md/dm.c (lock_fs freezes the file system on the device).
"""

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_block_tree
from stillframe.host.linux import DeviceNumber
from stillframe.host.lvm.report import COLUMNS, TAG, Filling, LogicalVolume, owner_tag, parse_filling, parse_report
from stillframe.host.lvm.rooms import SnapshotPlan
from stillframe.host.machine import ProcessIdentity, process_alive, this_process
from stillframe.host.run import run, run_to_the_end

_ASK_S: Final = 120.0
_SAID_ANYWAY: Final = ("TEST MODE", "WARNING")
_HINT: Final = "'lvs' and 'dmesg' say more."


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot that was made.

    Attributes:
        volume: The snapshot.
        origin: Of what.
        device: The device node that shows its bytes.
        watched: The device whose filling tells whether it is good: its own, or that of its thin pool.
    """

    volume: LogicalVolume
    origin: LogicalVolume
    device: str
    watched: DeviceNumber

    @property
    def is_thin(self) -> bool:
        """Whether it shares a pool with other volumes."""
        return bool(self.volume.pool)


def read_volumes() -> tuple[LogicalVolume, ...]:
    """All logical volumes of this machine; parts of volumes are not among them.

    Raises:
        MachineRefusal: LVM is not installed, or does not answer.
    """
    command = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", ",".join(COLUMNS)]
    return parse_report(run(command, timeout_s=_ASK_S).require_success(hint="Run 'lvs' to see why.").text)


def read_filling(number: DeviceNumber) -> Filling:
    """How full a snapshot or a thin pool is, asked of the kernel; this waits for no lock of LVM.

    Raises:
        MachineRefusal: There is no such device, or it does not answer.
    """
    command = ["dmsetup", "status", "-j", str(number.major), "-m", str(number.minor)]
    return parse_filling(run(command).require_success(hint=_HINT).text)


def find_leftovers(
    volumes: Sequence[LogicalVolume], *, kernel: KernelPaths = THIS_MACHINE
) -> tuple[LogicalVolume, ...]:
    """Snapshots of ours whose process is gone: another boot, or no such process any more."""
    owned = [(volume, volume.owner) for volume in volumes if not volume.is_shared]
    return tuple(
        volume for volume, owner in owned if owner is not None and not process_alive(owner, kernel=kernel)
    )  # fmt: skip


def remove_leftovers(volumes: Sequence[LogicalVolume]) -> tuple[tuple[LogicalVolume, str], ...]:
    """Remove what runs that died have left.

    Returns:
        Each of them, with the reason why it could not be removed, or an empty text.
    """
    found = []
    for volume in find_leftovers(volumes):
        try:
            _remove(volume)
        except MachineRefusal as error:
            found.append((volume, error.message))
        else:
            found.append((volume, ""))
    return tuple(found)


def new_name() -> str:
    """A name for a snapshot."""
    return f"stillframe-{secrets.token_hex(4)}"


def require_makeable(plan: SnapshotPlan) -> None:
    """Ask LVM whether it would make a snapshot. Nothing is changed, and nothing is suspended.

    It knows more reasons against it than this program: a missing disk, one that nothing may be put on, ``pvmove``.

    Raises:
        MachineRefusal: It would not; in its own words.
    """
    done = run(["lvcreate", "--test", *_order(plan, new_name(), this_process())], timeout_s=_ASK_S)
    if done.exit_code != 0:
        lines = [line.strip() for line in done.errors.decode("utf-8", "replace").splitlines()]
        said = "; ".join(line for line in lines if line and not line.startswith(_SAID_ANYWAY)) or "it gave no reason"
        hint = f"'vgs {plan.origin.group}' and 'pvs' show more."
        raise MachineRefusal(f"LVM would not make one of {plan.origin.full_name}: {said}", hint=hint)


def make_snapshot(plan: SnapshotPlan, name: str, *, kernel: KernelPaths = THIS_MACHINE) -> Snapshot:
    """Make a snapshot, read-only. Whatever comes of it: ``remove_own`` removes it.

    Args:
        plan: As planned.
        name: From ``new_name``.
        kernel: Whose devices.

    Raises:
        MachineRefusal: LVM does not make it.
    """
    origin, command = plan.origin, ["lvcreate", *_order(plan, name, this_process(kernel))]
    run_to_the_end(command).require_success(hint=f"Try it by hand: {' '.join(command)}")
    volume = _find_own(read_volumes(), origin, name)
    node = read_block_tree(kernel).nodes.get(volume.number) if volume is not None and volume.number else None
    if volume is None or node is None or node.mapped_uuid != volume.mapped_uuid:
        raise MachineRefusal(f"the snapshot {origin.group}/{name} was made, and is not there", hint=_HINT)
    watched = plan.pool.number if plan.pool is not None and plan.pool.number is not None else node.number
    return Snapshot(volume=volume, origin=origin, device=node.path, watched=watched)


def remove_own(origin: LogicalVolume, name: str) -> None:
    """Remove the snapshot that this process has made, if it is there.

    Raises:
        MachineRefusal: It stays; the hint is the command that removes it.
    """
    volume = _find_own(read_volumes(), origin, name)
    if volume is not None:
        _remove(volume)


def _order(plan: SnapshotPlan, name: str, owner: ProcessIdentity) -> list[str]:
    """What ``lvcreate`` is told.

    A thin snapshot is activated once and marked as one to be skipped: when a power cut leaves it behind, the next start
    of the system must not find two file systems of one id.
    """
    how = ["-L", f"{plan.size}b"] if plan.pool is None else ["-ky", "-K", "-ay"]
    tags = ["--addtag", TAG, "--addtag", owner_tag(owner)]
    return ["-s", "-pr", "-n", name, *tags, *how, plan.origin.full_name]


def _find_own(volumes: Sequence[LogicalVolume], origin: LogicalVolume, name: str) -> LogicalVolume | None:
    """The snapshot of a name, in the origin's group, that this process has made."""
    mine = this_process()
    for one in volumes:
        is_of_it = one.group_uuid == origin.group_uuid and one.origin == origin.name
        if is_of_it and one.name == name and one.owner == mine:
            return one
    return None


def _remove(volume: LogicalVolume) -> None:
    """Remove exactly this volume: chosen by its id, its name and our tag, all at once."""
    hint = f"Remove it: lvremove {volume.full_name}"
    if volume.owner is None:
        raise MachineRefusal(f"{volume.full_name} is not a snapshot of ours", hint="Look at it with 'lvs'.")
    chosen = f"lv_uuid={_with_dashes(volume.uuid)} && lv_name={volume.name} && lv_tags={{{TAG}}}"
    run_to_the_end(["lvremove", "-f", "-S", chosen, volume.group]).require_success(hint=hint)
    if any(one.uuid == volume.uuid and one.group_uuid == volume.group_uuid for one in read_volumes()):
        raise MachineRefusal(f"{volume.full_name} is still there after lvremove", hint=hint)


def _with_dashes(uuid: str) -> str:
    """A uuid as LVM writes it: 6-4-4-4-4-4-6 characters. Source: LVM2 lib/uuid/uuid.c, id_write_format."""
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(uuid[start:end] for start, end in itertools.pairwise(cuts))
