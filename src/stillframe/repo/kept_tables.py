"""The beginning, the end and the table of disks that were restored onto, as they were before: records.

Answers: "what was on this disk?" Images do not need them.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from stillframe.repo.announcements import read_records
from stillframe.repo.format import ObjectType
from stillframe.repo.records import Hex16, MachineName, Size, Text, Time, Word
from stillframe.repo.repository import Repository

KEPT_PIECE_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPiece:
    """Bytes of a disk, in JSON as base64."""

    offset: Size
    data: Annotated[bytes, Meta(max_length=KEPT_PIECE_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTable:
    """What was on a disk where a restore wrote a partition table.

    Attributes:
        contents: What was on it, in words.
        pieces: Its first and last MiB, and what else its table was.
    """

    table: Hex16
    created: Time
    machine: MachineName
    path: Text
    model: Word
    serial: Word
    size: Size
    contents: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()
    pieces: Annotated[tuple[KeptPiece, ...], Meta(max_length=1000)] = ()


def kept_tables(repository: Repository) -> tuple[KeptTable, ...]:
    """What was on disks before restores wrote there, the oldest first."""
    return tuple(sorted(read_records(repository.box, ObjectType.KEPT_TABLE, KeptTable), key=lambda one: one.created))
