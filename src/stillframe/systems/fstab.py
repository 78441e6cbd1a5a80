"""The tables by which a Linux finds its volumes: ``/etc/fstab`` and ``/etc/crypttab``.

Answers: "which volumes does this Linux want, where, and can it start without them?" Which partition a name means is for
the caller.

Sources: fstab(5), crypttab(5), systemd.mount(5) ("nofail"; "noauto").
"""

from dataclasses import dataclass
from typing import Final

LINES_MAX: Final = 1000
WORD_MAX: Final = 150
_NEVER_WAITS: Final = frozenset({"nofail", "noauto"})
_BY_LINK: Final = {"by-uuid": "UUID", "by-partuuid": "PARTUUID", "by-label": "LABEL", "by-partlabel": "PARTLABEL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FstabLine:
    """One line.

    Attributes:
        what: The volume: ``UUID=...`` and the like, a path, or what only the kernel knows.
        where: The folder; empty for swap.
        kind: The file system, as it is written there.
        waits: Whether a start without it ends in the emergency shell.
    """

    what: str
    where: str
    kind: str
    waits: bool


def parse_lines(text: str) -> tuple[FstabLine, ...]:
    """The lines of an ``fstab`` that mount a folder or turn swap on; others are passed over."""
    found = []
    for words in _words(text):
        kind = words[2] if len(words) > 2 else ""
        if words[1].startswith("/") or kind == "swap":
            options = set(words[3].split(",")) if len(words) > 3 else set()
            where = "" if kind == "swap" else plain(words[1].rstrip("/") or "/")
            waits = not options & _NEVER_WAITS
            found.append(FstabLine(what=parse_name(words[0]), where=where, kind=plain(kind), waits=waits))
    return tuple(found)


def mount_options(text: str, where: str) -> tuple[str, ...]:
    """Of the options with which a folder is mounted, those that say which part of a Btrfs it is.

    Source: btrfs(5), ``subvol=``, ``subvolid=``.
    """
    for words in _words(text):
        if len(words) > 3 and plain(words[1].rstrip("/") or "/") == where:
            return tuple(one for one in words[3].split(",") if one.startswith(("subvol=", "subvolid=")))
    return ()


def parse_crypttab(text: str) -> tuple[tuple[str, str], ...]:
    """The names of opened volumes, and of the encrypted ones below them."""
    return tuple((plain(words[0]), parse_name(words[1])) for words in _words(text))


def parse_name(word: str) -> str:
    """The name of a volume: a link of udev as the tag that it stands for, a tag in capital letters."""
    folder, _, rest = word.removeprefix("/dev/disk/").partition("/")
    if word.startswith("/dev/disk/") and folder in _BY_LINK:
        return plain(f"{_BY_LINK[folder]}={rest}")
    name, equals, value = word.partition("=")
    return plain(f"{name.upper()}={value.strip(chr(34))}" if equals else word)


def plain(text: str) -> str:
    """On one line, without what a terminal would act on."""
    return "".join(letter for letter in text if letter.isprintable()).strip()[:WORD_MAX]


def _words(text: str) -> list[list[str]]:
    lines = (line.split() for line in text.splitlines()[:LINES_MAX])
    return [words for words in lines if len(words) >= 2 and not words[0].startswith("#")]
