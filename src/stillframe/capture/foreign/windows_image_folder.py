r"""The folder ``WindowsImageBackup``: which backups are in it, and which file holds which volume.

Answers: "is this such a folder, of which computer, from when, and is everything there that it lists?" Names are
compared without case, as Windows does. Reading the volumes is for ``windows_image``.

Sources: the listings of such folders in Microsoft's "Learn more about system image backup" and in public write-ups
(docs/adr/0018-exports.md names what is not documented): ``WindowsImageBackup\COMPUTER\Backup DATE TIME``, the time in
UTC; one ``GUID.vhd`` or ``GUID.vhdx`` for each volume, ``Esp.vhdx`` for that of UEFI; ``BackupSpecs.xml`` in UTF-16
without a mark.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.parsers import expat

from stillframe.errors import DiskFormatError, UsageError

_FOLDER: Final = "WINDOWSIMAGEBACKUP"
_SPECS: Final = "BACKUPSPECS.XML"
_CACHE: Final = "SPPMETADATACACHE"
_BESIDE: Final = frozenset({"MEDIAID", "CATALOG", _CACHE})
"""What lies in the folder of a computer beside its backups."""
_BACKUP: Final = re.compile(r"BACKUP (\d{4}-\d\d-\d\d \d{6})")
_GUID: Final = r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}"
_DISK_FILE: Final = re.compile(rf"\{{?({_GUID})\}}?\.VHDX?")
_ESP_FILE: Final = re.compile(r"ESP\.VHDX?")
_VOLUME: Final = re.compile(rf"\\\\[?.]\\VOLUME\{{({_GUID})\}}\\?")
_SPECS_SIZE_MAX: Final = 4 << 20
_VOLUMES_MAX: Final = 128
_NAMES_MAX: Final = 10_000
_NAMED_MAX: Final = 8
_PATH_MAX: Final = 260


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVolume:
    """A volume in ``BackupSpecs.xml``: its GUID in small letters, and its letter or folder, which may be empty."""

    guid: str
    access_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFile:
    """The file of one volume. ``guid`` and ``access_path`` are empty when not known."""

    path: str
    guid: str
    access_path: str

    @property
    def name(self) -> str:
        """What people call the volume."""
        return self.access_path.rstrip("\\") or os.path.basename(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFolder:
    """One backup.

    Attributes:
        path: Its folder, symbolic links resolved.
        computer: Whose it is; empty when the folder was taken out of that of the computer.
        made: When; ``None`` when its name does not say.
        specs: ``BackupSpecs.xml``; empty when it is not there.
        files: Of its volumes.
        missing: Volumes that it lists and that have no file.
        unlisted: Files that it does not list, by their names.
        version_count: How many versions Windows kept of it, as far as that is seen here.
    """

    path: str
    computer: str
    made: datetime | None
    specs: str
    files: tuple[VolumeFile, ...]
    missing: tuple[ListedVolume, ...]
    unlisted: tuple[str, ...]
    version_count: int

    def require_whole(self) -> None:
        """Refuse a backup of which a file is missing.

        Raises:
            DiskFormatError: The file of a volume is missing, or there is none at all.
        """
        if self.missing:
            names = ", ".join(f"{one.guid}.vhdx or .vhd ({one.access_path or 'no letter'})" for one in self.missing)
            raise DiskFormatError(
                f"{self.path}: BackupSpecs.xml lists volumes whose files are missing: {names}",
                hint="Copy them into the folder. Those that are there can be imported one by one: "
                f"name {', '.join(file.path for file in self.files[:_NAMED_MAX]) or 'them'}.",
            )
        if not self.files:
            raise DiskFormatError(
                f"{self.path} holds no volume (a .vhd or .vhdx file)", hint="Copy the whole folder of the backup."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBackup:
    """The backup that is taken.

    Attributes:
        path: The folder that stands for it: that of the computer, or its own where it was named.
        backup: What is taken.
        older: Backups beside it that are not looked at.
        broken: Newer ones of which a file is missing.
    """

    path: str
    backup: BackupFolder
    older: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def computer(self) -> str:
        """Whose it is; empty when that is not known."""
        return self.backup.computer or ("" if self.path == self.backup.path else os.path.basename(self.path))


def find_backup(path: str) -> ChosenBackup | None:
    """The newest whole backup of the one computer at a path; ``None`` when the path is nothing of that kind.

    Args:
        path: ``WindowsImageBackup``, what contains it, the folder of a computer, or that of one backup.

    Raises:
        UsageError: There are backups of several computers.
        DiskFormatError: There is none, or a file of it is missing or broken.
    """
    if not os.path.isdir(path):
        return None
    real = os.path.realpath(path)
    if _is_backup(real):
        backup = _read_backup(real)
        backup.require_whole()
        return ChosenBackup(path=real, backup=backup)
    if _backups_of(real):
        return _newest(real)
    top = real
    if os.path.basename(real).upper() != _FOLDER:
        top = next((one for one in _folders(real) if os.path.basename(one).upper() == _FOLDER), real)
    computers = [one for one in _folders(top) if _backups_of(one)]
    if not computers and os.path.basename(top).upper() == _FOLDER:
        raise DiskFormatError(
            f"{top} holds no backup: a folder COMPUTER with 'Backup DATE TIME' in it is expected",
            hint="Copy the whole folder; it may be readable by administrators only.",
        )
    if len(computers) > 1:
        names = ", ".join(os.path.basename(one) for one in computers[:_NAMED_MAX])
        raise UsageError(
            f"{top} holds backups of {len(computers)} computers: {names}", hint=f"Name one of them: {computers[0]}"
        )
    return _newest(computers[0]) if computers else None


def _newest(computer: str) -> ChosenBackup:
    """The newest backup of a computer of which every file is there."""
    folders, first = _backups_of(computer), None
    for number, folder in enumerate(folders):
        backup = _read_backup(folder)
        if backup.files and not backup.missing:
            older, broken = tuple(folders[number + 1 :]), tuple(folders[:number])
            return ChosenBackup(path=computer, backup=backup, older=older, broken=broken)
        first = first or backup
    if first is not None:
        first.require_whole()
    raise AssertionError(computer)


def _is_backup(folder: str) -> bool:
    """Whether a folder is one backup: by its files, for it may have been renamed."""
    names = _names(folder)
    has_disks = any(_DISK_FILE.fullmatch(name) or _ESP_FILE.fullmatch(name) for name in names)
    return _SPECS in names or (has_disks and _BACKUP.fullmatch(os.path.basename(folder).upper()) is not None)


def _backups_of(folder: str) -> list[str]:
    """The backups in a folder of a computer, the newest first."""
    named = [one for one in _folders(folder) if _BACKUP.fullmatch(os.path.basename(one).upper())]
    return sorted((one for one in named if _is_backup(one)), key=str.upper, reverse=True)


def _read_backup(folder: str) -> BackupFolder:
    names, parent = _names(folder), os.path.dirname(folder)
    specs = os.path.join(folder, names[_SPECS]) if _SPECS in names else ""
    listed = _read_specs(specs) if specs else ()
    disks = {upper: name for upper, name in names.items() if _DISK_FILE.fullmatch(upper) or _ESP_FILE.fullmatch(upper)}
    by_guid = _by_guid(folder, disks)
    missing = [one for one in listed if one.guid not in by_guid]
    esps = [name for upper, name in disks.items() if _ESP_FILE.fullmatch(upper)]
    if len(missing) == 1 and len(esps) == 1:  # the only listed volume without a file is the only file without a GUID
        by_guid[missing.pop().guid] = esps.pop()
    letters = {one.guid: one.access_path for one in listed}
    found = [*by_guid.items(), *(("", name) for name in esps)]
    computer = os.path.basename(parent) if _is_computer(parent) else ""
    return BackupFolder(
        path=folder, computer=computer, made=_read_time(os.path.basename(folder)), specs=specs,
        files=tuple(_volume_file(folder, name, guid, letters.get(guid, "")) for guid, name in found),
        missing=tuple(missing), unlisted=tuple(name for guid, name in found if guid not in letters),
        version_count=_count_versions(parent) if computer else 0,
    )  # fmt: skip


def _by_guid(folder: str, disks: dict[str, str]) -> dict[str, str]:
    """The files that are named after a volume, by its GUID.

    Raises:
        DiskFormatError: Two are named after one volume.
    """
    found: dict[str, str] = {}
    for upper, name in sorted(disks.items()):
        match = _DISK_FILE.fullmatch(upper)
        guid = match[1].lower() if match else ""
        if guid in found:
            raise DiskFormatError(
                f"{folder} holds two files of one volume: {found[guid]} and {name}",
                hint="Take the one that is not wanted out of the folder.",
            )
        if guid:
            found[guid] = name
    return found


def _volume_file(folder: str, name: str, guid: str, access_path: str) -> VolumeFile:
    """A file that is in the folder itself.

    Raises:
        DiskFormatError: It is a link that leads elsewhere.
    """
    path = os.path.join(folder, name)
    require_inside(folder, path)
    return VolumeFile(path=path, guid=guid, access_path=access_path)


def require_inside(folder: str, path: str) -> None:
    """Refuse a file that is not in a folder, or not below it.

    Raises:
        DiskFormatError: It is elsewhere.
    """
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(folder):
        raise DiskFormatError(
            f"{path} leads to {real}, out of the folder of the backup", hint="Copy the file itself into the folder."
        )


def _read_specs(path: str) -> tuple[ListedVolume, ...]:
    """The volumes that ``BackupSpecs.xml`` lists.

    Raises:
        DiskFormatError: It is no such file.
    """
    require_inside(os.path.dirname(path), path)
    with open(path, "rb") as file:
        raw = file.read(_SPECS_SIZE_MAX + 1)
    try:
        return parse_specs(raw)
    except (_NotSpecsError, UnicodeDecodeError, expat.ExpatError) as error:
        raise DiskFormatError(
            f"{path} is not a list of volumes as Windows writes it: {error}",
            hint="Copy it again; or take it out of the folder, and every .vhd and .vhdx file in it is taken.",
        ) from error


class _NotSpecsError(ValueError):
    """What is wrong with a ``BackupSpecs.xml``."""


def parse_specs(raw: bytes) -> tuple[ListedVolume, ...]:
    """The volumes that the bytes of a ``BackupSpecs.xml`` list, each once.

    Raises:
        ValueError: They are no such file: also where a document type is declared, which no such file has.
        ExpatError: They are no XML.
    """
    if len(raw) > _SPECS_SIZE_MAX:
        raise _NotSpecsError(f"it is larger than {_SPECS_SIZE_MAX} bytes")
    found: dict[str, str] = {}
    tags = list[str]()

    def refuse(*_: object) -> None:
        raise _NotSpecsError("it declares a document type")

    def start(tag: str, attributes: dict[str, str]) -> None:
        tags.append(tag)
        if tag.upper() != "VOLUME":
            return
        fields = {name.upper(): value for name, value in attributes.items()}
        match = _VOLUME.fullmatch(fields.get("NAME", "").upper())
        if match is None:
            raise _NotSpecsError(f"it names a volume {fields.get('NAME', '')[:_PATH_MAX]!r}")
        access = fields.get("ACCESSPATH", "") or fields.get("ORIGINALACCESSPATH", "")
        found[match[1].lower()] = "".join(filter(str.isprintable, access))[:_PATH_MAX]
        if len(found) > _VOLUMES_MAX:
            raise _NotSpecsError(f"it lists more than {_VOLUMES_MAX} volumes")

    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.Parse(_decode(raw).encode(), True)
    if tags[:1] != ["BackupSpecs"]:
        raise _NotSpecsError(f"its first element is {tags[0][:_PATH_MAX]!r}")
    return tuple(ListedVolume(guid=guid, access_path=path) for guid, path in found.items())


def _decode(raw: bytes) -> str:
    """Text in UTF-16, with a mark or without, or in UTF-8."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16")
    return raw.decode("utf-16-le" if raw[1:2] == b"\0" else "utf-8-sig")


def _read_time(name: str) -> datetime | None:
    match = _BACKUP.fullmatch(name.upper())
    try:
        return datetime.strptime(match[1], "%Y-%m-%d %H%M%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None


def _is_computer(folder: str) -> bool:
    """Whether a folder is that of a computer, so that its name is the computer's."""
    return os.path.basename(os.path.dirname(folder)).upper() == _FOLDER or bool(_BESIDE & set(_names(folder)))


def _count_versions(computer: str) -> int:
    """Versions that Windows knew of: each has a file in a folder of the computer."""
    name = _names(computer).get(_CACHE)
    return len(_names(os.path.join(computer, name))) if name else 0


def _names(folder: str) -> dict[str, str]:
    """The names in a folder, by their capitals; none when it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name.upper(): entry.name for entry, _ in zip(entries, range(_NAMES_MAX), strict=False)}
    except OSError:
        return {}


def _folders(folder: str) -> Sequence[str]:
    """The folders in a folder, links not counted."""
    paths = (os.path.join(folder, name) for name in sorted(_names(folder).values()))
    return [path for path in paths if os.path.isdir(path) and not os.path.islink(path)]
