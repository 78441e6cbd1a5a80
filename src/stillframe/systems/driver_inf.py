r"""A driver's ``.inf`` file: for which devices it is, and what must be put where for it to start with Windows.

Answers: "has this package a driver for that disk controller, for this Windows?" Takes bytes and gives records; nothing
is copied here. What installs a driver in any other way than by a service with one ``.sys`` file is not understood, and
left to Windows itself.

Source: Microsoft, "INF File Sections and Directives": "INF Manufacturer Section" (which models section counts for which
Windows), "INF Models Section", "INF DDInstall.Services Section", "INF AddService Directive", "INF AddReg Directive",
"General Syntax Rules for INF Files".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import DiskFormatError
from stillframe.host.pci import PciDevice

Architecture = Literal["amd64", "x86", "arm64"]
INF_SIZE_MAX: Final = 4 << 20
STORAGE_CLASSES: Final = {
    "SCSIADAPTER": "{4D36E97B-E325-11CE-BFC1-08002BE10318}", "HDC": "{4D36E96A-E325-11CE-BFC1-08002BE10318}",
}  # fmt: skip
"""Classes of disk controllers. Source: Microsoft, "System-Defined Device Setup Classes"."""
_LINES_MAX: Final = 200_000
_DEVICES_MAX: Final = 20_000
_IDS_MAX: Final = 64
_STARTS_WITH_DEVICE: Final = 0x2  # SPSVCINST_ASSOCSERVICE: the service is that of the device
_DWORD_FLAGS: Final = 0x00010001  # FLG_ADDREG_TYPE_DWORD
_TOKEN: Final = re.compile(r"%([^%\s]*)%")
_DECORATION: Final = re.compile(r"nt(x86|amd64|arm64|ia64|arm)?((?:\.[0-9a-fx]*)*)")
_PCI: Final = "PCI\\"

Section = tuple[tuple[str, ...], ...]
"""The lines of a section, each as its fields: the key (empty where there is none), then what is behind ``=``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverService:
    r"""A service that starts a driver.

    Attributes:
        name: The key below ``Services``.
        file: The name of its ``.sys`` file.
        kind, error_control: ``Type`` and ``ErrorControl``.
        group: ``Group``; empty when it has none.
        numbers: Values that are numbers, below its key: the path of the key, the name, the number.
    """

    name: str
    file: str
    kind: int
    error_control: int
    group: str = ""
    numbers: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InfDriver:
    r"""One driver of a package, for one device.

    Attributes:
        ids: Those of the device as the file has them, in upper case, without ``PCI\``. Several where the device is
            known only in part, and the file tells its kinds apart.
        rank: How exactly they name it; 0 is best.
        section: The section that installs it.
        service: What starts it.
        class_name, class_guid: Its class.
    """

    ids: tuple[str, ...]
    rank: int
    section: str
    service: DriverService
    class_name: str
    class_guid: str


def find_driver(
    contents: bytes, device: PciDevice, *, architecture: Architecture, version: tuple[int, int, int]
) -> InfDriver | None:
    """The driver that an ``.inf`` file has for a device; ``None`` when it has none for it or for this Windows.

    Args:
        contents: The file.
        device: For what; when its subsystem or revision is not known, a driver for any of them is one for it.
        architecture: Of the Windows.
        version: Of the Windows: major, minor, build.

    Raises:
        DiskFormatError: It is no such file, or what it says of this device cannot be followed.
    """
    inf = _Inf(contents)
    if inf.class_name.upper() not in STORAGE_CLASSES:
        return None
    found = sorted(set(inf.iter_installs(device, architecture, version)))
    if not found:
        return None
    rank, _, section = found[0]
    ids = tuple(dict.fromkeys(known for one, known, other in found if (one, other) == (rank, section)))
    return InfDriver(
        ids=ids[:_IDS_MAX], rank=rank, section=section, service=inf.read_service(section, architecture),
        class_name=inf.class_name, class_guid=STORAGE_CLASSES[inf.class_name.upper()],
    )  # fmt: skip


