"""What the early user space of a restored Linux has to open before it finds its root.

Answers: "what must be in its initramfs, and is it?" A program that makes an initramfs in a chroot sees a root on a loop
device, and leaves out what LUKS, LVM or RAID need. So it is told of them, and what it made must have the programs, the
kernel's drivers and, where ``initramfs-tools`` keeps one, the line for each encrypted volume.

Sources: crypttab(5) (option ``initramfs``, of Debian's cryptsetup-initramfs; ``/cryptroot/crypttab`` in the image),
initramfs-tools(7) (``RESUME``), kernel-parameters.txt (``resume=``); dracut.cmdline(7) (``rd.lvm.lv=``,
``rd.luks.uuid=``, ``rd.md.uuid=``; ``rd.auto``: nothing is opened unasked); systemd-cryptsetup-generator(8)
(``rd.luks.name=``); kbuild.rst (``modules.builtin``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.disk.luks import read_header
from stillframe.disk.md import read_member
from stillframe.errors import MachineRefusal
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.linux_parts import DiskPart, find_part, noted_locks
from stillframe.jobs.starts.volume_stack import LuksLayer, VolumeStack
from stillframe.systems.fstab import parse_name
from stillframe.systems.initrd import EarlyFiles, read_early_files
from stillframe.systems.linux_ids import iter_paths

_CRYPTTAB: Final = "/etc/crypttab"
_EARLY_CRYPTTAB: Final = "cryptroot/crypttab"
_ASKED: Final = "initramfs"
_RESUME_TEXTS: Final = ("/etc/initramfs-tools/conf.d/*", "/etc/default/grub", "/etc/kernel/cmdline")
_RESUME: Final = re.compile(r"(?m)(?:^RESUME|\bresume)=\"?([^\s\"']+)")
_PROGRAMS: Final[dict[str, re.Pattern[str]]] = {
    "raid": re.compile(r"(?:usr/)?s?bin/mdadm"),
    "luks": re.compile(r"(?:usr/)?(?:s?bin/cryptsetup|lib/systemd/systemd-cryptsetup)"),
    "lvm": re.compile(r"(?:usr/)?s?bin/lvm"),
}
_DRIVERS: Final[dict[str, str]] = {"raid": "raid1", "luks": "dm-crypt", "lvm": "dm-mod"}
_BUILT_IN: Final = ("/lib/modules/*/modules.builtin", "/usr/lib/modules/*/modules.builtin")
_TEXT_MAX: Final = 64 << 10
_LIST_MAX: Final = 1 << 20
_IMAGE_MAX: Final = 2 << 30
_HINT: Final = "Start the system from its own medium, and make its initramfs there."


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyNeeds:
    """What an initramfs has to open.

    Attributes:
        layers: ``raid``, ``luks``, ``lvm``, as far as root, ``/usr`` or what it resumes from lie in them.
        targets: Names in ``crypttab`` of encrypted volumes that these lie in.
        arguments: The same as words of a kernel's command line, for an early user space that opens what it is told.
    """

    layers: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def covers(self, files: RootFiles) -> Mapping[str, str]:
        """Texts that the program that makes an initramfs is shown: ``crypttab`` that asks for these volumes."""
        if not self.targets:
            return {}
        text = (files.read_file(_CRYPTTAB, 0, _TEXT_MAX) or b"").decode("utf-8", "surrogateescape")
        return {_CRYPTTAB: "".join(_asked_for(line, self.targets) for line in text.splitlines(keepends=True))}


def early_needs(
    files: RootFiles, stack: VolumeStack, parts: Sequence[DiskPart], mounted: Mapping[str, DiskPart]
) -> EarlyNeeds:
    """What the initramfs of a Linux has to open.

    Args:
        files: Its files.
        stack: What is open on this disk.
        parts: All volumes, by all names that this Linux has for them.
        mounted: By folder its volumes.
    """
    early = [mounted[folder] for folder in ("/", "/usr") if folder in mounted]
    early += [part for name in _resumed(files) if (part := find_part(name, parts)) is not None]
    nested = [part.nested for part in early if part.nested is not None]
    locks = [lock for volume in nested for lock in volume.locks]
    noted = {name: lock for name, lock in noted_locks(files, stack).items() if lock in locks}
    names = frozenset(name for volume in nested for name in volume.names) | {n for lock in locks for n in lock.names}
    layers = tuple(dict.fromkeys(layer for volume in nested for layer in volume.layers))
    arguments = dict.fromkeys(
        (*_array_arguments(stack, layers), *_lock_arguments(locks, noted), *_group_arguments(stack, names))
    )
    return EarlyNeeds(layers=layers, targets=tuple(noted), arguments=tuple(arguments))


def _array_arguments(stack: VolumeStack, layers: Sequence[str]) -> Iterator[str]:
    for array in stack.arrays if "raid" in layers else ():
        member = read_member(array.members[0][0])  # its id may be another one since it was opened
        if member is not None:
            yield f"rd.md.uuid={':'.join(member.array[at : at + 8] for at in range(0, 32, 8))}"


def _lock_arguments(locks: Sequence[LuksLayer], noted: Mapping[str, LuksLayer]) -> Iterator[str]:
    for lock in locks:
        header = read_header(lock.writer)
        if header is not None:
            yield f"rd.luks.uuid=luks-{header.uuid}"
            yield from (f"rd.luks.name={header.uuid}={name}" for name, one in noted.items() if one is lock)


def _group_arguments(stack: VolumeStack, names: frozenset[str]) -> Iterator[str]:
    for whole in stack.groups:
        paths = (f"{whole.group.name}/{volume.name}" for volume in whole.group.logical)
        yield from (f"rd.lvm.lv={path}" for path in paths if f"/dev/{path}" in names)


def require_early(files: RootFiles, name: str, needs: EarlyNeeds) -> None:
    """See that an initramfs has what it needs.

    Args:
        files: Of its system.
        name: Its name in ``/boot``.
        needs: What it has to open.

    Raises:
        MachineRefusal: Something is not in it, or it cannot be read.
    """
    if not needs.layers:
        return
    found = read_early_files(files.read_file(f"/boot/{name}", 0, _IMAGE_MAX) or b"", (_EARLY_CRYPTTAB,))
    if found is None:
        raise MachineRefusal(
            f"/boot/{name} was made anew, and cannot be looked into for what opens {', '.join(needs.layers)}",
            hint=_HINT,
        )
    missing = tuple(_missing(files, found, needs))
    if missing:
        raise MachineRefusal(f"/boot/{name} was made anew without {', '.join(missing)}", hint=_HINT)


def _missing(files: RootFiles, found: EarlyFiles, needs: EarlyNeeds) -> Iterator[str]:
    built_in = " ".join(
        (files.read_file(path, 0, _LIST_MAX) or b"").decode(errors="replace") for path in iter_paths(files, _BUILT_IN)
    )
    for layer in needs.layers:
        if not any(_PROGRAMS[layer].fullmatch(path) for path in found.names):
            yield f"the program for {layer}"
        driver = f"/{_DRIVERS[layer]}.ko"
        if not any(driver in path for path in found.names) and driver not in built_in:
            yield f"the driver {_DRIVERS[layer]}"
    if _EARLY_CRYPTTAB in found.names:
        lines = found.contents.get(_EARLY_CRYPTTAB, b"").decode(errors="replace").splitlines()
        yield from (
            f"the encrypted volume {one}" for one in needs.targets if one not in {_first(line) for line in lines}
        )


def _first(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""


def _resumed(files: RootFiles) -> Iterator[str]:
    """Names of what a hibernated system comes back from."""
    for path in iter_paths(files, _RESUME_TEXTS):
        text = (files.read_file(path, 0, _TEXT_MAX) or b"").decode(errors="replace")
        yield from (parse_name(name) for name in _RESUME.findall(text))


def _asked_for(line: str, targets: Sequence[str]) -> str:
    """A line of ``crypttab`` that asks for its volume early, if it is one of these."""
    words = line.split()
    if not words or words[0] not in targets:
        return line
    words += ["none"] if len(words) == 2 else []
    options = words[3].split(",") if len(words) > 3 else ["luks"]
    options += [] if _ASKED in options else [_ASKED]
    return f"{' '.join([*words[:3], ','.join(options)])}\n"
