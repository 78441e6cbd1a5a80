"""Closed volumes that were opened: which they are, what rests on what, and in which order they are closed.

Answers: "is this volume in something that was opened here, and can it be written?" What is opened stays open,
read-only, until something else is chosen or the program ends: a stack is opened step by step. Written is only to a
stack that was opened anew for it, from its lowest layer on.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from stillframe.host.attaching import Keeper
from stillframe.host.stacked_places import (
    KINDS,
    NAMES,
    ClosedVolume,
    Part,
    close_opened,
    find_closed,
    open_closed,
)
from stillframe.host.volume_places import VolumeDevice
from stillframe.rescue.places.found import FoundVolume
from stillframe.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What was opened: which, what opened it, where it is, and whether it can be written."""

    closed: ClosedVolume
    secret: str
    path: str
    writes: bool = False

    @property
    def device(self) -> str:
        """The device as the kernel calls it."""
        return os.path.realpath(self.path)


class Stacks:
    """What was opened on this machine, the lowest layers first."""

    def __init__(self, list_devices: Callable[[], tuple[VolumeDevice, ...]]) -> None:
        self._list_devices = list_devices
        self._opened: list[_Opened] = []

    def is_open(self, device: VolumeDevice) -> bool:
        """Whether a device is a member of something that was opened here already."""
        return any(device.path in one.closed.members for one in self._opened)

    def open(self, keeper: Keeper, closed: ClosedVolume, secret: str) -> frozenset[str]:
        """Open something to look inside; the devices that rest on it. Raises as ``open_closed``."""
        if any(one.closed.id == closed.id for one in self._opened):
            return self.inside(closed)
        path = open_closed(keeper, closed, secret=secret)
        self._opened.append(_Opened(closed=closed, secret=secret, path=path))
        return self.inside(closed)

    def inside(self, closed: ClosedVolume) -> frozenset[str]:
        """The devices that rest on something that was opened; none when it is not open."""
        lower = {one.device for one in self._opened if one.closed.id == closed.id}
        return frozenset(device.path for device in self._list_devices() if device.below & lower)

    def close(self, keeper: Keeper, closed: ClosedVolume) -> None:
        """Close something, and what was opened in it."""
        self._close(keeper, self._with_above([one for one in self._opened if one.closed.id == closed.id]))

    def close_but(self, keeper: Keeper, devices: Collection[str]) -> None:
        """Close everything but what these devices rest on."""
        kept = [step for device in devices for step in self._chain(device)]
        self._close(keeper, [one for one in self._opened if one not in kept])

    def close_gone(self, keeper: Keeper) -> None:
        """Close what lies on disks that are not there any more. An array that lost only one of its disks goes on."""
        devices, gone = self._list_devices(), list[_Opened]()
        for one in self._opened:  # the lowest first
            members = set(one.closed.members)
            has_any = any(one.device in device.below and members & device.below for device in devices)
            if not has_any or any(lower.device in members for lower in gone):
                gone.append(one)
        self._close(keeper, gone)

    def is_read_only(self, device: str) -> bool:
        """Whether a device rests on something that was opened only to look."""
        return any(not step.writes for step in self._chain(device))

    def can_be_written(self, device: str) -> bool:
        """Whether everything that a device rests on can be opened to write."""
        return all(step.closed.kind != "bitlocker" for step in self._chain(device))

    def beside(self, device: str) -> frozenset[str]:
        """The devices, itself among them, that lie in the same stack as a device: they go when it is opened anew."""
        lower = {step.device for step in self._chain(device)}
        return frozenset(one.path for one in self._list_devices() if one.below & lower)

    def open_to_write(self, keeper: Keeper, device: str) -> str:
        """Open everything below a device anew, so that it can be written; what it is called then.

        What else was opened on that is closed. Raises as ``open_closed``.
        """
        chain = self._chain(device)
        self._close(keeper, self._with_above(chain))
        moved = dict[str, str]()
        for step in chain:
            before = step.device
            members = tuple(moved.get(member, member) for member in step.closed.members)
            closed = replace(step.closed, members=members)
            path = open_closed(keeper, closed, secret=step.secret, writes=True)
            again = replace(step, closed=closed, path=path, writes=True)
            self._opened.append(again)
            moved[before] = again.device
        return moved.get(device, device)

    def _chain(self, device: str) -> tuple[_Opened, ...]:
        """What a device rests on, the lowest first."""
        below = next((one.below for one in self._list_devices() if one.path == device), frozenset[str]())
        return tuple(one for one in self._opened if one.device in below)

    def _with_above(self, steps: Collection[_Opened]) -> list[_Opened]:
        """Some that are open, and what was opened in them later."""
        devices, found = self._list_devices(), list(steps)
        for number, one in enumerate(self._opened):
            lower = {below.device for below in self._opened[:number] if below in found}
            if one not in found and any(one.device in device.below and lower & device.below for device in devices):
                found.append(one)
        return found

    def _close(self, keeper: Keeper, steps: Collection[_Opened]) -> None:
        for step in reversed([one for one in self._opened if one in steps]):
            close_opened(keeper, step.closed, step.path)
            self._opened.remove(step)


def part_of(device: VolumeDevice, volume: FoundVolume) -> Part | None:
    """The device as a part of something closed; ``None`` when it is none."""
    if volume.filesystem not in KINDS:
        return None
    return Part(device=device, filesystem=volume.filesystem, label=volume.label, uuid=volume.uuid)


def closed_among(parts: list[Part]) -> tuple[ClosedVolume, ...]:
    """What these parts belong to, what can be opened first."""
    return tuple(sorted(find_closed(parts), key=lambda one: (bool(one.refusal), not one.external, one.members)))


def locked_words(closed: ClosedVolume) -> str:
    """A closed volume in a list."""
    named = f" {closed.name}" if closed.name else ""
    words = f"{NAMES[closed.kind]}{named}, {format_size(closed.size)} ({', '.join(closed.members)})"
    return f"Locked: {words}" if closed.is_locked else words


def locked_detail(closed: ClosedVolume) -> str:
    """What can be done with it, and what is missing of it."""
    lacks = (
        f"{closed.missing} of its disks {'is' if closed.missing == 1 else 'are'} missing; " if closed.missing else ""
    )
    way = "unlock it with its passphrase, to look inside" if closed.is_locked else "open it, to look inside"
    return f"{lacks}{way}"
