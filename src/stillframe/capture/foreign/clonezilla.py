"""The folder of a Clonezilla image as sources: each disk in it put together again.

Answers: "what did this disk look like?" Its table from the first and last sectors that Clonezilla copied, its
partitions from the images of partclone and dd, swap areas made anew with their UUID and label. All of it is expanded
into one sparse file without a name, and the table that is read from there must be the one that sfdisk had seen.
"""

import uuid
import zlib
from collections.abc import Iterator
from typing import Final

from stillframe.block.file import FileReader
from stillframe.capture.diskfiles import FileSource, file_writers, in_words
from stillframe.capture.foreign.clonezilla_folder import ClonezillaFolder, SavedImage, TableLine, find_folder
from stillframe.capture.foreign.nameless import NamelessFile, nameless_file
from stillframe.capture.foreign.partclone import expand_volume, is_partclone, unpacked
from stillframe.capture.source import Consistency
from stillframe.disk import gpt, mbr
from stillframe.disk.layout import Layout, Partition, read_layout
from stillframe.disk.mbr_chain import build_chain
from stillframe.errors import DiskFormatError, SourceInUse, StillframeError, UsageError
from stillframe.events import Notice
from stillframe.fs.swap import build_swap_header
from stillframe.host.changes import change_stamp
from stillframe.host.disks import DiskFacts
from stillframe.units import MIB

SECTOR: Final = 512
_SECOND_SECTORS_MAX: Final = 33


def open_clonezilla(path: str, *, allow_torn: bool) -> tuple[FileSource, ...] | None:
    """Every disk of a Clonezilla folder, put together; ``None`` where the path is no such folder.

    Raises:
        UsageError: It is of a kind that is not read.
        DiskFormatError: A file is missing or damaged, or the table is not the one that sfdisk saw.
        MachineRefusal: There is no room to expand it.
        SourceInUse: Somebody is writing one of its files.
    """
    folder = find_folder(path)
    if folder is None:
        return None
    folder.require_readable()
    paths = [folder.at(name) for name in folder.names]
    writers = tuple(use for file in paths for use in file_writers(file))
    if writers and not allow_torn:
        raise SourceInUse(f"{folder.path} is in use: {in_words(writers)}", hint="Wait until it is complete.")
    stamps = tuple((file, change_stamp(file)) for file in paths)
    sources: list[FileSource] = []
    try:
        for disk in folder.disks():
            reader, notices = _Rebuilding(folder, disk).rebuild()
            facts = DiskFacts(path=folder.at(disk), kind="file", size=reader.size, model=f"disk {disk}")
            consistency: Consistency = "torn" if writers else "offline"
            sources.append(
                FileSource(facts=facts, reader=reader, consistency=consistency, notices=notices, stamps=stamps)
            )
    except BaseException:
        for source in sources:
            source.reader.close()
        raise
    return tuple(sources)


