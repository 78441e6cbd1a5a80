"""What other programs keep a disk in, and that ``import`` takes into a repository.

Answers: "what is at this path, which disks are in it, whose are they, and from when?" A kind of source is a *finder*
in ``FINDERS``: a function that says ``None`` when the path is not of its kind, or opens it. What it opens is a list of
sources like any other, so used maps, notices and the check that nobody wrote meanwhile are the same as of a backup.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from stillframe.block.formats.mapped import DiskFile
from stillframe.capture.diskfiles import open_file_source
from stillframe.capture.foreign.clonezilla import open_clonezilla
from stillframe.capture.foreign.partclone import open_partclone
from stillframe.capture.foreign.windows_image import open_windows_image
from stillframe.capture.offline import OpenSource
from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.host.disks import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Importable:
    """Something that can be imported, open. Use as a context; its sources are closed at the end.

    Attributes:
        path: Where it is, symbolic links resolved.
        format_name: What people call it, such as ``QCOW2`` or ``Clonezilla``.
        sources: One for each disk in it, in order; ``DiskFacts.model`` says what a person should read for a model.
        machine_name: The computer it is of, where it says so; else empty.
        made: When it says that it was made; ``None`` where it does not say.
        notices: What a person should know of it besides what its sources say.
    """

    path: str
    format_name: str
    sources: tuple[OpenSource, ...]
    machine_name: str = ""
    made: datetime | None = None
    notices: tuple[Notice, ...] = field(default=())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with ExitStack() as stack:
            for source in self.sources:
                stack.enter_context(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a person wants it to be opened. ``allow_torn``: copy it as it changes, when it is in use."""

    allow_torn: bool = False


Finder = Callable[[str, ImportOptions], Importable | None]
"""Looks at a path that exists.

Returns:
    ``None`` when what is there is not of its kind.

Raises:
    DiskFormatError: It is of its kind and broken.
    SourceInUse: Something may write to it, and ``allow_torn`` is off.
"""


def find_disk_file(path: str, options: ImportOptions) -> Importable | None:
    """A disk file of any format that is read, else a raw one."""
    facts = describe(path)
    if facts.kind != "file":
        return None
    source = open_file_source(facts, allow_torn=options.allow_torn)
    disk = source.reader
    if not isinstance(disk, DiskFile):
        raise TypeError(type(disk))
    return Importable(path=facts.path, format_name=disk.format_name, sources=(source,), made=disk.made)


def find_partclone(path: str, options: ImportOptions) -> Importable | None:
    """An image of one volume that partclone made, also compressed and in parts."""
    source = open_partclone(path, allow_torn=options.allow_torn)
    if source is None:
        return None
    words = "holds one volume: the partition table and the other volumes of its disk are not in it"
    notice = Notice(code="one-volume", message=f"{os.path.basename(path)} {words}")
    return Importable(path=source.facts.path, format_name="partclone", sources=(source,), notices=(notice,))


def find_clonezilla(path: str, options: ImportOptions) -> Importable | None:
    """The folder of a Clonezilla image: all disks in it."""
    sources = open_clonezilla(path, allow_torn=options.allow_torn)
    if sources is None:
        return None
    return Importable(path=os.path.realpath(path), format_name="Clonezilla", sources=sources)


def find_windows_image(path: str, options: ImportOptions) -> Importable | None:
    """Windows' own backup: all disks that the volumes of its newest version were on."""
    found = open_windows_image(path, allow_torn=options.allow_torn)
    if found is None:
        return None
    return Importable(
        path=found.chosen.path, format_name="WindowsImageBackup", sources=found.sources,
        machine_name=found.chosen.computer, made=found.made, notices=found.notices,
    )  # fmt: skip


def refuse_folder(path: str, options: ImportOptions) -> Importable | None:  # noqa: ARG001 a finder
    """A folder of another kind is not imported as a whole; which files in it can be is said.

    Raises:
        UsageError: It is a folder.
    """
    if not os.path.isdir(path):
        return None
    endings = ("ptcl-img.", ".vhd", ".vhdx")
    found = (os.path.join(where, name) for where, _, names in os.walk(path) for name in sorted(names))
    files = [file for file in found if any(ending in os.path.basename(file) for ending in endings)]
    files = [file for file in files if not re.search(r"\.(?!aa)[a-z]{2}\Z", file)]
    words = ", ".join(files[:6]) or "a disk file in it"
    raise UsageError(
        f"{path} is a folder, and neither that of a Clonezilla image nor a WindowsImageBackup; other folders are not "
        "read as a whole",
        hint=f"Each of its files by itself is: name {words}.",
    )


FINDERS: Final[tuple[Finder, ...]] = (
    find_clonezilla,
    find_windows_image,
    refuse_folder,
    find_partclone,
    find_disk_file,
)
"""Asked in this order; ``find_disk_file`` takes every file, so it stays the last."""


def find_importable(path: str, options: ImportOptions, *, finders: Sequence[Finder] = FINDERS) -> Importable:
    """Open what is at a path.

    Raises:
        UsageError: There is nothing, or nothing that can be imported.
        DiskFormatError: It is broken, or uses what is not read.
        SourceInUse: Something may write to it.
    """
    for finder in finders:
        found = finder(path, options)
        if found is not None:
            return found
    raise UsageError(
        f"{path} is nothing that can be imported",
        hint="Name a disk file (raw, QCOW2, VHD, VHDX, VMDK, VDI), the folder of a Clonezilla image or Windows' "
        "WindowsImageBackup; "
        "'stillframe backup' takes disks.",
    )
