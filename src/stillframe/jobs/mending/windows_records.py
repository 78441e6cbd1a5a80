r"""What the boot configuration of a Windows calls its partitions, when no disk has such partitions any more.

Answers: "which partition does this record mean now?" The boot manager is on the partition that its store lies on; a
record of the right place or GUID on another disk id means that partition; one Windows that nobody names is what the
one record without a partition means. Records of other disks than the manager's are left alone, and all else. What is
found are ``Moves``: as if the disk had been restored from where its partitions were called so.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from stillframe.disk import Layout, Partition
from stillframe.events import Notice
from stillframe.jobs.mending.seen import SeenDisk
from stillframe.systems.chain_windows import describe_record
from stillframe.systems.evidence import PartEvidence
from stillframe.systems.names import find_recorded
from stillframe.systems.windows_disks import PartitionRecord
from stillframe.systems.windows_moves import MovedPartition, Moves, build_moves

_NOT_FOLLOWED: Final = "windows-not-repaired"
_HINT: Final = (
    "Start Windows' own medium: 'Repair your computer', 'Command Prompt', 'bootrec /rebuildbcd' or 'bcdboot "
    "C:\\Windows'."
)
_NUMBERS: Final = ("01", "02", "03", "04")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What was concluded.

    Attributes:
        moves: What became of the partitions; ``None`` when every record names one that is there.
        words: What is wrong, a sentence for each record.
        notices: What nobody can tell.
    """

    moves: Moves | None = None
    words: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


def remember(seen: SeenDisk, said: Mapping[int, int], is_elsewhere: Callable[[str], bool]) -> Remembered:
    """Find the partitions that the stores of a disk mean.

    Args:
        seen: The disk.
        said: By the number of a partition where its boot sector says that it begins, when that is elsewhere.
        is_elsewhere: Whether another disk of this machine has a name such as ``PARTUUID=...``.
    """
    if seen.layout.scheme == "none":
        return Remembered()
    volumes = [one for one in seen.volumes if not one.inner and one.files is not None]
    meant, notices = dict[PartitionRecord, Partition](), list[Notice]()
    for store in volumes:
        if store.files is not None and store.files.clues.has_store:
            for record, part in _meant_by(store, volumes, said):
                if part is None:
                    notices.append(_unknown(store, record))
                elif not _is_elsewhere(record, is_elsewhere):
                    meant.setdefault(record, part)
    disks = {record.disk for record in meant} - {"", seen.layout.disk_id}
    starts = [(record.start, record.guid) for record in meant]
    if not meant or len(disks) > 1 or len(set(starts)) != len(starts):
        notices += [_unknown(None, record) for record in meant]
        return Remembered(notices=tuple(notices))
    words = tuple(
        f"Windows' boot configuration names {describe_record(record)}, which no disk here has: it is partition "
        f"{part.number}"
        for record, part in meant.items()
    )
    moves = _moves(seen.layout, meant, said, next(iter(disks), seen.layout.disk_id))
    return Remembered(moves=moves, words=words, notices=tuple(notices))


def _meant_by(
    store: PartEvidence, volumes: list[PartEvidence], said: Mapping[int, int]
) -> Iterator[tuple[PartitionRecord, Partition | None]]:  # fmt: skip
    """The records of a store that name nothing, each with the partition it means; ``None`` when nobody can tell."""
    if store.files is None:
        return
    clues = store.files.clues
    if clues.loader is not None and find_recorded(clues.loader, volumes) is None:
        yield clues.loader, store.partition
    homes = {store.disk_id, "", clues.loader.disk if clues.loader is not None else ""}
    windows = [one for one in volumes if one.files is not None and one.files.clues.has_windows]
    recoveries = [one for one in volumes if one.files is not None and one.files.clues.has_winre]
    for records, wanted in ((clues.systems, windows), (clues.recoveries, recoveries)):
        named = [found for record in records if (found := find_recorded(record, volumes)) is not None]
        dead = [one for one in records if one.disk in homes and find_recorded(one, volumes) is None]
        free = [one for one in wanted if one not in named]
        for record in dead:
            by_place = [one for one in volumes if _is_place(record, one, said)]
            only = by_place or (free if len(free) == 1 and len(dead) == 1 else [])
            if record != clues.loader or len(only) == 1:
                yield record, only[0].partition if len(only) == 1 else None


def _is_place(record: PartitionRecord, one: PartEvidence, said: Mapping[int, int]) -> bool:
    """Whether a partition is where a record says, on whatever disk, or says of itself that it is there."""
    if record.scheme == "gpt":
        return record.guid == one.partition.guid
    start = said.get(one.partition.number, one.partition.extent.start)
    return record.scheme == one.scheme and record.start == start


def _is_elsewhere(record: PartitionRecord, is_elsewhere: Callable[[str], bool]) -> bool:
    """Whether it is true of another disk that is plugged in."""
    if record.scheme == "gpt":
        return is_elsewhere(f"PARTUUID={record.guid.lower()}")
    return any(is_elsewhere(f"PARTUUID={record.disk.lower()}-{number}") for number in _NUMBERS)


def _moves(layout: Layout, meant: dict[PartitionRecord, Partition], said: Mapping[int, int], old_disk: str) -> Moves:
    taken = {part.extent.start for part in layout.partitions} | {record.start for record in meant}
    others = {
        part.extent.start: said[part.number]
        for part in layout.partitions
        if part.number in said and said[part.number] not in taken
    }
    same = build_moves(layout, layout, {part.number: part.number for part in layout.partitions})
    by_start = {part.extent.start: record for record, part in meant.items()}

    def old(moved: MovedPartition) -> MovedPartition:
        record = by_start.get(moved.new.start)
        if record is None:
            return replace(moved, old=replace(moved.old, start=others.get(moved.old.start, moved.old.start)))
        place = replace(moved.old, guid=record.guid or moved.old.guid)
        return replace(moved, old=place if record.start is None else replace(place, start=record.start))

    return Moves(
        scheme=same.scheme, old_disk=old_disk, new_disk=layout.disk_id, partitions=tuple(map(old, same.partitions))
    )


def _unknown(store: PartEvidence | None, record: PartitionRecord) -> Notice:
    where = f" on partition {store.partition.number}" if store is not None else ""
    return Notice(
        code=_NOT_FOLLOWED,
        message=f"the boot configuration of Windows{where} names {describe_record(record)}, which no disk here has, "
        "and nobody can tell which partition is meant: it stays as it is",
        hint=_HINT,
    )
