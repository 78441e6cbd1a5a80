r"""Boot menus of Linux: GRUB's, entries of the Boot Loader Specification, and those of syslinux and extlinux.

Answers: "which kernels does this menu start, with which words, and which volume does it take them from?" GRUB's
language is not run: commands are taken in their order, as if every condition were met, which is how the menus that
distributions write are meant to be read.

Sources: GNU GRUB manual 2.06, "search", "menuentry", "linux", "configfile", "blscfg" of Fedora; UAPI Group, "The Boot
Loader Specification", "Type #1"; the SYSLINUX wiki, "Config" (``LABEL``, ``KERNEL``, ``LINUX``, ``APPEND``,
``INITRD``, ``DEFAULT``).
"""

import posixpath
import re
from dataclasses import dataclass, replace
from typing import Final

from stillframe.systems.fstab import plain
from stillframe.systems.programs import plain_line

LINES_MAX: Final = 10_000
ENTRIES_MAX: Final = 200
_LINE_MAX: Final = 4096
_TITLE: Final = re.compile(r"""^(?:menuentry|submenu)\s+(?:'([^']*)'|"([^"]*)"|(\S+))""")
_SET: Final = re.compile(r"""^set\s+([A-Za-z_]\w*)=(?:'([^']*)'|"([^"]*)"|(\S*))""")
_SEARCH_KINDS: Final = {
    "--fs-uuid": "UUID", "-u": "UUID", "--label": "LABEL", "-l": "LABEL", "--fs-label": "LABEL", "--file": "FILE",
    "-f": "FILE", "--part-uuid": "PARTUUID",
}  # fmt: skip
_SEARCH_NAMES: Final = {"search.fs_uuid": "UUID", "search.fs_label": "LABEL", "search.file": "FILE"}
_KERNELS: Final = frozenset({"linux", "linux16", "linuxefi", "kernel", "multiboot"})
_INITRDS: Final = frozenset({"initrd", "initrd16", "initrdefi"})
_INCLUDES: Final = frozenset({"configfile", "source", "."})
_IN_VOLUME: Final = re.compile(r"^\(\$\{?(\w+)\}?\)")
_ROOT: Final = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuEntry:
    """What can be chosen in a menu.

    Attributes:
        title: As people read it.
        volume: Where its files are: ``UUID=...``, ``LABEL=...``, ``FILE=...``, ``(hd0,gpt2)``; empty: where the menu
            is.
        kernel: The path of the kernel; empty when there is none.
        initrds: Paths.
        options: The words for the kernel.
        program: What is started in place of a kernel: a path, or ``+1`` for the boot sector of the volume.
    """

    title: str
    volume: str = ""
    kernel: str = ""
    initrds: tuple[str, ...] = ()
    options: str = ""
    program: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Include:
    """Another menu that is read: its path, and on which volume, as in ``MenuEntry``."""

    volume: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu:
    """A menu. ``volume`` is where GRUB looks at its end; ``has_entry_files``: it reads a folder of entries too."""

    entries: tuple[MenuEntry, ...] = ()
    includes: tuple[Include, ...] = ()
    volume: str = ""
    prefix: str = ""
    has_entry_files: bool = False


def parse_grub_menu(text: str, *, folder: str = "") -> Menu:
    """A ``grub.cfg``, or what is built into a GRUB.

    Args:
        text: Of it.
        folder: Where it is, which is what ``$prefix`` means as long as nothing else is said.
    """
    reader = _GrubReader(folder)
    for line in text[: LINES_MAX * 100].splitlines()[:LINES_MAX]:
        reader.take(line[:_LINE_MAX].strip())
    return reader.finish()


