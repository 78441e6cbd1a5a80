r"""The boot configuration data of Windows (BCD), as a menu.

Answers: "which systems does the boot manager offer, which is the default, and on which partition is each?" Devices are
read by ``windows_disks``.

Sources: Microsoft, "BcdBootMgrElementTypes" (23000003 default, 24000001 display order), "BcdLibraryElementTypes"
(11000001 device, 12000002 path, 12000004 description), "BcdOSLoaderElementTypes" (21000001 device, 22000002 root), "BCD
object types" (10200003 loader of a Windows, 10300006 loader of NT to 2003); mistyprojects.co.uk, "Devices Partition -
Data".
"""

from dataclasses import dataclass
from itertools import islice
from typing import Final

from stillframe.errors import StillframeError
from stillframe.systems.fstab import plain
from stillframe.systems.hive import Hive
from stillframe.systems.records import SystemFiles
from stillframe.systems.windows_disks import PartitionRecord, parse_boot_device

_BOOTMGR: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_OBJECTS_MAX: Final = 1000
_ENTRIES_MAX: Final = 32
_LOADER, _LEGACY = 0x10200003, 0x10300006
_DEVICE, _PATH, _TITLE = "11000001", "12000002", "12000004"
_OS_DEVICE, _OS_FOLDER = "21000001", "22000002"
_DEFAULT, _ORDER = "23000003", "24000001"
_DIRECT: Final = b"\x06\0\0\0"
"""The kind of a device that is a partition itself; a RAM disk has another one (``windows_disks``)."""
_KIND_AT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEntry:
    r"""A system that can be chosen.

    Attributes:
        id: The name of its object.
        title: As people read it.
        is_legacy: It is the loader of NT to 2003.
        path: Of the loader, with ``/``: ``/Windows/system32/winload.efi``.
        folder: Of the Windows, with ``/``; empty for the loader of NT.
        device: The partition that the loader is on; ``None`` when it is named in a way that is not followed.
        system: The partition that the Windows is on, likewise.
    """

    id: str
    title: str
    is_legacy: bool
    path: str
    folder: str
    device: PartitionRecord | None
    system: PartitionRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStore:
    """A store. Entries are in the order of the menu, the default first; ``fault`` says why some may be missing."""

    entries: tuple[StoreEntry, ...]
    default: str = ""
    fault: str = ""


def read_boot_store(files: SystemFiles, path: str) -> BootStore | None:
    """Read a BCD; ``None`` when there is none, or it is no registry file."""
    try:
        hive = Hive.open(lambda offset, size: files.read_file(path, offset, size) or b"")
        return _Store(hive).read() if hive is not None else None
    except StillframeError as error:
        return BootStore(entries=(), fault=error.message)


class _Store:
    """One run."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive

    def read(self) -> BootStore:
        default = self._text(_BOOTMGR, _DEFAULT).lower()
        order = [name.lower() for name in self._list(_BOOTMGR, _ORDER)]
        objects = self._hive.find_key("Objects")
        names = list(islice(self._hive.iter_names(objects), _OBJECTS_MAX)) if objects else []
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        ranks = {name: rank for rank, name in enumerate(order, 1)} | ({default: 0} if default else {})
        # What is in the store and not in the menu is never started by itself; a store without a menu shows all.
        shown = [entry for entry in found if not ranks or entry.id.lower() in ranks] or found
        shown.sort(key=lambda entry: ranks.get(entry.id.lower(), len(ranks)))
        missing = default and all(entry.id.lower() != default for entry in found)
        fault = f"its default entry {plain(default)} is not in it" if missing else ""
        return BootStore(entries=tuple(shown[:_ENTRIES_MAX]), default=plain(default), fault=fault)

    def _entry(self, name: str) -> StoreEntry | None:
        kind = self._value(rf"Objects\{name}\Description", "Type")
        device = self._bytes(name, _OS_DEVICE)
        is_direct = device[_KIND_AT : _KIND_AT + 4] == _DIRECT
        if kind not in (_LOADER, _LEGACY, None) or (kind is None and not is_direct):
            return None
        if kind == _LOADER and device and not is_direct and parse_boot_device(device):
            return None  # a RAM disk: the recovery environment
        return StoreEntry(
            id=plain(name), title=plain(self._text(name, _TITLE)), is_legacy=kind == _LEGACY,
            path=_slashes(self._text(name, _PATH)), folder=_slashes(self._text(name, _OS_FOLDER)),
            device=next(iter(parse_boot_device(self._bytes(name, _DEVICE))), None),
            system=next(iter(parse_boot_device(device)), None),
        )  # fmt: skip

    def _value(self, path: str, name: str) -> str | int | bytes | None:
        key = self._hive.find_key(path)
        return self._hive.read_value(key, name) if key else None

    def _element(self, name: str, element: str) -> str | int | bytes | None:
        return self._value(rf"Objects\{name}\Elements\{element}", "Element")

    def _text(self, name: str, element: str) -> str:
        value = self._element(name, element)
        return value if isinstance(value, str) else ""

    def _bytes(self, name: str, element: str) -> bytes:
        value = self._element(name, element)
        return value if isinstance(value, bytes) else b""

    def _list(self, name: str, element: str) -> list[str]:
        """A list of texts (winnt.h: REG_MULTI_SZ)."""
        raw = self._bytes(name, element)
        return [word for word in raw[: len(raw) & ~1].decode("utf-16-le", errors="replace").split("\0") if word]


def _slashes(path: str) -> str:
    return plain(path.replace("\\", "/").rstrip("/"))
