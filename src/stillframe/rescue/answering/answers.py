"""The answers file: what is to be done without anybody at the keyboard, and what is settled beforehand.

Answers: "what does this ``rescue.toml`` ask for?" Every key that is not known, and every value that is not of its kind,
is named with its line. ``docs/guide/rescue.md`` explains the keys. Where the file comes from is ``answer_places``'.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from stillframe.errors import UsageError
from stillframe.units import parse_size

SIZE_MAX: Final = 65_536
"""Of an answers file, in bytes."""
_SECTIONS: Final = ("repository", "secret", "unlock", "network", "restore", "backup", "clone", "boot-repair", "after")
_VERBS: Final = ("restore", "backup", "clone", "boot-repair")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A part of the file; names are written with hyphens."""


class RepositoryAnswer(Section, frozen=True, kw_only=True):
    """Which repository: an address, or its id (or its beginning), or both; neither: the only one that is found."""

    where: str = ""
    id: str = ""


class SecretAnswer(Section, frozen=True, kw_only=True):
    """What opens the repository, and the share that it lies on. A file is looked for beside the answers."""

    password: str = ""
    password_file: str = ""
    share_password: str = ""
    share_password_file: str = ""


class UnlockAnswer(Section, frozen=True, kw_only=True):
    """Closed volumes where the repository may lie: LVM, RAID, encryption. Without ``volumes`` each is looked into."""

    password: str = ""
    password_file: str = ""
    volumes: tuple[str, ...] = ()


class NetworkAnswer(Section, frozen=True, kw_only=True):
    """The network. Without an address it is asked of the network (DHCP); without an interface all with a cable."""

    interface: str = ""
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    wifi: str = ""
    wifi_password: str = ""
    wait: int = 30


class DiskAnswer(Section, frozen=True, kw_only=True):
    """Which disk: all that is said must be true of it, and of no other one."""

    serial: str = ""
    path: str = ""
    model: str = ""
    size: str = ""

    @property
    def words(self) -> str:
        """As a person says it."""
        said = [f"{name} {value}" for name, value in _fields(self).items() if value]
        return ", ".join(said) or "nothing was said of it"


class RestoreAnswer(Section, frozen=True, kw_only=True):
    """A restore. Options are those of ``stillframe restore``."""

    image: str = "latest"
    machine: str = ""
    target: DiskAnswer = DiskAnswer()
    disk: int = 0
    fit: bool = False
    delta: bool = False
    wipe: bool = False
    salvage: bool = False
    adapt: bool = False
    new_identity: bool = False
    convert: str = ""
    controller: tuple[str, ...] = ()
    drivers: str = ""
    leave_out: tuple[int, ...] = ()
    resize: dict[str, str] = {}
    move: dict[str, str] = {}

    @property
    def options(self) -> tuple[str, ...]:
        """As ``stillframe restore`` wants them."""
        words = [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(self, name)]
        words += ["--convert", self.convert] if self.convert else []
        words += ["--drivers", self.drivers] if self.drivers else []
        words += [word for value in self.controller for word in ("--controller", value)]
        words += [word for value in self.leave_out for word in ("--leave-out", str(value))]
        for name in ("resize", "move"):
            words += [word for key, value in getattr(self, name).items() for word in (f"--{name}", f"{key}={value}")]
        return tuple(words)


class BackupAnswer(Section, frozen=True, kw_only=True):
    """A backup. Without sources it takes the disks with a system. Options are those of ``stillframe backup``."""

    sources: tuple[DiskAnswer, ...] = ()
    system: bool = False
    kind: Literal["auto", "full", "incremental", "differential"] = "auto"
    name: str = ""
    comment: str = ""
    compression: Literal["none", "fast", "balanced", "high"] = "fast"
    exclude: tuple[str, ...] = ()
    all_sectors: bool = False
    include_paging: bool = False
    verify: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        """As ``stillframe backup`` wants them."""
        words = [
            f"--{name.replace('_', '-')}" for name in ("system", "all_sectors", "include_paging") if getattr(self, name)
        ]
        for name in ("kind", "name", "comment", "compression"):
            words += [f"--{name}", getattr(self, name)] if getattr(self, name) else []
        words += [word for value in self.exclude for word in ("--exclude", value)]
        return (*words, *(() if self.verify else ("--no-verify",)))


