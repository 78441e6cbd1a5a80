r"""The way from a boot menu of Linux to a Linux: menus, kernels, the root, and the tables in it.

Sources: those of ``menus``; Linux Documentation/admin-guide/kernel-parameters.txt (``root=``); dracut.cmdline(7)
(``rd.luks.uuid=``, ``rd.lvm.lv=``); mkinitcpio(8) (``cryptdevice=``); systemd-gpt-auto-generator(8) (a root that nobody
names); UAPI Group, "Discoverable Partitions Specification" (the types).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from stillframe.systems.chain_places import Places, unread
from stillframe.systems.chain_records import BootChain, BootPart, BootStep
from stillframe.systems.fstab import FstabLine, parse_name
from stillframe.systems.menus import Menu, MenuEntry, parse_entry_file, parse_grub_menu, parse_syslinux
from stillframe.systems.names import is_volume_name

Start = Callable[[BootChain, BootPart, str], Iterator[BootChain]]
"""Starts another program on a volume, or with ``+1`` its boot sector."""

ENTRY_FOLDERS: Final = ("/loader/entries", "/boot/loader/entries")
_ENTRIES_MAX: Final = 64
_WAYS_MAX: Final = 8
"""Of one menu: roots that differ."""
_ROOT_TYPES: Final = frozenset({
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "44479540-F297-41B2-9AF7-D131D5F0458A",
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3",
})  # fmt: skip
_LVM_NAME: Final = re.compile(r"/dev/(?!mapper/|disk/|md|dm-)[A-Za-z0-9+_.-]+/[A-Za-z0-9+_.-]+")


class LinuxWays:
    """Follows menus of Linux.

    Args:
        places: All volumes.
        start: Starts what a menu starts in place of a kernel.
    """

    def __init__(self, places: Places, start: Start) -> None:
        self._places = places
        self._start = start

    def follow_menu(self, chain: BootChain, part: BootPart, path: str) -> Iterator[BootChain]:
        """A menu, by its path, and every system that it starts."""
        is_grub = path.endswith("grub.cfg")
        what = "GRUB's menu" if is_grub else "menu of syslinux"
        if chain.has_been_at(part, path):
            yield chain.then(part.step("menu", what, fault=f"{path} leads back to itself"))
            return
        if self._places.has_file(part, path) is not True:
            is_gone = part.files is not None and self._places.has_file(part, path) is False
            fault, limit = (f"there is no {path} on this volume", "") if is_gone else ("", unread(part))
            yield chain.then(part.step("menu", what, path, fault=fault, limit=limit))
            return
        text = self._places.text(part, path)
        menu = parse_grub_menu(text, folder=path.rpartition("/")[0]) if is_grub else parse_syslinux(text)
        yield from self.follow_parsed(chain, part, menu, what, path)

    def follow_parsed(
        self, chain: BootChain, part: BootPart, menu: Menu, what: str, path: str
    ) -> Iterator[BootChain]:  # fmt: skip
        """A menu that was read, and every system that it starts."""
        entries = [*menu.entries]
        if menu.has_entry_files:
            homes = self._places.find(menu.volume, part) or (part,)
            entries = [*self._entry_files(homes[0], self._grub_variables(part, path)), *entries]
        chain = chain.then(part.step("menu", what, path, leads=_titles(entries)))
        found = False
        for rank, entry in enumerate(_different(entries)):
            found = True
            yield from self.follow_entry(chain.choosing(rank), part, entry)
        for include in menu.includes[:_WAYS_MAX]:
            found = True
            homes = self._places.find(include.volume, part)
            if not homes:
                fault = f"{path} searches {include.volume}, no volume on these disks has it"
                yield chain.then(part.step("menu", what, fault=fault))
            for home in homes[:1]:
                folder = path.rpartition("/")[0]
                there = include.path if include.path.startswith("/") else f"{folder}/{include.path}"
                yield from self.follow_menu(chain, home, there)
        if not found:
            yield chain.then(part.step("menu", what, limit="no entry in it can be followed"))

    def follow_entry_files(self, chain: BootChain, part: BootPart, folder: str) -> Iterator[BootChain]:
        """Entries of the Boot Loader Specification in a folder."""
        entries = self._entry_files(part, {})
        for rank, entry in enumerate(_different(entries)):
            step = part.step("menu", f"entry '{entry.title}'", folder, leads=entry.kernel or entry.program)
            yield from self.follow_entry(chain.choosing(rank).then(step), part, entry)

    def follow_entry(self, chain: BootChain, part: BootPart, entry: MenuEntry) -> Iterator[BootChain]:
        """One entry of a menu that is on a volume."""
        homes = self._places.find(entry.volume, part)
        if not homes:
            fault = f"'{entry.title}' searches {entry.volume}, no volume on these disks has it"
            yield chain.then(part.step("volume", "the volume of the kernel", fault=fault))
        elif entry.kernel:
            step = self._kernel_step(homes[0], entry, len(homes))
            yield from self.follow_options(chain.then(step), homes[0], entry.options)
        else:
            yield from self._start(chain, homes[0], entry.program)

    def follow_options(self, chain: BootChain, part: BootPart, options: str) -> Iterator[BootChain]:
        """The root that the words for a kernel name, and the system on it."""
        words = dict(_iter_settings(options))
        name = words.get("root", "")
        found = self._find_root(name, words, part)
        if found:
            yield chain.then(*self._root_steps(found[0]))
            return
        if not name or name.startswith(("zfs:", "ZFS=", "zfs")):
            limit = f"the kernel is told root={name}, which is not followed" if name else "no root= names its root"
            yield chain.then(part.step("volume", "the root", limit=limit))
            return
        closed = self._places.closed()
        may_be_inside = bool(closed) and (name.startswith(("/dev/mapper/", "UUID=", "LABEL=")) or _LVM_NAME.match(name))
        limit = f"cannot be followed further: root={name} may be in {closed}" if may_be_inside else ""
        fault = "" if may_be_inside else f"root={name}: no volume on these disks has it"
        yield chain.then(part.step("volume", "the root", fault=fault, limit=limit))

    def _find_root(self, name: str, words: dict[str, str], part: BootPart) -> tuple[BootPart, ...]:
        if not name:
            parts = [one for one in self._places.parts if one.key[0] == part.key[0] and not one.evidence.inner]
            return tuple(one for one in parts if one.evidence.partition.type in _ROOT_TYPES)
        found = self._places.find(parse_name(name.strip('"')), part)
        below, _, opened = words.get("cryptdevice", "").partition(":")
        if not found and below and name == f"/dev/mapper/{opened.partition(':')[0]}":
            return self._places.find(parse_name(below), part)
        sealed = words.get("rd.luks.uuid", words.get("rd.luks.name", "").partition("=")[0]).removeprefix("luks-")
        if not found and sealed and not self._is_in_group(name):
            return self._places.find(f"UUID={sealed}", part)
        return found

    def _is_in_group(self, name: str) -> bool:
        """Whether a name may be that of a logical volume on a volume that is not encrypted."""
        return any(name in one.evidence.names for one in self._places.parts if one.evidence.inner)

    def _root_steps(self, part: BootPart) -> list[BootStep]:
        if part.files is None:
            kind = part.evidence.volume.filesystem
            return [part.step("volume", f"the root, {kind}" if kind else "the root", limit=unread(part))]
        system = self._places.system(part)
        if system is None or system.family != "linux":
            fault = "it is named as the root, and there is no Linux on it"
            return [part.step("volume", "the root", fault=fault)]
        return [part.step("system", system.name, "/"), *self._table_steps(part)]

    def _table_steps(self, part: BootPart) -> Iterator[BootStep]:
        """What the ``fstab`` and the ``crypttab`` of a Linux name."""
        assert part.evidence.files is not None, "its system was seen"
        linux = part.evidence.files.linux
        if linux.fstab:
            yield self._table_step(part, "/etc/fstab", [(_folder(line), line.what, line.waits and bool(line.where))
                                                        for line in linux.fstab])  # fmt: skip
        if linux.crypttab:
            wanted = [(f"'{opened}'", below, False) for opened, below in linux.crypttab]
            yield self._table_step(part, "/etc/crypttab", wanted)

    def _table_step(self, part: BootPart, path: str, wanted: Sequence[tuple[str, str, bool]]) -> BootStep:
        """A table: what it wants, by which name, and whether a start ends without it."""
        here, gone, fault = list[str](), list[str](), ""
        for what, name, is_needed in wanted:
            if not is_volume_name(name):
                continue
            found = self._places.find(name, part)
            if found:
                here.append(f"{what} ({_place_word(found[0], part)})")
            elif is_needed and not self._places.closed():
                fault = fault or f"{path} has {what} on {name}, no volume on these disks has it"
            else:
                gone.append(f"{what} is on {name}, which is not seen here")
        return part.step("tables", path, path, leads=", ".join(here), fault=fault, limit="; ".join(gone))

    def _kernel_step(self, part: BootPart, entry: MenuEntry, homes: int) -> BootStep:
        files = (entry.kernel, *entry.initrds)
        seen = [(path, self._places.has_file(part, path)) for path in files]
        gone = [path for path, is_there in seen if is_there is False]
        limit = f"{homes} volumes have this name: the first one is followed" if homes > 1 else ""
        if not limit and any(is_there is None for _, is_there in seen):
            limit = unread(part).replace("followed further", "looked for")
        fault = f"there is no {' and no '.join(gone)} on this volume" if gone else ""
        leads = " ".join([*entry.initrds, *(word for word in entry.options.split() if word.startswith("root="))])
        return part.step("kernel", f"kernel of '{entry.title}'", entry.kernel, leads=leads, fault=fault, limit=limit)

    def _entry_files(self, part: BootPart, variables: dict[str, str]) -> list[MenuEntry]:
        """Entries of the Boot Loader Specification on a volume, the newest first."""
        found = list[MenuEntry]()
        for folder in ENTRY_FOLDERS:
            names = self._places.names(part, folder) or ()
            for name in sorted((one for one in names if one.endswith(".conf")), reverse=True)[:_ENTRIES_MAX]:
                entry = parse_entry_file(_fill(self._places.text(part, f"{folder}/{name}"), variables))
                found += [entry] if entry is not None else []
        return found

    def _grub_variables(self, part: BootPart, path: str) -> dict[str, str]:
        """What GRUB keeps beside its menu, such as ``kernelopts``."""
        text = self._places.text(part, f"{path.rpartition('/')[0]}/grubenv")
        pairs = (line.partition("=") for line in text.splitlines()[:100] if not line.startswith("#"))
        return {name: value for name, equals, value in pairs if equals}


def _fill(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$(kernelopts|tuned_params)\b", lambda found: variables.get(found[1], ""), text)


def _different(entries: Iterable[MenuEntry]) -> list[MenuEntry]:
    """The first of all entries that lead to the same place."""
    found = dict[tuple[str, str, str], MenuEntry]()
    for entry in entries:
        root = dict(_iter_settings(entry.options)).get("root", "")
        found.setdefault((entry.volume, root, entry.program), entry)
    return list(found.values())[:_WAYS_MAX]


def _iter_settings(options: str) -> Iterator[tuple[str, str]]:
    for word in options.split():
        name, equals, value = word.partition("=")
        if equals:
            yield name, value


def _titles(entries: Sequence[MenuEntry]) -> str:
    names = list(dict.fromkeys(f"'{entry.title}'" for entry in entries if entry.title))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _folder(line: FstabLine) -> str:
    return line.where or "swap"


def _place_word(part: BootPart, beside: BootPart) -> str:
    word = part.evidence.inner or str(part.key[1])
    return word if part.key[0] == beside.key[0] else f"disk {part.key[0] + 1}, {word}"
