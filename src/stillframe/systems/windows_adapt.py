r"""What a Windows needs in its registry in order to start from another disk controller.

Answers: "what must this ``SYSTEM`` say so that the driver of that controller starts with Windows?" In memory only, from
bytes to bytes. Without it, Windows stops early with INACCESSIBLE_BOOT_DEVICE (0x7B). Drivers that Windows has and does
not start are started; a driver from elsewhere gets its service, and an entry by which Windows knows its device.

Which of it was seen in the registries of real Windows, and which is only what others do, is said at each list. No real
Windows was ever started after this.

Sources: registries of Windows 7, 8.1 and 10 (``StartOverride``, ``DriverDatabase``, ``CriticalDeviceDatabase``);
Microsoft KB 922976 (``Start`` of msahci and iaStorV), KB 314082 (Windows XP's ``CriticalDeviceDatabase``);
libguestfs-common, ``mlcustomize/inject_virtio_win.ml`` (entries for a driver that is added).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.host.pci import PciDevice
from stillframe.systems.driver_inf import STORAGE_CLASSES, Architecture, InfDriver
from stillframe.systems.hive import Hive, Key
from stillframe.systems.hive_writer import (
    REG_BINARY,
    REG_EXPAND_SZ,
    HiveWriter,
    NewValue,
    number_value,
    text_value,
    texts_value,
)

Generation = Literal["xp", "vista", "modern"]
"""Windows XP and 2003; Vista and 7 with their servers; 8 and later."""
SEEN: Final = (
    "storahci", "stornvme", "msahci", "intelide", "atapi", "pciide", "iaStorV", "iaStorAVC", "iaStorAV", "LSI_SAS",
    "LSI_SAS2", "LSI_SAS2i", "LSI_SAS3", "LSI_SAS3i", "LSI_SSS", "megasas", "megasas2i", "megasas35i", "megasr",
    "amdsata", "amdxata", "percsas2i", "percsas3i", "arcsas", "mvumis", "SiSRaid2", "SiSRaid4", "stexstor", "vsmraid",
    "nvraid", "nvstor", "vmbus", "storflt", "storvsc",
)  # fmt: skip
"""Disk drivers of Windows, each seen switched off with ``StartOverride`` or ``Start`` = 3 in a real registry."""
NOT_SEEN: Final = ("vpci", "sdbus", "sdstor", "EhStorClass")
"""Of others' lists."""
IDE_OF_XP: Final = {"atapi": "SCSI miniport", "intelide": "System Bus Extender", "pciide": "System Bus Extender"}
"""Windows XP's drivers for any IDE controller, with their groups. Source: KB 314082."""
_HDC: Final = STORAGE_CLASSES["HDC"]
_IDE_IDS_OF_XP: Final = {
    "Primary_IDE_Channel": "atapi", "Secondary_IDE_Channel": "atapi", "*PNP0600": "atapi", "PCI#CC_0101": "pciide",
    "PCI#VEN_8086&DEV_7010": "intelide", "PCI#VEN_8086&DEV_7111": "intelide", "PCI#VEN_8086&DEV_7199": "intelide",
}  # fmt: skip
_IDS_OF_VISTA: Final = {"PCI#CC_0106": "msahci", "PCI#CC_010601": "msahci", "PCI#CC_0101": "pciide"}
_CRITICAL: Final = r"Control\CriticalDeviceDatabase"
_DATABASE: Final = "DriverDatabase"
_DEVICE_MARK: Final = bytes((1, 0xFF, 0, 0))
_PACKAGE_HEAD: Final = bytes((0, 0xFF, 9, 0, 0, 0, 0, 0))
_VERSION_SIZE: Final = 48
_INTEL: Final = 0x8086
_AHCI_HINT: Final = (
    "It is Intel RST or VMD: in that computer's firmware set its disks to AHCI, or switch VMD off; or give its driver "
    "(iaStorVD.inf, iaStorAC.inf) with '--drivers FOLDER'."
)
_DRIVER_HINT: Final = "Put its driver for this Windows (.inf, .sys) into a folder, and give it with '--drivers FOLDER'."


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsKind:
    """Which Windows it is.

    Attributes:
        architecture: Its processors.
        version: Major, minor, build.
    """

    architecture: Architecture
    version: tuple[int, int, int]

    @property
    def generation(self) -> Generation:
        """By how it finds its drivers."""
        major, minor, _ = self.version
        if major < 6:
            return "xp"
        return "vista" if (major, minor) < (6, 2) else "modern"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedDriver:
    """A driver that comes with the wish.

    Attributes:
        inf: The name of its ``.inf`` file, in small letters.
        controller: For what.
        driver: What the file says.
    """

    inf: str
    controller: PciDevice
    driver: InfDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """A registry as it must be.

    Attributes:
        contents: The hive; the very same bytes when nothing had to change.
        done: What was changed, in sentences.
        notices: What is missing for Windows to start.
    """

    contents: bytes
    done: tuple[str, ...]
    notices: tuple[Notice, ...]


