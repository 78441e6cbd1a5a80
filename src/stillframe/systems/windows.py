r"""An installed Windows, from its registry.

Answers: "which Windows is on this volume, and what is the computer called?"

Source: Microsoft, "Registry hives" (file names); the values are those that ``winver`` and ``systeminfo`` show. That
``ProductName`` still says "Windows 10" on Windows 11, and the folders: libguestfs, ``daemon/inspect_fs_windows.ml``.
That ``CurrentBuild`` is no number on XP: registries of XP that were published ("Obsolete data - do not use").
"""

from dataclasses import replace
from typing import Final

from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.systems.architecture import find_windows_architecture, name_registry_architecture
from stillframe.systems.hive import Hive
from stillframe.systems.records import InstalledSystem, SystemFiles

SHUT_DOWN: Final = "Start that Windows where it was, shut it down with 'shutdown /s /t 0', and make a new image."
"""What to do about a Windows that was not closed: a hint."""
_FOLDERS: Final = ("/Windows", "/WINNT")
"""The second one is where Windows NT and 2000 are, and an XP that was put over them."""
_CONFIG: Final = "System32/config"
_ENVIRONMENT: Final = r"Control\Session Manager\Environment"
_VERSION_KEY: Final = r"Microsoft\Windows NT\CurrentVersion"
_FIRST_BUILD_OF_11: Final = 22000
_SERVER: Final = "Server"
_TEXT_MAX: Final = 100
_NT_VERSIONS: Final = ("4.", "5.", "6.0", "6.1")
"""What ``CurrentVersion`` says before it stood still at 6.3."""
_LOGS_HINT: Final = "That Windows was not shut down. What it says of itself here may be older than its last start."


def find_windows(files: SystemFiles) -> InstalledSystem | None:
    """The Windows of a volume; ``None`` when none is installed on it.

    A registry that is broken gives what is readable, and a notice. What cannot be read at all is a notice too.
    """
    folder = find_windows_folder(files)
    if not folder:
        return None
    notices, config = list[Notice](), f"{folder}/{_CONFIG}"
    version = _read_values(
        files, f"{config}/SOFTWARE", _VERSION_KEY,
        ("ProductName", "DisplayVersion", "ReleaseId", "CurrentBuild", "CurrentBuildNumber", "CurrentVersion", "UBR",
         "EditionID", "CSDVersion"), notices,
    )  # fmt: skip
    system = f"{config}/SYSTEM"
    current = _read_values(files, system, "Select", ("Current",), notices).get("Current")
    host, made_for = "", ""
    if isinstance(current, int) and 0 < current < 1000:
        control = f"ControlSet{current:03}"
        path = rf"{control}\Control\ComputerName\ComputerName"
        host = _text(_read_values(files, system, path, ("ComputerName",), notices).get("ComputerName"))
        value = _read_values(files, system, rf"{control}\{_ENVIRONMENT}", ("PROCESSOR_ARCHITECTURE",), notices)
        made_for = name_registry_architecture(value.get("PROCESSOR_ARCHITECTURE"))
    made_for = made_for or find_windows_architecture(files, folder)
    return replace(_describe(version, notices), host=host, architecture=made_for)


def find_windows_folder(files: SystemFiles) -> str:
    """The folder of the Windows that is installed on a volume, as ``/Windows``; empty when there is none."""
    for folder in _FOLDERS:
        names = {name.upper() for name in _list(files, f"{folder}/{_CONFIG}")}
        if {"SOFTWARE", "SYSTEM"} <= names:
            return folder
    return ""


def _describe(version: dict[str, str | int | bytes], notices: list[Notice]) -> InstalledSystem:
    build = _text(version.get("CurrentBuildNumber")) or _text(version.get("CurrentBuild"))
    known = _text(version.get("CurrentVersion"))
    update = version.get("UBR")
    product = _text(version.get("ProductName")) or "Windows"
    is_eleven = build.isascii() and build.isdecimal() and len(build) < 10 and int(build) >= _FIRST_BUILD_OF_11
    if is_eleven and product.startswith("Windows 10") and _SERVER not in product:
        product = product.replace("Windows 10", "Windows 11", 1)
    release = _text(version.get("DisplayVersion")) or _text(version.get("ReleaseId"))
    release = release or _text(version.get("CSDVersion"))
    return InstalledSystem(
        family="windows",
        name=" ".join(word for word in (product, release) if word),
        version=release or (known if known.startswith(_NT_VERSIONS) else ""),
        build=f"{build}.{update}" if build and isinstance(update, int) else build,
        edition=_text(version.get("EditionID")),
        notices=tuple(dict.fromkeys(notices)),
    )


def _list(files: SystemFiles, folder: str) -> tuple[str, ...]:
    try:
        return files.list_names(folder)
    except StillframeError:
        return ()


def _read_values(
    files: SystemFiles, path: str, key_path: str, wanted: tuple[str, ...], notices: list[Notice]
) -> dict[str, str | int | bytes]:
    """Those of some values that are there and can be read."""
    found = dict[str, str | int | bytes]()

    def note(message: str, hint: str) -> None:
        notices.append(Notice(code="registry-not-read", message=f"{path}: {message}", hint=hint))

    try:
        hive = Hive.open(lambda offset, size: files.read_file(path, offset, size) or b"")
        key = hive.find_key(key_path) if hive else None
    except StillframeError as error:
        note(error.message, error.hint)
        return found
    if hive is None:
        note("it is no registry file", "It is damaged: an older image may have it whole.")
        return found
    if hive.is_dirty:
        note("changes to it wait in its log and are not read", _LOGS_HINT)
    for value_name in wanted if key else ():
        try:
            value = hive.read_value(key, value_name) if key else None
        except StillframeError as error:
            note(f"value {value_name}: {error.message}", error.hint)
            continue
        if value is not None:
            found[value_name] = value
    return found


def _text(value: str | int | bytes | None) -> str:
    """A value that should be a text, on one line."""
    if not isinstance(value, str):
        return ""
    return "".join(letter for letter in value if letter.isprintable()).strip()[:_TEXT_MAX]
