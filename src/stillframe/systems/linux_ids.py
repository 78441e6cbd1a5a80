"""Ids of disks, partitions and file systems, wherever a Linux has written them down.

Answers: "what must this file say when these ids are others?" Pure: bytes in, bytes out. A new id is as long as the old
one, so texts keep their size, and programs that hold one (GRUB's for UEFI, unified kernel images) are changed the same
way. Only whole ids are replaced, in the letters that stood there.

Sources: fstab(5), crypttab(5); kernel-parameters.txt (``root=``, ``resume=``); GNU GRUB manual 2.06 ("search",
"grubenv"); The Boot Loader Specification; initramfs.conf(5), dracut.conf(5), mkinitcpio.conf(5); lilo.conf(5).
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from stillframe.disk.layout import Layout
from stillframe.systems.programs import parse_sections

ID_TEXTS: Final = (
    "/etc/fstab", "/etc/crypttab", "/etc/default/grub", "/etc/default/grub.d/*", "/etc/default/u-boot", "/etc/grub.d/*",
    "/etc/kernel/cmdline", "/etc/kernel/cmdline.d/*", "/etc/cmdline", "/etc/cmdline.d/*", "/etc/initramfs-tools/*.conf",
    "/etc/initramfs-tools/conf.d/*", "/etc/mkinitcpio.conf", "/etc/mkinitcpio.conf.d/*", "/etc/mkinitcpio.d/*",
    "/etc/dracut.conf", "/etc/dracut.conf.d/*", "/etc/lilo.conf", "/etc/systemd/system/*.mount",
    "/etc/systemd/system/*.swap", "/etc/systemd/system/*.automount", "/boot/grub*/grub.cfg", "/boot/grub*/custom.cfg",
    "/boot/grub*/grubenv", "/boot/grub*/*/load.cfg", "/boot/loader/*.conf", "/boot/loader/entries/*.conf",
    "/boot/extlinux/*.conf", "/boot/syslinux/*.cfg", "/boot/refind_linux.conf", "/etc/mdadm.conf",
    "/etc/mdadm/mdadm.conf", "/etc/lvm/backup/*",
)  # fmt: skip
"""Of a Linux: where ids are written, as far as they decide what it starts from and mounts."""
ESP_TEXTS: Final = (
    "/EFI/*/*.cfg", "/EFI/*/*.conf", "/loader/*.conf", "/loader/entries/*.conf", "/grub*/grub.cfg", "/grub*/grubenv",
    "/extlinux/*.conf", "/syslinux/*.cfg", "/refind_linux.conf", "/*.conf",
)  # fmt: skip
"""Likewise of an EFI system partition, which may be its ``/boot`` as well."""
ESP_PROGRAMS: Final = ("/EFI/*/*.efi", "/*.efi")
INITRDS: Final = ("/boot/initrd*", "/boot/initramfs*")
ESP_INITRDS: Final = ("/initrd*", "/initramfs*", "/*/*/initrd*", "/EFI/*/initr*")
_UUID_SIZE: Final = 36
_LAYER_SIZES: Final = (32, 35, 38)
"""Ids of LVM and md: bare, with colons, with hyphens."""
_NAMES_MAX: Final = 4096


class ListedNames(Protocol):
    """Folders whose names can be listed."""

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdChange:
    """An id and the one that is in its place now, in the spelling of ``blkid``."""

    old: str
    new: str


def partition_changes(before: Layout, after: Layout) -> tuple[IdChange, ...]:
    """What became of the ids that the table of a disk gives: its own, and those of its partitions."""
    if before.scheme != after.scheme or before.disk_id == after.disk_id:
        return ()
    old = {part.number: part.guid.lower() for part in before.partitions}
    if after.scheme == "mbr":
        pairs = [
            (f"{before.disk_id.lower()}-{part.number:02x}", f"{after.disk_id.lower()}-{part.number:02x}")
            for part in after.partitions
        ]
    else:
        pairs = [(old.get(part.number, ""), part.guid.lower()) for part in after.partitions]
        pairs.append((before.disk_id.lower(), after.disk_id.lower()))
    return tuple(IdChange(old=one, new=other) for one, other in pairs if one and one != other)


class IdPattern:
    """Finds and replaces ids in bytes.

    Args:
        changes: Old and new ids, each pair of one length.
    """

    def __init__(self, changes: Sequence[IdChange]) -> None:
        if any(len(change.old) != len(change.new) for change in changes):
            raise ValueError("an id is replaced by one of another length")
        self._new: Mapping[str, IdChange] = {change.old.casefold(): change for change in changes}
        self._words: Final = tuple(change.old.lower().encode() for change in changes)
        words = [self._pattern(change.old) for change in changes]
        self._found: Final = re.compile(("|".join(words) or r"(?!)").encode(), re.IGNORECASE)
        self.size_max: Final = max((len(change.old) for change in changes), default=0)

    @staticmethod
    def _pattern(old: str) -> str:
        """A UUID may stand behind a word and a dash (``luks-...``); a short id must stand alone.

        One of LVM or md may stand anywhere, in ``dm-uuid-LVM-...`` right before another one.
        """
        if len(old) in _LAYER_SIZES:
            return re.escape(old)
        around = "[0-9A-Fa-f]" if len(old) == _UUID_SIZE else r"[\w-]"
        return f"(?<!{around}){re.escape(old)}(?!{around})"

    def count(self, contents: bytes) -> int:
        """How many old ids are in some bytes."""
        small = contents.lower()  # a search for words is a hundred times as fast as one for patterns
        if not any(word in small for word in self._words):
            return 0
        return sum(1 for _ in self._found.finditer(contents))

    def replace(self, contents: bytes) -> bytes:
        """The same bytes with the new ids."""
        return self._found.sub(self._new_id, contents)

    def _new_id(self, found: re.Match[bytes]) -> bytes:
        text = found[0].decode("ascii")
        change = self._new[text.casefold()]
        if text == change.old:
            return change.new.encode()
        return (change.new.upper() if text.isupper() else change.new.lower()).encode()


def iter_paths(files: ListedNames, patterns: Sequence[str], *, any_case: bool = False) -> Iterator[str]:
    """The paths that match patterns of a shell, each once; also of folders.

    Args:
        files: Where to look.
        patterns: From the root.
        any_case: Small and capital letters are the same.
    """
    seen = set[str]()
    for pattern in patterns:
        for path in _matching(files, "", pattern.strip("/").split("/"), any_case=any_case):
            if path not in seen and len(seen) < _NAMES_MAX:
                seen.add(path)
                yield path


def _matching(files: ListedNames, folder: str, parts: Sequence[str], *, any_case: bool) -> Iterator[str]:
    wanted = parts[0].lower() if any_case else parts[0]
    for name in files.list_names(folder or "/"):
        if fnmatch.fnmatchcase(name.lower() if any_case else name, wanted):
            path = f"{folder}/{name}"
            if len(parts) == 1:
                yield path
            else:
                yield from _matching(files, path, parts[1:], any_case=any_case)


def unified_initrd(program: bytes) -> bytes:
    """The initrd of a unified kernel image; empty for any other file.

    Source: UAPI Group, "Unified Kernel Image (UKI)", section ``.initrd``.
    """
    found = parse_sections(lambda at, size: program[at : at + size])
    return next((program[one.at : one.at + one.size] for one in found if one.name == ".initrd"), b"")