def read_kind(software: Hive, architecture: Architecture) -> WindowsKind:
    """Which Windows a ``SOFTWARE`` says it is.

    Raises:
        DiskFormatError: It does not say, or is none that is known here: Windows 2000 and before.
    """
    key = software.find_key(r"Microsoft\Windows NT\CurrentVersion")

    def value(name: str) -> str | int | bytes | None:
        return software.read_value(key, name) if key else None

    major, minor = value("CurrentMajorVersionNumber"), value("CurrentMinorVersionNumber")
    if not isinstance(major, int) or not isinstance(minor, int):
        major, minor = _two_numbers(value("CurrentVersion"))
    build = value("CurrentBuildNumber") or value("CurrentBuild")
    number = int(build) if isinstance(build, str) and build.isascii() and build.isdecimal() and len(build) < 9 else 0
    if (major, minor) < (5, 1) or major > 10:
        raise DiskFormatError(
            f"its registry says that it is Windows {major}.{minor}, which is not known here",
            hint="Windows XP to 11 are. Restore without '--adapt'.",
        )
    return WindowsKind(architecture=architecture, version=(major, minor, number))


def adapt_system(
    contents: bytes, kind: WindowsKind, *, has_driver: Callable[[str], bool], controllers: Sequence[PciDevice],
    added: Sequence[AddedDriver],
) -> Adaptation:  # fmt: skip
    r"""Make a ``SYSTEM`` start the drivers that another computer needs.

    Args:
        contents: The hive.
        kind: Which Windows it is.
        has_driver: Whether there is such a file in Windows' folder, such as ``system32\drivers\storahci.sys``.
        controllers: Of the other computer; none when they are not known.
        added: Drivers whose files are put there too.

    Raises:
        DiskFormatError: The hive was not closed, is damaged, or has no control set.
    """
    adapter = _Adapter(contents, kind, has_driver)
    adapter.start_own_drivers()
    for one in added:
        adapter.add_driver(one)
    covered = {one.controller for one in added}
    notices = tuple(notice for one in controllers if one not in covered for notice in adapter.look_for(one))
    done = tuple(adapter.iter_done())
    return Adaptation(contents=adapter.writer.finish(), done=done, notices=notices)


