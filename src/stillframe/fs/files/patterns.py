r"""The language of ``--exclude``: which paths does a pattern name?

Answers: "is this file meant?" The language is small on purpose:

* ``/home/anna/film.iso``: one path, from the root of the volume. Folders are separated by ``/``.
* ``*`` stands for any part of one name, also for none of it: ``/home/*/film*.iso``.
* ``**`` as a whole name stands for any number of folders, also for none: ``/home/**/film.iso``.
* ``/`` at the end: everything below that folder: ``/home/anna/films/``.
* No ``/`` at the start: at any depth: ``*.iso`` and ``node_modules/``.

All other characters stand for themselves, ``?`` and ``[`` too. A path that names a folder and does not end with ``/``
names no file. Whether case counts is the volume's affair. Bytes that are no UTF-8 are written ``\xff``.

A pattern is followed name by name from the root, so whole folders that it cannot reach are never opened.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from stillframe.errors import UsageError
from stillframe.fs.files.names import fold_case

PATTERN_LENGTH_MAX: Final = 4096
_ANY_FOLDERS: Final = "**"
_ANY_NAME: Final = "*"
_STRAY_BACKSLASH: Final = re.compile(r"\\(?!x[0-9a-f]{2})")
_HINT: Final = "Write a path such as /Users/*/Downloads/, or a name such as *.iso."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern, taken apart.

    Attributes:
        text: As it was written.
        names: What each name on the way must look like; ``**`` for any number of them. The last is never ``**``.
    """

    text: str
    names: tuple[str, ...]

    def matches(self, path: str, *, ignore_case: bool) -> bool:
        """Whether the pattern names the file at ``path``, which begins with ``/``."""
        trail = Trail.start([self], ignore_case=ignore_case)
        *folders, name = path.removeprefix("/").split("/")
        for folder in folders:
            trail = trail.enter(folder)
        return trail.names_file(name)


def parse_pattern(text: str) -> Pattern:
    """Read a pattern as a person wrote it.

    Raises:
        UsageError: It is empty or too long, or has empty names, ``.``, ``..``, a NUL, a backslash, or ``**`` in a name.
    """
    if not text or len(text) > PATTERN_LENGTH_MAX:
        raise UsageError(f"a pattern has 1 to {PATTERN_LENGTH_MAX} characters, this one {len(text)}", hint=_HINT)
    if _STRAY_BACKSLASH.search(text):
        raise UsageError(f"pattern {text}: folders are separated by '/', not by a backslash", hint=_HINT)
    names = text.removeprefix("/").removesuffix("/").split("/")
    for name in names:
        if name in ("", ".", "..") or "\0" in name:
            raise UsageError(f"pattern {text}: {name!r} is no name", hint=_HINT)
        if _ANY_FOLDERS in name and name != _ANY_FOLDERS:
            raise UsageError(f"pattern {text}: '**' must stand alone between two '/'", hint=_HINT)
    if not text.startswith("/"):
        names.insert(0, _ANY_FOLDERS)
    if text.endswith("/"):
        names.append(_ANY_FOLDERS)
    if names[-1] == _ANY_FOLDERS:
        names.append(_ANY_NAME)
    return Pattern(text=text, names=tuple(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """How far some patterns have been followed from the root to a folder.

    Attributes:
        patterns: The names of each, folded where case does not count.
        places: Pairs of a pattern's index and the index of the name it waits for.
        ignore_case: Whether names are folded before they are compared.
    """

    patterns: tuple[tuple[str, ...], ...]
    places: frozenset[tuple[int, int]]
    ignore_case: bool

    @classmethod
    def start(cls, patterns: Iterable[Pattern], *, ignore_case: bool) -> Self:
        """At the root of the volume."""
        names = tuple(tuple(fold_case(name) if ignore_case else name for name in pattern.names) for pattern in patterns)
        places = frozenset((index, place) for index, one in enumerate(names) for place in _skipping(one, 0))
        return cls(patterns=names, places=places, ignore_case=ignore_case)

    @property
    def is_over(self) -> bool:
        """Whether nothing below can match."""
        return not self.places

    def enter(self, folder: str) -> Self:
        """One folder further down."""
        name = fold_case(folder) if self.ignore_case else folder
        places: set[tuple[int, int]] = set()
        for index, place in self.places:
            names = self.patterns[index]
            if names[place] == _ANY_FOLDERS:
                places.update((index, after) for after in _skipping(names, place))
            elif place + 1 < len(names) and match_name(names[place], name):
                places.update((index, after) for after in _skipping(names, place + 1))
        if places == self.places:
            return self
        return type(self)(patterns=self.patterns, places=frozenset(places), ignore_case=self.ignore_case)

    def names_file(self, file: str) -> bool:
        """Whether a pattern names this file of the folder."""
        name = fold_case(file) if self.ignore_case else file
        return any(
            place + 1 == len(self.patterns[index]) and match_name(self.patterns[index][place], name)
            for index, place in self.places
        )


def _skipping(names: tuple[str, ...], place: int) -> Iterable[int]:
    """The places that are reached without another name: ``**`` also stands for no folder."""
    yield place
    while names[place] == _ANY_FOLDERS:
        place += 1
        yield place


def match_name(pattern: str, name: str) -> bool:
    """Whether one name fits; each part between stars is taken at its first place, so time stays linear in the name."""
    head, *parts = pattern.split(_ANY_NAME)
    if not parts:
        return head == name
    tail = parts.pop()
    if not name.startswith(head) or len(name) < len(head) + len(tail) or not name.endswith(tail):
        return False
    place, end = len(head), len(name) - len(tail)
    for part in parts:
        place = name.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True
