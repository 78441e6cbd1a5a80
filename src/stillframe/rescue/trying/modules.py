"""Which drivers a kernel has, by the lists that come with its modules.

Answers: "has this kernel a driver for that device, and which firmware does the driver ask for?" Pure: texts in.

Sources: modules.alias and modules.builtin as depmod(8) writes them; Linux Documentation/kbuild/kbuild.rst
(modules.builtin.modinfo: ``MODULE.KEY=VALUE``, each ended by a zero byte); fnmatch(3), by which kmod compares.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_LITERAL: Final = re.compile(r"[^*?\[]*")
_FIRMWARE: Final = re.compile(rb"firmware=([\x21-\x7e]{1,200})\0")
_HEAD: Final = 14
"""Of ``pci:v00008086d...`` so much is the vendor: patterns are kept by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModules:
    """The modules of a kernel.

    Attributes:
        release: Of the kernel.
        aliases: By the first characters of a pattern, patterns and the modules they name; under the empty text those
            that have fewer.
        builtin: Modules that are part of the kernel.
        paths: Of each module the file, from the folder of its kernel.
    """

    release: str
    aliases: Mapping[str, tuple[tuple[str, str], ...]]
    builtin: frozenset[str]
    paths: Mapping[str, str]

    def find_drivers(self, alias: str) -> tuple[str, ...]:
        """The modules that fit a device."""
        near = (*self.aliases.get(alias[:_HEAD], ()), *self.aliases.get("", ()))
        found = {
            module for pattern, module in near
            if alias.startswith(_literal(pattern)) and fnmatch.fnmatchcase(alias, pattern)
        }  # fmt: skip
        return tuple(sorted(found))

    def has(self, module: str) -> bool:
        """Whether there is a module of a name, or it is part of the kernel."""
        name = _plain(module)
        return name in self.builtin or name in self.paths


def parse_modules(release: str, *, alias: str, builtin: str, modinfo: bytes, dep: str) -> KernelModules:
    """Read the lists of a kernel. Lines that say nothing are passed over.

    Args:
        release: Of the kernel.
        alias: ``modules.alias``.
        builtin: ``modules.builtin``.
        modinfo: ``modules.builtin.modinfo``.
        dep: ``modules.dep``.
    """
    rows = [words[1:] for line in alias.splitlines() if len(words := line.split()) == 3 and words[0] == "alias"]
    rows += _builtin_aliases(modinfo)
    found: dict[str, list[tuple[str, str]]] = {}
    for pattern, module in rows:
        literal = _literal(pattern)
        found.setdefault(literal[:_HEAD] if len(literal) >= _HEAD else "", []).append((pattern, _plain(module)))
    files = [line.partition(":")[0].strip() for line in dep.splitlines()]
    return KernelModules(
        release=release, aliases={head: tuple(rows) for head, rows in found.items()},
        builtin=frozenset(_module_of(line) for line in builtin.splitlines() if line.strip()),
        paths={_module_of(file): file for file in files if file},
    )  # fmt: skip


def parse_firmware(module: bytes) -> tuple[str, ...]:
    """The firmware files that a module names, from its file."""
    return tuple(dict.fromkeys(name.decode("ascii") for name in _FIRMWARE.findall(module)))


def missing_firmware(wanted: Iterable[str], present: frozenset[str]) -> tuple[str, ...]:
    """Of the files that a driver names those that are not there, when none of them is; else nothing.

    A driver names what each of its devices may need, so one that is there may be the right one.
    """
    names = tuple(wanted)
    if any(fnmatch.filter(present, name) if "*" in name else name in present for name in names):
        return ()
    return names


def _builtin_aliases(modinfo: bytes) -> list[list[str]]:
    found = []
    for line in modinfo.split(b"\0"):
        name, equals, value = line.decode("utf-8", "replace").partition("=")
        module, dot, key = name.rpartition(".")
        if equals and dot and key == "alias":
            found.append([value, module])
    return found


def _module_of(path: str) -> str:
    return _plain(path.rpartition("/")[2].partition(".ko")[0])


def _plain(module: str) -> str:
    """The name as kmod compares it: it takes ``-`` and ``_`` for the same."""
    return module.replace("-", "_")


def _literal(pattern: str) -> str:
    found = _LITERAL.match(pattern)
    return found[0] if found else ""