class _Adapter:
    """One hive on its way."""

    def __init__(self, contents: bytes, kind: WindowsKind, has_driver: Callable[[str], bool]) -> None:
        self.writer = HiveWriter.open(contents)
        hive = Hive.open(lambda offset, size: contents[offset : offset + size])
        if hive is None:
            raise _no_hive("it is no registry file")
        self._hive = hive
        self._kind = kind
        self._has_driver = has_driver
        self._sets = tuple(self._iter_control_sets())
        if not self._sets:
            raise _no_hive("it has no control set that Windows would start with")
        self._has_database = self.writer.find_key(_DATABASE) is not None
        self._started = list[str]()
        self._known = list[str]()
        self._named = dict[str, str]()
        self._added = list[str]()

    def start_own_drivers(self) -> None:
        """Let Windows' own disk drivers start with it."""
        names = tuple(IDE_OF_XP) if self._kind.generation == "xp" else (*SEEN, *NOT_SEEN)
        for number in self._sets:
            for name in names:
                self._start(number, name)
            ids = {"xp": _IDE_IDS_OF_XP, "vista": _IDS_OF_VISTA, "modern": {}}[self._kind.generation]
            for device, service in ids.items():
                if self._is_startable(number, service) or self._make_ide_of_xp(number, service):
                    self._name_critical(number, device, service, _HDC)

    def add_driver(self, added: AddedDriver) -> None:
        """Make the service of a driver, and what Windows knows its device by."""
        service, driver = added.driver.service, added.driver
        for number in self._sets:
            path = rf"{number}\Services\{service.name}"
            image = text_value("ImagePath", rf"system32\drivers\{service.file}", REG_EXPAND_SZ)
            values = [("Type", 1), ("Start", 0), ("ErrorControl", service.error_control)]
            for value in (*(number_value(*pair) for pair in values), image):
                self.writer.set_value(path, value)
            self.writer.set_value(path, text_value("Group", service.group or "SCSI miniport"))
            self.writer.delete_key(rf"{path}\StartOverride")
            for below, name, number_of in service.numbers:
                self.writer.set_value(rf"{path}\{below}", number_value(name, number_of))
            for device in () if self._has_database else driver.ids:
                self._name_critical(number, f"PCI#{device}", service.name, driver.class_guid)
        if self._has_database:
            self._register(added)
        self._added.append(f"{service.file} for {added.controller.name}")

    def look_for(self, controller: PciDevice) -> Iterator[Notice]:
        """Let Windows' own driver for a controller start; what it has none for."""
        for number in self._sets:
            for device_id in controller.ids:
                services = self._services_of(number, device_id)
                if any(self._start(number, name) or self._is_startable(number, name) for name in services):
                    break
            else:
                yield _without_driver(controller)
                return

    def iter_done(self) -> Iterator[str]:
        """What was changed, in sentences."""
        if self._started:
            yield f"disk drivers that Windows has start with it now: {', '.join(dict.fromkeys(self._started))}"
        if self._known:
            yield f"it knows these disk controllers when it starts: {', '.join(dict.fromkeys(self._known))}"
        for one in dict.fromkeys(self._added):
            yield f"a driver was put into it, and starts with it: {one}"

    def _iter_control_sets(self) -> Iterator[str]:
        """Those that Windows may start with. Source: Microsoft KB 100010, "What are Control Sets?"."""
        key = self._hive.find_key("Select")
        values = (self._hive.read_value(key, name) if key else None for name in ("Current", "Default", "LastKnownGood"))
        for value in dict.fromkeys(values):
            if isinstance(value, int) and 0 < value < 1000:
                name = f"ControlSet{value:03}"
                if self.writer.find_key(rf"{name}\Services") is not None:
                    yield name

    def _service(self, number: str, name: str) -> Key | None:
        return self._hive.find_key(rf"{number}\Services\{name}")

    def _is_startable(self, number: str, name: str) -> bool:
        """Whether it is a driver of the kernel whose file is there."""
        key = self._service(number, name)
        if key is None or self._hive.read_value(key, "Type") != 1:
            return False
        image = self._hive.read_value(key, "ImagePath")
        path = _in_windows(image if isinstance(image, str) and image else rf"system32\drivers\{name}.sys")
        return bool(path) and self._has_driver(path)

    def _start(self, number: str, name: str) -> bool:
        """Let a driver start with Windows; whether it did not before."""
        if not self._is_startable(number, name):
            return False
        path = rf"{number}\Services\{name}"
        changed = self.writer.set_value(path, number_value("Start", 0))
        changed |= self.writer.delete_key(rf"{path}\StartOverride")
        if changed:
            self._started.append(name)
        return changed

    def _make_ide_of_xp(self, number: str, name: str) -> bool:
        """Windows XP may have the file of an IDE driver and no service of it. Source: KB 314082."""
        file = rf"system32\drivers\{name}.sys"
        if self._kind.generation != "xp" or self._service(number, name) or not self._has_driver(file):
            return False
        path = rf"{number}\Services\{name}"
        for pair in (("Type", 1), ("Start", 0), ("ErrorControl", 1)):
            self.writer.set_value(path, number_value(*pair))
        self.writer.set_value(path, text_value("ImagePath", file, REG_EXPAND_SZ))
        self.writer.set_value(path, text_value("Group", IDE_OF_XP[name]))
        self._started.append(name)
        return True

    def _name_critical(self, number: str, device: str, service: str, class_guid: str) -> None:
        path = rf"{number}\{_CRITICAL}\{device}"
        known = self._hive.find_key(path)
        named = self._hive.read_value(known, "Service") if known else None
        if isinstance(named, str) and named.lower() != service.lower() and self._is_startable(number, named):
            return  # the driver that its maker's setup chose
        self._named[path.upper()] = service
        changed = self.writer.set_value(path, text_value("Service", service))
        changed |= self.writer.set_value(path, text_value("ClassGUID", class_guid))
        if changed:
            self._known.append(device)

    def _services_of(self, number: str, device_id: str) -> Iterator[str]:
        """The drivers that Windows has for a device."""
        if not self._has_database:
            path = rf"{number}\{_CRITICAL}\PCI#{device_id}"
            named = self._named.get(path.upper())
            yield from (named,) if named else self._text(path, "Service")
            return
        key = self._hive.find_key(rf"{_DATABASE}\DeviceIds\PCI\{device_id}")
        for value in self._hive.iter_values(key, _ignore) if key else ():
            for label in self._text(rf"{_DATABASE}\DriverInfFiles\{value.name}", "Active"):
                package = rf"{_DATABASE}\DriverPackages\{label}"
                for configuration in self._text(rf"{package}\Descriptors\PCI\{device_id}", "Configuration"):
                    yield from self._text(rf"{package}\Configurations\{configuration}", "Service")

    def _text(self, path: str, name: str) -> Iterator[str]:
        key = self._hive.find_key(path)
        found = self._hive.read_value(key, name) if key else None
        if isinstance(found, str) and found and "\\" not in found:
            yield found

    def _register(self, added: AddedDriver) -> None:
        """Source: libguestfs-common, as above: what Windows 8 and later look a device up by."""
        driver, label = added.driver, f"{added.inf}_{self._kind.architecture}_0000000000000000"
        configuration, package = f"{added.inf.rpartition('.')[0]}_conf", rf"{_DATABASE}\DriverPackages\{label}"
        version = (_PACKAGE_HEAD + UUID(driver.class_guid).bytes_le).ljust(_VERSION_SIZE, b"\0")
        for path, value in (
            (rf"DriverInfFiles\{added.inf}", texts_value("", label)),
            (rf"DriverInfFiles\{added.inf}", text_value("Active", label)),
            (rf"DriverInfFiles\{added.inf}", texts_value("Configurations", configuration)),
        ):
            self.writer.set_value(rf"{_DATABASE}\{path}", value)
        self.writer.set_value(package, NewValue(name="Version", kind=REG_BINARY, data=version))
        self.writer.set_value(rf"{package}\Configurations\{configuration}", number_value("ConfigFlags", 0))
        self.writer.set_value(
            rf"{package}\Configurations\{configuration}", text_value("Service", driver.service.name)
        )  # fmt: skip
        mark = NewValue(name=added.inf, kind=REG_BINARY, data=_DEVICE_MARK)
        for device in driver.ids:
            self.writer.set_value(rf"{_DATABASE}\DeviceIds\PCI\{device}", mark)
            self.writer.set_value(rf"{package}\Descriptors\PCI\{device}", text_value("Configuration", configuration))


