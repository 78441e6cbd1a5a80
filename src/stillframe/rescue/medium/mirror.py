"""From where the packages of the medium come.

Answers: "which package sources does this machine's own apt use, and do they have what the medium needs?" No server is
named in this program: it is the machine's choice, or the person's.

Source: apt-get(8), "indextargets"; apt's README, doc/acquire-additional-files.md: REPO_URI, CODENAME, COMPONENT,
ORIGIN; Debian wiki, DebianRepository/Format, "Release": Components.
"""

import re
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from stillframe.errors import MachineRefusal, MissingProgram, UsageError
from stillframe.events import Notice
from stillframe.host.run import run
from stillframe.rescue.medium.recipe import SUITE

_FORMAT: Final = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
_NEEDED: Final = "main"
_FIRMWARE: Final = "non-free-firmware"
_COMPONENTS: Final = re.compile(r"^Components:(.*)$", re.MULTILINE)
_RELEASE_MAX: Final = 1 << 20
_ASK_S: Final = 20.0
_SCHEMES: Final = ("http", "https", "file", "ftp")
_HINT: Final = (
    f"Name a mirror of Debian with '--mirror URL'; on Debian, 'apt-get update' makes its own known. Its suite {SUITE} "
    "is taken."
)
_NO_UPDATES: Final = Notice(
    code="no-security-updates",
    message="the medium gets no security updates: this machine's apt knows none for its Debian",
    hint="What runs on the medium is as old as Debian's last point release. That is no matter for restoring.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSources:
    """Where packages come from.

    Attributes:
        lines: As in ``sources.list``.
        has_firmware: Whether firmware of wireless cards is there.
        notices: What a person should know about them.
    """

    lines: tuple[str, ...]
    has_firmware: bool
    notices: tuple[Notice, ...] = ()


def find_sources(mirror: str) -> PackageSources:
    """The sources of this machine, or a mirror that a person named.

    Raises:
        UsageError: The mirror is no address.
        MachineRefusal: This machine knows none.
    """
    if mirror:
        if urlsplit(mirror).scheme not in _SCHEMES:
            raise UsageError(f"'{mirror}' is no address of a mirror", hint="Write '--mirror http://HOST/debian'.")
        return _sources([(mirror, SUITE, _NEEDED)], has_firmware=False)
    try:
        listed = run(["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"])
    except MissingProgram as error:
        raise MachineRefusal("this machine is no Debian, so it knows no mirror of it", hint=_HINT) from error
    return choose_sources(parse_targets(listed.require_success(hint=_HINT).text))


def with_firmware(sources: PackageSources, mirror: str) -> PackageSources:
    """The sources of a mirror that a person named, and its part with firmware when it says that it has that part.

    A mirror that cannot be asked has none here: the build says what it cannot reach.
    """
    try:
        with urllib.request.urlopen(f"{mirror.rstrip('/')}/dists/{SUITE}/Release", timeout=_ASK_S) as answer:  # noqa: S310 - one of _SCHEMES
            listed = _COMPONENTS.search(answer.read(_RELEASE_MAX).decode("utf-8", "replace"))
    except (OSError, ValueError, HTTPException):
        return sources
    if listed is None or _FIRMWARE not in listed[1].split():
        return sources
    return replace(sources, lines=(*sources.lines, *_lines([(mirror, SUITE, _FIRMWARE)])), has_firmware=True)


def parse_targets(text: str) -> tuple[tuple[str, str, str], ...]:
    """Address, suite and component of what ``apt-get indextargets`` lists of Debian itself."""
    rows = [line.split() for line in text.splitlines()]
    found = [(row[0], row[1], row[2]) for row in rows if len(row) == 4 and row[3] == "Debian"]
    return tuple(dict.fromkeys(row for row in found if urlsplit(row[0]).scheme in _SCHEMES))


def choose_sources(rows: Iterable[tuple[str, str, str]]) -> PackageSources:
    """What of them is for the medium. A machine with another Debian has the right mirror, and another suite.

    Raises:
        MachineRefusal: Nothing.
    """
    known = tuple(rows)
    own = [row for row in known if row[1].startswith(SUITE) and row[2] in (_NEEDED, _FIRMWARE)]
    if not any(row[1:] == (SUITE, _NEEDED) for row in own):
        other = [address for address, suite, component in known if component == _NEEDED and "-" not in suite]
        if not other:
            raise MachineRefusal("this machine's apt knows no mirror of Debian", hint=_HINT)
        own = [(other[0], SUITE, _NEEDED)]
    return _sources(own, has_firmware=any(row[1:] == (SUITE, _FIRMWARE) for row in own))


def _sources(rows: Iterable[tuple[str, str, str]], *, has_firmware: bool) -> PackageSources:
    rows = tuple(rows)
    notices = () if any(suite.endswith("-security") for _, suite, _ in rows) else (_NO_UPDATES,)
    return PackageSources(lines=tuple(_lines(rows)), has_firmware=has_firmware, notices=notices)


def _lines(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    yield from (f"deb {address} {suite} {component}" for address, suite, component in rows)