class _Rebuilding:
    """One disk of a folder."""

    def __init__(self, folder: ClonezillaFolder, disk: str) -> None:
        self._folder = folder
        self._disk = disk
        self._table = folder.table(disk)
        self._notices: list[Notice] = []

    def rebuild(self) -> tuple[FileReader, tuple[Notice, ...]]:
        """The disk, and what a person should know of it."""
        with nameless_file() as file:
            for offset, data in self._table_sectors(file):
                file.write(offset, data)
            reader = file.reader()
            try:
                layout = read_layout(reader)
                self._require_same(layout)
                self._require_all_saved(layout)
                empty = [part for part in layout.partitions if not self._fill(part, file)]
            except BaseException:
                reader.close()
                raise
            if empty:
                names = ", ".join(map(self._name, empty))
                words = f"Clonezilla saved nothing of {names}: in the image they are zeros"
                self._notices.append(Notice(code="partition-not-saved", message=words))
            return reader, tuple(self._notices)

    def _table_sectors(self, file: NamelessFile) -> Iterator[tuple[int, bytes]]:
        size = self._folder.disk_size(self._disk)
        first, record = self._folder.raw(f"{self._disk}-gpt-1st"), self._folder.raw(f"{self._disk}-mbr")
        if first:
            yield from self._gpt_sectors(first, size, file)
        elif len(record) >= SECTOR and not _is_protective(record):
            if size is None:
                raise self._folder.refuse(f"{self._disk}-pt.parted is missing, so the size of the disk is not known")
            file.require_size(size)
            yield from self._mbr_sectors(record[:SECTOR], size)
        else:
            words = f"the partition table of {self._disk} is missing ({self._disk}-gpt-1st, or {self._disk}-mbr)"
            raise self._folder.refuse(words, next_step="Copy all files of the folder.")

    def _gpt_sectors(self, first: bytes, size: int | None, file: NamelessFile) -> Iterator[tuple[int, bytes]]:
        """The first copy as it is, and the second with its array taken from there.

        Clonezilla's own copy of the second begins one sector late (``to_skip`` in its ``task_savedisk``).
        """
        name = f"{self._disk}-gpt-1st"
        try:
            header = gpt.parse_header(first[SECTOR : 2 * SECTOR].ljust(SECTOR, b"\0"), lba=1)
        except DiskFormatError as error:
            raise self._folder.refuse(f"the partition table in {name} is damaged: {error.message}") from error
        begin = header.entries_lba * SECTOR if header else 0
        entries = first[begin : begin + header.entries_size] if header else b""
        if header is None or len(entries) < header.entries_size or zlib.crc32(entries) != header.entries_crc:
            raise self._folder.refuse(f"the partition table in {name} is damaged")
        found = (header.alternate_lba + 1) * SECTOR
        size = found if size is None else size
        if found > size or header.last_usable_lba >= header.alternate_lba - header.entries_sectors:
            raise self._folder.refuse(f"{name} is of a disk of {found} bytes, and {self._disk}-pt.parted says {size}")
        file.require_size(size)
        yield 0, first
        second = self._folder.raw(f"{self._disk}-gpt-2nd")[-_SECOND_SECTORS_MAX * SECTOR :]
        copy = gpt.GptCopy(header=header, entries=entries)
        kept = _second_header(second, header)
        entries_lba = kept.entries_lba if kept else header.alternate_lba - header.entries_sectors
        raw = kept.raw if kept else gpt.build_header(
            header, lba=header.alternate_lba, alternate_lba=1, last_usable_lba=header.last_usable_lba,
            entries_lba=entries_lba, copy=copy,
        )  # fmt: skip
        yield entries_lba * SECTOR, entries
        yield header.alternate_lba * SECTOR, raw

    def _mbr_sectors(self, sector: bytes, size: int) -> Iterator[tuple[int, bytes]]:
        """Sector 0, what was hidden behind it, and the chain of logical partitions."""
        record = mbr.parse_boot_record(sector)
        if record is None or not self._table:
            missing = f"{self._disk}-mbr is damaged" if record is None else f"{self._disk}-pt.sf is missing"
            raise self._folder.refuse(f"the partition table is not complete: {missing}")
        yield 0, sector
        begin = min([entry.first_lba for entry in record.entries if entry.is_used], default=1) * SECTOR
        yield SECTOR, self._folder.raw(f"{self._disk}-hidden-data-after-mbr")[: max(begin - SECTOR, 0)]
        logical = [line for line in self._table if line.number > 4]
        for entry in record.entries:
            if entry.is_extended:
                yield from self._chain_sectors(entry, logical, size)

    def _chain_sectors(
        self, container: mbr.MbrEntry, logical: list[TableLine], size: int
    ) -> Iterator[tuple[int, bytes]]:
        ends = [line.start + line.size for line in logical]
        if max([container.end_lba, *ends]) * SECTOR > size:
            raise self._folder.refuse(f"the extended partition of {self._disk} ends behind the disk")
        first = self._folder.raw(f"{self._part(container.index + 1)}-ebr")[:SECTOR]
        chain = build_chain(first, container, [line.as_logical for line in logical])
        if len(chain) > 2 or (not first and logical):
            words = f"Clonezilla does not save every record of the logical partitions of {self._disk}"
            self._notices.append(
                Notice(code="records-made-anew", message=f"{words}: they were made anew from its list of partitions")
            )
        for place, record in chain.items():
            yield place * SECTOR, record

    def _part(self, number: int) -> str:
        """What Clonezilla calls a partition of this disk."""
        return f"{self._disk}{'p' if self._disk[-1].isdigit() else ''}{number}"

    def _name(self, part: Partition) -> str:
        return self._part(part.number)

    def _require_same(self, layout: Layout) -> None:
        """Refuse when the sectors and the list of sfdisk speak of different partitions."""
        is_old = layout.scheme == "gpt" and "label: gpt" not in self._folder.text(f"{self._disk}-pt.sf")
        if layout.scheme == "none":
            raise self._folder.refuse(f"there is no partition table in the first sectors of {self._disk}")
        if is_old or not self._table:
            return  # sfdisk before 2.26 did not know GPT
        wanted = [(line.number, line.start, line.size) for line in self._table if not line.is_container]
        found = [(p.number, p.extent.start // SECTOR, p.extent.size // SECTOR) for p in layout.partitions]
        if wanted != found:
            words = f"the sectors of the table name other partitions (number, start, size: {found}) than "
            raise self._folder.refuse(f"{words}{self._disk}-pt.sf ({wanted})")

    def _require_all_saved(self, layout: Layout) -> None:
        """Refuse, before anything is expanded, when an image is missing or cannot be read."""
        for part in layout.partitions:
            name = self._name(part)
            image = self._folder.image_of(name)
            is_swap = f"swappt-{name}.info" in self._folder.names
            if image is None and not is_swap and name in self._folder.saved_parts():
                raise self._folder.refuse(
                    f"the image of {name} is missing",
                    next_step=f"Copy it; or take {name} out of the file 'parts', and it comes as zeros.",
                )
            if image is not None and image.kind in {"ntfsclone", "partimage"}:
                way = "ntfsclone --restore-image" if image.kind == "ntfsclone" else "partimage restore"
                raise UsageError(
                    f"{image.paths[0]} was made by {image.kind}, which is not read",
                    hint=f"Expand it into a file ('{way}'), and import that file by itself.",
                )

    def _fill(self, part: Partition, file: NamelessFile) -> bool:
        """Write what was saved of a partition; whether anything was."""
        name = self._name(part)
        image = self._folder.image_of(name)
        if image is not None:
            self._expand(image, part, file)
            return True
        if f"swappt-{name}.info" not in self._folder.names:
            return False
        settings = self._folder.settings(f"swappt-{name}.info")
        try:
            identity = uuid.UUID(settings["UUID"]) if settings.get("UUID") else None
            header = build_swap_header(part.extent.size, identity=identity, label=settings.get("LABEL", ""))
        except ValueError as error:
            raise self._folder.refuse(f"swappt-{name}.info is not that of a swap area: {error}") from error
        file.write(part.extent.start, header)
        return True

    def _expand(self, image: SavedImage, part: Partition, file: NamelessFile) -> None:
        start, size = part.extent.start, part.extent.size
        if is_partclone(image.paths[0]):
            expand_volume(image.paths, file, start=start, size_max=size)
            return
        if image.kind == "partclone":
            raise self._folder.refuse(f"{image.paths[0]} is no image of partclone, or compressed in an unknown way")
        done = 0
        with unpacked(image.paths) as stream:
            while data := stream.read(MIB):
                if done + len(data) <= size and data.strip(b"\0"):
                    file.write(start + done, data)
                done += len(data)
        if done != size:
            raise DiskFormatError(
                f"{image.paths[0]} holds {done} bytes, and its partition has {size}",
                hint="Is every part there (.aa, .ab, ...), and the whole of it? Copy it again.",
            )


def _is_protective(sector: bytes) -> bool:
    """Whether sector 0 only announces a GPT."""
    record = mbr.parse_boot_record(sector)
    return record is not None and record.is_protective


def _second_header(second: bytes, first: gpt.GptHeader) -> gpt.GptHeader | None:
    """The header at the end of the disk, when it was copied and describes the same array."""
    try:
        found = gpt.parse_header(second[-SECTOR:].ljust(SECTOR, b"\0"), lba=first.alternate_lba)
    except StillframeError:
        return None
    is_same = found is not None and found.entries_crc == first.entries_crc and found.disk_guid == first.disk_guid
    if found is None or not is_same or found.entries_size != first.entries_size:
        return None
    is_behind = first.last_usable_lba < found.entries_lba <= first.alternate_lba - first.entries_sectors
    return found if is_behind else None
