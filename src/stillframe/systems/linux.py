"""An installed Linux, from what lies on its volumes.

Answers: "which Linux is this, what is the computer called, and which kernels can it start?"

A Linux may lie on several partitions. So each volume is asked for its traces alone (``read_traces``), and then they are
put together by what ``/etc/fstab`` says (``join_linux``). A volume without an ``os-release`` or an ``fstab`` at its
place is no system: a separate ``/home`` has neither.

Sources: os-release(5), hostname(5), machine-id(5), fstab(5); The Boot Loader Specification, uapi-group.org, "Type #1";
Filesystem Hierarchy Standard 3.0, sections 3.5 "/boot" and 3.9 "/lib".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.errors import StillframeError
from stillframe.events import Notice
from stillframe.systems.architecture import find_linux_architecture
from stillframe.systems.fstab import LINES_MAX, FstabLine, parse_crypttab, parse_lines, plain
from stillframe.systems.records import InstalledSystem, SystemFiles

_OS_RELEASE: Final = ("/etc/os-release", "/usr/lib/os-release")
_USR_RELEASE: Final = "/lib/os-release"
"""Of a volume that is ``/usr`` itself."""
_OLDER: Final = (("/etc/redhat-release", ""), ("/etc/SuSE-release", ""), ("/etc/debian_version", "Debian GNU/Linux "))
"""What a Linux of before 2012 has in place of an ``os-release``, and what to put before its first line."""
_NIXOS: Final = "NIXOS"
"""A file in ``/etc`` that marks NixOS, whose ``os-release`` is a link into its store."""
_MACHINE_IDS: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_HOSTNAMES: Final = ("/etc/hostname", "/etc/HOSTNAME")
_NETWORK: Final = "/etc/sysconfig/network"
_MODULES: Final = ("/lib/modules", "/usr/lib/modules")
_ENTRIES: Final = ("/boot/loader/entries", "/loader/entries")
# os-release(5): "double or single quotes", and in double quotes the escapes of a shell.
_QUOTED: Final = re.compile(r"""(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^"'\s]*))\s*(?:#.*)?""")
_ESCAPED: Final = re.compile(r"""\\([$`"\\])""")
_KERNEL: Final = re.compile(r"(?:vmlinuz|vmlinux|bzImage|Image|kernel)-([0-9][A-Za-z0-9._+~-]{0,99})")
_VERSION: Final = re.compile(r"[0-9][A-Za-z0-9._+~-]{0,99}")
_COPIES: Final = (".old", ".bak", ".rpmsave", ".dpkg-tmp", ".dpkg-new")
_NEVER_KERNELS: Final = ("rescue",)
_APART: Final = ("/boot", "/usr", "/var", "/boot/efi", "/efi")
_FILE_MAX: Final = 64 << 10
_ENTRIES_MAX: Final = 64
KERNELS_MAX: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxTraces:
    """What one volume says of a Linux, wherever in it the volume belongs.

    Attributes:
        release: The fields of its ``os-release``; none when it has none.
        usr_release: Likewise, should it be ``/usr``.
        mounts: By folder what ``/etc/fstab`` mounts there; none when it has no ``fstab``.
        hostname, machine_id: Of ``/etc``.
        fstab: Every line of it that counts.
        crypttab: What ``/etc/crypttab`` opens: the new name, and the volume below.
        architecture: Of the processor that its programs are for.
        kernels: Versions of kernels in ``/boot``, or with modules, or of the boot loader's entries.
        boot_kernels: Likewise, should it be ``/boot`` itself.
        notices: What could not be read.
    """

    release: Mapping[str, str]
    usr_release: Mapping[str, str]
    mounts: Mapping[str, str]
    hostname: str = ""
    machine_id: str = ""
    fstab: tuple[FstabLine, ...] = ()
    crypttab: tuple[tuple[str, str], ...] = ()
    architecture: str = ""
    kernels: tuple[str, ...] = ()
    boot_kernels: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def is_root(self) -> bool:
        """Whether a system begins here."""
        return bool(self.release or self.mounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTraces:
    """The traces of a volume, and the names by which an ``fstab`` may call it, such as ``UUID=...``."""

    names: frozenset[str]
    traces: LinuxTraces


def read_traces(files: SystemFiles) -> LinuxTraces:
    """What a volume says of a Linux. What cannot be read is a notice."""
    reading = _Reading(files)
    roots = set(reading.names("/"))
    release = next((fields for path in _OS_RELEASE if (fields := parse_release(reading.text(path)))), {})
    release = release or _older_release(reading)
    boot = [*reading.names("/boot")] if "boot" in roots else []
    fstab = reading.text("/etc/fstab")
    modules = [name for path in _MODULES for name in reading.names(path)]
    return LinuxTraces(
        release=release,
        usr_release=parse_release(reading.text(_USR_RELEASE)),
        mounts=parse_fstab(fstab),
        fstab=parse_lines(fstab),
        crypttab=parse_crypttab(reading.text("/etc/crypttab")),
        hostname=_hostname(reading),
        machine_id=next((found for path in _MACHINE_IDS if (found := _machine_id(reading.text(path)))), ""),
        architecture=find_linux_architecture(files),
        kernels=(*_kernels(boot), *(one for one in modules if _VERSION.fullmatch(one)), *reading.entries(_ENTRIES[0])),
        boot_kernels=(*_kernels(sorted(roots)), *reading.entries(_ENTRIES[1])),
        notices=tuple(dict.fromkeys(reading.notices)),
    )


def join_linux(traces: LinuxTraces, others: Sequence[NamedTraces]) -> InstalledSystem | None:
    """The Linux whose root volume has these traces; ``None`` when it has no system.

    Args:
        traces: Of the volume that may be a root.
        others: Of all volumes of the computer.
    """
    if not traces.is_root:
        return None

    def at(folder: str) -> LinuxTraces | None:
        wanted = traces.mounts.get(folder, "")
        return next((one.traces for one in others if wanted in one.names), None) if wanted else None

    boot, usr = at("/boot"), at("/usr")
    release = traces.release or (usr.usr_release if usr else {})
    if not release and not usr:
        return None  # an fstab alone: a folder with somebody's settings, not a system
    kernels = {*traces.kernels, *(boot.boot_kernels if boot else ())}
    return InstalledSystem(
        family="linux",
        name=release.get("PRETTY_NAME") or release.get("NAME") or release.get("ID") or "Linux",
        version=release.get("VERSION_ID", ""),
        edition=release.get("VARIANT_ID", ""),
        host=traces.hostname,
        machine_id=traces.machine_id,
        architecture=traces.architecture or (usr.architecture if usr else ""),
        kernels=tuple(sorted(kernels, key=_order)[-KERNELS_MAX:]),
        root=traces.mounts.get("/", ""),
        elsewhere=tuple(folder for folder in _APART if folder in traces.mounts),
        notices=traces.notices,
    )


def parse_release(text: str) -> dict[str, str]:
    """The fields of an ``os-release``: lines of a shell that only assigns. Lines that are none are passed over."""
    fields: dict[str, str] = {}
    for line in text.splitlines()[:LINES_MAX]:
        name, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name):
            continue
        quoted = _QUOTED.fullmatch(value.strip())
        if quoted is not None:
            bare = _ESCAPED.sub(r"\1", quoted[1]) if quoted[1] is not None else quoted[2]
            fields[name] = plain(bare if bare is not None else quoted[3])
    return {name: value for name, value in fields.items() if value}


