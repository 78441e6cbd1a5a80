"""The names in the tables of a Linux that no disk has, and the volume that each of them must mean.

Answers: "``/boot`` is on a UUID that is nowhere: which volume is it?" Only where there is one answer: the root is the
volume that the table lies in, ``/boot`` the one volume with a boot menu or a kernel at its top, the EFI system
partition and swap the only ones of their kind. All else is said and left alone. Pure: volumes were looked into before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.events import Notice
from stillframe.jobs.starts.linux_parts import DiskPart
from stillframe.jobs.starts.start_failures import NOT_REPAIRED
from stillframe.systems.fstab import FstabLine, parse_lines, parse_name
from stillframe.systems.linux_ids import IdChange
from stillframe.systems.menus import parse_grub_menu
from stillframe.systems.names import partition_number

_TAGS: Final = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
_ESP_PLACES: Final = ("/boot/efi", "/efi")
_HINT: Final = (
    "Correct that line of /etc/fstab, or write 'nofail' into it: in the shell of the rescue system, or when it starts."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxTexts:
    """What a Linux says of its volumes.

    Attributes:
        name: Of the system, for people.
        root: The volume that it is on.
        fstab: Its table.
        menu: Its boot menu, of GRUB; empty where it has none.
    """

    name: str
    root: DiskPart
    fstab: str
    menu: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A name that no volume has, and the volume that is meant.

    Attributes:
        name: As a table has it: ``UUID=...``.
        part: The volume.
        where: What it is there: a folder, ``swap``, or ``the boot menu``.
    """

    name: str
    part: DiskPart
    where: str

    @property
    def change(self) -> IdChange | None:
        """The id that is to be replaced wherever it is noted; ``None`` when only a whole name can be."""
        tag, _, old = self.name.partition("=")
        found = {one.partition("=")[0]: one.partition("=")[2] for one in self.part.names if one.startswith(_TAGS[:3])}
        new = {"UUID": self.part.volume.uuid, "PARTUUID": found.get("PARTUUID", "")}.get(tag, "")
        return IdChange(old=old, new=new) if new and len(new) == len(old) else None

    @property
    def new_name(self) -> str:
        """What the volume is to be called."""
        return f"UUID={self.part.volume.uuid}"

    @property
    def words(self) -> str:
        """What is meant, for people."""
        return f"{self.where} is named {self.name}, which no disk here has: it is {self.part.word}"


class NameSearch:
    """One search through the tables of a Linux.

    Args:
        texts: What it says.
        parts: All volumes of the disk, with all names that they have.
        boots: Those with a boot menu or a kernel at their top.
        is_elsewhere: Whether a name may be that of a volume that is not among them, on another disk or in one that is
            not opened: then nothing is wrong with it.
    """

    def __init__(
        self, texts: LinuxTexts, parts: Sequence[DiskPart], boots: Sequence[DiskPart],
        is_elsewhere: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._texts = texts
        self._parts = parts
        self._boots = boots
        self._is_elsewhere = is_elsewhere
        self._names = {name.casefold() for part in parts for name in part.names}
        self._lines = parse_lines(texts.fstab)
        self.notices = list[Notice]()

    def find(self) -> tuple[Renamed, ...]:
        """The names that can be put right, each once; ``notices`` says of the others."""
        found = dict[str, Renamed]()
        for one in (*self._in_table(), *self._in_menu()):
            found.setdefault(one.name, one)
        return tuple(found.values())

    def boot(self, found: Sequence[Renamed]) -> DiskPart:
        """The volume with ``/boot``, once names are put right."""
        line = next((line for line in self._lines if line.where == "/boot"), None)
        if line is None:
            return self._texts.root
        renamed = [one.part for one in found if one.name == line.what]
        named = [part for part in self._parts if line.what.casefold() in {name.casefold() for name in part.names}]
        number = partition_number(line.what)
        named += [part for part in self._parts if number and part.number == number]
        return next(iter((*renamed, *named)), self._texts.root)

    def _in_table(self) -> Iterator[Renamed]:
        for line in self._lines:
            if not self._is_dead(line.what):
                continue
            candidates = self._candidates(line)
            if len(candidates) == 1 and candidates[0].volume.uuid:
                yield Renamed(name=line.what, part=candidates[0], where=line.where or "swap")
            elif line.waits and line.where:
                self.notices.append(self._not_found(line, len(candidates)))

    def _candidates(self, line: FstabLine) -> list[DiskPart]:
        """The volumes that a line may mean."""
        if line.where == "/":
            return [self._texts.root]
        if line.where == "/boot":
            return [part for part in self._boots if part.key != self._texts.root.key]
        if line.where in _ESP_PLACES:
            return [part for part in self._parts if part.is_esp]
        if not line.where:
            dead = [one for one in self._lines if not one.where and self._is_dead(one.what)]
            swaps = [part for part in self._parts if part.volume.filesystem == "swap" and not self._is_named(part)]
            return swaps if len(dead) == 1 else []
        return []

    def _in_menu(self) -> Iterator[Renamed]:
        """Of the menu, when none of its entries starts this root, the first; others may be systems of other disks."""
        menu = parse_grub_menu(self._texts.menu, folder="/boot/grub")
        roots = list[str]()
        for entry in menu.entries:
            words = [word for word in entry.options.split() if word.startswith("root=")]
            roots += [parse_name(word.removeprefix("root=").strip('"')) for word in words]
        yield from self._first_dead(roots, self._texts.root, "the root in the boot menu")
        home = self.boot(tuple(self._in_table_quietly()))
        searched = [entry.volume for entry in menu.entries if entry.volume.startswith(_TAGS)]
        yield from self._first_dead(searched, home, "the volume of the kernel in the boot menu")

    def _in_table_quietly(self) -> list[Renamed]:
        known = list(self.notices)
        found = list(self._in_table())
        self.notices[:] = known
        return found

    def _first_dead(self, names: Sequence[str], part: DiskPart, where: str) -> Iterator[Renamed]:
        own = {name.casefold() for name in part.names}
        is_whole = any(name.casefold() in own or (part.number and partition_number(name) == part.number)
                       for name in names)  # fmt: skip
        first = next(iter(names), "")
        if first and not is_whole and self._is_dead(first) and part.volume.uuid:
            yield Renamed(name=first, part=part, where=where)

    def _is_named(self, part: DiskPart) -> bool:
        """Whether a line of the table names a volume."""
        own = {name.casefold() for name in part.names}
        return any(
            line.what.casefold() in own or (part.number and partition_number(line.what) == part.number)
            for line in self._lines
        )

    def _is_dead(self, name: str) -> bool:
        """Whether no volume of any disk here has a name. Names of opened volumes are never called so."""
        number = partition_number(name)
        if number:
            return all(part.number != number for part in self._parts)
        is_known = name.casefold() in self._names
        return name.startswith(_TAGS) and not is_known and not self._is_elsewhere(name)

    def _not_found(self, line: FstabLine, count: int) -> Notice:
        why = f"{count} volumes may be meant" if count else "nobody can tell which volume is meant"
        return Notice(
            code=NOT_REPAIRED,
            message=f"/etc/fstab of {self._texts.name} has {line.where} on {line.what}, which no disk here has, and "
            f"{why}: a start of it ends in the emergency shell",
            hint=_HINT,
        )
