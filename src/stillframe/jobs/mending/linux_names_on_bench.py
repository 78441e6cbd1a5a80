"""A Linux whose tables name volumes that no disk has: the names are put right on the workbench.

Answers: "does this Linux find its volumes?" Volumes are looked into read-only first; only where a name is wrong are
they mounted to be changed, which replays a journal as the next start would.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from stillframe.errors import MachineRefusal
from stillframe.events import Notice
from stillframe.host.named_volumes import find_named
from stillframe.host.root_files import RootFiles
from stillframe.jobs.mending.linux_names import LinuxTexts, NameSearch, Renamed
from stillframe.jobs.starts.linux_adapt import keep_original
from stillframe.jobs.starts.linux_identity import write_ids
from stillframe.jobs.starts.linux_mounts import MountedLinux, find_roots, looked_into, mount_linux
from stillframe.jobs.starts.linux_parts import ROOT_FILE_SYSTEMS, DiskPart, read_parts
from stillframe.jobs.starts.linux_starts import renew_initramfs
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.fstab import parse_name
from stillframe.systems.grub import find_menu
from stillframe.systems.linux import parse_release
from stillframe.systems.linux_ids import IdPattern, iter_paths

if TYPE_CHECKING:
    from stillframe.disk import Layout

_TEXT_MAX: Final = 1 << 20
_FSTAB: Final = "/etc/fstab"
_MENUS: Final = ("/boot/grub*/grub.cfg", "/boot/loader/entries/*.conf", "/boot/extlinux/*.conf", "/etc/default/grub")
_KERNELS: Final = ("vmlinuz", "vmlinux", "bzImage")
_RELEASES: Final = ("/etc/os-release", "/usr/lib/os-release")


def asleep(parts: Sequence[DiskPart]) -> str:
    """The volume in which a hibernated Linux sleeps; empty when none does."""
    return next((part.word for part in parts if part.volume.filesystem == "swsuspend"), "")


def require_awake(parts: Sequence[DiskPart]) -> None:
    """Refuse to change files that a hibernated Linux still holds in its memory.

    Raises:
        MachineRefusal: One is asleep in a swap area of this disk.
    """
    where = asleep(parts)
    if where:
        raise MachineRefusal(
            f"a hibernated Linux sleeps in {where}, and nothing that it may have in memory is changed",
            hint="Let it start and shut it down. If it cannot start, make an image first; then 'mkswap' on that swap "
            "area throws away what it had in memory, and this repair goes on.",
        )


@dataclass(slots=True, kw_only=True)
class NameWork:
    """The work on the bench; ``notices`` say what was left alone.

    Attributes:
        layout: Of the disk.
        broken: What is wrong, in sentences.
        notices: What could not be put right.
    """

    layout: "Layout"
    broken: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def do(self, bench: Workbench) -> tuple[str, ...]:
        """Put names right; what was done, in sentences; none when nothing is wrong.

        Raises:
            MachineRefusal: It is not possible, and nothing of it may be taken over.
        """
        parts = read_parts(bench, self.layout, [part.number for part in self.layout.partitions])
        roots = find_roots(bench, parts)
        boots = [part for part in parts if part.key not in roots and _is_boot(bench, part)]
        found = list[Renamed]()
        for part in parts:
            if part.key in roots:
                found += self._search(bench, part, roots[part.key], parts, boots)
        if not found:
            return ()
        require_awake(parts)
        named = tuple(
            replace(part, names=part.names | {one.name for one in found if one.part.key == part.key}) for part in parts
        )
        systems = mount_linux(bench, named, roots)
        self.broken += [one.words for one in found]
        return tuple(_write(bench, systems, parts, found))

    def _search(
        self, bench: Workbench, root: DiskPart, subvolume: str, parts: Sequence[DiskPart], boots: Sequence[DiskPart]
    ) -> tuple[Renamed, ...]:
        with looked_into(bench, root) as place:
            files = RootFiles(f"{place}{subvolume}")
            release = next((text for path in _RELEASES if (text := _text(files, path))), "")
            texts = LinuxTexts(
                name=parse_release(release).get("PRETTY_NAME", "Linux"), root=root, fstab=_text(files, _FSTAB),
                menu=_menu(files, "/boot"),
            )  # fmt: skip
        may_be = _is_anything if bench.stack.unopened else _is_elsewhere
        search = NameSearch(texts, parts, boots, may_be)
        boot = search.boot(search.find())
        if boot.key != root.key and boot.volume.filesystem in ROOT_FILE_SYSTEMS:
            with looked_into(bench, boot) as place:
                texts = replace(texts, menu=_menu(RootFiles(place), ""))
        search = NameSearch(texts, parts, boots, may_be)
        found = search.find()
        self.notices += search.notices
        return found


def _write(
    bench: Workbench, systems: Sequence[MountedLinux], parts: Sequence[DiskPart], found: Sequence[Renamed]
) -> Iterator[str]:
    """Ids wherever they are noted; names that are no ids, or of another length, in the table and the menus."""
    ids = IdPattern([one.change for one in found if one.change is not None])
    others = {one.name: one.new_name for one in found if one.change is None}
    for linux in systems:
        yield from _write_names(linux, others)
    yield from write_ids(bench, systems, parts, ids)
    for linux in systems:
        yield from renew_initramfs(linux, ids, always=False)


def _write_names(linux: MountedLinux, names: dict[str, str]) -> Iterator[str]:
    for path in iter_paths(linux.files, (_FSTAB, *_MENUS)) if names else ():
        raw = linux.files.read_file(path, 0, _TEXT_MAX + 1) or b""
        text = raw.decode("utf-8", "surrogateescape")
        lines = text.splitlines(keepends=True)
        changed = "".join(_line(line, names, in_table=path == _FSTAB) for line in lines)
        if changed != text and len(raw) <= _TEXT_MAX:
            keep_original(linux, path, raw)
            linux.files.write_file(path, changed.encode("utf-8", "surrogateescape"))
            yield f"{path} of {linux.name} names volumes that are there"


def _line(line: str, names: dict[str, str], *, in_table: bool) -> str:
    """A line with its names put right: the first word of a table, ``root=`` of the words for a kernel."""
    words = line.split()
    if in_table:
        new = names.get(parse_name(words[0])) if words else None
        return line.replace(words[0], new, 1) if new else line
    for word in words:
        name = word.strip("\"'").removeprefix("root=")
        new = names.get(parse_name(name)) if "root=" in word and words[0] != "set" else None
        if new:
            line = line.replace(f"root={name}", f"root={new}")
    return line


def _is_boot(bench: Workbench, part: DiskPart) -> bool:
    """Whether a volume may be ``/boot``: a boot menu, or a kernel, at its top."""
    if part.volume.filesystem not in ROOT_FILE_SYSTEMS:
        return False
    with looked_into(bench, part) as place:
        files = RootFiles(place)
        return find_menu(files, "") is not None or any(name.startswith(_KERNELS) for name in files.list_names("/"))


def _menu(files: RootFiles, top: str) -> str:
    folder = find_menu(files, top)
    return _text(files, f"{folder}/grub.cfg") if folder else ""


def _text(files: RootFiles, path: str) -> str:
    return (files.read_file(path, 0, _TEXT_MAX) or b"").decode(errors="replace")


def _is_anything(_name: str) -> bool:
    """What is not opened may have any name."""
    return True


def _is_elsewhere(name: str) -> bool:
    return bool(find_named(name))
