"""The one Linux of a stored disk that another firmware could start, or the reason why it cannot be told.

Answers: "where are its root, its boot menu and its kernels, and who can make a loader for it?" Volumes of the image are
mounted by the kernel, their changes thrown away, so that a journal is replayed and XFS and Btrfs are read too.
"""

from dataclasses import dataclass
from typing import Final, Literal

from stillframe.disk.converting import StartsBy
from stillframe.errors import MachineRefusal
from stillframe.events import EventSink
from stillframe.host.new_fat import PROGRAMS
from stillframe.host.root_files import RootFiles
from stillframe.host.run import find_program, run
from stillframe.jobs.conversions.conversion import LinuxOnDisk
from stillframe.jobs.exposing import ExposedDisk, ExposedPartition
from stillframe.jobs.inside.volume_names import names_of
from stillframe.jobs.mounting import mounted_files
from stillframe.jobs.starts.linux_boot import find_grub
from stillframe.jobs.starts.linux_mounts import SUBVOLUMES
from stillframe.jobs.starts.linux_parts import ROOT_FILE_SYSTEMS
from stillframe.systems import grub
from stillframe.systems.linux import LinuxTraces, read_traces

_CLOSED: Final = {"LVM2_member": "LVM", "crypto_LUKS": "LUKS", "linux_raid_member": "RAID"}
SHIMS: Final = ("/usr/lib/shim/shimx64.efi.signed.latest", "/usr/lib/shim/shimx64.efi.signed")
SIGNED_GRUB: Final = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
PROGRAM_MAX: Final = 32 << 20
_KERNELS_MAX: Final = 32
_WITHOUT: Final = "Leave '--convert' out: the disk starts as it did, on firmware of the same kind."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Root:
    """A volume with a system in it."""

    part: ExposedPartition
    top: str
    traces: LinuxTraces


def find_linux(disk: ExposedDisk, starts_by: StartsBy, events: EventSink) -> LinuxOnDisk:
    """The Linux of a disk.

    Args:
        disk: In the image.
        starts_by: What is to start it.
        events: Is told of reads that fail.

    Raises:
        MachineRefusal: There is none, there are several, or it cannot be made to start so, and why.
    """
    root = _find_root(disk, events)
    boot = _boot_of(root, disk)
    with mounted_files(root.part, events) as (place, _):
        loader, vendor = _choose_loader(RootFiles(place + root.top), starts_by)
        if boot is root.part:
            _look_at_boot(RootFiles(place + root.top), "/boot", starts_by)
    if boot is not root.part:
        with mounted_files(boot, events) as (place, _):
            _look_at_boot(RootFiles(place), "", starts_by)
    if boot.stored.filesystem not in ROOT_FILE_SYSTEMS or not boot.stored.uuid:
        raise MachineRefusal(
            f"GRUB would not find the boot menu in partition {boot.stored.number}: its file system is "
            f"{boot.stored.filesystem or 'unknown'}",
            hint=_WITHOUT,
        )
    release = root.traces.release
    return LinuxOnDisk(
        name=release.get("PRETTY_NAME") or release.get("NAME") or "Linux", folder=vendor or _folder(release.get("ID")),
        root=root.part.stored.number, boot=boot.stored.number, loader=loader,
    )  # fmt: skip


def _find_root(disk: ExposedDisk, events: EventSink) -> _Root:
    found = list[_Root]()
    parts = [part for part in disk.partitions if not part.stored.is_left_out]
    for part in parts:
        if part.stored.filesystem in ROOT_FILE_SYSTEMS:
            with mounted_files(part, events) as (place, _):
                found += _roots_in(part, place)
    if len(found) == 1:
        return found[0]
    if found:
        where = ", ".join(f"partition {root.part.stored.number}{root.top}" for root in found)
        raise MachineRefusal(
            f"there are several Linux systems ({where}), and nobody can tell which is to start the others",
            hint=_WITHOUT,
        )
    closed = [
        f"partition {part.stored.number} ({_CLOSED[part.stored.filesystem]})"
        for part in parts
        if part.stored.filesystem in _CLOSED
    ]
    where = f"; it may be in {', '.join(closed)}, which cannot be opened here" if closed else ""
    raise MachineRefusal(f"no Linux was found on this disk that could be made to start{where}", hint=_WITHOUT)


