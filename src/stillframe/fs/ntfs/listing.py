"""All names of an NTFS volume at once: its master file table, records taken apart in step.

Answers: "which files are in which folders?" from the names that files' own records hold, not from the folders' indexes.
Both say the same on a volume that is proven to have been closed; on any other there is no listing.

A file's names and contents may stand in further records of its own; each names the file's first record.

Source: Linux-NTFS documentation, "FILE record", "$FILE_NAME", "$DATA"; ntfs-3g include/ntfs-3g/layout.h
``MFT_RECORD``, ``ATTR_RECORD``, ``FILE_NAME_ATTR``.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.listing import NAMES_MAX, Listing
from stillframe.fs.ntfs.boot import find_boot
from stillframe.fs.ntfs.mft import ROOT_INDEX, MasterFileTable, open_mft
from stillframe.fs.ntfs.record import HINT, AttributeType
from stillframe.fs.ntfs.runs import Numbers
from stillframe.fs.ntfs.scan import Records, column, unprotect_all
from stillframe.fs.ntfs.volume import explain_unclean

SYSTEM_COUNT: Final = 24
"""Records below belong to the file system: ntfs-3g layout.h, FILE_first_user."""
_BATCH_SIZE: Final = 4 << 20
_RECORDS_MAX: Final = 2 * NAMES_MAX
_FILE: Final = int.from_bytes(b"FILE", "little")
_IN_USE, _IS_FOLDER = 0x0001, 0x0002
_REFERENCE_MASK: Final = (1 << 48) - 1
# FILE_NAME_ATTR: the folder's reference, then at 0x40 the length of the name, its namespace and the name.
_NAME_LENGTH, _NAME_START = 0x40, 0x42
_DOS, _SPACES_END = 2, 4  # layout.h, FILE_NAME_DOS; the last one is FILE_NAME_WIN32_AND_DOS
_MAPPED_HEAD: Final = 0x40

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class _Files:
    """What is known of each record; a file is its first one.

    Attributes:
        sequence: Its sequence number; -1 when it is not in use.
        is_folder: Whether it is the first record of a folder.
        is_first: Whether it is the first record of a file.
        links: Names that the file has, as it says itself, those for DOS among them.
        sizes: Bytes of the main contents.
        contents: How often the main contents were found; once, or something is wrong.
    """

    sequence: NDArray[np.int32]
    is_folder: Flags
    is_first: Flags
    links: NDArray[np.uint16]
    sizes: Numbers
    contents: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Records in use, with the number of the file that each belongs to, and whether that may be a folder."""

    records: Records
    owners: Numbers
    may_be_folder: Flags


@dataclass(slots=True)
class _Names:
    """What was found, batch by batch: one element per name, or per further record."""

    owners: list[Numbers] = field(default_factory=list)
    folders: list[NDArray[np.uint64]] = field(default_factory=list)
    spaces: list[NDArray[np.uint8]] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    """Of those names that may be of a folder."""
    has_text: list[Flags] = field(default_factory=list)
    bases: list[NDArray[np.uint64]] = field(default_factory=list)
    count: int = 0


