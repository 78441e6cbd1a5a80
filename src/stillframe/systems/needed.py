"""Which partitions a system needs to start, each with its reason.

Answers: "is this partition a part of the system, and why?" By what lies on the partitions: labels are translated, and
types are what somebody once chose. It follows the chain from firmware to system: EFI system partition or active
partition, Windows' boot configuration or a boot menu, the system, and what that one's own tables name. Of several
systems on the disks each is one. Where nobody can tell, too much is taken rather than too little.

Sources: the modules of what was read; Filesystem Hierarchy Standard 3.0, section 3 (the folders of a system); UEFI
Specification 2.10, table 5.8 (attributes); "PARTITION_INFORMATION_GPT", learn.microsoft.com (the Microsoft types).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.systems.boot_files import iter_titles
from stillframe.systems.evidence import FILES_ASKED, PartEvidence
from stillframe.systems.linux import LinuxTraces, NamedTraces, join_linux
from stillframe.systems.names import find_arc, find_parts, find_recorded, is_volume_name

_FOLDERS: Final = ("/boot", "/efi", "/usr", "/var", "/opt")
_CONTAINERS: Final = frozenset({"LVM2_member", "crypto_LUKS", "linux_raid_member", "bcache", "zfs_member"})
_LINUX_VOLUMES: Final = _CONTAINERS | {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"}
_WITH_THE_DISK: Final = frozenset({
    "EFI system", "BIOS boot", "PowerPC boot", "Linux boot", "Microsoft reserved", "Windows recovery",
    "maker's diagnostics", "Windows dynamic disk database", "MBR partition table",
})  # fmt: skip
_DATA_TYPES: Final = frozenset({"Linux home", "Linux server data"})
_ACTIVE: Final = 0x80
_LEGACY_BOOT: Final = 1 << 2
_KEPT_HEADER: Final = ": only its header is kept"
_NOTHING: Final = "data: nothing that starts lies here"
_NO_SYSTEM: Final = "nothing that starts was found on this disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a partition is a part of the system, and one sentence why or why not."""

    taken: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict for each partition, in order, and in words what a system needs and none of the disks has."""

    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]


def is_system_folder(where: str) -> bool:
    """Whether a folder of a Linux is one without which it does not start again as it was."""
    return where in {"/", "/etc"} or any(where == folder or where.startswith(f"{folder}/") for folder in _FOLDERS)


def judge_parts(parts: Sequence[PartEvidence]) -> Judgement:
    """Judge the partitions of some disks together: a system may start from one disk and lie on another.

    Where one of them has the running system, disks that have nothing of it are not a part of it.
    """
    return _Case(parts).judge()


class _Case:
    """One run."""

    def __init__(self, parts: Sequence[PartEvidence]) -> None:
        self._parts = parts
        self._taken: dict[tuple[int, int], str] = {}
        self._data: dict[tuple[int, int, str], str] = {}
        self._missing: list[str] = []
        named = [NamedTraces(names=part.names, traces=part.files.linux) for part in parts if part.files is not None]
        self._roots = [(part, name) for part in parts if (name := _linux_name(part, named))]

    def judge(self) -> Judgement:
        """Every rule in turn; the first reason that is found for a partition is told."""
        for rule in (_by_mount, self._by_system, _by_loader):
            self._apply(rule)
        self._follow_stores()
        self._follow_inis()
        for root, name in self._roots:
            self._follow_tables(root, name)
        self._follow_menus()
        self._apply(_by_kernels)
        self._apply(_by_recovery)
        self._apply(self._by_hidden)
        self._apply(self._by_silence)
        self._apply(self._with_the_disk)
        here = {part.disk for part in self._parts if any(is_system_folder(where) for where in part.mounted)}
        verdicts = tuple(self._verdict(part, here) for part in self._parts)
        return Judgement(verdicts=verdicts, missing=tuple(dict.fromkeys(self._missing)))

    def _verdict(self, part: PartEvidence, here: set[int]) -> Verdict:
        reason = self._taken.get(_place(part))
        if reason and here and part.disk not in here:
            return Verdict(taken=False, reason=f"not of the running system: {reason}")
        if reason:
            return Verdict(taken=True, reason=reason)
        has_system = any(number == part.disk for number, _ in self._taken)
        mounted = f"data, mounted at {part.mounted[0]}" if part.mounted else ""
        known = next((self._data[key] for key in self._data if key == _key(part) or key[:2] == _place(part)), "")
        return Verdict(taken=False, reason=known or mounted or (_NOTHING if has_system else _NO_SYSTEM))

    def _apply(self, rule: Callable[[PartEvidence], str]) -> None:
        found = [(part, rule(part)) for part in self._parts if any(one not in self._taken for one in _places(part))]
        for part, reason in found:
            if reason:
                self._take([part], reason)

    def _take(self, parts: Iterable[PartEvidence], reason: str) -> None:
        for part in parts:
            # The partition of a volume inside is kept as it is: the volume is in it, whatever it is itself.
            words = f"{reason.removesuffix(_KEPT_HEADER)}, in {part.inner} on it" if part.inner else reason
            for place in _places(part):
                self._taken.setdefault(place, words)

    def _by_system(self, part: PartEvidence) -> str:
        if part.files is not None and part.files.windows is not None:
            return part.files.windows.name
        if part.files is not None and part.files.clues.has_windows:
            return "a Windows whose version cannot be read"
        return next((f"{name} begins here" for root, name in self._roots if root is part), "")

    def _follow_stores(self) -> None:
        """What Windows' boot configuration names."""
        for part in self._parts:
            if part.files is None or not part.files.clues.has_store:
                continue
            clues, place = part.files.clues, f"the boot configuration (BCD) of partition {part.partition.number}"
            named = [("the boot manager's partition", clues.loader)] if clues.loader else []
            named += [("a Windows", record) for record in clues.systems]
            named += [("recovery environment", record) for record in clues.recoveries]
            for what, record in named:
                found = find_recorded(record, self._parts)
                if found is not None:
                    sealed = ", encrypted by BitLocker" if found.volume.filesystem == "BitLocker" else ""
                    self._take([found], f"{what}{sealed}, named by {place}")
                elif what == "a Windows":
                    self._missing.append(f"{place} names a Windows that is on none of these disks")

    def _follow_inis(self) -> None:
        """What a ``boot.ini`` names, where the loader that reads it is."""
        for part in self._parts:
            boot = part.files.boot if part.files is not None else None
            for place in boot.ini.places if boot is not None and boot.ini is not None and boot.has_ntldr else ():
                found, where = find_arc(place, part, self._parts), f"boot.ini of partition {part.partition.number}"
                if found is not None:
                    self._take([found], f"a Windows, named by {where}")
                else:
                    self._missing.append(f"{where} names {place.text}, which is on none of these disks")

    def _follow_tables(self, root: PartEvidence, name: str) -> None:
        """What the ``fstab`` and ``crypttab`` of a Linux name."""
        linux, is_lost = _tables(root), False
        for line in linux.fstab:
            if not is_volume_name(line.what) or line.where == "/":
                continue
            found = find_parts(line.what, root, self._parts)
            if not line.where:
                self._take(found, f"swap of {name} by its fstab{_KEPT_HEADER}")
            elif is_system_folder(line.where):
                self._take(found, f"{line.where} of {name} by its fstab")
                is_lost |= not found
                if not found and not self._closed():
                    self._missing.append(f"{name} has {line.where} on {line.what}, which is on none of these disks")
            else:
                waits = ", though a start waits for it (no 'nofail')" if line.waits else ""
                self._note(found, f"data: {line.where} of {name} by its fstab{waits}")
        for opened, below in linux.crypttab:
            closed = [part for part in find_parts(below, root, self._parts) if _key(part) not in self._data]
            self._take(closed, f"'{opened}' of {name} by its crypttab")
        if is_lost:
            self._take(self._closed(), f"it may hold a folder that {name} needs, by its fstab")

    def _closed(self) -> list[PartEvidence]:
        """The partitions in which something is that nobody sees."""
        return [part for part in self._parts if part.volume.filesystem in _CONTAINERS and not part.is_opened]

    def _note(self, parts: Iterable[PartEvidence], reason: str) -> None:
        for part in parts:
            words = f"{reason}, in {part.inner} on it" if part.inner else reason
            for disk, number in _places(part):
                self._data.setdefault((disk, number, part.inner), words)

    def _follow_menus(self) -> None:
        """What boot menus name."""
        for part in self._parts:
            if part.files is None:
                continue
            wanted = {name.casefold() for name in part.files.boot.named}
            found = [one for one in self._parts if wanted & {name.casefold() for name in one.names}]
            for one in found:
                kept = _KEPT_HEADER if one.volume.filesystem == "swap" else ""
                self._take([one], f"named by the boot menu on partition {part.partition.number}{kept}")

    def _by_hidden(self, part: PartEvidence) -> str:
        """A system that is started, and is on no volume whose files are read."""
        if part.is_opened:
            return ""  # what is inside of it is judged by itself
        inside, is_data = part.volume.filesystem, _key(part) in self._data or part.partition.type_name in _DATA_TYPES
        if inside in _LINUX_VOLUMES and not is_data and not part.mounted:
            if self._has_hidden_linux():
                return "it may belong to a Linux that is started from these disks and whose fstab cannot be read"
            if part.files is None and (self._taken or part.has_boot_code):
                return "its files cannot be read here, and no fstab says that it is data: a system may be in it"
        is_closed = inside == "BitLocker" or part.partition.type_name == "Windows dynamic disk"
        if is_closed and self._has_hidden_windows():
            return "its files cannot be read, and the Windows that is started from these disks may be in it"
        return ""

    def _has_hidden_linux(self) -> bool:
        starters = [p for p in self._parts if p.files is not None and (p.files.boot.starts_linux or _has_kernels(p))]
        if not self._roots:
            return bool(starters)
        known = {_key(one) for root, _ in self._roots for one in self._named_by(root)}
        return any(_has_kernels(part) and _key(part) not in known for part in starters)

    def _named_by(self, root: PartEvidence) -> list[PartEvidence]:
        lines = _tables(root).fstab
        return [root, *(one for line in lines for one in find_parts(line.what, root, self._parts))]

    def _has_hidden_windows(self) -> bool:
        clues = [part.files.clues for part in self._parts if part.files is not None]
        found = any(one.has_windows for one in clues) or any(
            reason.startswith("a Windows") for reason in self._taken.values()
        )
        return not found and any(one.is_esp or one.has_bootmgr for one in clues)

    def _by_silence(self, part: PartEvidence) -> str:
        """A volume whose files should have been read."""
        is_asked = part.files is None and part.volume.filesystem in FILES_ASKED
        is_known = part.mounted or _key(part) in self._data
        return "its files could not be looked at, so a system may need it" if is_asked and not is_known else ""

    def _with_the_disk(self, part: PartEvidence) -> str:
        """What belongs to every disk that something starts from."""
        table, has_linux = part.partition, bool(self._roots) or self._has_hidden_linux()
        if all(number != part.disk for number, _ in self._taken):
            return ""
        if table.type_name in _WITH_THE_DISK:
            return f"{table.type_name} partition, by its type"
        if part.scheme == "mbr" and table.attributes & _ACTIVE:
            return "the active partition: a BIOS starts it"
        if part.scheme == "gpt" and table.attributes & _LEGACY_BOOT:
            return "marked for the start by a BIOS"
        if part.volume.filesystem == "swap" and has_linux and not part.inner:
            return "swap: only its header is kept, by which a Linux finds it"
        return ""


