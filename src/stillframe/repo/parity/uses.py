"""Which objects could be used only with the help of parity, in this process and in those that it forked.

Answers: "what should a person be told of?" Files of an image are read in a process of their own, which may crash, from
which only an answer comes back; so what it met is noted in memory that both share.
"""

import mmap
import struct
import threading
from dataclasses import dataclass
from typing import Final

from stillframe.repo.format import ObjectType

_ENTRY: Final = struct.Struct("<B16sI")
_COUNT: Final = struct.Struct("<I")
_SIZE: Final = 64 << 10
_ENTRIES_MAX: Final = (_SIZE - _COUNT.size) // _ENTRY.size


@dataclass(frozen=True, slots=True)
class Use:
    """An object that needed its parity, and how many blocks were brought back."""

    kind: ObjectType
    object_id: bytes
    blocks: int


class Uses:
    """Grows only. The first 3,000 objects are known; whoever meets more has other troubles."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _SIZE)
        self._lock = threading.Lock()

    def add(self, use: Use) -> None:
        """Note an object, unless it is known."""
        with self._lock:
            known = self.all()
            if len(known) < _ENTRIES_MAX and all(one.object_id != use.object_id for one in known):
                at = _COUNT.size + len(known) * _ENTRY.size
                self._shared[at : at + _ENTRY.size] = _ENTRY.pack(use.kind, use.object_id, use.blocks)
                self._shared[: _COUNT.size] = _COUNT.pack(len(known) + 1)

    def all(self) -> tuple[Use, ...]:
        """Every object so far, in the order in which they were met."""
        (count,) = _COUNT.unpack(self._shared[: _COUNT.size])
        places = range(_COUNT.size, _COUNT.size + count * _ENTRY.size, _ENTRY.size)
        found = (_ENTRY.unpack(self._shared[at : at + _ENTRY.size]) for at in places)
        return tuple(Use(ObjectType(kind), object_id, blocks) for kind, object_id, blocks in found)