class _Inf:
    """A file, section by section."""

    def __init__(self, contents: bytes) -> None:
        self._sections = _parse(_decode(contents))
        if "version" not in self._sections:
            raise _unclear("it has no [Version]")
        self._strings = {line[0].lower(): line[1] for line in self._raw("strings") if len(line) > 1}
        self.class_name = self._value("version", "class")

    def iter_installs(
        self, device: PciDevice, architecture: Architecture, version: tuple[int, int, int]
    ) -> Iterator[tuple[int, str, str]]:
        """How exactly, by which id and with which section a device is installed in this Windows."""
        ranks, count = {known: rank for rank, known in enumerate(device.ids)}, 0
        part = f"VEN_{device.vendor:04X}&DEV_{device.device:04X}&"
        is_partly_known = device.subsystem is None or device.revision is None
        for line in self._lines("manufacturer"):
            models = _choose_models(line[1:] if line[0] else line, architecture, version)
            for fields in self._lines(models) if models else ():
                count += 1
                if count > _DEVICES_MAX:
                    raise _unclear(f"it has more than {_DEVICES_MAX} devices")
                for one in (field.upper() for field in fields[2:]):
                    name = one.removeprefix(_PCI)
                    if one.startswith(_PCI) and name in ranks:
                        yield ranks[name], name, fields[1]
                    elif is_partly_known and one.startswith(_PCI + part) and "\\" not in name:
                        yield len(ranks), name, fields[1]

    def read_service(self, section: str, architecture: Architecture) -> DriverService:
        """What a section installs as the service of its device."""
        suffixes = (f".nt{architecture}", ".nt", "")
        names = (f"{section}{suffix}.services".lower() for suffix in suffixes)
        chosen = next((name for name in names if name in self._sections), None)
        if chosen is None:
            raise _unclear(f"section [{section}] has no services")
        for line in self._lines(chosen):
            flags = _number(line[2]) if len(line) > 2 else 0
            if line[0].lower() == "addservice" and len(line) > 3 and line[1] and (flags or 0) & _STARTS_WITH_DEVICE:
                return self._service(line[1], line[3])
        raise _unclear(f"section [{chosen}] names no service of the device")

    def _service(self, name: str, section: str) -> DriverService:
        binary, kind = self._value(section, "servicebinary"), _number(self._value(section, "servicetype"))
        file = binary.replace("/", "\\").rpartition("\\")[2]
        if not file.lower().endswith(".sys") or kind != 1:
            raise _unclear(f"service {name} is no driver of the kernel with a .sys file")
        if any(letter in name + file for letter in '\\/:*?"<>|') or not name:
            raise _unclear(f"service {name!r} has a name that is none")
        return DriverService(
            name=name, file=file, kind=kind, error_control=_number(self._value(section, "errorcontrol")) or 1,
            group=self._value(section, "loadordergroup"), numbers=tuple(self._iter_numbers(section)),
        )  # fmt: skip

    def _iter_numbers(self, section: str) -> Iterator[tuple[str, str, int]]:
        """Numbers that a service's section adds below its key."""
        for line in self._lines(section):
            if line[0].lower() != "addreg":
                continue
            for fields in (fields for name in line[1:] for fields in self._lines(name.lower())):
                _, root, key, name, flags, *rest = (*fields, "", "", "", "", "")
                number = _number(rest[0]) if rest else None
                if root.upper() == "HKR" and key and _number(flags) == _DWORD_FLAGS and number is not None:
                    yield key, name, number & 0xFFFFFFFF

    def _raw(self, name: str) -> Section:
        return self._sections.get(name.lower(), ())

    def _lines(self, name: str) -> Iterator[tuple[str, ...]]:
        for line in self._raw(name):
            yield tuple(self._filled(one) for one in line)

    def _value(self, section: str, key: str) -> str:
        return next((line[1] for line in self._lines(section) if line[0].lower() == key and len(line) > 1), "")

    def _filled(self, text: str) -> str:
        return _TOKEN.sub(lambda found: self._strings.get(found[1].lower(), found[0]), text) if "%" in text else text


def _choose_models(fields: Sequence[str], architecture: Architecture, version: tuple[int, int, int]) -> str | None:
    """The models section of a maker that counts for a Windows: the newest that is not newer than it.

    ``fields`` are the name of the section and the Windows versions that it is decorated with.
    """
    if not fields or not fields[0]:
        return None
    best: tuple[tuple[int, int, int], str] | None = None
    for decoration in fields[1:]:
        found = _DECORATION.fullmatch(decoration.strip().lower())
        if found is None or found[1] not in (None, architecture) or (found[1] is None and architecture != "x86"):
            continue
        parts = [*found[2].split(".")[1:], "", "", "", "", ""]
        major, minor, build = _number(parts[0]) or 0, _number(parts[1]) or 0, _number(parts[4]) or 0
        least = (major, minor, build)
        if least <= version and (best is None or least >= best[0]):
            best = (least, f"{fields[0]}.{decoration.strip()}")
    if best is not None:
        return best[1]
    return fields[0] if architecture == "x86" else None  # since Windows Server 2003 SP1, 64 bits must be named


def _decode(contents: bytes) -> str:
    """Source: "General Syntax Rules": Unicode with a mark, else the system's code page."""
    if len(contents) > INF_SIZE_MAX:
        raise _unclear(f"it has {len(contents)} bytes")
    if contents[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return contents[: len(contents) & ~1].decode("utf-16", errors="replace")
    if contents[:3] == b"\xef\xbb\xbf":
        return contents[3:].decode("utf-8", errors="replace")
    return contents.decode("latin-1")


def _parse(text: str) -> Mapping[str, Section]:
    sections, current = dict[str, list[tuple[str, ...]]](), list[tuple[str, ...]]()
    kept = ""
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text)):
        if number > _LINES_MAX:
            raise _unclear(f"it has more than {_LINES_MAX} lines")
        line = kept + _without_comment(raw).strip()
        kept = ""
        if line.endswith("\\") and not line.startswith("["):
            kept = line[:-1]
            continue
        if line.startswith("[") and "]" in line:
            current = sections.setdefault(line[1 : line.index("]")].strip().lower(), [])
        elif line:
            current.append(_fields(line))
    return {name: tuple(lines) for name, lines in sections.items()}


def _without_comment(line: str) -> str:
    if ";" not in line:
        return line
    quoted = False
    for at, letter in enumerate(line):
        if letter == '"':
            quoted = not quoted
        elif letter == ";" and not quoted:
            return line[:at]
    return line


def _fields(line: str) -> tuple[str, ...]:
    """The key and the fields behind ``=``; quotes around a field are taken off, two of them are one."""
    parts, current, quoted, has_key = list[str](), "", False, False
    for letter in line:
        if letter == '"':
            quoted = not quoted
            current += letter
        elif not quoted and (letter == "," or (letter == "=" and not has_key and not parts)):
            has_key |= letter == "="
            parts.append(current)
            current = ""
        else:
            current += letter
    parts.append(current)
    fields = tuple(_unquoted(part.strip()) for part in parts)
    return fields if has_key else ("", *fields)


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def _number(text: str) -> int | None:
    text = text.strip().lower()
    try:
        return int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:
        return None


def _unclear(what: str) -> DiskFormatError:
    return DiskFormatError(
        f"the driver's .inf file cannot be followed: {what}", hint="Windows itself can install it once it has started."
    )
