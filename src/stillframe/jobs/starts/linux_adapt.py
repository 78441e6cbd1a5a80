"""A restored Linux made ready for another computer: drivers, network cards, names of disks.

Answers: "what in this system is true of the old computer only?" Every file that is changed is kept as it was below
``/var/backups/stillframe``: beside it, in a folder whose files are all read, it would be read as well.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.jobs.starts.linux_mounts import MountedLinux
from stillframe.jobs.starts.linux_parts import DiskPart, find_part
from stillframe.systems.fstab import parse_lines
from stillframe.systems.linux_ids import ID_TEXTS, iter_paths
from stillframe.systems.linux_network import NETWORK_FILES

KEPT: Final = "/var/backups/stillframe"
_TEXT_MAX: Final = 1 << 20
_DEVICE: Final = r"/dev/(?:(?:[hsv]|xv)d[a-z]{1,3}|(?:nvme\d+n\d+|mmcblk\d+)p)\d{1,3}"
_TABLE_LINE: Final = re.compile(rf"(?m)^(\s*)({_DEVICE})(?=\s)")
_KERNEL_WORD: Final = re.compile(rf"\b(root=|resume=)({_DEVICE})(?![\w/])")
_TABLES: Final = ("/etc/fstab",)
_DEVICES_FILE: Final = "/etc/lvm/devices/system.devices"


def relax_network(linux: MountedLinux) -> Iterator[str]:
    """Network settings that name a card; what was changed, in words.

    Raises:
        MachineRefusal: The volume is full.
    """
    for pattern, relax in NETWORK_FILES:
        for path in iter_paths(linux.files, (pattern,)):
            contents = linux.files.read_file(path, 0, _TEXT_MAX)
            text = _text(contents)
            relaxed = relax(text) if text is not None else None
            if relaxed is not None:
                keep_original(linux, path, contents or b"")
                if relaxed.text is None:
                    linux.files.remove_file(path)
                else:
                    linux.files.write_file(path, relaxed.text.encode())
                yield f"{path}: {relaxed.why}; as it was in {KEPT}{path}"


def name_by_uuid(linux: MountedLinux, parts: Sequence[DiskPart]) -> Iterator[str]:
    """Names such as ``/dev/sda2`` in tables and boot menus become UUIDs; what was changed, in words.

    Raises:
        MachineRefusal: The volume is full.
    """
    disk = _own_disk(linux)
    for path in iter_paths(linux.files, ID_TEXTS) if disk else ():
        contents = linux.files.read_file(path, 0, _TEXT_MAX)
        text = _text(contents)
        if text is None:
            continue
        pattern = _TABLE_LINE if path in _TABLES else _KERNEL_WORD

        def by_uuid(found: re.Match[str]) -> str:
            return f"{found[1]}{_uuid_of(found[2], disk, parts)}"

        done, names = pattern.sub(by_uuid, text), pattern.findall(text)
        if done != text:
            keep_original(linux, path, contents or b"")
            linux.files.write_file(path, done.encode())
            yield (
                f"{path}: {', '.join(dict.fromkeys(name for _, name in names))} by UUID, as names of disks differ from "
                f"computer to computer; as it was in {KEPT}{path}"
            )


def forget_devices_file(linux: MountedLinux) -> Iterator[str]:
    """The list of the disks that LVM may look at: by serial numbers that stay behind. Without it, it looks at all.

    Source: lvmdevices(8), "when the devices file does not exist".

    Raises:
        MachineRefusal: The volume is full.
    """
    if "lvm" in linux.early.layers and linux.files.is_file(_DEVICES_FILE):
        keep_original(linux, _DEVICES_FILE, linux.files.read_file(_DEVICES_FILE, 0, _TEXT_MAX) or b"")
        linux.files.remove_file(_DEVICES_FILE)
        yield f"{_DEVICES_FILE}: LVM looks at all disks, as it named the old one; as it was in {KEPT}{_DEVICES_FILE}"


def keep_original(linux: MountedLinux, path: str, contents: bytes) -> None:
    """Keep a file as it was, below ``KEPT``. The first copy is the one of the old computer; a later one is not.

    Args:
        linux: The system.
        path: Of the file.
        contents: As they were.

    Raises:
        MachineRefusal: The volume is full.
    """
    if not linux.files.is_file(f"{KEPT}{path}"):
        linux.files.write_private(f"{KEPT}{path}", contents)


def _own_disk(linux: MountedLinux) -> str:
    """The name that this disk had, by where its root was; empty where that is not known. Others are left alone."""
    text = _text(linux.files.read_file(_TABLES[0], 0, _TEXT_MAX)) or ""
    root = next((line.what for line in parse_lines(text) if line.where == "/"), "")
    return root.rstrip("0123456789") if re.fullmatch(_DEVICE, root) else ""


def _uuid_of(device: str, disk: str, parts: Sequence[DiskPart]) -> str:
    part = find_part(device, parts) if device.rstrip("0123456789") == disk else None
    return f"UUID={part.volume.uuid}" if part is not None and part.volume.uuid else device


def _text(contents: bytes | None) -> str | None:
    try:
        return None if contents is None else contents.decode()
    except UnicodeDecodeError:
        return None
