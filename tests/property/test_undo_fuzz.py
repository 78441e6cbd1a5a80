"""The head of an undo file, bytes changed at random: a record whose ranges lie within its disk, or our own error."""

import random

import pytest

from stillframe.errors import StillframeError
from stillframe.jobs.mending.undo_format import HEAD, UndoRecord, build_head, parse_head, parse_undo_record

WHOLE = build_head(
    UndoRecord(
        created="2026-11-27T10:00:00Z", path="/dev/sda", model="M", serial="S", size=1 << 20, sector_size=512,
        ranges=((0, 512), (4096, 8192)), changes=("a", "b"),
    )
)  # fmt: skip


def fuzz_undo(data: bytes) -> None:
    """Any bytes give a record in order and within its disk, or our own error."""
    try:
        size = parse_head(data[: HEAD.size], thing="f.undo")
        record = parse_undo_record(data[: HEAD.size], data[HEAD.size : HEAD.size + size], thing="f.undo")
    except StillframeError:
        return
    ends = [edge for pair in record.ranges for edge in pair]
    assert ends == sorted(ends)
    assert not ends or ends[-1] <= record.size


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_at_random(seed: int) -> None:
    chance = random.Random(seed)
    changed = bytearray(WHOLE)
    for _ in range(chance.randrange(1, 5)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    fuzz_undo(bytes(changed[: chance.randrange(len(changed) + 1)] if seed % 2 else changed))
    fuzz_undo(chance.randbytes(300))
    fuzz_undo(WHOLE)