def list_ntfs(reader: BlockReader) -> Listing:
    """List every name of a volume that was closed, but those for DOS of files that have another.

    Raises:
        DiskFormatError: It was not closed, something is not as Windows writes it, or too large to be read at once.
        ReadFault: The device failed.
    """
    boot = find_boot(reader)
    doubt = explain_unclean(reader)
    if boot is None or doubt is not None:
        raise _doubt("its state" if doubt is None else doubt.message)
    table = open_mft(reader, boot)
    count = table.record_count
    if count > _RECORDS_MAX:
        raise _doubt(f"a table of {count} records")
    files = _Files(
        sequence=np.full(count, -1, np.int32), is_folder=np.zeros(count, np.bool_), is_first=np.zeros(count, np.bool_),
        links=np.zeros(count, np.uint16), sizes=np.full(count, -1, np.int64), contents=np.zeros(count, np.uint8),
    )  # fmt: skip
    names = _Names()
    step = max(_BATCH_SIZE // boot.record_size, 1)
    for first in range(0, count, step):
        _take_batch(_read_records(reader, table, first, min(step, count - first)), first, files, names)
        if names.count > NAMES_MAX:
            raise _doubt(f"more than {NAMES_MAX} names")
    return _join(files, names)


def _read_records(reader: BlockReader, table: MasterFileTable, first: int, count: int) -> Records:
    size = table.boot.record_size
    return np.frombuffer(table.stream.read_at(reader, first * size, count * size), np.uint8).reshape(count, size)


def _take_batch(records: Records, first: int, files: _Files, names: _Names) -> None:
    magic, flags = column(records, 0, "<u4"), column(records, 0x16, "<u2")
    live = np.flatnonzero((magic == _FILE) & ((flags & _IN_USE) != 0))
    if not len(live):
        return
    numbers = first + live
    fixed = unprotect_all(records[live], numbers)
    flags = flags[live]
    base = column(fixed, 0x20, "<u8")
    is_first = (base & np.uint64(_REFERENCE_MASK)) == 0
    owners = np.where(is_first, numbers, (base & np.uint64(_REFERENCE_MASK)).astype(np.int64))
    _demand(owners < len(files.sequence), "a further record of no file")
    files.sequence[numbers] = column(fixed, 0x10, "<u2")
    files.is_first[numbers] = is_first
    files.is_folder[numbers] = is_first & ((flags & _IS_FOLDER) != 0)
    files.links[numbers] = column(fixed, 0x12, "<u2")
    names.bases.append(base[~is_first])
    may_be_folder = ~is_first | ((flags & _IS_FOLDER) != 0)
    _walk_attributes(_Batch(records=fixed, owners=owners, may_be_folder=may_be_folder), files, names)


def _walk_attributes(batch: _Batch, files: _Files, names: _Names) -> None:
    """Go through the attributes of all records in step."""
    records, owners = batch.records, batch.owners
    size, words = records.shape[1], records.reshape(-1).view("<u4")
    used = column(records, 0x18, "<u4").astype(np.int64)
    at = column(records, 0x14, "<u2").astype(np.int64)
    rows = np.arange(len(records))
    _demand((used <= size) & (at >= 0x28) & (at % 8 == 0), "the beginning of a record")
    while len(rows):
        _demand(at + 4 <= used[rows], "the end of a record")
        kind = words[(rows * size + at) >> 2]
        going = kind != AttributeType.END
        rows, at, kind = rows[going], at[going], kind[going]
        _demand(at + 24 <= used[rows], "an attribute")
        word = (rows * size + at) >> 2
        length = words[word + 1].astype(np.int64)
        _demand((length >= 24) & (length % 8 == 0) & (at + length <= used[rows]), "the length of an attribute")
        named = kind == AttributeType.FILE_NAME
        _take_names(batch, rows[named], at[named], length[named], names)
        data = (kind == AttributeType.DATA) & (((words[word + 2] >> 8) & 0xFF) == 0)
        _take_sizes(words, word[data], length[data], owners[rows[data]], files)
        at = at + length


def _take_names(batch: _Batch, rows: Numbers, at: Numbers, length: Numbers, names: _Names) -> None:
    """Note ``$FILE_NAME`` attributes at these places."""
    if not len(rows):
        return
    size, flat = batch.records.shape[1], batch.records.reshape(-1)
    words, place = flat.view("<u4"), rows * size + at
    value = (words[(place >> 2) + 5] & 0xFFFF).astype(np.int64)
    _demand(flat[place + 8] == 0, "a name outside its record")
    _demand((value >= 0x18) & (value % 8 == 0) & (value + _NAME_START <= length), "the place of a name")
    start = place + value
    characters, space = flat[start + _NAME_LENGTH].astype(np.int64), flat[start + _NAME_LENGTH + 1]
    _demand((characters > 0) & (value + _NAME_START + 2 * characters <= length), "the length of a name")
    _demand(space < _SPACES_END, "the namespace of a name")
    names.owners.append(batch.owners[rows])
    names.folders.append(flat.view("<u8")[start >> 3])
    names.spaces.append(space)
    has_text = batch.may_be_folder[rows] & (space != _DOS)
    names.has_text.append(has_text)
    begin = start[has_text] + _NAME_START
    pairs = zip(begin.tolist(), (begin + 2 * characters[has_text]).tolist(), strict=True)
    names.texts += [flat[first:end].tobytes() for first, end in pairs]
    names.count += len(rows)


def _take_sizes(words: NDArray[np.uint32], word: Numbers, length: Numbers, owners: Numbers, files: _Files) -> None:
    """Note the sizes of main contents, from the first part of each."""
    if not len(word):
        return
    outside = (words[word + 2] & 0xFF) != 0
    _demand(~outside | (length >= _MAPPED_HEAD), "the length of an attribute")
    inside = ~outside
    files.sizes[owners[inside]] = words[word[inside] + 4]
    np.add.at(files.contents, owners[inside], np.uint8(1))
    word, owners = word[outside], owners[outside]
    head = (words[word + 4] == 0) & (words[word + 5] == 0)  # first_vcn
    word, owners = word[head], owners[head]
    _demand(words[word + 13] >> 31 == 0, "the size of a file")
    files.sizes[owners] = words[word + 12].astype(np.int64) | words[word + 13].astype(np.int64) << 32
    np.add.at(files.contents, owners, np.uint8(1))


def _join(files: _Files, names: _Names) -> Listing:
    """Bring names and files together, and see that they agree."""
    none = np.empty(0, np.int64)
    owners = np.concatenate([none, *names.owners])
    folders = np.concatenate([np.empty(0, np.uint64), *names.folders])
    spaces = np.concatenate([np.empty(0, np.uint8), *names.spaces])
    has_text = np.concatenate([np.empty(0, np.bool_), *names.has_text])
    _demand_reference(files, np.concatenate([np.empty(0, np.uint64), *names.bases]), files.is_first)
    count = len(files.sequence)
    user = np.arange(count) >= SYSTEM_COUNT
    named = np.bincount(owners, minlength=count)
    long = np.bincount(owners[spaces != _DOS], minlength=count)
    _demand((named == files.links) | ~(files.is_first & user), "the number of names of a file")
    _demand((long > 0) | (named == 0) | ~user, "a file that only DOS names")
    _demand(files.contents <= 1, "the contents of a file")
    wanted = user[owners] & (spaces != _DOS)
    is_folder = files.is_folder[owners]
    texts = np.flatnonzero(wanted & is_folder)
    # The place of the text of each name that has one.
    place = (np.cumsum(has_text) - 1)[texts]
    owners, folders = owners[wanted], folders[wanted]
    _demand_reference(files, folders, files.is_folder)
    sizes = np.where(files.contents == 1, files.sizes, -1)
    return Listing(
        root=ROOT_INDEX, parents=(folders & np.uint64(_REFERENCE_MASK)).astype(np.int64), numbers=owners,
        is_folder=is_folder[wanted], is_file=~is_folder[wanted], sizes=sizes[owners], links=long[owners],
        folder_names=[names.texts[one] for one in place.tolist()], encoding="utf-16-le",
    )  # fmt: skip


def _demand_reference(files: _Files, references: NDArray[np.uint64], kind: Flags) -> None:
    """See that references name records of a kind, and not what these were before."""
    numbers = (references & np.uint64(_REFERENCE_MASK)).astype(np.int64)
    _demand(numbers < len(files.sequence), "a reference")
    _demand(kind[numbers] & (files.sequence[numbers] == (references >> np.uint64(48)).astype(np.int64)), "a reference")


def _demand(fulfilled: NDArray[np.bool_], what: str) -> None:
    if not fulfilled.all():
        raise _doubt(what)


def _doubt(what: str) -> DiskFormatError:
    return DiskFormatError(f"NTFS: {what} is not as it was expected to be", hint=HINT)
