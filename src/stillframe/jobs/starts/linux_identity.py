"""A restored Linux under an identity of its own: new ids of its file systems, and every id written where it is noted.

Answers: "can this copy stay beside its original, and does it start?" All places are changed, or none: what cannot be
made right raises, and the workbench forgets everything.

Not changed are the machine-id, the host keys of SSH and the name of the computer: they are those of the installation,
not of its disk.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.host.esp_files import FatVolume, list_names, read_file, write_file
from stillframe.host.renaming import RENAMED, new_uuid, rename_volume
from stillframe.jobs.starts.linux_mounts import MountedLinux
from stillframe.jobs.starts.linux_parts import DiskPart
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.driver_file import parse_program
from stillframe.systems.grub_image import has_grub, read_core, replace_in_core
from stillframe.systems.initrd import holds_ids
from stillframe.systems.linux_ids import (
    ESP_INITRDS,
    ESP_PROGRAMS,
    ESP_TEXTS,
    ID_TEXTS,
    INITRDS,
    IdChange,
    IdPattern,
    iter_paths,
    unified_initrd,
)

_TEXT_MAX: Final = 8 << 20
_INITRD_MAX: Final = 2 << 30
_LILO: Final = "/etc/lilo.conf"
_KEPT_HINT: Final = "The system starts as its original does; do not use both disks in one computer."


class EspListing:
    """The files of a FAT volume, whose folders are listed once each."""

    def __init__(self, volume: FatVolume) -> None:
        self.volume: Final = volume
        self._known: dict[str, tuple[str, ...]] = {}

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder."""
        if path not in self._known:
            self._known[path] = list_names(self.volume, path) or ()
        return self._known[path]

    def read_file(self, path: str) -> bytes:
        """The contents of a file; nothing for a folder."""
        folder, _, name = path.rpartition("/")
        if self.list_names(path) or name not in self.list_names(folder or "/"):
            return b""
        return read_file(self.volume, path) or b""


def rename_volumes(bench: Workbench, parts: Sequence[DiskPart]) -> tuple[IdChange, ...]:
    """Give every file system that is known an id of its own. None of them is mounted.

    Raises:
        MachineRefusal: One cannot have another id.
    """
    changes = []
    for part in parts:
        kind = part.volume.filesystem
        if kind in RENAMED and part.volume.uuid:
            new = new_uuid(kind)
            folder = bench.keeper.make_folder(f"{bench.folder}/rename-{part.key}")
            rename_volume(bench.keeper, bench.node(part.key), kind, new, folder)
            changes.append(IdChange(old=part.volume.uuid, new=new))
    return tuple(changes)


def renamed_words(before: Sequence[DiskPart], after: Sequence[DiskPart]) -> tuple[str, ...]:
    """What file systems are called now, in words.

    Raises:
        MachineRefusal: One is not called what it was told.
    """
    old = {part.key: part.volume for part in before}
    return tuple(
        f"the {part.volume.filesystem} file system of {part.word} has a new id, {part.volume.uuid}"
        for part in after
        if part.volume.uuid != old[part.key].uuid and part.volume.filesystem in RENAMED
    )


def write_ids(
    bench: Workbench, systems: Sequence[MountedLinux], parts: Sequence[DiskPart], ids: IdPattern
) -> Iterator[str]:
    """Write new ids wherever the old ones are noted; what was done, in words.

    Raises:
        MachineRefusal: One is noted where it cannot be changed.
    """
    for linux in systems:
        yield from _write_in_texts(linux, ids)
    for part in parts:
        if part.volume.filesystem == "vfat":
            yield from _write_in_esp(part, EspListing(FatVolume(path=bench.node(part.key))), ids)
    yield from _write_in_core(bench, parts, ids)


def stale_initrds(linux: MountedLinux, ids: IdPattern, *, unknown: bool) -> tuple[str, ...]:
    """Paths of what early user space is loaded from that holds old ids.

    Args:
        linux: The system.
        ids: Old and new.
        unknown: Count those that cannot be read, too.
    """
    seen, found = set[str](), []
    for path in iter_paths(linux.files, INITRDS):
        place = linux.files.place(path)
        contents = linux.files.read_file(path, 0, _INITRD_MAX)
        if contents is None or place in seen:
            continue
        seen.add(place)
        answer = holds_ids(contents, ids)
        if answer or (answer is None and unknown):
            found.append(path)
    return tuple(found)


def _write_in_texts(linux: MountedLinux, ids: IdPattern) -> Iterator[str]:
    for path in iter_paths(linux.files, ID_TEXTS):
        contents = linux.files.read_file(path, 0, _TEXT_MAX) or b""
        count = ids.count(contents)
        if count and path == _LILO:
            raise MachineRefusal(
                "LILO keeps the ids of file systems in a map that only 'lilo' itself can write", hint=_KEPT_HINT
            )
        if count:
            linux.files.write_file(path, ids.replace(contents))
            yield f"{path} of {linux.name} has the new ids ({count})"


def _is_signed(contents: bytes) -> bool:
    """Whether it is a program with a signature, which any change would break."""
    program = parse_program(contents, size=len(contents))
    return program is not None and program.is_signed


def _write_in_esp(part: DiskPart, files: EspListing, ids: IdPattern) -> Iterator[str]:
    place = part.word
    for path in iter_paths(files, (*ESP_TEXTS, *ESP_PROGRAMS), any_case=True):
        contents = files.read_file(path)
        count = ids.count(contents)
        is_stale = holds_ids(unified_initrd(contents), ids) is not False
        if is_stale or (count and _is_signed(contents)):
            why = "in its initrd" if is_stale else "under its signature"
            raise MachineRefusal(f"{path} of {place} may have ids of the source {why}", hint=_KEPT_HINT)
        if count:
            write_file(files.volume, path, ids.replace(contents))
            yield f"{path} of {place} has the new ids ({count})"
    for path in iter_paths(files, ESP_INITRDS, any_case=True):
        contents = files.read_file(path)
        if contents and holds_ids(contents, ids) is not False:
            raise MachineRefusal(f"{path} of {place} may hold ids of the source, and is not made here", hint=_KEPT_HINT)


def _write_in_core(bench: Workbench, parts: Sequence[DiskPart], ids: IdPattern) -> Iterator[str]:
    """GRUB for a BIOS, in the first sectors of the disk."""
    view: BlockReader = bench.view
    for part in parts:
        if part.partition is not None and has_grub(view.read_at(part.partition.extent.start, 512)):
            raise MachineRefusal(
                f"a GRUB for BIOS lies in {part.word} by a list of its blocks, and is not looked into",
                hint=_KEPT_HINT,
            )
    try:
        core = read_core(view)
        edit = replace_in_core(core, ids) if core is not None else None
    except DiskFormatError as error:
        raise MachineRefusal(error.message, hint=error.hint) from error
    if edit is not None:
        with open(bench.disk.device, "r+b") as disk:
            disk.seek(edit.offset)
            disk.write(edit.new)
        yield "GRUB for BIOS has the new ids"
