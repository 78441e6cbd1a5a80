"""Objects that rot: what a medium does by itself between two operations.

Answers: "these bytes of this object are not what was written, or cannot be read; what does the code above do?" Damage
is put into an object as a failing disk does, under its own name; sectors that cannot be read are a wrapper.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stillframe.errors import StorageError
from stillframe.store.base import Store
from stillframe.testing.faulty_store import FaultyStore
from stillframe.testing.sample_repository import replace_object

BLOCK: Final = 4096


class BadSectors(FaultyStore):
    """Blocks of 4 KiB of some objects cannot be read, until somebody writes the object anew.

    Args:
        inner: The store.
        bad: By the name of an object, the numbers of its blocks.
    """

    def __init__(self, inner: Store, bad: Mapping[str, Iterable[int]]) -> None:
        super().__init__(inner)
        self.bad = {name: set(blocks) for name, blocks in bad.items()}
        self.refused = 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object; fails where one of its bad blocks is touched."""
        raw = super().read(name, offset, length)
        touched = range(offset // BLOCK, -(-(offset + len(raw)) // BLOCK))
        if not self.bad.get(name, set()).isdisjoint(touched):
            self.refused += 1
            raise StorageError(f"object {name}: planned fault: input/output error", hint="Use another disk.")
        return raw

    def delete(self, name: str) -> None:
        """Delete an object: its bad sectors are no longer anybody's."""
        self.bad.pop(name, None)
        super().delete(name)


@dataclass(frozen=True, slots=True)
class Rot:
    """One kind of damage: its name, and a function that damages bytes with a random generator."""

    name: str
    damage: Callable[[bytearray, random.Random], None]

    def __str__(self) -> str:
        return self.name

    def spoil(self, store: Store, name: str, seed: int) -> None:
        """Damage an object."""
        raw = bytearray(store.read(name))
        self.damage(raw, random.Random(seed))  # noqa: S311 - a test repeats it
        replace_object(store, name, bytes(raw))


def flip_bit(raw: bytearray, chance: random.Random) -> None:
    """One bit."""
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def zero_sector(raw: bytearray, chance: random.Random) -> None:
    """One aligned sector of 4 KiB becomes zeros."""
    start = chance.randrange(len(raw)) // BLOCK * BLOCK
    raw[start : start + BLOCK] = bytes(len(raw[start : start + BLOCK]))


def burst(raw: bytearray, chance: random.Random, *, share: float = 0.03) -> None:
    """Noise in one piece of ``share`` of the object, anywhere."""
    size = max(1, int(len(raw) * share))
    start = chance.randrange(len(raw) - size + 1)
    raw[start : start + size] = chance.randbytes(size)


def scatter(raw: bytearray, chance: random.Random, *, share: float = 0.005) -> None:
    """Noise in ``share`` of all blocks, at least one, each chosen by itself."""
    blocks = -(-len(raw) // BLOCK)
    for block in chance.sample(range(blocks), max(1, int(blocks * share))):
        part = raw[block * BLOCK : (block + 1) * BLOCK]
        raw[block * BLOCK : block * BLOCK + len(part)] = chance.randbytes(len(part))


def cut_end(raw: bytearray, chance: random.Random, *, share: float = 0.03) -> None:
    """Up to ``share`` of the object is gone from its end."""
    del raw[len(raw) - chance.randint(1, max(1, int(len(raw) * share))) :]


def add_end(raw: bytearray, chance: random.Random) -> None:
    """Something is appended."""
    raw += chance.randbytes(chance.randint(1, 3 * BLOCK))


ROTS: Final = tuple(
    Rot(function.__name__, function) for function in (flip_bit, zero_sector, burst, scatter, cut_end, add_end)
)
"""What parity promises to heal, as far as one object is concerned."""