class CloneAnswer(Section, frozen=True, kw_only=True):
    """A copy of one disk onto another."""

    source: DiskAnswer
    target: DiskAnswer
    fit: bool = False
    delta: bool = False
    new_identity: bool = False
    adapt: bool = False
    wipe: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """As ``stillframe clone`` wants them."""
        named = ("fit", "delta", "new_identity", "adapt", "wipe")
        return tuple(f"--{name.replace('_', '-')}" for name in named if getattr(self, name))


class BootRepairAnswer(Section, frozen=True, kw_only=True):
    """A repair of how a disk starts.

    What was there goes into a file in ``keep-undo``: ``label:NAME`` of a volume, a folder, an address of a share, or
    ``memory``, where it is gone with the rescue system.
    """

    keep_undo: str
    disk: DiskAnswer = DiskAnswer()
    adapt: bool = False
    controller: tuple[str, ...] = ()
    drivers: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """As ``stillframe boot-repair`` wants them."""
        words = ["--adapt"] if self.adapt else []
        words += ["--drivers", self.drivers] if self.drivers else []
        return (*words, *(word for value in self.controller for word in ("--controller", value)))


class AfterAnswer(Section, frozen=True, kw_only=True):
    """What happens then. ``report`` is where the verdict goes as a line of JSON; empty for the serial lines in use."""

    then: Literal["poweroff", "restart", "nothing"] = "nothing"
    on_failure: Literal["poweroff", "restart", "screens"] = "screens"
    report: str = ""


class Answers(Section, frozen=True, kw_only=True):
    """The whole file."""

    repository: RepositoryAnswer = RepositoryAnswer()
    secret: SecretAnswer = SecretAnswer()
    unlock: UnlockAnswer | None = None
    network: NetworkAnswer | None = None
    restore: RestoreAnswer | None = None
    backup: BackupAnswer | None = None
    clone: CloneAnswer | None = None
    boot_repair: BootRepairAnswer | None = None
    after: AfterAnswer = AfterAnswer()

    @property
    def verb(self) -> Literal["restore", "backup", "clone", "boot-repair", ""]:
        """What is to be done; empty when it only settles things for the screens."""
        if self.restore is not None:
            return "restore"
        if self.backup is not None:
            return "backup"
        if self.clone is not None:
            return "clone"
        return "boot-repair" if self.boot_repair is not None else ""


_FLAGS: Final = ("fit", "delta", "wipe", "salvage", "adapt", "new_identity")


def parse_answers(text: str, *, where: str) -> Answers:
    """Read an answers file.

    Args:
        text: What stands in it.
        where: Where it is, for messages.

    Raises:
        UsageError: It is not TOML, or asks for something that is not known; every such line is named.
    """
    if len(text) > SIZE_MAX:
        raise UsageError(f"{where} is longer than an answers file can be", hint="Is it the right file?")
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{where} is not TOML: {error}", hint="Look at that line; text stands in quotation marks."
        ) from error
    faults = [*_unknown(said, text), *_contradictions(said)]
    if faults:
        raise _refused(where, faults)
    try:
        answers = msgspec.convert(said, Answers)
    except msgspec.ValidationError as error:
        raise _refused(where, [_wrong_value(str(error), text)]) from error
    faults = list(_wrong_words(answers, text))
    if faults:
        raise _refused(where, faults)
    return answers


def _refused(where: str, faults: list[str]) -> UsageError:
    return UsageError(f"{where}: {'; '.join(faults)}", hint="docs/guide/rescue.md lists what can be written there.")


