"""The Linux systems of a restored disk, mounted on the workbench so that they can be changed.

Answers: "which Linux is on this disk, and where are all its files?" Its volumes are mounted as its ``fstab`` says,
resolved against the partitions of this disk by the ids they have and those they had. FAT is never mounted: its files
are read and written by ``host.esp_files``, so a kernel without ``vfat`` does as well.

What cannot be opened here is said and left alone: LVM, LUKS, RAID, systems that lie on several disks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.window import WindowReader
from stillframe.disk import Layout
from stillframe.disk.layout import Partition
from stillframe.errors import MachineRefusal
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.registry import identify
from stillframe.host.attaching import require_unknown_btrfs
from stillframe.host.esp_files import FatVolume
from stillframe.host.plugging import mount_changeable
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.fstab import mount_options, parse_lines
from stillframe.systems.linux import parse_release
from stillframe.systems.names import partition_names, partition_number

ROOT_FILE_SYSTEMS: Final = EXT_NAMES | {"xfs", "btrfs"}
ESP_TYPES: Final = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")
"""UEFI Specification 2.10, table 5.7; for MBR section 5.2.2."""
_LOOKING: Final = {"xfs": "ro,norecovery", "btrfs": "ro,rescue=nologreplay"}
"""How a volume is looked into, so that a journal is not replayed: xfs(5), btrfs(5); for ext see ext4(5)."""
SUBVOLUMES: Final = ("", "/@", "/@rootfs", "/root")
"""Where in a Btrfs a root is found: at the top, or the names that Debian, Ubuntu, SUSE, Arch and Fedora give it."""
_NEEDED: Final = ("/boot", "/usr", "/var")
_ESP_PLACES: Final = ("/boot/efi", "/efi", "/boot")
_TEXT_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPart:
    """A partition of the restored disk with what is in it now.

    Attributes:
        partition: Where it is.
        volume: What is in it.
        names: By which an ``fstab`` may call it: those it has, and those it had on the source.
    """

    partition: Partition
    volume: Volume
    names: frozenset[str]

    @property
    def number(self) -> int:
        """As the table counts."""
        return self.partition.number


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
    """

    bench: Workbench
    files: RootFiles
    name: str
    id: str
    parts: Mapping[str, DiskPart]
    subvolume: str
    esp: DiskPart | None

    @property
    def esp_files(self) -> FatVolume | None:
        """The files of its EFI system partition."""
        return None if self.esp is None else FatVolume(path=self.bench.disk.node(self.esp.number))

    @property
    def devices(self) -> tuple[str, ...]:
        """The disk and its partitions, as devices."""
        disk = self.bench.disk
        return (disk.device, *(disk.node(number) for number in disk.numbers))

    @property
    def boot(self) -> DiskPart:
        """The partition that holds ``/boot``."""
        return self.parts.get("/boot", self.parts["/"])

    @property
    def boot_prefix(self) -> str:
        """The path of ``/boot`` in the file system that holds it."""
        return "" if "/boot" in self.parts else f"{self.subvolume}/boot"


def read_parts(bench: Workbench, before: Layout, numbers: Sequence[int]) -> tuple[DiskPart, ...]:
    """What is in the partitions that were written, as they are on the workbench now.

    Args:
        bench: The workbench.
        before: The layout of the source, whose ids may still be written somewhere.
        numbers: Of the partitions that came from the image.
    """
    return read_disk_parts(bench.view, before, bench.layout, numbers)


def read_disk_parts(disk: BlockReader, before: Layout, after: Layout, numbers: Sequence[int]) -> tuple[DiskPart, ...]:
    """What is in the partitions that were written; ``after`` is the layout of the disk, else as ``read_parts``."""
    found = []
    for part in after.partitions:
        if part.number in numbers:
            volume = identify(WindowReader(disk, part.extent)).volume
            names = partition_names(after, part.number) | partition_names(before, part.number)
            tags = {"UUID": volume.uuid, "LABEL": volume.label}
            names |= {f"{tag}={value}" for tag, value in tags.items() if value}
            found.append(DiskPart(partition=part, volume=volume, names=names))
    return tuple(found)


def find_roots(bench: Workbench, parts: Sequence[DiskPart]) -> dict[int, str]:
    """The partitions that hold the root of a Linux, by their numbers, each with where in its Btrfs that is.

    Raises:
        MachineRefusal: A volume that may hold one cannot be mounted here.
    """
    found = {}
    for part in parts:
        subvolume = _find_root(bench, part) if part.volume.filesystem in ROOT_FILE_SYSTEMS else None
        if subvolume is not None:
            found[part.number] = subvolume
    return found


