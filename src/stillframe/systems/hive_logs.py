r"""A file of the Windows registry with what waits in its transaction logs.

Answers: "what would Windows read in this hive once it has applied its logs?" In memory only, from bytes to bytes. Since
Windows 8.1 most hives of a running system are in that state, also after a proper shutdown: what is flushed goes to the
logs, and to the hive up to an hour later. Entries are applied whole and in their order; the result is the hive after
the last of them, or a refusal, and never a part of one. Where Windows' own versions do not agree, or entries between
two logs are missing, it is refused.

Source: "Windows registry file format specification", github.com/msuhanov/regf, sections "Format of transaction log
files", "Dirty state of a hive" and "Multiple transaction log files". That a recovered hive has the number behind that
of the last entry: hives that Windows 10 recovered, in the tests of github.com/msuhanov/yarp.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.systems.hive_cells import HIVE_SIZE_MAX, broken, seal_base, u32
from stillframe.systems.hive_log_files import (
    BINS_SIZE_AT,
    FLAGS_AT,
    KIND_AT,
    LOG_SIZE_MAX,
    PAGE_STEP,
    ROOT_AT,
    SECTOR_SIZE,
    SIGNATURE,
    LogEntry,
    LogFile,
    is_sealed,
    iter_sequences,
    parse_log,
    refuse,
)

ReadFile = Callable[[str, int, int], bytes | None]
"""Bytes of a file: path, offset, length; ``None`` when there is no such file."""
_BASE_SIZE: Final = 4096
_WORD: Final = 0xFFFFFFFF
_LOCKED_BY_TRANSACTIONS: Final = 1  # the one flag that an entry keeps
_LOGS_MAX: Final = 2
_BIN_WRITTEN_AT: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedHive:
    """A hive that is closed.

    Attributes:
        contents: All its bytes; the very same when nothing was to be done.
        applied: The sequence numbers of the entries that were applied, in order.
    """

    contents: bytes
    applied: tuple[int, ...]


def read_logs(read_file: ReadFile, path: str) -> tuple[bytes, ...]:
    """The logs that belong to a hive: ``.LOG1`` and ``.LOG2``, else ``.LOG``; of an empty one, no bytes.

    Beside the two, a ``.LOG`` is left from the installation. Source: as above, "Multiple transaction log files".
    """
    pair = tuple(read_file(f"{path}.{name}", 0, LOG_SIZE_MAX + 1) or b"" for name in ("LOG1", "LOG2"))
    if any(pair):
        return pair
    return (read_file(f"{path}.LOG", 0, LOG_SIZE_MAX + 1) or b"",)


def apply_logs(hive: bytes, logs: Sequence[bytes]) -> ReplayedHive:
    """A hive after all entries of its logs that follow on what it holds.

    Args:
        hive: The whole file.
        logs: One or two whole files, the one with the lower number in its name first (``read_logs``).

    Raises:
        DiskFormatError: It is none; or it was not closed and its logs are not there, are not whole, do not fit to it
            or to each other, or lead to no hive.
    """
    if len(hive) < _BASE_SIZE or len(hive) > HIVE_SIZE_MAX or hive[:4] != SIGNATURE:
        raise broken("these bytes are no hive")
    is_base_whole = is_sealed(hive)
    if is_base_whole and u32(hive, 4) == u32(hive, 8):
        return ReplayedHive(contents=hive, applied=())
    if len(logs) > _LOGS_MAX:
        raise refuse(f"it has {len(logs)} logs")
    found = [log for log in map(parse_log, logs) if log is not None]
    if not found:
        raise refuse("there is no log of it")
    if len({log.is_new for log in found}) > 1:
        raise refuse("its logs are of different Windows versions")
    if found[0].is_new:
        used, entries = _choose_entries(hive, found, is_base_whole=is_base_whole)
    else:
        used, entries = _choose_pages(hive, found, is_base_whole=is_base_whole)
    if is_base_whole and any(hive[at : at + 4] != used.base[at : at + 4] for at in (20, 24, ROOT_AT)):
        raise refuse("its log is of a hive of another shape")
    contents = _write_entries(hive, entries)
    _write_base(contents, hive[:_BASE_SIZE] if is_base_whole else used.base, entries)
    _require_bins(contents)
    return ReplayedHive(contents=bytes(contents), applied=tuple(entry.sequence for entry in entries))


def number_above(hive: bytes, logs: Sequence[bytes]) -> bytes:
    """A closed hive with sequence numbers above all that its logs hold, so that none of it is applied any more.

    Source: as above, "Log entries", note 7: what is below the number of the hive is not applied, whatever happens next.
    """
    number = u32(hive, 4)
    for raw in logs:
        for one in iter_sequences(raw):
            if not _is_before(one, number):
                number = (one + 1) & _WORD
    return _numbered(hive, number)


def _choose_entries(hive: bytes, found: list[LogFile], *, is_base_whole: bool) -> tuple[LogFile, list[LogEntry]]:
    """The entries that are applied, and the log that tells the base block. Source: "Log entries", notes 5 to 8."""
    ordered = found
    if len(found) > 1 and _is_before(found[1].sequence, found[0].sequence):
        ordered = found[::-1]
    if is_base_whole:
        number = u32(hive, 8)
        ordered = [log for log in ordered if not _is_before(log.sequence, number)]
    if not ordered:
        raise refuse("its logs are older than it")
    first, last = ordered[0], ordered[-1]
    entries = list(first.entries)
    # Two logs that follow on each other have all since the hive was written: Windows begins one anew only then. Of a
    # single one that is known by its number alone.
    if first is not last:
        if not entries or last.sequence != (entries[-1].sequence + 1) & _WORD:
            raise refuse("between its two logs entries are missing")
        entries += last.entries
    elif not is_base_whole or first.sequence != u32(hive, 8):
        raise refuse("entries before those of its log are missing")
    if not entries:
        raise refuse("no entry of its log is whole")
    return last, entries


def _choose_pages(hive: bytes, found: list[LogFile], *, is_base_whole: bool) -> tuple[LogFile, list[LogEntry]]:
    """The same of logs of the old format. Source: "Old format" of logs, note 3, and of multiple logs.

    Which of two logs Windows takes when both fit, or when the other is newer, changed with its versions.
    """
    at = 12 if is_base_whole else _BASE_SIZE + _BIN_WRITTEN_AT
    written = int.from_bytes(hive[at : at + 8], "little")
    fitting = [log for log in found if log.written == written]
    if not fitting:
        raise refuse("no log of it is from when it was last written")
    if len(fitting) > 1 or any(log.written > written for log in found):
        raise refuse("it is not known which of its two logs counts")
    # The same number since Windows Vista, one less before. Source: as above, "Old format", note 5.
    if is_base_whole and (u32(hive, 4) - fitting[0].sequence) & _WORD > 1:
        raise refuse("its log has another number than it")
    return fitting[0], list(fitting[0].entries)


def _write_entries(hive: bytes, entries: list[LogEntry]) -> bytearray:
    contents = bytearray(hive)
    for entry in entries:
        contents += bytes(max(0, PAGE_STEP + entry.bins_size - len(contents)))
        for page in entry.pages:
            contents[page.at : page.at + len(page.data)] = page.data
    return contents


def _write_base(contents: bytearray, base: bytes, entries: list[LogEntry]) -> None:
    """The base block behind the last entry: one of a hive that is closed. What no log has of it stays."""
    last = entries[-1]
    contents[: len(base)] = base
    struct.pack_into("<I", contents, KIND_AT, 0)
    struct.pack_into("<I", contents, BINS_SIZE_AT, last.bins_size)
    if last.flags is not None:
        kept = u32(base, FLAGS_AT) & ~_LOCKED_BY_TRANSACTIONS
        struct.pack_into("<I", contents, FLAGS_AT, kept | last.flags & _LOCKED_BY_TRANSACTIONS)
    number = (last.sequence + 1) & _WORD
    struct.pack_into("<II", contents, 4, number, number)
    seal_base(contents)


def _require_bins(contents: bytearray) -> None:
    """Make sure that bins lie one behind the other. Windows puts an empty one for each that does not."""
    bins_size, start = u32(contents, BINS_SIZE_AT), 0
    while start < bins_size:
        at = _BASE_SIZE + start
        offset, size = u32(contents, at + 4), u32(contents, at + 8)
        if contents[at : at + 4] != b"hbin" or offset != start or size % PAGE_STEP or not 0 < size <= bins_size - start:
            raise refuse(f"with its log there is no bin at {start:#x}")
        start += size


def _numbered(hive: bytes, number: int) -> bytes:
    base = bytearray(hive[:SECTOR_SIZE])
    struct.pack_into("<II", base, 4, number, number)
    return bytes(seal_base(base)) + hive[SECTOR_SIZE:]


def _is_before(one: int, other: int) -> bool:
    """Whether a sequence number is earlier than another; they begin again behind 2^32."""
    return one != other and (other - one) & _WORD <= _WORD // 2
