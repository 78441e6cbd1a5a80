"""Whether this machine has a rescue medium, and whether its person was told that it has none.

Answers: "is there a medium, where, since when?" and "was that said already?" It is kept in the state of this machine,
beside what was last seen of repositories. A missing or damaged file only means that nothing is known.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from stillframe.clock import Clock, rfc3339
from stillframe.host.blocks import THIS_MACHINE, KernelPaths, read_text
from stillframe.host.machine import is_live, state_dir

NO_MEDIUM_HINT: Final = "Make one: 'stillframe rescue build FILE.iso'. It is said only once."
_NAME: Final = "rescue.json"
_SIZE_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueNote:
    """What is known.

    Attributes:
        medium: Where the last medium was made: a file, or a device; empty when none was.
        made: When.
        told: When the person was told that there is none; empty when that was never said.
    """

    medium: str = ""
    made: str = ""
    told: str = ""


def rescue_noted(folder: str = "") -> RescueNote:
    """What is known of this machine's medium. ``folder`` is the state of the machine, by default its own."""
    try:
        with open(_path(folder), "rb") as file:
            return msgspec.json.decode(file.read(_SIZE_MAX), type=RescueNote)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return RescueNote()


def note_rescue(medium: str, *, clock: Clock, folder: str = "") -> None:
    """Remember that a medium was made: ``rescue build`` calls this when it has ended well."""
    _write(replace(rescue_noted(folder), medium=medium, made=rfc3339(clock.now())), folder)


def should_tell(*, clock: Clock, folder: str = "", kernel: KernelPaths = THIS_MACHINE) -> bool:
    """Whether the person is to be told now that there is no medium. It is said once: the next answer is no.

    Whoever runs from a stick or a CD has one.
    """
    known = rescue_noted(folder)
    if known.medium or known.told or is_live(read_text(f"{kernel.proc}/cmdline")):
        return False
    return _write(replace(known, told=rfc3339(clock.now())), folder)


def _path(folder: str) -> str:
    return os.path.join(folder or state_dir(), _NAME)


def _write(note: RescueNote, folder: str) -> bool:
    """Keep a note; ``False`` when that is not possible here: then nothing is told either, or it would be each time."""
    path = _path(folder)
    temporary = f"{path}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(note))
        os.replace(temporary, path)
        return True
    return False
