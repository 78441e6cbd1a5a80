"""Everything that keeps the systems on a disk from starting, repaired on a copy-on-write view of it.

Answers: "what is broken here, and what can be done about it?" Each repair is whole or is not done; after each of them
the disk is looked at anew, so that none is done that another has made needless. What starts is not touched.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from stillframe.block import WindowReader
from stillframe.block.copy_on_write import CopyOnWrite
from stillframe.errors import Cancelled, DiskFormatError, StillframeError
from stillframe.events import Event, Notice, PhaseStarted
from stillframe.fs.ntfs import is_hibernated
from stillframe.host.apart import call_apart
from stillframe.host.named_volumes import find_named
from stillframe.jobs.context import JobContext
from stillframe.jobs.mending.esp import find_esp
from stillframe.jobs.mending.linux_loaders import LoaderWork, add_fallback
from stillframe.jobs.mending.linux_names_on_bench import NameWork
from stillframe.jobs.mending.seen import SeenDisk, SeenSystem, look_at_disk
from stillframe.jobs.mending.windows_esp import WindowsEspWork
from stillframe.jobs.mending.windows_records import remember
from stillframe.jobs.mending.windows_sectors import SectorRepair, mend_boot_sectors, mend_disk_code, said_starts
from stillframe.jobs.restoring.tables import TableWriter
from stillframe.jobs.starts.linux_boot import BIOS_BOOT_TYPE
from stillframe.jobs.starts.linux_parts import ROOT_FILE_SYSTEMS
from stillframe.jobs.starts.making_ready import StartWishes, WrittenDisk, make_ready
from stillframe.jobs.starts.start_failures import NOT_REPAIRED
from stillframe.jobs.starts.volume_stack import VolumeStack, open_stack
from stillframe.jobs.starts.windows_adapting import WindowsHardware
from stillframe.jobs.starts.workbench import Workbench, work_on
from stillframe.systems.chain_records import Firmware
from stillframe.systems.windows import SHUT_DOWN
from stillframe.systems.windows_repair import plan_windows_repair

_TIMEOUT_S: Final = 1800.0
_HINT: Final = "Start it from its own system's medium and repair it there; 'stillframe disks --boot' shows the ways."
_NOT_OURS: Final = frozenset({"boot-place-unknown", "efi-fallback-missing"})
"""Notices of the repair after a restore that are answered here in another way."""
_WINDOWS_NOT: Final = "windows-not-repaired"
_NO_FALLBACK: Final = (
    "by UEFI: no loader is where every firmware looks (EFI/BOOT): a firmware that has lost its entry starts nothing"
)
_ASLEEP: Final = (
    "It cannot be shut down while it does not start. Make an image of the disk first; then start Windows' own medium: "
    "'Repair your computer', 'Startup Repair'."
)
_WORDS: Final[dict[Firmware, str]] = {"bios": "BIOS", "uefi": "UEFI"}
_ESP_PLACES: Final = ("/boot/efi", "/efi")

Work = Callable[[Workbench], tuple[str, ...]]


class _NothingToDo(Exception):
    """Ends work that changed nothing, so that what mounts wrote is thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MendWishes:
    """What a person asked for.

    Attributes:
        adapt: The disk goes on in another computer: drivers, network cards and names of disks too.
        hardware: What a Windows finds there.
    """

    adapt: bool = False
    hardware: WindowsHardware = field(default_factory=WindowsHardware)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """What came of it.

    Attributes:
        before: The disk as it was.
        after: The disk as the view has it.
        broken: What was found broken, in sentences.
        changes: What was changed, in sentences.
        notices: What was not, and what a person should know.
    """

    before: SeenDisk
    after: SeenDisk
    broken: tuple[str, ...]
    changes: tuple[str, ...]
    notices: tuple[Notice, ...]


def mend(view: CopyOnWrite, wishes: MendWishes, context: JobContext) -> Mended:
    """Repair what can be repaired, on a view. Call it with one thread.

    Raises:
        DiskFormatError, DeviceError: The disk cannot be read, or its table is broken.
    """
    mender = _Mender(view, wishes, context)
    mender.run()
    return mender.result()


def expected_firmware(seen: SeenDisk) -> tuple[Firmware, ...]:
    """What the table of a disk is made for: a BIOS boot partition or an MBR, an EFI system partition."""
    has_esp = find_esp(seen.layout) is not None
    has_bios = any(part.type == BIOS_BOOT_TYPE for part in seen.layout.partitions)
    bios: tuple[Firmware, ...] = ("bios",) if has_bios or (seen.layout.scheme == "mbr" and not has_esp) else ()
    return (*bios, "uefi") if has_esp else bios