class _GrubReader:
    """Takes the lines of a menu one by one."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._variables: dict[str, str] = {}
        self._volume = ""
        self._volumes: dict[str, str] = {}
        self._outside = ""
        self._entry: MenuEntry | None = None
        self._entries: list[MenuEntry] = []
        self._includes: list[Include] = []
        self._has_entry_files = False

    def finish(self) -> Menu:
        self._close()
        volume = self._volume_of(self._variables.get("prefix", ""))
        return Menu(
            entries=tuple(self._entries), includes=tuple(self._includes), volume=volume,
            prefix=self._variables.get("prefix", ""), has_entry_files=self._has_entry_files,
        )  # fmt: skip

    def take(self, line: str) -> None:
        if not line or line.startswith("#"):
            return
        title = _TITLE.match(line)
        if title is not None:
            self._close()
            self._outside = self._volume
            if line.startswith("menuentry"):
                self._entry = MenuEntry(title=plain(title[1] or title[2] or title[3] or ""))
            return
        if line == "}":
            self._close()
            return
        words = line.rstrip(";").split()
        assigned = _SET.match(line)
        if assigned is not None:
            self._assign(assigned[1], assigned[2] or assigned[3] or assigned[4] or "")
        elif words[0] == "search" or words[0] in _SEARCH_NAMES:
            self._search(words)
        elif words[0] in _INCLUDES and len(words) > 1:
            self._include(words[1])
        elif words[0] == "blscfg":
            self._has_entry_files = True
        elif self._entry is not None:
            self._entry = _with_words(self._entry, words, self._known())

    def _search(self, words: list[str]) -> None:
        """Where one looks from now on, or what another variable stands for."""
        found, name = parse_search(words), parse_variable(words)
        if found and name == _ROOT:
            self._volume = found
        elif found:
            self._volumes[name] = found

    def _volume_of(self, path: str) -> str:
        """The volume of a path: that of its variable, else where one looks."""
        device = _IN_VOLUME.match(path)
        return self._volumes.get(device[1], self._volume) if device is not None else self._volume

    def _known(self) -> dict[str, str]:
        return {"prefix": self._folder, **self._variables}

    def _assign(self, name: str, value: str) -> None:
        value = value.replace("'", "").replace('"', "")
        self._variables[name] = plain_line(value)
        if name == "root" and value.lstrip("(").startswith(("hd", "md", "lvm", "cryptouuid", "mduuid")):
            self._volume = f"({value.strip('()')})"

    def _include(self, word: str) -> None:
        # What a person added to the menu ("custom.cfg") is read when it is there, which is seldom.
        path = word.strip("\"'")
        is_own = path.endswith("custom.cfg") or len(self._includes) >= ENTRIES_MAX
        if not is_own:
            filled = _filled(path, {"prefix": self._known()["prefix"]})
            self._includes.append(Include(volume=self._volume_of(filled), path=_path(path, self._known())))

    def _close(self) -> None:
        if self._entry is None:
            return
        entry = replace(self._entry, volume=self._volume)
        if (entry.kernel or entry.program) and len(self._entries) < ENTRIES_MAX:
            self._entries.append(entry)
        self._entry, self._volume = None, self._outside


def _with_words(entry: MenuEntry, words: list[str], variables: dict[str, str]) -> MenuEntry:
    """An entry with what one more command says."""
    if words[0] in _KERNELS and len(words) > 1 and not entry.kernel:
        options = " ".join(_filled(word, variables) for word in words[2:])
        return replace(entry, kernel=_path(words[1], variables), options=plain_line(options))
    if words[0] in _INITRDS:
        return replace(entry, initrds=tuple(_path(word, variables) for word in words[1:17]))
    if words[0] in ("chainloader", "ntldr", "chain") and len(words) > 1:
        return replace(entry, program=_path(words[-1], variables))
    return entry


def _filled(word: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0])[:_LINE_MAX], word[:_LINE_MAX])


def _path(word: str, variables: dict[str, str]) -> str:
    """A path without its device, and without ``..`` in it. What ``$root`` is, is not asked: it is where one looks."""
    path = _filled(word.strip("\"'"), {"prefix": variables.get("prefix", "")})
    path = _filled(_IN_VOLUME.sub("", path), variables)
    return plain(posixpath.normpath(path) if path.startswith("/") else path)


def parse_search(words: list[str]) -> str:
    """What a ``search`` of GRUB looks for, such as ``UUID=...``; empty when it cannot be told."""
    kind = _SEARCH_NAMES.get(words[0], "")
    rest = [word.strip("\"'") for word in words[1:]]
    if kind:
        return plain(f"{kind}={rest[0]}") if rest else ""
    kind = next((_SEARCH_KINDS[word] for word in rest if word in _SEARCH_KINDS), "FILE")
    named = [
        word for before, word in zip(("", *rest), rest, strict=False)
        if not word.startswith(("-", "hd")) and before not in ("--set", "-s", "--hint")
    ]  # fmt: skip
    return plain(f"{kind}={named[-1]}") if named else ""


def parse_variable(words: list[str]) -> str:
    """Which variable a ``search`` of GRUB sets."""
    if words[0] in _SEARCH_NAMES:
        return words[2] if len(words) > 2 else _ROOT
    for before, word in zip(("", *words), words, strict=False):
        if word.startswith("--set="):
            return word.removeprefix("--set=")
        if before in ("--set", "-s") and not word.startswith("-"):
            return word
    return _ROOT


def parse_entry_file(text: str) -> MenuEntry | None:
    """An entry of the Boot Loader Specification; ``None`` when nothing is started by it."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines()[:LINES_MAX]:
        name, _, value = line[:_LINE_MAX].strip().partition(" ")
        if name and not name.startswith("#"):
            found.setdefault(name.lower(), []).append(value.strip())
    kernel, program = (plain(next(iter(found.get(name, [])), "")) for name in ("linux", "efi"))
    program = program or plain(next(iter(found.get("uki", [])), ""))
    if not kernel and not program:
        return None
    title = next(iter(found.get("title", [])), "")
    return MenuEntry(
        title=plain(title), kernel=kernel, program=program, options=plain_line(" ".join(found.get("options", []))),
        initrds=tuple(plain(word) for value in found.get("initrd", [])[:16] for word in value.split()[:16]
                      if not word.startswith("$")),
    )  # fmt: skip


