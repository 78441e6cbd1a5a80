r"""Every way in which a computer may start from its disks, followed from the firmware to the system.

Answers: "what starts what, and where does it break?" For a BIOS: the code in the first sector, the boot sector of the
active partition or GRUB's core image. For UEFI: the programs below ``\EFI`` of each FAT volume; which of them a
computer starts is in its own memory, on no disk, so all are followed. Nothing is run: what is told is what the files
say. Every way is bounded in its length, and all together in their number.

Sources: UEFI Specification 2.10, sections 3.5.1.1 and 13.3.1.3; GNU GRUB manual 2.06, section 3.4; UAPI Group, "Unified
Kernel Image"; the SYSLINUX wiki, "EXTLINUX"; shim's README.fallback.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain as joined
from itertools import islice
from typing import Final

from stillframe.errors import StillframeError
from stillframe.systems.boot_code import name_disk_code, name_volume_code, read_grub_core
from stillframe.systems.chain_linux import ENTRY_FOLDERS, LinuxWays
from stillframe.systems.chain_places import Places, unread
from stillframe.systems.chain_records import CHAINS_MAX, BootChain, BootDisk, BootPart, BootStep
from stillframe.systems.chain_windows import follow_manager, follow_ntldr
from stillframe.systems.linux import parse_release
from stillframe.systems.menus import parse_grub_menu
from stillframe.systems.programs import GrubParts, is_systemd_boot, read_grub_program, read_unified

_ACTIVE: Final = 0x80
_LEGACY_BOOT: Final = 1 << 2
_MICROSOFT: Final = "/EFI/Microsoft/Boot"
_FALLBACKS: Final = ("bootx64.efi", "bootaa64.efi", "bootia32.efi", "bootriscv64.efi", "bootarm.efi")
_UNIFIED: Final = "/EFI/Linux"
_SYSLINUX: Final = (
    "/extlinux/extlinux.conf", "/boot/extlinux/extlinux.conf", "/syslinux/syslinux.cfg", "/boot/syslinux/syslinux.cfg",
    "/boot/extlinux.conf", "/extlinux.conf", "/syslinux.cfg",
)  # fmt: skip
_GRUB_MENUS: Final = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
_WORDS: Final = {
    "windows": "boot code of Windows", "syslinux": "boot code of syslinux", "lilo": "boot code of LILO",
    "other": "boot code that is not known here", "grub": "GRUB's boot code", "none": "no boot code",
}  # fmt: skip
_PROGRAMS_MAX: Final = 32
_IN_MEMORY: Final = "/boot/grub"
_COMPARED: Final = 256 << 10


def follow_boot(disks: Sequence[BootDisk], parts: Sequence[BootPart]) -> tuple[BootChain, ...]:
    """Follow every way in which these disks may start a computer.

    Args:
        disks: Their first sectors are read.
        parts: All partitions of them, and the volumes inside of these.

    Returns:
        The ways, those by BIOS first; a way that breaks says where, in ``fault``; one that nobody can follow to its
        end, in ``limit``.
    """
    places = Places(parts)
    following = _Following(places)
    ways = (way for disk in disks for way in following.by_bios(disk))
    programs = (way for part in places.parts for way in following.by_uefi(part))
    return tuple(islice(joined(ways, programs), CHAINS_MAX))


class _Following:
    """One run."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._linux = LinuxWays(places, self.start)
        self._disks: dict[int, BootDisk] = {}

    def by_bios(self, disk: BootDisk) -> Iterator[BootChain]:
        """The way from the first sector of a disk."""
        self._disks[disk.number] = disk
        here = [part for part in self._places.parts if part.key[0] == disk.number and not part.evidence.inner]
        if not here or here[0].evidence.scheme == "none":
            return
        try:
            sector = disk.reader.read_at(0, min(512, disk.reader.size))
        except StillframeError:
            return
        code, chain = name_disk_code(sector), BootChain(firmware="bios")
        active = [part for part in here if _is_active(part)]
        if code == "grub":
            yield from self._follow_core(chain, disk, sector, here)
        elif code == "lilo":
            step = _code_step(disk, code, limit="cannot be followed further: LILO keeps no files that could be read")
            yield chain.then(step)
        elif code != "none" and not active and here[0].evidence.scheme == "mbr":
            yield chain.then(_code_step(disk, code, fault="no partition is active"))
        fault = "the first sector of the disk has no boot code" if code == "none" else ""
        for part in active if code not in ("grub", "lilo") else ():
            if not fault or _starts_by_bios(part):
                step = _code_step(disk, code, leads=f"the active partition, {part.key[1]}", fault=fault)
                yield from self._follow_sector(chain.then(step), part)

    def by_uefi(self, part: BootPart) -> Iterator[BootChain]:
        """The ways from the programs of a FAT volume."""
        if part.evidence.volume.filesystem != "vfat" or part.files is None:
            return
        folder = self._places.written(part, "EFI")
        names = (self._places.names(part, folder) or ())[:_PROGRAMS_MAX]
        for name in sorted(names, key=lambda one: (one.lower() == "boot", one.lower() == "linux", one.lower())):
            is_last = name.lower() == "boot"
            chain = BootChain(firmware="uefi", is_fallback=is_last)
            if name.lower() == "microsoft":
                yield from self._follow_microsoft(chain, part)
            elif name.lower() != "linux":
                program = self._pick(part, f"{folder}/{name}", is_last=is_last)
                if program:
                    yield from self.start(chain, part, program)
            elif not any(one.lower() == "systemd" for one in names):
                yield from self._follow_unified(chain, part)

    def start(self, chain: BootChain, part: BootPart, path: str) -> Iterator[BootChain]:
        """What a program, or with ``+1`` the boot sector of a volume, starts."""
        if path == "+1":
            yield from self._follow_sector(chain, part)
            return
        name = path.rpartition("/")[2].lower()
        written = self._places.written(part, path)
        if chain.has_been_at(part, written):
            yield chain.then(part.step("loader", name, fault=f"{written} leads back to itself"))
        elif name == "ntldr":
            yield from follow_ntldr(self._places, chain, part)
        elif name == "bootmgr":
            yield from follow_manager(self._places, chain, part, written, self._places.written(part, "Boot/BCD"))
        elif self._places.has_file(part, written) is not True:
            is_gone = self._places.has_file(part, written) is False
            fault, limit = (f"there is no {written} on this volume", "") if is_gone else ("", unread(part))
            yield chain.then(part.step("loader", name, written, fault=fault, limit=limit))
        else:
            yield from self._start_program(chain, part, written)

    def _start_program(self, chain: BootChain, part: BootPart, path: str) -> Iterator[BootChain]:
        def read(offset: int, size: int) -> bytes:
            return self._places.read(part, path, offset, size)

        folder, _, name = path.rpartition("/")
        known = self._twin(part, path).lower()
        if "bootmgfw" in known:
            store = self._places.written(part, f"{_MICROSOFT}/BCD")
            yield from follow_manager(self._places, chain, part, path, store)
        elif is_systemd_boot(read) or "systemd-boot" in known:
            yield from self._follow_systemd(chain, part, path)
        elif (unified := read_unified(read)) is not None:
            title = parse_release(unified.release).get("PRETTY_NAME", name)
            step = part.step("loader", f"unified kernel '{title}'", path, leads=_root_word(unified.options))
            yield from self._linux.follow_options(chain.then(step), part, unified.options)
        elif (grub := read_grub_program(read)) is not None or "/grub" in known:
            yield from self._follow_grub(chain, part, path, grub, self._twin(part, path))
        else:
            word = "shim" if "/shim" in known or self._beside(part, folder, "mm") else name
            yield from self._follow_shim(chain, part, path, word)

    def _follow_shim(self, chain: BootChain, part: BootPart, path: str, word: str) -> Iterator[BootChain]:
        """A program that starts the GRUB beside it, or by the lists of others what those name."""
        folder = path.rpartition("/")[0]
        beside = self._beside(part, folder, "grub")
        if beside:
            yield from self.start(chain.then(part.step("code", word, path, leads=beside)), part, beside)
            return
        lists = list(self._listed(part)) if self._beside(part, folder, "fb") else []
        for program in lists:
            step = part.step("code", f"{word} and its fallback", path, leads=program)
            yield from self.start(chain.then(step), part, program)
        if not lists:
            limit = "cannot be followed further: what this program starts is not known here"
            yield chain.then(part.step("loader", word, path, limit=limit))

    def _listed(self, part: BootPart) -> Iterator[str]:
        """The programs of folders with a list for shim's fallback program (``BOOTX64.CSV``)."""
        top = self._places.written(part, "EFI")
        for name in (self._places.names(part, top) or ())[:_PROGRAMS_MAX]:
            files = self._places.names(part, f"{top}/{name}") or ()
            program = self._pick(part, f"{top}/{name}", is_last=False)
            if name.lower() != "boot" and program and any(one.lower().endswith(".csv") for one in files):
                yield program

    def _follow_microsoft(self, chain: BootChain, part: BootPart) -> Iterator[BootChain]:
        program, store = (self._places.written(part, f"{_MICROSOFT}/{name}") for name in ("bootmgfw.efi", "BCD"))
        if self._places.has_file(part, program) or self._places.has_file(part, store):
            yield from follow_manager(self._places, chain, part, program, store)

    def _follow_systemd(self, chain: BootChain, part: BootPart, path: str) -> Iterator[BootChain]:
        chain = chain.then(part.step("loader", "systemd-boot", path, leads=f"{ENTRY_FOLDERS[0]}, {_UNIFIED}"))
        found = False
        # Entries may also be on the extended boot partition, which is on the same disk.
        others = [one for one in self._places.parts if one.key[0] == part.key[0] and one is not part]
        extended = [one for one in others if one.evidence.partition.type_name == "Linux boot"]
        for home in (part, *extended):
            ways = self._linux.follow_entry_files(chain, home, ENTRY_FOLDERS[0]), self._follow_unified(chain, home)
            for way in joined(*ways):
                found = True
                yield way
        if not found:
            fault = "it has no entry and no unified kernel to start"
            yield chain.then(part.step("menu", "entries", ENTRY_FOLDERS[0], fault=fault))

    def _follow_unified(self, chain: BootChain, part: BootPart) -> Iterator[BootChain]:
        folder = self._places.written(part, _UNIFIED)
        names = sorted(one for one in self._places.names(part, folder) or () if one.lower().endswith(".efi"))
        for name in names[-_PROGRAMS_MAX:]:
            yield from self.start(chain, part, f"{folder}/{name}")

    def _follow_grub(
        self, chain: BootChain, part: BootPart, path: str, grub: GrubParts | None, twin: str
    ) -> Iterator[BootChain]:  # fmt: skip
        """A GRUB for UEFI: what was built into it counts, else the menu beside it, or beside its twin."""
        if grub is not None and _searches_volume(grub):  # that is what it does first, wherever its files lie
            yield from self._follow_built_in(chain, part, part.step("loader", "GRUB", path), grub)
            return
        menu, other = (f"{one.rpartition('/')[0]}/grub.cfg" for one in (path, twin))
        if not self._places.has_file(part, menu) and self._places.has_file(part, other):
            menu = other
        prefix = grub.prefix if grub is not None else ""
        built_in = self._places.written(part, f"{prefix}/grub.cfg") if prefix.startswith("/") else ""
        if built_in and (self._has(part, built_in) or not self._has(part, menu)):
            menu = built_in
        elif grub is not None and (prefix.startswith("(") or "search" in grub.config):
            yield from self._follow_built_in(chain, part, part.step("loader", "GRUB", path), grub)
            return
        chain = chain.then(part.step("loader", "GRUB", path, leads=menu))
        yield from self._linux.follow_menu(chain, part, menu)

    def _follow_built_in(
        self, chain: BootChain, part: BootPart, step: BootStep, grub: GrubParts
    ) -> Iterator[BootChain]:  # fmt: skip
        """The menu that was built into a GRUB as commands, or as the place of its files."""
        if grub.menu:
            inside = parse_grub_menu(grub.menu, folder=_IN_MEMORY)
            yield from self._linux.follow_parsed(chain.then(step), part, inside, "GRUB's menu, built in", "")
            return
        built_in = parse_grub_menu(grub.config)
        name, folder = _split_device(built_in.prefix or grub.prefix)
        name = built_in.volume or name
        words = f"{name} {folder}".strip()
        step = replace(step, leads=words)
        found = self._places.find(name, part) if name else ()
        if not name and folder:
            found = tuple(one for one in self._places.parts if self._places.has_file(one, f"{folder}/grub.cfg"))
        if not found:
            fault = f"GRUB searches {words}, no volume on these disks has it"
            yield chain.then(step, part.step("menu", "GRUB's menu", fault=fault))
            return
        yield from self._linux.follow_menu(chain.then(step), found[0], f"{folder or '/boot/grub'}/grub.cfg")

    def _follow_core(
        self, chain: BootChain, disk: BootDisk, sector: bytes, here: Sequence[BootPart]
    ) -> Iterator[BootChain]:  # fmt: skip
        """GRUB's core image, behind its boot code."""
        start, grub = read_grub_core(disk.reader, sector)
        home = next((one for one in here if _holds(one, start)), None)
        where = f"partition {home.key[1]}" if home is not None else "the gap before the first partition"
        chain = chain.then(_code_step(disk, "grub", leads=f"its core image at byte {start}, in {where}"))
        if grub is None:
            fault = "there is no core image of GRUB where its boot code looks for one"
            yield chain.then(_core_step(disk, home, fault=fault))
        else:
            yield from self._follow_built_in(chain, home or here[0], _core_step(disk, home), grub)

    def _follow_sector(self, chain: BootChain, part: BootPart) -> Iterator[BootChain]:
        """The boot sector of a volume, and the loader that it names."""
        try:
            head = part.reader.read_at(0, min(8192, part.reader.size))
        except StillframeError as error:
            yield chain.then(part.step("code", "boot sector", limit=error.message))
            return
        code, file = name_volume_code(head)
        loader = file or next((name for name in ("bootmgr", "ntldr") if self._has(part, name)), "")
        is_empty = code == "none" or b"not a bootable disk" in head[:512]
        fault = "its boot sector starts nothing: it has no boot code" if is_empty else ""
        chain = chain.then(part.step("code", f"boot sector, {_WORDS[code]}", leads=loader, fault=fault))
        disk = self._disks.get(part.key[0])
        if code == "grub" and disk is not None:
            here = [one for one in self._places.parts if one.key[0] == part.key[0] and not one.evidence.inner]
            yield from self._follow_core(chain, disk, head[:512], here)
        elif loader:
            yield from self.start(chain, part, f"/{loader}")
        else:
            menu = next((path for path in (*_SYSLINUX, *_GRUB_MENUS) if self._places.has_file(part, path)), "")
            if menu:
                name = "GRUB" if menu in _GRUB_MENUS else "extlinux"
                chain = chain.then(part.step("loader", name, leads=menu))
                yield from self._linux.follow_menu(chain, part, menu)
            else:
                limit = "" if fault else "what its boot sector starts is not known"
                yield chain.then(part.step("loader", "loader", limit=limit))

    def _has(self, part: BootPart, name: str) -> bool:
        return self._places.has_file(part, name) is True

    def _pick(self, part: BootPart, folder: str, *, is_last: bool) -> str:
        """The program of a folder that a firmware would start."""
        names = [name for name in self._places.names(part, folder) or () if name.lower().endswith(".efi")]
        wanted = _FALLBACKS if is_last else ("shimx64.efi", "shim", "systemd-boot", "grub", "refind", "")
        found = (name for start in wanted for name in sorted(names) if name.lower().startswith(start))
        name = next(found, "")
        return f"{folder}/{name}" if name else ""

    def _beside(self, part: BootPart, folder: str, start: str) -> str:
        """A program of a folder by the beginning of its name; empty when there is none."""
        names = sorted(name for name in self._places.names(part, folder) or () if name.lower().startswith(start))
        found = next((name for name in names if name.lower().endswith(".efi")), "")
        return f"{folder}/{found}" if found else ""

    def _twin(self, part: BootPart, path: str) -> str:
        """The path of the program of which the one at the fallback path is a copy; else its own."""
        if not path.lower().startswith("/efi/boot/"):
            return path
        mine = self._places.read(part, path, size=_COMPARED)
        folders = [(f"{_MICROSOFT}", "bootmgfw")]
        folder = self._places.written(part, "EFI")
        for name in (self._places.names(part, folder) or ())[:_PROGRAMS_MAX]:
            folders += [(f"{folder}/{name}", start) for start in ("systemd-boot", "shim", "grub")]
        for place, start in folders:
            other = self._beside(part, self._places.written(part, place), start)
            if other and other.lower() != path.lower() and self._places.read(part, other, size=_COMPARED) == mine:
                return other
        return path


