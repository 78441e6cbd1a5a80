r"""A Windows that has started by BIOS gets what it takes to start by UEFI: experimental.

Answers: "put onto this ESP what this Windows needs on it." On a workbench whose disk has a GPT already. The boot files
come from Windows' own folder, as ``bcdboot`` takes them; the boot configuration is made anew; records of drive letters
follow. No real Windows was ever started after it, and it is said so.

Source: Microsoft, "BCDBoot Command-Line Options" (which folders are copied to where).
"""

import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.events import Notice
from stillframe.host.changeable_files import ChangeableFiles
from stillframe.host.esp_files import FatVolume, read_file, write_file
from stillframe.jobs.starts.windows_adapting import SYSTEM, find_installed, open_system
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.boot_store_new import NewStore, build_uefi_store
from stillframe.systems.driver_file import HEAD_SIZE, parse_program
from stillframe.systems.hive import Hive
from stillframe.systems.hive_logs import number_above
from stillframe.systems.hive_writer import REG_BINARY, HiveWriter, NewValue
from stillframe.systems.records import SizedFiles
from stillframe.systems.windows_adapt import WindowsKind
from stillframe.systems.windows_disks import PartitionRecord, parse_mounted_device, write_mounted_device
from stillframe.units import align_up

Renamed = Mapping[PartitionRecord, PartitionRecord]
"""What the partitions were called on the MBR disk, and what they are called now."""
_BOOT: Final = "/EFI/Microsoft/Boot"
_STORE: Final = f"{_BOOT}/BCD"
_FALLBACK: Final = "/EFI/Boot/bootx64.efi"
_SOURCES: Final = {"EFI": _BOOT, "Fonts": f"{_BOOT}/Fonts", "Resources": f"{_BOOT}/Resources"}
_NEEDED: Final = ("Boot/EFI/bootmgfw.efi", "System32/winload.efi", "System32/config/BCD-Template")
_TEMPLATE: Final = "System32/config/BCD-Template"
_FILE_MAX: Final = 64 << 20
_FILES_MAX: Final = 4000
_TOTAL_MAX: Final = 256 << 20
_FIRST: Final = (6, 1, 0)
_PAGE: Final = 4096
_NOBODY: Final = uuid.UUID(int=1)
_KEEP_HINT: Final = (
    "Restore it as it was, to start by BIOS, and run Windows' own 'mbr2gpt /convert /allowFullOS' in it."
)
EXPERIMENTAL: Final = Notice(
    code="windows-uefi-experimental",
    message="that a Windows starts by UEFI after this was never seen: its boot files and its boot configuration were "
    "made as Windows' own tools make them",
    hint="Keep the image or the old disk. If it does not start, run 'bcdboot C:\\Windows' in its recovery environment.",
)
NO_RECOVERY: Final = Notice(
    code="windows-recovery-left-out",
    message="Windows' recovery environment and its resume from hibernation are not in the new boot configuration",
    hint="In that Windows run 'reagentc /disable', then 'reagentc /enable'.",
)


def prepare_windows_uefi(
    bench: Workbench, windows_partition: int, esp_partition: int, *, renamed: Renamed | None = None,
    new_id: uuid.UUID | None = None, resized: frozenset[int] = frozenset(),
) -> tuple[tuple[str, ...], tuple[Notice, ...]]:  # fmt: skip
    """Make a Windows start by UEFI; what was done, in sentences, and what must be known.

    Args:
        bench: The disk, with its GPT in place.
        windows_partition: The number of the partition with Windows.
        esp_partition: That of an EFI system partition: FAT, without a Windows' boot files on it.
        renamed: What its records of drive letters call its partitions, and must call them now.
        new_id: Of the new entry; made when it is not given.
        resized: Numbers of partitions whose file systems were resized: they are marked for a check, and were clean.

    Raises:
        DiskFormatError: This Windows cannot start by UEFI, or must not be changed. Nothing was changed then.
        MachineRefusal, DeviceError: It is not possible here; nothing of what was done may be taken over.
    """
    found = next(iter(find_installed(bench, [windows_partition], resized)), None)
    if found is None or found.refusal:
        reason = found.refusal if found else "there is no Windows in it"
        raise DiskFormatError(
            f"partition {windows_partition} is not made to start by UEFI: {reason}",
            hint=found.hint if found else "'stillframe disks' shows where Windows is.",
        )
    esp = FatVolume(path=bench.file, offset=_record_place(bench, esp_partition))
    if read_file(esp, _STORE) is not None:
        raise _refused("its EFI system partition has a boot configuration of a Windows already")
    files = ChangeableFiles(bench.mount(windows_partition, "ntfs", "rw"))
    folder = found.folder
    opened = open_system(files, folder)
    _require_uefi(files, folder, opened.kind)
    system = _rename_volumes(opened.contents, renamed or {})
    boot_files = tuple(_iter_boot_files(files, folder))
    store = NewStore(
        esp=_record(bench, esp_partition), windows=_record(bench, windows_partition),
        loader_id=new_id or uuid.uuid4(), has_new_menu=opened.kind.generation == "modern",
        has_memory_test=any(target == f"{_BOOT}/memtest.efi" for target, _ in boot_files),
    )  # fmt: skip
    template = files.read_file(f"{folder}/{_TEMPLATE}", 0, _FILE_MAX) or b""
    written = build_uefi_store(template, store)
    for target, path in boot_files:
        write_file(esp, target, _read(files, path))
    if read_file(esp, _FALLBACK) is None:  # that of another system on this disk is left to it
        write_file(esp, _FALLBACK, _read(files, f"{folder}/Boot/EFI/bootmgfw.efi"))
    write_file(esp, _STORE, written)
    done = [
        f"partition {esp_partition}: Windows' boot files for UEFI ({len(boot_files)}), and a new boot configuration"
    ]
    if system != opened.contents:
        files.write_file(f"{folder}/{SYSTEM}", number_above(system, opened.logs))
        done.append(f"partition {windows_partition}: the records of drive letters follow their partitions")
    return tuple(done), (EXPERIMENTAL, NO_RECOVERY)


