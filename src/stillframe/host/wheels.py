"""The Python packages that this program runs with.

Answers: "which are they, which files are theirs, and do they run on another Linux?" They do when they are no more than
Python, or were built for any Linux ("manylinux"); what was compiled on this machine may want this machine's libraries.

Sources: PEP 376 and the "Recording installed projects" specification (RECORD); PEP 427 (WHEEL); PEP 600 (manylinux);
PEP 508: a requirement begins with its name, and a marker with ``extra`` names an option.
"""

import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PORTABLE: Final = ("manylinux", "musllinux", "-any")
_HINT: Final = "Install Stillframe anew: 'pip install --force-reinstall stillframe'."


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPackage:
    """A package as it is installed here.

    Attributes:
        name: As its project calls it.
        version: Its version.
        files: Path below the folder of packages, and where it is now.
        is_portable: Whether it was built for any Linux.
    """

    name: str
    version: str
    files: tuple[tuple[str, str], ...]
    is_portable: bool


def installed_packages(project: str) -> tuple[InstalledPackage, ...]:
    """What a project needs, directly and through others, in order of names; without itself.

    Raises:
        MachineRefusal: Something of it is not installed.
    """
    found: dict[str, InstalledPackage] = {}
    waiting = list(_needs(project))
    while waiting:
        name = waiting.pop()
        if _plain(name) not in found:
            found[_plain(name)] = _installed(name)
            waiting += _needs(name)
    return tuple(found[name] for name in sorted(found))


def python_here() -> tuple[int, int]:
    """Version of this Python."""
    return sys.version_info[:2]


def runs_like(version: tuple[int, int]) -> bool:
    """Whether what is installed here runs on a CPython of this version on 64-bit Linux for PCs."""
    kind = (sys.implementation.name, sysconfig.get_platform())
    return python_here() == version and kind == ("cpython", "linux-x86_64")


def _needs(project: str) -> Iterator[str]:
    for requirement in _distribution(project).requires or ():
        named = _NAME.match(requirement)
        marker = requirement.partition(";")[2]
        if named is None or "extra" in marker:
            continue
        if marker and not _is_here(named.group()):
            continue  # its marker is about another system or Python, for pip did not install it
        yield named.group()


def _installed(name: str) -> InstalledPackage:
    found = _distribution(name)
    files = [
        (path.as_posix(), str(found.locate_file(path)))
        for path in found.files or ()
        if ".." not in path.parts and "__pycache__" not in path.parts
    ]
    tags = [line for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag:")]
    portable = bool(tags) and all(any(word in tag for word in _PORTABLE) for tag in tags)
    return InstalledPackage(name=name, version=found.version, files=tuple(files), is_portable=portable)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise MachineRefusal(f"the Python package {name} is not installed as a package here", hint=_HINT) from error


def _is_here(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _plain(name: str) -> str:
    """Source: PEP 503, normalised names."""
    return re.sub(r"[-_.]+", "-", name).lower()
