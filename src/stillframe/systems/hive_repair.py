"""A change in place of a registry hive that was not closed.

Answers: "which bytes of this file must become others so that it says that, with all that waits in its logs?" Pages that
the logs change are written with the change itself, and the hive is closed: its logs are not applied over it any more.
Only when the file keeps its size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from stillframe.block.edits import Edit, order_edits
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.systems.hive_logs import apply_logs, number_above
from stillframe.systems.windows import SHUT_DOWN
from stillframe.systems.windows_moves import Rewriting

HIVE_SIZE_REPAIRED_MAX: Final = 256 << 20
"""Bytes of a hive that is held in memory with its logs."""
_PAGE_SIZE: Final = 4096


def rewrite_with_logs(contents: bytes, logs: Sequence[bytes], move: Callable[[bytes], Rewriting]) -> Rewriting:
    """What must change in a hive that was not closed, with what waits in its logs.

    Args:
        contents: The whole file.
        logs: As ``read_logs`` gives them.
        move: Says what must change in a hive that is closed.

    Raises:
        DiskFormatError: As ``move``; or its changes overlap.
    """
    try:
        replayed = apply_logs(contents, logs)
    except DiskFormatError as error:
        return _refusal(f"its logs are not applied ({error.message})")
    found = move(replayed.contents)
    if not found.edits:  # Windows applies its logs itself
        return found
    if len(replayed.contents) != len(contents):
        return _refusal("it grows with what waits in its logs")
    changed = bytearray(replayed.contents)
    for edit in order_edits(found.edits, what="the hive"):
        changed[edit.offset : edit.extent.end] = edit.new
    edits = tuple(_iter_pages(contents, number_above(bytes(changed), logs)))
    done = f"what waited in its logs was written to it ({len(replayed.applied)} entries)"
    return replace(found, edits=edits, done=(*found.done, done))


def _iter_pages(old: bytes, new: bytes) -> Iterator[Edit]:
    """The pages that differ."""
    padding = bytes(-len(old) % _PAGE_SIZE)
    before, after = (np.frombuffer(raw + padding, dtype=np.uint8).reshape(-1, _PAGE_SIZE) for raw in (old, new))
    for page in np.flatnonzero((before != after).any(axis=1)).tolist():
        part = slice(page * _PAGE_SIZE, (page + 1) * _PAGE_SIZE)
        yield Edit(offset=part.start, old=old[part], new=new[part])


def _refusal(reason: str) -> Rewriting:
    message = f"it was not closed, and it is not changed: {reason}"
    return Rewriting(notices=(Notice(code="registry-not-closed", message=message, hint=SHUT_DOWN),))