def measure_windows_uefi(files: SizedFiles, folder: str) -> tuple[WindowsKind, int]:
    """Look, before anything is written, whether ``prepare_windows_uefi`` would refuse the files of a Windows.

    Args:
        files: Of its volume.
        folder: Windows' own in it.

    Returns:
        Which Windows it is, and how many bytes of an EFI system partition it takes.

    Raises:
        DiskFormatError: This Windows cannot start by UEFI, or must not be changed.
    """
    opened = open_system(files, folder)
    _require_uefi(files, folder, opened.kind)
    _rename_volumes(opened.contents, {})
    nowhere = PartitionRecord(scheme="gpt", disk=str(_NOBODY), guid=str(_NOBODY))
    template = files.read_file(f"{folder}/{_TEMPLATE}", 0, _FILE_MAX) or b""
    store = build_uefi_store(template, NewStore(esp=nowhere, windows=nowhere, loader_id=_NOBODY))
    loader = f"{folder}/{_NEEDED[0]}"
    paths = [loader, *(path for _, path in _iter_boot_files(files, folder))]
    return opened.kind, sum(align_up(files.file_size(path) or 0, _PAGE) for path in paths) + align_up(len(store), _PAGE)


def _require_uefi(files: SizedFiles, folder: str, kind: WindowsKind) -> None:
    if kind.architecture != "amd64" or kind.version < _FIRST:
        raise _refused(f"only a 64-bit Windows 7 or later starts by UEFI, and this is {kind.architecture}, "
                       f"{kind.version[0]}.{kind.version[1]}")  # fmt: skip
    missing = [name for name in _NEEDED if files.file_size(f"{folder}/{name}") is None]
    if missing:
        raise _refused(f"it has no {missing[0]} that can be read")
    head = files.read_file(f"{folder}/{_NEEDED[0]}", 0, HEAD_SIZE) or b""
    program = parse_program(head, size=files.file_size(f"{folder}/{_NEEDED[0]}") or 0)
    if program is None or program.architecture != "amd64":
        raise _refused(f"its {_NEEDED[0]} is no loader for 64 bits")


def _iter_boot_files(files: SizedFiles, folder: str) -> Iterator[tuple[str, str]]:
    """Each boot file: where it goes, and where it is."""
    count = 0
    total = 0
    for name, target in _SOURCES.items():
        stack = [(f"{folder}/Boot/{name}", target)]
        while stack:
            place, to = stack.pop()
            for one in files.list_names(place):
                size = files.file_size(f"{place}/{one}")
                count, total = count + 1, total + (size or 0)
                if count > _FILES_MAX or total > _TOTAL_MAX:
                    raise _refused("its folder of boot files holds more than boot files")
                if size is None:
                    stack.append((f"{place}/{one}", f"{to}/{one}"))
                else:
                    yield f"{to}/{one}", f"{place}/{one}"


def _rename_volumes(contents: bytes, renamed: Renamed) -> bytes:
    """A ``SYSTEM`` whose ``MountedDevices`` name partitions as they are called now."""
    hive, writer = Hive.open(lambda at, size: contents[at : at + size]), HiveWriter.open(contents)
    key = hive.find_key("MountedDevices") if hive else None
    for value in hive.iter_values(key, lambda _: None) if hive and key else ():
        record = parse_mounted_device(value.data)
        if record is not None and record in renamed:
            data = write_mounted_device(renamed[record])
            writer.set_value("MountedDevices", NewValue(name=value.name, kind=REG_BINARY, data=data))
    return writer.finish()


def _record(bench: Workbench, number: int) -> PartitionRecord:
    guid = next((part.guid for part in bench.layout.partitions if part.number == number), "")
    if bench.layout.scheme != "gpt" or not guid:
        raise MachineRefusal(f"there is no partition {number} on a GPT disk", hint="This is a bug: please report it.")
    return PartitionRecord(scheme="gpt", disk=bench.layout.disk_id, guid=guid)


def _record_place(bench: Workbench, number: int) -> int:
    _record(bench, number)
    return next(part.extent.start for part in bench.layout.partitions if part.number == number)


def _read(files: ChangeableFiles, path: str) -> bytes:
    contents = files.read_file(path, 0, _FILE_MAX)
    if contents is None:
        raise _refused(f"{path} cannot be read")
    return contents


def _refused(reason: str) -> DiskFormatError:
    return DiskFormatError(f"Windows is not made to start by UEFI: {reason}", hint=_KEEP_HINT)