def _in_windows(image: str) -> str:
    r"""An ``ImagePath`` as a path in Windows' folder; empty for one that leads elsewhere."""
    path = image.strip().strip('"').replace("/", "\\")
    for head in ("\\SystemRoot\\", "%SystemRoot%\\", "\\??\\C:\\Windows\\", "C:\\Windows\\"):
        if path.lower().startswith(head.lower()):
            path = path[len(head) :]
            break
    parts = path.lower().split("\\")
    return path if parts[0] == "system32" and ".." not in parts and parts[-1].endswith(".sys") else ""


def _two_numbers(version: object) -> tuple[int, int]:
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts):
        return 0, 0
    return int(parts[0]), int(parts[1])


def _without_driver(controller: PciDevice) -> Notice:
    is_rst = controller.vendor == _INTEL and controller.is_raid
    return Notice(
        code="windows-no-driver",
        message=f"this Windows has no driver for the disk controller {controller.name}: if its disk is on that one, it "
        "stops at its start with INACCESSIBLE_BOOT_DEVICE (0x7B)",
        hint=_AHCI_HINT if is_rst else _DRIVER_HINT,
    )


def _no_hive(what: str) -> DiskFormatError:
    return DiskFormatError(f"Windows registry: {what}", hint="An older image may have it whole.")


def _ignore(_error: DiskFormatError) -> None:
    """Broken entries beside those that are looked for are no matter."""