def _unknown(said: Mapping[str, Any], text: str) -> Iterator[str]:
    known: dict[str, type[Section]] = {
        "repository": RepositoryAnswer,
        "secret": SecretAnswer,
        "unlock": UnlockAnswer,
        "network": NetworkAnswer,
        "restore": RestoreAnswer,
        "backup": BackupAnswer,
        "clone": CloneAnswer,
        "boot-repair": BootRepairAnswer,
        "after": AfterAnswer,
    }
    for name, value in said.items():
        if name not in known:
            yield f"line {_line_of(text, name, '')}: there is no section [{name}], but {_listed(_SECTIONS)}"
        elif isinstance(value, dict):
            keys = [field.encode_name for field in msgspec.structs.fields(known[name])]
            for key, inner in value.items():
                if key not in keys:
                    yield f"line {_line_of(text, key, name)}: [{name}] has no {key}, but {_listed(keys)}"
                elif key in ("target", "source", "sources", "disk"):
                    yield from _unknown_of_disk(inner, f"{name}.{key}", text)


def _unknown_of_disk(inner: Any, name: str, text: str) -> Iterator[str]:
    keys = [field.encode_name for field in msgspec.structs.fields(DiskAnswer)]
    for one in inner if isinstance(inner, list) else [inner]:
        for key in one if isinstance(one, dict) else ():
            if key not in keys:
                yield f"line {_line_of(text, key, name.partition('.')[0])}: {name} has no {key}, but {_listed(keys)}"


def _contradictions(said: Mapping[str, Any]) -> Iterator[str]:
    verbs = [name for name in _VERBS if name in said]
    if len(verbs) > 1:
        yield f"only one of {_listed(verbs)} can be done"
    for section in ("secret", "unlock"):
        secret = said.get(section)
        given = secret if isinstance(secret, dict) else {}
        for name in ("password", "share-password"):
            if name in given and f"{name}-file" in given:
                yield f"[{section}] has both {name} and {name}-file"


def _wrong_value(error: str, text: str) -> str:
    """A fault of msgspec, ``Expected `int`, got `str` - at `$.restore.disk```, with the line."""
    words, _, place = error.partition(" - at ")
    names = re.findall(r"[\w-]+", place)
    section, key = (names[0], names[-1]) if len(names) > 1 else ("", names[0] if names else "")
    line = f"line {_line_of(text, key, section)}: " if key else ""
    return f"{line}{place.strip('`$.') or 'the file'}: {words[:1].lower()}{words[1:]}"


def _wrong_words(answers: Answers, text: str) -> Iterator[str]:
    """Values that are text, and are not what the text must be."""
    disks = [("restore", answers.restore.target)] if answers.restore else []
    disks += [("backup", one) for one in answers.backup.sources] if answers.backup else []
    disks += [("clone", answers.clone.source), ("clone", answers.clone.target)] if answers.clone else []
    disks += [("boot-repair", answers.boot_repair.disk)] if answers.boot_repair else []
    for section, disk in disks:
        try:
            parse_size(disk.size or "1")
        except ValueError as error:
            yield f"line {_line_of(text, 'size', section)}: {section}: {error}"


def _line_of(text: str, key: str, section: str) -> int:
    """The line that a key stands on, in its section; 1 when it is not found as it is usually written."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[+\s*([\w.\"-]+)\s*\]+", line)
        if head:
            inside = head[1].partition(".")[0]
            if head[1].rpartition(".")[2] == key or (not section and inside == key):
                return number
        if (not section or inside == section) and re.search(rf"(^|[\s{{,]){re.escape(key)}\s*=", line):
            return number
    return 1


def _listed(names: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)


def _fields(section: Section) -> dict[str, Any]:
    return {field.encode_name: getattr(section, field.name) for field in msgspec.structs.fields(section)}
