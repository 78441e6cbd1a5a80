"""Watching a machine that starts, until it is known what becomes of it.

Answers: "has it started, has it failed, or does nothing happen any more?" Looks are taken in turn; what they add up to
is decided by ``Watch``, which takes looks and nothing else, so it can be tried without a machine.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.pictures import Picture, parse_ppm
from stillframe.jobs.virtual import Guest
from stillframe.systems.boot_evidence import (
    Sighting,
    clean_console,
    is_stuck_in_boot_code,
    read_memory,
    read_text_screen,
    read_words,
)

FAILED_STILL_S: Final = 5.0
"""A failure counts when nothing has moved for so long after it."""
STUCK_S: Final = 25.0
"""Boot code that says nothing for so long, and reads nothing, is stuck."""
QUIET_S: Final = 45.0
"""When nothing moves for so long, the system is taken for waiting: it is asked to switch itself off."""
_READ_AFTER_MAX: Final = 4 << 20
"""Whoever reads more than this after its failure has found another way: no kernel is so small."""
_MEMORY_LOOKS_S: Final = 12.0
_RESETS_MAX: Final = 3
_PIECE: Final = 64 << 20
_OVERLAP: Final = 4096
_VGA_TEXT: Final = 0xB8000
_VGA_TEXT_SIZE: Final = 0x8000
# Windows' stop screens: 8 and later, and before. Source: pictures of them; the exact palettes are Microsoft's.
_STOP_BLUES: Final = ((0, 120, 215), (0, 0, 170), (0, 0, 128))
_STOP_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a machine shows at a moment.

    Attributes:
        seconds: Since it was started.
        serial: What came on its serial line so far.
        firmware: What its firmware said so far.
        text: What its screen says, where it is in text mode; else empty.
        picture: Its screen.
        bytes_read: From all disks so far.
        resets: How often it was reset so far.
        has_ended: It has switched itself off.
    """

    seconds: float
    serial: str
    firmware: str
    text: str
    picture: Picture
    bytes_read: int
    resets: int
    has_ended: bool = False


@dataclass(slots=True)
class Watch:
    """What looks add up to."""

    last: Look | None = None
    _moved_at: float = 0.0
    _first_read: dict[str, int] = field(default_factory=dict)

    def take(self, look: Look) -> Sighting | None:
        """Take a look; what it settles, if anything."""
        before = self.last
        if before is None or _has_moved(before, look):
            self._moved_at = look.seconds
        self.last = look
        if look.resets >= _RESETS_MAX:
            return Sighting(outcome="failed", meaning="it restarts again and again", line=_last_line(look))
        seen = read_words(f"{look.firmware}\n{look.serial}"), read_words(look.text)
        for sighting in seen:
            if sighting is not None and sighting.outcome == "booted":
                return sighting
        still = self.still_s
        for sighting in reversed(seen):
            if sighting is None:
                continue
            read = look.bytes_read - self._first_read.setdefault(sighting.line, look.bytes_read)
            if still >= FAILED_STILL_S and read <= _READ_AFTER_MAX:
                return sighting
        if still >= STUCK_S and is_stuck_in_boot_code(look.text):
            return Sighting(outcome="failed", meaning="the boot code on the disk got stuck", line=_last_line(look))
        if still >= STUCK_S and any(look.picture.share_of(blue) >= _STOP_SHARE for blue in _STOP_BLUES):
            return Sighting(outcome="failed", meaning="Windows' blue stop screen, by its colour", line="")
        return None

    @property
    def still_s(self) -> float:
        """For how many seconds nothing has moved."""
        return 0.0 if self.last is None else self.last.seconds - self._moved_at


class Onlooker:
    """Takes looks at one guest."""

    def __init__(self, guest: Guest, *, now: Callable[[], float] = time.monotonic) -> None:
        self._guest = guest
        self._now = now
        self._began = now()
        self._picture = Picture(width=1, height=1, pixels=bytes(3))
        self._memory_at = 0.0

    @property
    def seconds(self) -> float:
        """Since the machine was started."""
        return self._now() - self._began

    def look(self) -> Look:
        """One look; of a machine that has ended, what is left of it."""
        guest, text, bytes_read, has_ended = self._guest, "", 0, False
        try:
            self._picture = parse_ppm(guest.qmp.read_screen(guest.machine.path("scratch")))
            bytes_read, _ = guest.qmp.bytes_moved()
            if self._picture.is_text_size:
                text = read_text_screen(guest.qmp.read_memory(_VGA_TEXT, _VGA_TEXT_SIZE, guest.machine.path("scratch")))
        except MachineRefusal:
            if guest.running.wait(5.0) is None:
                raise
            has_ended = True
        return Look(
            seconds=self.seconds, serial=_log(guest, "serial"), firmware=_log(guest, "firmware"), text=text,
            picture=self._picture, bytes_read=bytes_read, resets=guest.qmp.events["RESET"], has_ended=has_ended,
        )  # fmt: skip

    def press_power_button(self) -> None:
        """Ask it to switch itself off."""
        self._guest.qmp.press_power_button()

    def search_memory(self) -> Sighting | None:
        """What the console of a Linux says whose screen is a picture; looked for from time to time only."""
        if self.seconds - self._memory_at < _MEMORY_LOOKS_S:
            return None
        try:
            found = next((sighting for piece in self._pieces() if (sighting := read_memory(piece))), None)
        finally:
            self._memory_at = self.seconds
        return found

    def _pieces(self) -> Iterator[bytes]:
        machine = self._guest.machine
        size = machine.memory_mib << 20
        size = min(size, 2 << 30)  # above lies the hole below 4 GiB, where devices are
        for start in range(0, size, _PIECE - _OVERLAP):
            piece = min(_PIECE, size - start)
            yield self._guest.qmp.read_memory(start, piece, machine.path("scratch"))


def _has_moved(before: Look, now: Look) -> bool:
    return (
        before.serial != now.serial or before.firmware != now.firmware or before.text != now.text
        or before.bytes_read != now.bytes_read or before.resets != now.resets
        or not now.picture.looks_like(before.picture)
    )  # fmt: skip


def _last_line(look: Look) -> str:
    lines = f"{look.firmware}\n{look.serial}\n{look.text}".strip().splitlines()
    return lines[-1].strip()[:120] if lines else ""


def _log(guest: Guest, name: str) -> str:
    try:
        with open(guest.machine.path(name), "rb") as file:
            return clean_console(file.read())
    except FileNotFoundError:
        return ""
