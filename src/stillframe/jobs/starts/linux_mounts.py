"""The Linux systems of a restored disk, mounted on the workbench so that they can be changed.

Answers: "which Linux is on this disk, and where are all its files?" Its volumes are mounted as its ``fstab`` says,
resolved against the partitions of this disk, and what lies inside of them (``volume_stack``), by the ids they have and
those they had. FAT is never mounted: its files are read and written by ``host.esp_files``, so a kernel without ``vfat``
does as well.

What cannot be opened here is said and left alone: LUKS without its key, what is in doubt, systems that lie on several
disks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.fs.registry import identify
from stillframe.host.attaching import require_unknown_btrfs
from stillframe.host.esp_files import FatVolume
from stillframe.host.inside_system import Seen
from stillframe.host.plugging import mount_changeable
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.linux_early import EarlyNeeds, early_needs
from stillframe.jobs.starts.linux_parts import ROOT_FILE_SYSTEMS, DiskPart, find_part, with_noted_names
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.fstab import mount_options, parse_lines
from stillframe.systems.linux import parse_release

_LOOKING: Final = {"xfs": "ro,norecovery", "btrfs": "ro,rescue=nologreplay"}
"""How a volume is looked into, so that a journal is not replayed: xfs(5), btrfs(5); for ext see ext4(5)."""
SUBVOLUMES: Final = ("", "/@", "/@rootfs", "/root")
"""Where in a Btrfs a root is found: at the top, or the names that Debian, Ubuntu, SUSE, Arch and Fedora give it."""
_NEEDED: Final = ("/boot", "/usr", "/var")
_ESP_PLACES: Final = ("/boot/efi", "/efi", "/boot")
_TEXT_MAX: Final = 1 << 20
_LINK: Final = re.compile(r"(?:disk/by-uuid|mapper|md|[A-Za-z0-9_.+-]{1,127})/[A-Za-z0-9_.+:-]{1,127}|md\d{1,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedLinux:
    """A Linux whose volumes are mounted below one folder.

    Attributes:
        bench: The workbench with its disk.
        files: Its files.
        name: As people say it.
        id: The ``ID`` of its ``os-release``, such as ``debian``; ``linux`` when it has none.
        parts: By folder which partition is mounted there, ``/`` among them.
        subvolume: The path in its Btrfs at which its root is; else empty.
        esp: Its EFI system partition; ``None`` when this disk has none.
        early: What its early user space has to open, and how.
        links: Names below ``/dev`` that its programs may know its volumes by, each with its device.
    """

    bench: Workbench
    files: RootFiles
    name: str
    id: str
    parts: Mapping[str, DiskPart]
    subvolume: str
    esp: DiskPart | None
    early: EarlyNeeds
    links: Mapping[str, str]

    @property
    def esp_files(self) -> FatVolume | None:
        """The files of its EFI system partition."""
        return None if self.esp is None else FatVolume(path=self.bench.node(self.esp.key))

    @property
    def seen(self) -> Seen:
        """What its programs see besides its files: the disk with what lies in it, and what they need to be told."""
        disk, inner = self.bench.disk, self.bench.inner
        devices = (disk.device, *(disk.node(number) for number in disk.numbers), *inner.values())
        return Seen(devices=devices, links=dict(self.links), covers=self.early.covers(self.files))

    @property
    def boot(self) -> DiskPart:
        """The partition that holds ``/boot``."""
        return self.parts.get("/boot", self.parts["/"])

    @property
    def boot_prefix(self) -> str:
        """The path of ``/boot`` in the file system that holds it."""
        return "" if "/boot" in self.parts else f"{self.subvolume}/boot"


def find_roots(bench: Workbench, parts: Sequence[DiskPart]) -> dict[str, str]:
    """The volumes that hold the root of a Linux, by their keys, each with where in its Btrfs that is.

    Raises:
        MachineRefusal: A volume that may hold one cannot be mounted here.
    """
    found = {}
    for part in parts:
        subvolume = _find_root(bench, part) if part.volume.filesystem in ROOT_FILE_SYSTEMS else None
        if subvolume is not None:
            found[part.key] = subvolume
    return found


def mount_linux(
    bench: Workbench, parts: Sequence[DiskPart], roots: Mapping[str, str] | None = None
) -> tuple[MountedLinux, ...]:
    """Mount every Linux read-write. They stay mounted as long as the bench lasts.

    Args:
        bench: The workbench.
        parts: By ``read_parts``, as they are now.
        roots: By ``find_roots``; looked for when not given.

    Raises:
        MachineRefusal: Something that belongs to one cannot be mounted, or is not on this disk.
    """
    found = find_roots(bench, parts) if roots is None else roots
    return tuple(_mount_all(bench, parts, part, found[part.key]) for part in parts if part.key in found)


@contextmanager
def looked_into(bench: Workbench, part: DiskPart) -> Iterator[str]:
    """A volume mounted read-only, its journal as it is; where, for as long as the block lasts.

    Raises:
        MachineRefusal: It cannot be mounted here.
    """
    kind, mark = part.volume.filesystem, bench.keeper.mark
    if kind == "btrfs":
        require_unknown_btrfs(part.volume.uuid)
    place = bench.keeper.make_folder(f"{bench.folder}/look-{part.key}")
    default = "ro" if kind == "ext2" else "ro,noload"
    try:
        mount_changeable(bench.keeper, bench.node(part.key), kind, place, _LOOKING.get(kind, default))
        yield place
    finally:
        bench.keeper.undo_to(mark)


def _find_root(bench: Workbench, part: DiskPart) -> str | None:
    """Where in a volume the root of a system is; ``None`` when it holds none."""
    with looked_into(bench, part) as place:
        for subvolume in SUBVOLUMES if part.volume.filesystem == "btrfs" else ("",):
            files = RootFiles(f"{place}{subvolume}")
            if files.is_file("/etc/fstab") and (files.is_file("/etc/os-release") or files.is_folder("/usr")):
                return subvolume
    return None


def _mount_all(bench: Workbench, parts: Sequence[DiskPart], root: DiskPart, subvolume: str) -> MountedLinux:
    place = bench.keeper.make_folder(f"{bench.folder}/linux-{root.key}")
    options = f"rw,subvol={subvolume}" if subvolume else "rw"
    mount_changeable(bench.keeper, bench.node(root.key), root.volume.filesystem, place, options)
    files = RootFiles(place)
    fstab = (files.read_file("/etc/fstab", 0, _TEXT_MAX) or b"").decode(errors="replace")
    parts = with_noted_names(files, bench.stack, parts)
    mounted = {"/": root}
    for line in parse_lines(fstab):
        folder = line.where
        if folder in mounted or not (folder in _NEEDED or folder.startswith(("/boot/grub", "/usr/", "/var/"))):
            continue
        part = find_part(line.what, parts)
        if part is None and folder in _NEEDED:
            raise MachineRefusal(
                f"{folder} of the Linux on {root.word} is {line.what}, which is not on this disk",
                hint="Restore that disk too; then start the system from its own medium and repair it there.",
            )
        if part is None or not files.is_folder(folder) or part.volume.filesystem == "vfat":
            continue
        wanted = ",".join(("rw", *mount_options(fstab, folder)))
        mount_changeable(bench.keeper, bench.node(part.key), part.volume.filesystem, files.place(folder), wanted)
        mounted[folder] = part
    release = parse_release(_release(files))
    return MountedLinux(
        bench=bench, files=files, name=release.get("PRETTY_NAME", "Linux"), id=release.get("ID", "linux"),
        parts=mounted, subvolume=subvolume, esp=_find_esp(fstab, parts),
        early=early_needs(files, bench.stack, parts, mounted), links=dict(_links(bench, parts)),
    )  # fmt: skip


def _links(bench: Workbench, parts: Sequence[DiskPart]) -> Iterator[tuple[str, str]]:
    """As udev makes them; of names that could be anything, none."""
    known = [(part.key, part.names) for part in parts if part.nested or part.number in bench.disk.numbers]
    known += [(one.key, one.names | {f"UUID={identify(one.writer).volume.uuid}"}) for one in bench.stack.sealed]
    for key, names in known:
        tags = (f"disk/by-uuid/{name.removeprefix('UUID=')}" for name in names if name.startswith("UUID="))
        paths = (name.removeprefix("/dev/") for name in names if name.startswith("/dev/"))
        for name in (*tags, *paths):
            if _LINK.fullmatch(name) and ".." not in name:
                yield name, bench.node(key)


def _release(files: RootFiles) -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        found = files.read_file(path, 0, _TEXT_MAX)
        if found:
            return found.decode(errors="replace")
    return ""


def _find_esp(fstab: str, parts: Sequence[DiskPart]) -> DiskPart | None:
    """What the ``fstab`` mounts as one, else by its type."""
    for line in parse_lines(fstab):
        part = find_part(line.what, parts) if line.where in _ESP_PLACES else None
        if part is not None and part.volume.filesystem == "vfat":
            return part
    typed = [part for part in parts if part.is_esp]
    return typed[0] if typed else None
