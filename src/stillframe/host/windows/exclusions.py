r"""What Windows itself leaves out of shadows, and where its paging files are: the registry's texts, parsed.

Answers: "which files will a shadow lack although they exist?" and "which files hold only paging?" It matches nothing:
the patterns are shown to a person, and the paging files are found by the file system's own reader.

Source: learn.microsoft.com "Excluding Files from Shadow Copies" and "Registry Keys and Values for Backup and Restore".
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.host.windows.calls import MachineCalls, RegistryValue

NOT_TO_SNAPSHOT_KEY: Final = r"SYSTEM\CurrentControlSet\Control\BackupRestore\FilesNotToSnapshot"
MEMORY_KEY: Final = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management"
PAGE_FILES_VALUE: Final = "ExistingPageFiles"

_RECURSIVE: Final = re.compile(r"\s+/s\s*$", re.IGNORECASE)
# An object name of the kernel: \??\C:\pagefile.sys. Source: learn.microsoft.com "Object Names" (\?? is \DosDevices).
_PAGE_FILE: Final = re.compile(r"(?:\\\?\?\\|\\DosDevices\\)?([A-Za-z]:)(\\[^\0]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExclusionPattern:
    r"""Files that a shadow lacks, by the wish of a program. Windows removes them as far as it can, no more.

    Attributes:
        owner: Which program says so.
        path: Full path, ``*`` for anything. ``%NAME%`` is a variable of the environment, ``$UserProfile$`` the folder
            of every user, ``$AllVolumes$`` every volume; a path that begins with ``\`` is also on every volume.
        recursive: Folders below too.
    """

    owner: str
    path: str
    recursive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    r"""A paging file: its drive, such as ``C:``, and its path on it, such as ``\pagefile.sys``."""

    drive: str
    path: str


def parse_exclusions(values: Iterable[RegistryValue]) -> tuple[ExclusionPattern, ...]:
    """The patterns of FilesNotToSnapshot: a value for each program, a text for each pattern; empty ones say nothing."""
    found = []
    for value in values:
        for text in value.texts:
            path = _RECURSIVE.sub("", text).strip()
            if path:
                found.append(
                    ExclusionPattern(owner=value.name, path=path, recursive=_RECURSIVE.search(text) is not None)
                )
    return tuple(found)


def parse_page_files(values: Iterable[RegistryValue]) -> tuple[PageFile, ...]:
    """The paging files in use, from ExistingPageFiles among the values of its key; what is no such path is left out."""
    found = []
    for value in values:
        if value.name.lower() == PAGE_FILES_VALUE.lower():
            matches = (_PAGE_FILE.fullmatch(text.strip()) for text in value.texts)
            found += [PageFile(drive=match[1].upper(), path=match[2]) for match in matches if match]
    return tuple(found)


def exclusions(calls: MachineCalls) -> tuple[ExclusionPattern, ...]:
    """What a shadow of this machine will lack."""
    return parse_exclusions(calls.registry_values(NOT_TO_SNAPSHOT_KEY))


def page_files(calls: MachineCalls) -> tuple[PageFile, ...]:
    """The paging files of this machine."""
    return parse_page_files(calls.registry_values(MEMORY_KEY))
