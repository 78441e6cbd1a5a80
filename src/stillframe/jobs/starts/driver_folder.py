"""A person's folder of Windows drivers.

Answers: "which driver in it is for this disk controller of this Windows, and may it be used?"
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import DiskFormatError, UsageError
from stillframe.events import Notice
from stillframe.host.pci import PciDevice
from stillframe.systems.driver_file import HEAD_SIZE, parse_program
from stillframe.systems.driver_inf import INF_SIZE_MAX, Architecture, InfDriver, find_driver
from stillframe.systems.windows_adapt import AddedDriver, WindowsKind

FILE_SIZE_MAX: Final = 64 << 20
_FILES_MAX: Final = 20_000
_PACKAGE_MAX: Final = 256 << 20
_ARCHITECTURES: Final[tuple[Architecture, ...]] = ("amd64", "x86", "arm64")
_NEWEST: Final = (10, 0, 99_999)
_OTHER_HINT: Final = "Ask the maker of that computer for the driver of its disk controller, unpacked, for this Windows."


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverPackage:
    """One ``.inf`` file.

    Attributes:
        path: Where it is.
        contents: What it says.
    """

    path: str
    contents: bytes

    @property
    def name(self) -> str:
        """Its name, in small letters."""
        return os.path.basename(self.path).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenDriver:
    """A driver that is put into a Windows.

    Attributes:
        added: What its registry is told.
        program: The contents of its ``.sys`` file.
        package: All files of the package, by their names.
    """

    added: AddedDriver
    program: bytes
    package: tuple[tuple[str, bytes], ...]


def read_driver_folder(folder: str, controllers: Sequence[PciDevice]) -> tuple[DriverPackage, ...]:
    """The packages in a folder and the folders below it that have a driver for one of these controllers.

    Raises:
        UsageError: There is no such folder, it has no ``.inf`` file, or none for any of the controllers.
    """
    packages = list_packages(folder)
    if not controllers:
        raise UsageError(
            "it is not known which disk controllers the other computer has",
            hint="Name them with '--controller 8086:2922', as 'lspci -nn' shows them in that computer.",
        )
    fitting = tuple(one for one in packages if any(_fits(one, controller) for controller in controllers))
    if not fitting:
        names = ", ".join(one.name for one in controllers)
        raise UsageError(f"no driver in {folder} is for a disk controller of the target ({names})", hint=_OTHER_HINT)
    return fitting


def list_packages(folder: str) -> tuple[DriverPackage, ...]:
    """All packages in a folder and the folders below it.

    Raises:
        UsageError: There is no such folder, or it has no ``.inf`` file.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is no folder", hint="'--drivers' takes a folder with .inf and .sys files.")
    packages = tuple(_iter_packages(os.path.abspath(folder)))  # the files are read later, when "here" is elsewhere
    if not packages:
        raise UsageError(
            f"there is no .inf file in {folder}",
            hint="Unpack the maker's download first: an .exe or .zip holds them; Windows' setup calls it 'F6 driver'.",
        )
    return packages


def choose_driver(
    packages: Sequence[DriverPackage], controller: PciDevice, kind: WindowsKind
) -> tuple[ChosenDriver | None, tuple[Notice, ...]]:
    """The driver for a controller that names it most exactly, and why others were not used."""
    found = list[tuple[int, DriverPackage, InfDriver]]()
    notices = list[Notice]()
    for package in packages:
        try:
            driver = find_driver(
                package.contents, controller, architecture=kind.architecture, version=kind.version
            )  # fmt: skip
        except DiskFormatError as error:
            notices.append(_not_used(package, error.message))
            continue
        if driver is not None:
            found.append((driver.rank, package, driver))
    for _, package, driver in sorted(found, key=lambda one: (one[0], one[1].name)):
        program, refusal = _read_program(package, driver, kind)
        if program is None:
            notices.append(_not_used(package, refusal))
            continue
        added = AddedDriver(inf=package.name, controller=controller, driver=driver)
        return ChosenDriver(added=added, program=program, package=tuple(_iter_files(package))), ()
    if not notices:
        words = f"the folder has no driver for {controller.name} and {kind.architecture} in it"
        notices = [Notice(code="driver-not-used", message=words, hint=_OTHER_HINT)] if packages else []
    return None, tuple(notices)


def _read_program(package: DriverPackage, driver: InfDriver, kind: WindowsKind) -> tuple[bytes | None, str]:
    """The contents of a driver's file, or why it is not used."""
    path = _find_file(os.path.dirname(package.path), driver.service.file)
    if path is None:
        return None, f"its file {driver.service.file} is not beside it"
    contents = _read(path, FILE_SIZE_MAX)
    program = parse_program(contents[:HEAD_SIZE], size=len(contents))
    if program is None or program.architecture is None:
        return None, f"{driver.service.file} is no program that Windows would load"
    if program.architecture != kind.architecture:
        return None, f"{driver.service.file} is for {program.architecture}, and this Windows is {kind.architecture}"
    if not program.is_signed and kind.architecture != "x86" and kind.generation != "xp":
        return None, f"{driver.service.file} carries no signature, and a 64-bit Windows does not start with it"
    return contents, ""


def _fits(package: DriverPackage, controller: PciDevice) -> bool:
    """Whether a package has the controller for any Windows; one that cannot be followed is kept, to be named."""
    try:
        return any(
            find_driver(package.contents, controller, architecture=one, version=_NEWEST) for one in _ARCHITECTURES
        )
    except DiskFormatError:
        return True


def _iter_packages(folder: str) -> Iterator[DriverPackage]:
    count = 0
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > _FILES_MAX:
                raise UsageError(
                    f"{folder} has more than {_FILES_MAX} files", hint="Give only the folder of the disk driver."
                )
            if name.lower().endswith(".inf"):
                path = os.path.join(here, name)
                yield DriverPackage(path=path, contents=_read(path, INF_SIZE_MAX))


def _iter_files(package: DriverPackage) -> Iterator[tuple[str, bytes]]:
    folder, total = os.path.dirname(package.path), 0
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            contents = _read(path, FILE_SIZE_MAX)
            total += len(contents)
            if total > _PACKAGE_MAX:
                raise UsageError(f"the files in {folder} are too many for a driver", hint="Give only its own folder.")
            yield name, contents


def _find_file(folder: str, name: str) -> str | None:
    """A file in a folder or below it, without regard to case."""
    for here, folders, names in os.walk(folder):
        folders.sort()
        found = next((one for one in sorted(names) if one.lower() == name.lower()), None)
        if found is not None:
            return os.path.join(here, found)
    return None


def _read(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            contents = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Look at its rights.") from error
    if len(contents) > limit:
        raise UsageError(f"{path} is larger than any file of a driver", hint="Give only the driver's own folder.")
    return contents


def _not_used(package: DriverPackage, reason: str) -> Notice:
    message = f"the driver {package.name} is not used: {reason}"
    return Notice(code="driver-not-used", message=message, hint=_OTHER_HINT)