def _roots_in(part: ExposedPartition, place: str) -> list[_Root]:
    tops = SUBVOLUMES if part.stored.filesystem == "btrfs" else SUBVOLUMES[:1]
    found = []
    for top in tops:
        traces = read_traces(RootFiles(place + top) if top in ("", *_folders(place)) else RootFiles(place))
        if traces.release and traces.mounts:
            found.append(_Root(part=part, top=top, traces=traces))
            break
    if found and part.stored.filesystem == "btrfs":
        shown = run(["findmnt", "--noheadings", "--output", "FSROOT", place]).text.strip()
        if shown != "/":
            raise MachineRefusal(
                f"partition {part.stored.number} starts in a subvolume of its own choice ({shown}), which is not "
                "followed",
                hint=_WITHOUT,
            )
    return found


def _folders(place: str) -> list[str]:
    return [f"/{name}" for name in RootFiles(place).list_names("/")]


def _boot_of(root: _Root, disk: ExposedDisk) -> ExposedPartition:
    """The partition with ``/boot``."""
    wanted = root.traces.mounts.get("/boot", "")
    if not wanted:
        return root.part
    for part in disk.partitions:
        stored = part.stored
        guid = stored.guid or f"{disk.stored.disk_id}-{stored.number:02x}"  # Linux block/partitions/msdos.c
        names = names_of(uuid=stored.uuid, label=stored.label, guid=guid, name=stored.name)
        if wanted.casefold() in {name.casefold() for name in names} and not stored.is_left_out:
            return part
    raise MachineRefusal(
        f"/boot of {root.traces.release.get('NAME', 'this Linux')} is {wanted}, which is not a partition of this disk "
        "that can be read here",
        hint=_WITHOUT,
    )  # fmt: skip


def _look_at_boot(files: RootFiles, top: str, starts_by: StartsBy) -> None:
    """Refuse where another GRUB could not go on from the boot menu."""
    menu = grub.find_menu(files, top)
    if menu is None:
        raise MachineRefusal(
            "no boot menu of GRUB was found in /boot: a Linux that starts by another loader is not converted",
            hint=_WITHOUT,
        )
    text = (files.read_file(f"{menu}/{grub.MENU}", 0, grub.TEXT_MAX) or b"").decode(errors="replace")
    reason = grub.explain_foreign(text)
    if reason:
        raise MachineRefusal(f"another GRUB cannot be used: {reason}", hint=_WITHOUT)
    names = [name for name in files.list_names(top or "/") if name.startswith(("vmlinuz", "vmlinux", "bzImage"))]
    heads = [files.read_file(f"{top}/{name}", 0, grub.KERNEL_HEAD) or b"" for name in names[:_KERNELS_MAX]]
    bits = {grub.kernel_bits(head) for head in heads} - {None}
    if not bits or (starts_by == "uefi" and 64 not in bits):
        what = "only kernels for 32-bit processors" if bits else "no kernel for a PC"
        raise MachineRefusal(f"there are {what} in /boot, and the new loader could not start them", hint=_WITHOUT)


def _choose_loader(files: RootFiles, starts_by: StartsBy) -> tuple[Literal["signed", "made"], str | None]:
    """Who makes the loader, and the folder that a signed one wants."""
    if starts_by == "uefi":
        for program in PROGRAMS:
            find_program(program)
        signed = files.read_file(SIGNED_GRUB, 0, PROGRAM_MAX)
        vendor = grub.find_vendor(signed) if signed else None
        if vendor and find_shim(files):
            return "signed", vendor
    found = find_grub(files, "x86_64-efi" if starts_by == "uefi" else "i386-pc")
    if not found.maker:
        find_program("grub-mkimage")
    return "made", None


def find_shim(files: RootFiles) -> str | None:
    """The path of the system's own shim."""
    return next((path for path in SHIMS if files.is_file(path)), None)


def _folder(name: str | None) -> str:
    """A name for a folder on FAT."""
    letters = [letter for letter in name or "" if letter.isascii() and (letter.isalnum() or letter in "-_")]
    return "".join(letters)[:32] or "linux"