def _key(part: PartEvidence) -> tuple[int, int, str]:
    return part.disk, part.partition.number, part.inner


def _place(part: PartEvidence) -> tuple[int, int]:
    return part.disk, part.partition.number


def _places(part: PartEvidence) -> tuple[tuple[int, int], ...]:
    """The partitions that are taken when a part is: its own, or all that a volume inside rests on."""
    return part.beneath or (_place(part),)


def _linux_name(part: PartEvidence, named: Sequence[NamedTraces]) -> str:
    """The Linux whose root a volume is; an ``fstab`` that mounts a root is enough, for the rest may not be readable."""
    if part.files is None:
        return ""
    system = join_linux(part.files.linux, named)
    return system.name if system else "a Linux" if "/" in part.files.linux.mounts else ""


def _tables(root: PartEvidence) -> LinuxTraces:
    assert root.files is not None, "a root was found by its files"
    return root.files.linux


def _has_kernels(part: PartEvidence) -> bool:
    """Whether a volume looks like ``/boot`` itself."""
    return part.files is not None and bool(part.files.linux.boot_kernels) and not part.files.linux.is_root


def _by_mount(part: PartEvidence) -> str:
    where = sorted(folder for folder in part.mounted if is_system_folder(folder))
    if where:
        return f"the running system has it at {', '.join(where)}"
    return f"the running system swaps to it{_KEPT_HEADER}" if part.is_swapped_to else ""


def _by_loader(part: PartEvidence) -> str:
    if part.files is None:
        return ""
    clues, boot = part.files.clues, part.files.boot
    if boot.loaders or clues.is_esp:
        loaders = boot.loaders or ("Microsoft",)
        word = "loader" if len(loaders) == 1 else "loaders"
        return f"EFI system partition with the {word} {', '.join(iter_titles(loaders))}"
    is_active = part.scheme == "mbr" and part.partition.attributes & _ACTIVE
    active = ", on the active partition" if is_active else ""
    if clues.has_bootmgr:
        return f"boot manager of Windows (bootmgr){active}"
    return f"loader of Windows (ntldr){active}" if boot.has_ntldr else ""


def _by_kernels(part: PartEvidence) -> str:
    if part.files is None:
        return ""
    if part.files.boot.menus:
        return f"boot menu of a Linux ({part.files.boot.menus[0]})"
    return "kernels of a Linux: its /boot" if _has_kernels(part) else ""


def _by_recovery(part: PartEvidence) -> str:
    found = part.files is not None and part.files.clues.has_winre
    return "recovery environment of Windows (Winre.wim)" if found else ""