def faults_of(seen: SeenDisk) -> tuple[str, ...]:
    """What is broken on the ways in which a disk may start, each once."""
    found = [f"by {_WORDS[one.firmware]}: {one.fault}" for one in seen.chains if one.fault]
    known = {one.firmware for one in seen.chains}
    gone = [one for one in expected_firmware(seen) if one not in known]
    found += [f"by {_WORDS[one]}: nothing is there that starts a system" for one in gone]
    uefi = [one for one in seen.chains if one.firmware == "uefi"]
    if "uefi" in known and not any(one.is_fallback for one in uefi):
        found.append(_NO_FALLBACK)
    return tuple(dict.fromkeys(found))


class _Collected:
    """Passes events on but notices, which belong to the plan."""

    def __init__(self, context: JobContext) -> None:
        self._inner = context.events
        self.notices = list[Notice]()

    def emit(self, event: Event) -> None:
        """Pass an event on, or keep it."""
        if isinstance(event, Notice):
            self.notices.append(replace(event, hint=_ASLEEP) if event.hint == SHUT_DOWN else event)
        else:
            self._inner.emit(event)


class _Mender:
    """One run."""

    def __init__(self, view: CopyOnWrite, wishes: MendWishes, context: JobContext) -> None:
        self._view = view
        self._wishes = wishes
        self._events = _Collected(context)
        self._context = replace(context, events=self._events)
        self._before = self._seen = look_at_disk(view)
        self._table = TableWriter(view, self._seen.layout, view, ())
        self._numbers = tuple(part.number for part in self._seen.layout.partitions)
        self._is_moved = False
        self._broken, self._changes = list(faults_of(self._seen)), list[str]()
        self._look = partial(open_stack, layout=self._seen.layout, numbers=self._numbers, keys=context.keys)

    def run(self) -> None:
        """All repairs, in their order: names first, as loaders are found by them."""
        self._context.events.emit(PhaseStarted(name="repairing on a copy"))
        if self._seen.layout.scheme == "none":
            return
        self._mend_windows_records()
        if not self._windows_asleep():
            self._apply(mend_boot_sectors(self._view, self._seen))
        stack = self._look(self._view)
        if stack.unopened:
            self._say((_not_opened(stack),))
        if self._may_hold_linux(stack):
            self._mend_linux_names()
        if self._wishes.adapt:
            self._adapt()
        self._seen = look_at_disk(self._view)
        if self._may_hold_linux(stack):
            self._mend_linux_loaders()
        self._mend_windows_esp()
        self._mend_fallback()
        self._table.write()
        # A Windows that is asleep goes on where it was when it is started: only when that is where it is.
        is_moved = (self._is_moved or bool(said_starts(self._view, self._seen))) and self._windows_asleep()
        if "bios" in expected_firmware(self._seen) and self._seen.is_lost("bios") and not is_moved:
            self._apply(mend_disk_code(self._view, self._seen))
        self._seen = look_at_disk(self._view)

    def result(self) -> Mended:
        """What came of it."""
        notices = [one for one in self._events.notices if one.code not in _NOT_OURS]
        return Mended(
            before=self._before, after=self._seen, broken=tuple(dict.fromkeys(self._broken)),
            changes=tuple(self._changes), notices=tuple(dict.fromkeys((*self._before.notices, *notices))),
        )  # fmt: skip

    def _mend_windows_records(self) -> None:
        said = said_starts(self._view, self._seen)
        found = remember(self._seen, said, lambda name: bool(find_named(name)))
        self._say(found.notices)
        self._broken += found.words
        moves = found.moves
        if moves is None:
            return
        self._is_moved = True
        repair = call_apart(
            lambda: plan_windows_repair(self._view, self._seen.layout, moves),
            what="looking for what Windows notes of its partitions", timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        for patch in repair.patches:
            self._view.write_at(patch.offset, patch.data)
        self._changes += repair.done
        self._say(repair.not_done)
        self._seen = look_at_disk(self._view)

    def _mend_linux_names(self) -> None:
        work = NameWork(layout=self._seen.layout)
        done = self._try(work.do, "the names of volumes in its tables")
        self._say(work.notices)
        if done:
            self._broken += work.broken
            self._seen = look_at_disk(self._view)

    def _adapt(self) -> None:
        """As after a restore onto another computer."""
        disk = WrittenDisk(
            target=self._view, table=self._table, before=self._seen.layout, after=self._seen.layout,
            written=self._numbers, resized=frozenset(),
        )  # fmt: skip
        self._changes += make_ready(disk, StartWishes(adapt=True, hardware=self._wishes.hardware), self._context)

    def _mend_linux_loaders(self) -> None:
        wanted = expected_firmware(self._seen)
        bios = "bios" in wanted and self._seen.is_lost("bios")
        uefi = "uefi" in wanted and self._is_lost_by_uefi()
        if bios or uefi:
            fallback = [one for one in self._seen.chains if one.firmware == "uefi" and one.is_fallback]
            work = LoaderWork(
                layout=self._seen.layout, bios=bios, uefi=uefi, esp_id=self._esp_id(),
                replaces_fallback=bool(fallback) and all(one.fault for one in fallback),
            )  # fmt: skip
            if self._try(work.do, "its boot loader"):
                self._seen = look_at_disk(self._view)

    def _mend_fallback(self) -> None:
        ways = [one for one in self._seen.chains if one.firmware == "uefi"]
        is_expected = "uefi" in expected_firmware(self._seen) and not self._seen.is_lost("uefi")
        if is_expected and not any(one.is_fallback for one in ways):
            self._try(self._add_fallback, "the loader that every firmware looks for", with_stack=False)

    def _add_fallback(self, bench: Workbench) -> tuple[str, ...]:
        return add_fallback(bench, self._seen.layout, self._context.events)

    def _mend_windows_esp(self) -> None:
        if "uefi" not in expected_firmware(self._seen) or self._seen.is_unknown("uefi"):
            return
        for one in self._seen.systems:
            if one.installed.family == "windows" and not self._seen.whole_ways(one, "uefi") and self._is_by_gpt():
                work = WindowsEspWork(
                    layout=self._seen.layout, windows=one.evidence.partition.number, esp_id=self._esp_id()
                )
                if self._try(work.do, f"the boot files of {one.word}", with_stack=False):
                    self._say(work.notices)
                    self._seen = look_at_disk(self._view)

    def _try(self, work: Work, what: str, *, with_stack: bool = True) -> bool:
        """Let work be done: all of it is in the view afterwards, or nothing. Whether anything is."""

        def do(bench: Workbench) -> tuple[str, ...]:
            done = work(bench)
            if not done:
                raise _NothingToDo
            return done

        self._context.cancel.check()
        look = self._look if with_stack else None
        try:
            self._changes += work_on(self._view, self._table, self._seen.layout, self._context.events, do, look=look)
        except _NothingToDo:
            return False
        except Cancelled:
            raise
        except StillframeError as error:
            message = f"not repaired, {what}: {error.message}"
            self._say(
                (Notice(code=NOT_REPAIRED if with_stack else _WINDOWS_NOT, message=message, hint=error.hint or _HINT),)
            )
            return False
        return True

    def _apply(self, found: SectorRepair) -> None:
        for offset, data in found.patches:
            self._view.write_at(offset, data)
        self._broken += found.broken
        self._changes += found.done
        self._say(found.notices)

    def _say(self, notices: "tuple[Notice, ...] | list[Notice]") -> None:
        for notice in notices:
            self._events.emit(notice)

    def _is_lost_by_uefi(self) -> bool:
        """Whether a Linux has no loader for UEFI, and none may be there that is not understood."""
        linux = [one for one in self._seen.systems if one.installed.family == "linux"]
        return self._seen.is_lost("uefi") or any(self._seen.is_lost("uefi", one) for one in linux)

    def _windows_asleep(self) -> bool:
        windows = [one for one in self._seen.volumes if one.volume.filesystem == "ntfs" and not one.inner]
        return any(_is_asleep(WindowReader(self._view, one.partition.extent)) for one in windows)

    def _is_by_gpt(self) -> bool:
        return self._seen.layout.scheme == "gpt"

    def _may_hold_linux(self, stack: VolumeStack) -> bool:
        kinds = {one.volume.filesystem for one in self._seen.volumes}
        return bool(kinds & ROOT_FILE_SYSTEMS) or bool(stack.volumes)

    def _esp_id(self) -> str:
        """The id by which a Linux mounts its EFI system partition; a new one when it does not say."""
        lines = [
            line
            for one in self._seen.volumes
            if one.files is not None
            for line in one.files.linux.fstab
            if line.where in _ESP_PLACES
        ]
        names = [line.what.removeprefix("UUID=").replace("-", "") for line in lines if line.what.startswith("UUID=")]
        found = next(
            (name for name in names if len(name) == 8 and all(one in "0123456789ABCDEFabcdef" for one in name)), ""
        )
        return (found or secrets.token_hex(4)).upper()


def _not_opened(stack: VolumeStack) -> Notice:
    unlock = "'--unlock' opens what is encrypted by LUKS." if stack.locked else "Open them in the system's own medium."
    return Notice(
        code="volumes-not-opened",
        message=f"not opened: {', '.join(stack.unopened)}; no Linux in them is repaired, and names of volumes that may "
        "be in them are left as they are",
        hint=unlock,
    )


def _is_asleep(window: WindowReader) -> bool:
    try:
        return is_hibernated(window)
    except DiskFormatError:  # a volume that is broken says nothing
        return False


def lost_systems(mended: Mended) -> tuple[SeenSystem, ...]:
    """The systems that do not start, once all was done; those of which nobody can tell are not among them."""
    return tuple(one for one in mended.after.systems if mended.after.does_start(one) is False)
