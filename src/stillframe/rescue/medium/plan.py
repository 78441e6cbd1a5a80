"""What ``rescue build`` is going to do.

Answers: "what is made, of what, is there room, and what is missing on this machine?" Only looks. A target that is a
device is refused here: sticks are written by ``stick``, which asks more questions.
"""

import os
import stat
from dataclasses import dataclass
from typing import Final

from stillframe.clock import Clock
from stillframe.errors import MissingProgram, StorageFull, TargetError, UsageError
from stillframe.events import Notice
from stillframe.host.linux import is_root, require_linux
from stillframe.host.packages import install_line, may_install, missing_packages
from stillframe.host.places import free_space
from stillframe.host.wheels import runs_like
from stillframe.rescue.medium.base import AGE_MAX_S, BASE_SIZE, BaseWishes, find_base
from stillframe.rescue.medium.cache import media_cache
from stillframe.rescue.medium.mirror import find_sources, with_firmware
from stillframe.rescue.medium.recipe import PYTHON, Kernel
from stillframe.rescue.medium.settings import Settings, SettingWishes, read_settings
from stillframe.rescue.medium.stick import StickPlan, plan_stick
from stillframe.units import MIB, format_size

PROGRAMS: Final = ("mmdebstrap", "mksquashfs", "xorriso", "mkfs.fat", "mcopy", "unshare", "setpriv")
_STICK_PROGRAMS: Final = ("mkfs.exfat",)
_MAPPED_PROGRAMS: Final = ("newuidmap",)
ISO_SIZE: Final = 450 * MIB
"""More than a medium takes; with firmware of wireless cards it is larger."""
_FIRMWARE_SIZE: Final = 250 * MIB
_DAY_S: Final = 86400
_NO_FIRMWARE: Final = Notice(
    code="no-wireless-firmware",
    message="most wireless cards will not work: no source of packages here has Debian's part 'non-free-firmware'",
    hint="Add it to the sources of apt, 'apt-get update', and build again, or name a mirror that has it with '--mirror "
    "URL'. A cable, or a phone with its USB cable, goes without.",
)
_CLOUD: Final = Notice(
    code="small-kernel",
    message="this medium is for virtual machines: its kernel has no drivers for real computers, their CDs and sticks",
    hint="For a real computer leave '--kernel cloud' out.",
)
_OTHER_PYTHON: Final = Notice(
    code="other-python",
    message="this machine's Python is not the medium's (3.11): packages are fetched, and Stillframe starts more slowly",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumWishes:
    """What a person asked for; of ``iso``, ``usb`` and ``pieces`` at least one.

    Attributes:
        iso: The file to make.
        usb: The stick to write.
        pieces: A folder for the files that start a computer over the network.
        kernel: As for ``BaseWishes``.
        wifi: As for ``BaseWishes``.
        mirror: A mirror of Debian; empty for that of this machine.
        fresh: Make the base anew.
        serial: The menu's entry for the serial line starts by itself.
        settings: What is put onto it.
        repository_folder: Where the repository is that this person uses, when it is a folder of this machine.
    """

    iso: str = ""
    usb: str = ""
    pieces: str = ""
    kernel: Kernel = "generic"
    wifi: bool = False
    mirror: str = ""
    fresh: bool = False
    serial: bool = False
    settings: SettingWishes
    repository_folder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumPlan:
    """What will be done.

    Attributes:
        wishes: As asked for.
        base: Which base.
        settings: What is put onto the medium.
        stick: What is done to the stick.
        missing: Debian packages that are installed on this machine first.
        steps: All of it, in words.
        notices: What a person should know.
    """

    wishes: MediumWishes
    base: BaseWishes
    settings: Settings
    stick: StickPlan | None
    missing: tuple[str, ...]
    steps: tuple[str, ...]
    notices: tuple[Notice, ...]


def plan_build(wishes: MediumWishes, clock: Clock) -> MediumPlan:
    """Look at what is asked for, and at this machine.

    Raises:
        UsageError: Nothing is to be made, or a setting is not what it should be.
        TargetError: The file is a device, its folder is not there, or the stick is none.
        StorageFull: There is no room.
        MachineRefusal: This machine cannot do it.
    """
    require_linux("building a rescue medium")
    if not (wishes.iso or wishes.usb or wishes.pieces):
        raise UsageError(
            "it is not said what to make",
            hint="Name the file: 'stillframe rescue build rescue.iso'; or a stick: '--usb DEVICE'.",
        )
    settings = read_settings(wishes.settings)
    sources = find_sources(wishes.mirror)
    if wishes.wifi and wishes.mirror:
        sources = with_firmware(sources, wishes.mirror)
    base = BaseWishes(kernel=wishes.kernel, wifi=wishes.wifi, sources=sources, fresh=wishes.fresh)
    missing = _missing(wishes)
    kept = find_base(base, media_cache(), clock.now().timestamp())
    size = ISO_SIZE + (_FIRMWARE_SIZE if wishes.wifi and sources.has_firmware else 0)
    _require_room(wishes, size, has_base=kept is not None)
    stick = plan_stick(wishes.usb, wishes.repository_folder, size) if wishes.usb else None
    notices = [*sources.notices, *([_CLOUD] if wishes.kernel == "cloud" else [])]
    notices += [_NO_FIRMWARE] if wishes.wifi and not sources.has_firmware else []
    notices += [] if runs_like(PYTHON) else [_OTHER_PYTHON]
    age = None if kept is None else int((clock.now().timestamp() - kept.made) // _DAY_S)
    return MediumPlan(
        wishes=wishes, base=base, settings=settings, stick=stick, missing=missing, notices=tuple(notices),
        steps=tuple(_steps(wishes, base, settings, missing, age)),
    )  # fmt: skip


def _steps(
    wishes: MediumWishes, base: BaseWishes, settings: Settings, missing: tuple[str, ...], age: int | None
) -> list[str]:
    steps = [f"install on this machine: {' '.join(missing)}"] if missing else []
    kind = "for all computers" if base.kernel == "generic" else "for virtual machines"
    if age is None:
        steps.append(
            f"make a Debian 12 {kind} from {', '.join(dict.fromkeys(line.split()[1] for line in base.sources.lines))} "
            f"(some minutes; kept in {media_cache()})"
        )
    else:
        days = "today" if age == 0 else f"{age} day{'' if age == 1 else 's'} ago"
        steps.append(
            f"take the Debian 12 {kind} that was made {days}; after {AGE_MAX_S // _DAY_S} days, or with '--fresh', it "
            "is made anew"
        )
    steps.append("put Stillframe into it, as it runs here")
    steps += [f"put onto it: {step}" for step in settings.steps]
    steps += [f"write {os.path.abspath(wishes.iso)}{_replaced(wishes.iso)}"] if wishes.iso else []
    steps += (
        [f"put vmlinuz, initrd and filesystem.squashfs into {os.path.abspath(wishes.pieces)}"] if wishes.pieces else []
    )
    return steps


def _replaced(path: str) -> str:
    return ", in place of the file that is there" if os.path.exists(path) else ""


def _missing(wishes: MediumWishes) -> tuple[str, ...]:
    programs = (
        *PROGRAMS, *(_STICK_PROGRAMS if wishes.usb else ()), *(() if is_root() else _MAPPED_PROGRAMS),
    )  # fmt: skip
    missing = missing_packages(programs)
    if missing and not may_install():
        raise MissingProgram(
            f"packages are needed and not installed: {' '.join(missing)}",
            hint=f"On Debian or Ubuntu: {install_line(missing)}",
        )
    return missing


def _require_room(wishes: MediumWishes, size: int, *, has_base: bool) -> None:
    if wishes.iso:
        _refuse_target(wishes.iso)
    for path, needed in (
        (os.path.dirname(os.path.abspath(wishes.iso)) if wishes.iso else "", size),
        (wishes.pieces, size),
        (media_cache(), 3 * size + (0 if has_base else BASE_SIZE)),
    ):
        if path and free_space(path) < needed:
            raise StorageFull(
                f"{path} has {format_size(free_space(path))} free, and {format_size(needed)} are needed",
                hint="Make room, or name another folder; STILLFRAME_CACHE_DIR says where the cache is.",
            )


def _refuse_target(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise TargetError(f"{path} is a folder, expected a file", hint=f"Write '{os.path.join(path, 'rescue.iso')}'.")
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise TargetError(
            f"{path} is a device, expected a file",
            hint=f"To make a stick of it: 'stillframe rescue build --usb {path}'.",
        )
    if os.path.realpath(path).startswith("/dev/"):
        raise TargetError(f"there is no device {path}", hint="'stillframe disks' lists the disks of this machine.")
    if not os.path.isdir(folder):
        raise TargetError(f"there is no folder {folder}", hint="Make it first, or name another.")
    if not os.access(folder, os.W_OK):
        raise TargetError(f"{folder} may not be written", hint="Name a folder that you may write.")