def mount_linux(
    bench: Workbench, parts: Sequence[DiskPart], roots: Mapping[int, str] | None = None
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
    return tuple(_mount_all(bench, parts, part, found[part.number]) for part in parts if part.number in found)


def _find_root(bench: Workbench, part: DiskPart) -> str | None:
    """Where in a volume the root of a system is; ``None`` when it holds none."""
    kind, mark = part.volume.filesystem, bench.keeper.mark
    if kind == "btrfs":
        require_unknown_btrfs(part.volume.uuid)
    place = bench.keeper.make_folder(f"{bench.folder}/look{part.number}")
    default = "ro" if kind == "ext2" else "ro,noload"
    try:
        mount_changeable(bench.keeper, bench.disk.node(part.number), kind, place, _LOOKING.get(kind, default))
        for subvolume in SUBVOLUMES if kind == "btrfs" else ("",):
            files = RootFiles(f"{place}{subvolume}")
            if files.is_file("/etc/fstab") and (files.is_file("/etc/os-release") or files.is_folder("/usr")):
                return subvolume
        return None
    finally:
        bench.keeper.undo_to(mark)


def _mount_all(bench: Workbench, parts: Sequence[DiskPart], root: DiskPart, subvolume: str) -> MountedLinux:
    place = bench.keeper.make_folder(f"{bench.folder}/linux{root.number}")
    options = f"rw,subvol={subvolume}" if subvolume else "rw"
    mount_changeable(bench.keeper, bench.disk.node(root.number), root.volume.filesystem, place, options)
    files = RootFiles(place)
    fstab = (files.read_file("/etc/fstab", 0, _TEXT_MAX) or b"").decode(errors="replace")
    mounted = {"/": root}
    for line in parse_lines(fstab):
        folder = line.where
        if folder in mounted or not (folder in _NEEDED or folder.startswith(("/boot/grub", "/usr/", "/var/"))):
            continue
        part = find_part(line.what, parts)
        if part is None and folder in _NEEDED:
            raise MachineRefusal(
                f"{folder} of the Linux on partition {root.number} is {line.what}, which is not on this disk",
                hint="Restore that disk too; then start the system from its own medium and repair it there.",
            )
        if part is None or not files.is_folder(folder) or part.volume.filesystem == "vfat":
            continue
        wanted = ",".join(("rw", *mount_options(fstab, folder)))
        mount_changeable(
            bench.keeper, bench.disk.node(part.number), part.volume.filesystem, files.place(folder), wanted
        )
        mounted[folder] = part
    release = parse_release(_release(files))
    return MountedLinux(
        bench=bench, files=files, name=release.get("PRETTY_NAME", "Linux"), id=release.get("ID", "linux"),
        parts=mounted, subvolume=subvolume, esp=_find_esp(fstab, parts),
    )  # fmt: skip


def _release(files: RootFiles) -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        found = files.read_file(path, 0, _TEXT_MAX)
        if found:
            return found.decode(errors="replace")
    return ""


def find_part(what: str, parts: Sequence[DiskPart]) -> DiskPart | None:
    """The partition that a name in a table of a Linux means; ``None`` when it is none of this disk, or of several."""
    number = partition_number(what)
    wanted = what.casefold()
    found = [
        part
        for part in parts
        if (part.number == number if number else wanted in {name.casefold() for name in part.names})
    ]
    return found[0] if len(found) == 1 else None


def with_old_names(parts: Sequence[DiskPart], old: Sequence[DiskPart]) -> tuple[DiskPart, ...]:
    """The same partitions, also by the names that they had before something was changed in them."""
    names = {part.number: part.names for part in old}
    return tuple(replace(part, names=part.names | names.get(part.number, frozenset())) for part in parts)


def _find_esp(fstab: str, parts: Sequence[DiskPart]) -> DiskPart | None:
    """What the ``fstab`` mounts as one, else by its type."""
    for line in parse_lines(fstab):
        part = find_part(line.what, parts) if line.where in _ESP_PLACES else None
        if part is not None and part.volume.filesystem == "vfat":
            return part
    typed = [part for part in parts if part.partition.type in ESP_TYPES and part.volume.filesystem == "vfat"]
    return typed[0] if typed else None


def unopened_parts(parts: Sequence[DiskPart]) -> tuple[str, ...]:
    """What may hold a Linux and is not opened here, in words."""
    return tuple(
        f"partition {part.number} ({part.volume.filesystem})"
        for part in parts
        if part.volume.filesystem in {"crypto_LUKS", "LVM2_member", "linux_raid_member", "bcache", "zfs_member"}
    )


def is_possible(parts: Sequence[DiskPart]) -> bool:
    """Whether there is anything that a Linux may lie on."""
    return any(part.volume.filesystem in ROOT_FILE_SYSTEMS for part in parts) or bool(unopened_parts(parts))