def parse_syslinux(text: str) -> Menu:
    """A configuration of syslinux or extlinux; the default comes first."""
    default, includes, entries = "", list[Include](), dict[str, MenuEntry]()
    label = ""
    for line in text.splitlines()[:LINES_MAX]:
        word, _, rest = line[:_LINE_MAX].strip().partition(" ")
        name, rest = word.lower(), rest.strip()
        if name in ("default", "ontimeout") and not default:
            default = rest
        elif name == "include" and len(includes) < ENTRIES_MAX:
            includes.append(Include(volume="", path=plain(rest)))
        elif name == "label" and len(entries) < ENTRIES_MAX:
            label = rest
            entries[label] = MenuEntry(title=plain(rest))
        elif label in entries:
            entries[label] = _with_setting(entries[label], name, rest)
    ordered = sorted(entries, key=lambda one: one != default)
    kept = tuple(entries[one] for one in ordered if entries[one].kernel or entries[one].program)
    return Menu(entries=kept, includes=tuple(includes))


def _with_setting(entry: MenuEntry, name: str, value: str) -> MenuEntry:
    if name in ("kernel", "linux"):
        return replace(entry, kernel=plain(value)) if not value.endswith(".c32") else entry
    if name == "append":
        inside = re.search(r"\binitrd=(\S+)", value)
        initrds = tuple(plain(one) for one in inside[1].split(",")[:16]) if inside else entry.initrds
        return replace(entry, options=plain_line(value), initrds=initrds)
    if name in ("initrd", "fdt"):
        return replace(entry, initrds=tuple(plain(one) for one in value.split(",")[:16])) if name == "initrd" else entry
    if name == "menu" and value.lower().startswith("label "):
        return replace(entry, title=plain(value[6:].replace("^", "")))
    return entry