def _is_active(part: BootPart) -> bool:
    wanted = _ACTIVE if part.evidence.scheme == "mbr" else _LEGACY_BOOT
    return bool(part.evidence.partition.attributes & wanted)


def _starts_by_bios(part: BootPart) -> bool:
    files = part.evidence.files
    return files is not None and (files.clues.has_bootmgr or files.boot.has_ntldr)


def _split_device(prefix: str) -> tuple[str, str]:
    """The device of a path of GRUB, and the path on it."""
    device, closed, folder = prefix.partition(")")
    is_named = prefix.startswith("(") and closed and "$" not in device
    return (f"{device})", folder) if is_named else ("", folder if closed else prefix)


def _searches_volume(grub: GrubParts) -> bool:
    """Whether a GRUB was told, when it was built, to look for its files on a volume that it knows by name."""
    return bool(grub.config) and parse_grub_menu(grub.config).volume.startswith(("UUID=", "LABEL="))


def _root_word(options: str) -> str:
    return next((word for word in options.split() if word.startswith("root=")), "")


def _code_step(disk: BootDisk, code: str, *, leads: str = "", fault: str = "", limit: str = "") -> BootStep:
    return BootStep(kind="code", what=_WORDS[code], disk=disk.number, leads=leads, fault=fault, limit=limit)


def _holds(part: BootPart, start: int) -> bool:
    extent = part.evidence.partition.extent
    return extent.start <= start < extent.end


def _core_step(disk: BootDisk, home: BootPart | None, *, fault: str = "") -> BootStep:
    number = home.key[1] if home is not None else None
    return BootStep(kind="loader", what="GRUB", disk=disk.number, partition=number, fault=fault)
