r"""The Windows on a restored disk is made to start in another computer.

Answers: "what is changed in it so that it finds its disk there?" On a workbench: ntfs-3g writes to a copy-on-write view
of the target. A registry that was not closed is closed first, with what waits in its logs. A Windows that is
hibernated, a volume that was not closed and a registry whose logs do not fit are left as they are, and that is said.
The registry as it was is in the image.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import WindowReader
from stillframe.disk import Partition
from stillframe.errors import Cancelled, DeviceError, DiskFormatError, MachineRefusal, StillframeError, UsageError
from stillframe.events import EventSink, Notice, PhaseStarted
from stillframe.fs.files.lookup import open_lookup
from stillframe.fs.ntfs import explain_unclean, is_hibernated
from stillframe.fs.registry import identify
from stillframe.host.apart import call_apart
from stillframe.host.changeable_files import ChangeableFiles
from stillframe.host.esp_files import FatVolume, list_names, read_file, remove_file, write_file
from stillframe.host.linux import is_root
from stillframe.host.pci import PciDevice
from stillframe.host.run import find_program
from stillframe.jobs.starts.driver_folder import ChosenDriver, DriverPackage, choose_driver
from stillframe.jobs.starts.start_failures import WINDOWS_NOT_ADAPTED
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.driver_file import HEAD_SIZE, parse_program
from stillframe.systems.driver_inf import Architecture
from stillframe.systems.hive import Hive
from stillframe.systems.hive_cells import HIVE_SIZE_MAX
from stillframe.systems.hive_logs import apply_logs, number_above, read_logs
from stillframe.systems.records import SizedFiles
from stillframe.systems.windows import SHUT_DOWN
from stillframe.systems.windows_adapt import WindowsKind, adapt_system, read_kind

_TIMEOUT_S: Final = 1800.0
_FOLDERS: Final = ("Windows", "WINNT")
SYSTEM: Final = "System32/config/SYSTEM"
_LOADER: Final = "/EFI/Microsoft/Boot/bootmgfw.efi"
_FALLBACKS: Final[dict[Architecture, str]] = {"amd64": "bootx64.efi", "x86": "bootia32.efi", "arm64": "bootaa64.efi"}
_PROCESSORS: Final[dict[str, Architecture]] = {"AMD64": "amd64", "X86": "x86", "ARM64": "arm64"}
_FALLBACK_HINT: Final = r"Choose \EFI\Microsoft\Boot\bootmgfw.efi in the firmware of that computer."
_PACKAGES: Final = "Drivers/Stillframe"
_HIBERNATED: Final = "Windows is hibernated in it, or was shut down with fast startup"
_BITLOCKER_HINT: Final = "Switch BitLocker off in that Windows ('manage-bde -off C:'), and begin again with its disk."
_PNP_HINT: Final = (
    r"When it has started: pnputil /add-driver C:\Windows\Drivers\Stillframe\*.inf /subdirs /install"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsHardware:
    """What the other computer has, and what a person brought for it.

    Attributes:
        controllers: Its disk controllers; empty when they are not known.
        packages: Drivers.
    """

    controllers: tuple[PciDevice, ...] = ()
    packages: tuple[DriverPackage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWindows:
    """A partition with a Windows on it.

    Attributes:
        number: Of the partition.
        folder: The name of its folder.
        refusal: Why it is not changed; empty when it may be.
        hint: What to do about that.
    """

    number: int
    folder: str
    refusal: str = ""
    hint: str = SHUT_DOWN


def require_adapting(filesystems: Collection[str]) -> None:
    """Make sure that a Windows in such volumes can be changed here, before anything is written.

    Raises:
        MachineRefusal: It cannot: not root.
        MissingProgram: A program is not installed.
    """
    if "ntfs" in filesystems:
        if not is_root():
            raise MachineRefusal("a restored Windows is adapted only by root", hint="Run it again with sudo.")
        for program in ("ntfs-3g", "losetup", "addpart"):
            find_program(program)
    if "vfat" in filesystems:
        find_program("mcopy")


def find_installed(
    bench: Workbench, written: Iterable[int], resized: frozenset[int]
) -> tuple[FoundWindows, ...]:  # fmt: skip
    """The partitions with a Windows, looked at without a mount.

    Raises:
        MachineRefusal: They cannot be looked at.
    """
    parts = [part for part in bench.layout.partitions if part.number in set(written)]
    return call_apart(
        lambda: tuple(_iter_installed(bench, parts, resized)), what="looking for Windows", timeout_s=_TIMEOUT_S
    )


def adapt_windows(
    bench: Workbench, hardware: WindowsHardware, events: EventSink, *, written: Iterable[int], resized: frozenset[int]
) -> tuple[str, ...]:
    """Change every Windows on a disk; what was changed, in sentences. What cannot be is a notice.

    Args:
        bench: The disk.
        hardware: What it has to get along with.
        events: Is told of what is not done.
        written: Numbers of partitions that came from the image; others are not looked into.
        resized: Of those, whose file systems were resized: they are marked for a check, and were clean before.

    Raises:
        MachineRefusal: The disk cannot be looked at here, or a file could not be written: nothing of all this may be
            taken over.
    """
    events.emit(PhaseStarted(name="making Windows ready for another computer"))
    numbers, done = tuple(written), list[str]()
    found = find_installed(bench, numbers, resized)
    if found and not hardware.controllers:
        events.emit(_unknown_controllers())
    for one in found:
        name = f"partition {one.number}"
        if one.refusal:
            events.emit(_not_adapted(name, one.refusal, one.hint))
            continue
        try:
            done += [f"{name}: {sentence}" for sentence in _adapt(bench, one, hardware, events)]
        except (DiskFormatError, MachineRefusal, UsageError) as error:  # all before anything of it is written
            events.emit(_not_adapted(name, error.message, error.hint))
        except DeviceError as error:
            raise MachineRefusal(f"{name}: {error.message}", hint=error.hint) from error
    for part in bench.layout.partitions:
        done += write_fallback(bench, part, events) if part.number in numbers else ()
    return tuple(done)


def write_fallback(bench: Workbench, part: Partition, events: EventSink) -> Iterator[str]:
    """Give an ESP with Windows' loader the file that firmware starts without an entry of its own.

    Source: UEFI Specification 2.10, section 3.5.1.1, "Removable Media Boot Behavior".
    """
    if _filesystem(bench, part) != "vfat":
        return
    volume = FatVolume(path=bench.file, offset=part.extent.start)
    loader = read_file(volume, _LOADER)
    program = parse_program(loader[:HEAD_SIZE], size=len(loader)) if loader else None
    if loader is None or program is None or program.architecture is None:
        return
    name = _FALLBACKS[program.architecture]
    if name in {one.lower() for one in list_names(volume, "/EFI/Boot") or ()}:
        return
    try:
        write_file(volume, f"/EFI/Boot/{name}", loader)
    except MachineRefusal as error:
        remove_file(volume, f"/EFI/Boot/{name}")
        message = f"partition {part.number}: no fallback boot file could be made ({error.message})"
        events.emit(Notice(code="efi-fallback-missing", message=message, hint=_FALLBACK_HINT))
        return
    yield f"partition {part.number}: a fallback boot file was made, EFI/Boot/{name}, for firmware that does not know it"


def read_architecture(files: SizedFiles, folder: str, system: Hive) -> Architecture:
    """For which processors a Windows is.

    Raises:
        DiskFormatError: It does not say, or for others than those that are known here.
    """
    head = files.read_file(f"{folder}/System32/cmd.exe", 0, HEAD_SIZE)  # the rule of libguestfs
    program = parse_program(head, size=files.file_size(f"{folder}/System32/cmd.exe") or 0) if head else None
    if program is not None and program.architecture is not None:
        return program.architecture
    key = system.find_key("Select")
    current = system.read_value(key, "Current") if key else None
    path = rf"ControlSet{current:03}\Control\Session Manager\Environment" if isinstance(current, int) else "Select"
    environment = system.find_key(path)
    named = system.read_value(environment, "PROCESSOR_ARCHITECTURE") if environment else None
    known = _PROCESSORS.get(named.upper()) if isinstance(named, str) else None
    if known is None:
        raise DiskFormatError("it is not known for which processors it is", hint="Restore without '--adapt'.")
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSystem:
    """The ``SYSTEM`` of a Windows.

    Attributes:
        contents: The hive, closed: with what waited in its logs.
        logs: Their bytes.
        kind: Which Windows it is.
        applied_count: How many entries of the logs were applied; 0 when the hive was closed already.
    """

    contents: bytes
    logs: tuple[bytes, ...]
    kind: WindowsKind
    applied_count: int


def open_system(files: SizedFiles, folder: str) -> OpenedSystem:
    """The ``SYSTEM`` of a Windows, and which Windows it is.

    Raises:
        DiskFormatError: It is none, or none that is known here; or it was not closed, and its logs cannot be applied.
    """
    contents = files.read_file(f"{folder}/{SYSTEM}", 0, HIVE_SIZE_MAX + 1)
    is_hive = Hive.open(lambda at, size: (contents or b"")[at : at + size]) is not None
    software = Hive.open(lambda at, size: files.read_file(f"{folder}/System32/config/SOFTWARE", at, size) or b"")
    if contents is None or not is_hive or software is None:
        raise DiskFormatError("its registry is not there, or is none", hint="An older image may have it whole.")
    logs = read_logs(files.read_file, f"{folder}/{SYSTEM}")
    try:
        replayed = apply_logs(contents, logs)
    except DiskFormatError as error:
        raise DiskFormatError(error.message, hint=SHUT_DOWN) from error
    system = Hive.open(lambda at, size: replayed.contents[at : at + size])
    if system is None:
        raise DiskFormatError("its registry is none with its logs applied", hint=SHUT_DOWN)
    kind = read_kind(software, read_architecture(files, folder, system))
    return OpenedSystem(contents=replayed.contents, logs=logs, kind=kind, applied_count=len(replayed.applied))


def _iter_installed(bench: Workbench, parts: Iterable[Partition], resized: frozenset[int]) -> Iterator[FoundWindows]:
    chosen = list(parts)
    asleep = [part.number for part in chosen if _is_asleep(bench, part)]
    for part in chosen:
        window = WindowReader(bench.view, part.extent)
        try:
            volume = identify(window).volume
            if volume.filesystem == "BitLocker":
                refusal = "it is encrypted by BitLocker"
                yield FoundWindows(number=part.number, folder="", refusal=refusal, hint=_BITLOCKER_HINT)
            if volume.filesystem != "ntfs":
                continue
            files = open_lookup(window, volume)
            folder = next((one for one in _FOLDERS if files and files.find(f"/{one}/{SYSTEM}") is not None), "")
            doubt = explain_unclean(window)
        except Cancelled:
            raise
        except StillframeError as error:
            yield FoundWindows(number=part.number, folder="", refusal=f"it cannot be read ({error.message})")
            continue
        if not folder:
            continue
        refusal = ""
        if asleep:  # one that goes on would write to where it remembers its files
            refusal = _HIBERNATED if part.number in asleep else f"partition {asleep[0]} holds a hibernated Windows"
        elif doubt is not None and not (part.number in resized and doubt.code == "ntfs-dirty"):
            refusal = f"its volume was not closed ({doubt.message})"
        yield FoundWindows(number=part.number, folder=folder, refusal=refusal)


def _is_asleep(bench: Workbench, part: Partition) -> bool:
    try:
        return _filesystem(bench, part) == "ntfs" and is_hibernated(WindowReader(bench.view, part.extent))
    except Cancelled:
        raise
    except StillframeError:
        return False


def _filesystem(bench: Workbench, part: Partition) -> str:
    """As it is called; empty for one that is broken."""
    try:
        return identify(WindowReader(bench.view, part.extent)).volume.filesystem
    except Cancelled:
        raise
    except StillframeError:
        return ""


def _adapt(bench: Workbench, found: FoundWindows, hardware: WindowsHardware, events: EventSink) -> Iterator[str]:
    """One Windows."""
    files = ChangeableFiles(bench.mount(found.number, "ntfs", "rw"))
    folder = found.folder
    system = open_system(files, folder)
    chosen = list[ChosenDriver]()
    for controller in hardware.controllers:
        driver, notices = choose_driver(hardware.packages, controller, system.kind)
        for notice in notices:
            events.emit(notice)
        chosen += [driver] if driver is not None else []
    added = [one.added for one in chosen]
    adapted = adapt_system(
        system.contents, system.kind, has_driver=lambda path: files.has_entry(f"{folder}/{path}"),
        controllers=hardware.controllers, added=added,
    )  # fmt: skip
    for one in chosen:
        yield from _copy_driver(files, folder, one)
    if adapted.contents != system.contents:  # otherwise Windows applies its logs itself
        files.write_file(f"{folder}/{SYSTEM}", number_above(adapted.contents, system.logs))
        if system.applied_count:
            yield f"what waited in the logs of its registry was written to it ({system.applied_count} entries)"
    for notice in adapted.notices:
        events.emit(Notice(code=notice.code, message=f"partition {found.number}: {notice.message}", hint=notice.hint))
    if chosen:
        message = "Windows starts with the driver that was put into it, and does not have all of its package yet"
        events.emit(Notice(code="driver-not-installed", message=message, hint=_PNP_HINT))
    yield from adapted.done


def _copy_driver(files: ChangeableFiles, folder: str, chosen: ChosenDriver) -> Iterator[str]:
    """Put a driver's file where Windows loads it from, and its package where a person finds it."""
    name = chosen.added.driver.service.file
    path = f"{folder}/System32/drivers/{name}"
    if files.has_entry(path):
        yield f"Windows has a file {name} of its own, which was kept"
    else:
        files.write_file(path, chosen.program)
    for one, contents in chosen.package:
        files.write_file(f"{folder}/{_PACKAGES}/{chosen.added.inf.rpartition('.')[0]}/{one}", contents)


def _not_adapted(name: str, reason: str, hint: str) -> Notice:
    return Notice(code=WINDOWS_NOT_ADAPTED, message=f"{name}: Windows is not adapted: {reason}", hint=hint)


def _unknown_controllers() -> Notice:
    return Notice(
        code="controllers-not-known",
        message="which disk controllers the other computer has is not known: only the drivers that this Windows has "
        "are made to start",
        hint="'--controller 8086:2922' names one, as 'lspci -nn' shows it in that computer.",
    )