def parse_fstab(text: str) -> dict[str, str]:
    """By folder what is mounted there, as ``fstab`` writes it; the first line counts."""
    mounts: dict[str, str] = {}
    for line in parse_lines(text):
        if line.where:
            mounts.setdefault(line.where, line.what)
    return mounts


class _Reading:
    """Files of one volume, with what could not be read gathered."""

    def __init__(self, files: SystemFiles) -> None:
        self._files = files
        self.notices: list[Notice] = []

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return self._files.list_names(path)
        except StillframeError as error:
            self._note(path, error)
            return ()

    def text(self, path: str) -> str:
        try:
            return (self._files.read_file(path, 0, _FILE_MAX) or b"").decode(errors="replace")
        except StillframeError as error:
            self._note(path, error)
            return ""

    def entries(self, folder: str) -> tuple[str, ...]:
        """The versions that a boot loader's entries name."""
        names = sorted(name for name in self.names(folder) if name.endswith(".conf"))[:_ENTRIES_MAX]
        found = []
        for name in names:
            for line in self.text(f"{folder}/{name}").splitlines()[:LINES_MAX]:
                words = line.split()
                if len(words) == 2 and words[0] == "version" and _VERSION.fullmatch(words[1]):
                    found.append(words[1])
        return tuple(found)

    def _note(self, path: str, error: StillframeError) -> None:
        self.notices.append(Notice(code="system-not-read", message=f"{path}: {error.message}", hint=error.hint))


def _older_release(reading: _Reading) -> dict[str, str]:
    """The name of a Linux without an ``os-release`` that could be read."""
    etc = set(reading.names("/etc"))
    if _NIXOS in etc:
        return {"NAME": "NixOS", "ID": "nixos"}
    for path, before in _OLDER:
        words = _first_word(reading.text(path)) if path.rpartition("/")[2] in etc else ""
        if words:
            return {"PRETTY_NAME": plain(f"{before}{words}")}
    return {}


def _hostname(reading: _Reading) -> str:
    """The computer's name; Red Hat kept it among the settings of the network until 2014."""
    found = next((name for path in _HOSTNAMES if (name := _first_word(reading.text(path)))), "")
    network = "" if found else reading.text(_NETWORK)
    named = re.search(r"^HOSTNAME=\"?([^\s\"]{1,100})", network, re.MULTILINE)
    return plain(named[1]) if named else found


def _kernels(names: Sequence[str]) -> tuple[str, ...]:
    found = (_KERNEL.fullmatch(name) for name in names if not name.endswith(_COPIES))
    return tuple(one[1] for one in found if one and not any(word in one[1] for word in _NEVER_KERNELS))


def _order(version: str) -> list[tuple[bool, int, str]]:
    """Versions as people count: 6.10 comes after 6.9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.findall(r"\d+|\D+", version)]


def _machine_id(text: str) -> str:
    word = _first_word(text)
    return word if re.fullmatch(r"[0-9a-f]{32}", word) else ""


def _first_word(text: str) -> str:
    lines = (line.strip() for line in text.splitlines()[:LINES_MAX])
    return plain(next((line for line in lines if line and not line.startswith("#")), ""))
