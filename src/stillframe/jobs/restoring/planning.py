"""Planning a restore: what of an image goes where on a target, and why. Looks only.

Answers: "what will be written where, and what is lost there?" A planner is asked as often as a person changes his
wishes; what the file systems' tools said once it remembers. Carried out in ``restore``.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from stillframe.block.file import open_file_reader
from stillframe.disk import fit_table, read_layout
from stillframe.errors import TargetError, UsageError
from stillframe.extents import Extent
from stillframe.host.target import TargetIdentity, identify_target
from stillframe.jobs.conversions.conversion import Conversion
from stillframe.jobs.conversions.planning import plan_conversion
from stillframe.jobs.conversions.words import conversion_reasons
from stillframe.jobs.listing import find_disk, find_partition
from stillframe.jobs.restoring.beside import plan_beside
from stillframe.jobs.restoring.fitted import Fitted
from stillframe.jobs.restoring.fitting import (
    Flexibilities,
    anew_notices,
    fit_disk,
    fit_partition,
    parts_made_anew,
    place_disk,
)
from stillframe.jobs.restoring.plan import DiskInImage, RestoreOptions, RestorePlan, manifest_bytes, stored_layout
from stillframe.jobs.restoring.reasons import beside_reasons, plan_reasons
from stillframe.jobs.restoring.sectors import find_sector_size, refuse_other_sectors
from stillframe.jobs.restoring.staying import LeftPlace, find_left_places, staying
from stillframe.jobs.restoring.targets import describe_contents, refuse_repository, require_same_sectors
from stillframe.jobs.restoring.wishes import check_wishes
from stillframe.jobs.restoring.words import beside_steps, restore_notices, restore_steps
from stillframe.jobs.starts.windows_adapting import require_adapting
from stillframe.repo.reading import Origin
from stillframe.repo.records import Manifest, StoredDisk, StoredPartition
from stillframe.units import format_size


def plan_restore(
    origin: Origin, manifest: Manifest, disk_number: int | None, target_path: str, *, repository_folder: str,
    options: RestoreOptions,
) -> RestorePlan:  # fmt: skip
    """Look at the image and the target, and decide what goes where. Writes nothing.

    Raises:
        UsageError: The image has no such disk or partition, or wishes contradict each other.
        TargetError: The target holds the repository, is too small, or has sectors of another size.
    """
    planner = RestorePlanner(origin, manifest, disk_number, target_path, repository_folder=repository_folder)
    return planner.plan(options)


class RestorePlanner:
    """Plans restores of one disk of an image onto one target.

    Args:
        origin: Of the image.
        manifest: The image.
        disk_number: Which of its disks; ``None`` for the only one.
        target_path: A disk, a partition, or a disk file, which is made when it does not exist.
        repository_folder: Where the repository is, which must not be on the target; empty when it is in memory.
    """

    def __init__(
        self, origin: Origin, manifest: Manifest, disk_number: int | None, target_path: str, *,
        repository_folder: str,
    ) -> None:  # fmt: skip
        self._origin = origin
        self._manifest = manifest
        self._disk_number = disk_number
        self._path = target_path
        self._folder = repository_folder
        self._asked = Flexibilities()

    def plan(self, options: RestoreOptions) -> RestorePlan:
        """Decide what goes where. Raises as ``plan_restore``."""
        disk = find_disk(self._manifest, self._disk_number)
        part = find_partition(disk, options.partition) if options.partition is not None else None
        if options.onto is not None and part is None:
            raise UsageError("a target partition without a source partition", hint="Write '--partition N:M'.")
        if options.adapt:
            require_adapting({one.filesystem for one in disk.partitions if one.number not in options.leave_out})
        refuse_repository(self._folder, self._path)
        check_wishes(disk, options)
        if options.added:
            return self._plan_beside(disk, options)
        kept = replace(disk, partitions=tuple(one for one in disk.partitions if one.number not in options.leave_out))
        stored = DiskInImage(origin=self._origin, manifest=self._manifest, disk=kept)
        sector_size = self._sector_size(stored, part, options)
        target, size, places, lost = self._look(kept, part, options)
        place = self._choose_place(size, stored, part, options, sector_size=sector_size)
        conversion = self._conversion(stored, size, options, places)
        fitted = conversion.fitted if conversion else None
        if conversion is not None:
            kept = replace(kept, partitions=tuple(one for one in kept.partitions if conversion.takes(one.number)))
        elif part is None:
            fitted = self._fitted(stored, size, options, places)
        plan = RestorePlan(
            manifest=self._manifest, source_disk=kept, partition=part, target=target, target_path=self._path,
            target_size=size, place=place, options=options, steps=(), lost=lost,
            bytes_to_write=part.bytes_used if part else manifest_bytes(kept),
            placements=fitted.placements if fitted else (), notices=(), left_places=places,
            left_out=tuple(one for one in disk.partitions if one.number in options.leave_out), sector_size=sector_size,
            conversion=conversion,
        )  # fmt: skip
        plan = _with_anew(plan, stored)
        plan = replace(plan, steps=tuple(restore_steps(plan)))
        reasons = [*plan_reasons(plan, fitted), *(conversion_reasons(conversion) if conversion else ())]
        return replace(plan, reasons=tuple(sorted(reasons, key=lambda one: one.partition is None)))

    def _plan_beside(self, disk: StoredDisk, options: RestoreOptions) -> RestorePlan:
        """New partitions in free space of the target."""
        if not os.path.exists(self._path):
            raise TargetError(f"{self._path} does not exist, so it has no free space", hint="Name an existing disk.")
        chosen = replace(disk, partitions=tuple(find_partition(disk, number) for number in options.added))
        target = identify_target(self._path)
        require_same_sectors(self._path, disk.sector_size)
        stored = DiskInImage(origin=self._origin, manifest=self._manifest, disk=chosen)
        found = plan_beside(stored, self._path, options, self._asked)
        plan = RestorePlan(
            manifest=self._manifest, source_disk=chosen, partition=None, target=target, target_path=self._path,
            target_size=target.size, place=Extent(0, target.size), options=options, steps=(), lost=(),
            bytes_to_write=manifest_bytes(chosen), placements=found.placements, notices=(), beside=found.beside,
            sector_size=disk.sector_size,
        )  # fmt: skip
        plan = _with_anew(plan, stored)
        plan = replace(plan, steps=tuple(beside_steps(plan, found.beside)))
        return replace(plan, reasons=tuple(beside_reasons(plan, found.beside)))

    def _look(
        self, disk: StoredDisk, part: StoredPartition | None, options: RestoreOptions
    ) -> tuple[TargetIdentity | None, int, tuple[LeftPlace, ...], tuple[str, ...]]:
        """The target, its size, places of it where nothing is written, and what is lost there."""
        if not os.path.exists(self._path):
            if options.onto is not None:
                raise TargetError(f"{self._path} does not exist, so it has no partition", hint="Name an existing disk.")
            places = find_left_places(disk, None, wipe=options.wipe) if part is None else ()
            return None, part.size if part else disk.size, places, ()
        target = identify_target(self._path)
        places = find_left_places(disk, self._path, wipe=options.wipe) if part is None else ()
        return target, target.size, places, tuple(describe_contents(self._path, staying(places)))

    def _sector_size(self, stored: DiskInImage, part: StoredPartition | None, options: RestoreOptions) -> int:
        """Bytes of the target's sectors; others than those of the saved disk are possible for one fitted partition."""
        if not os.path.exists(self._path):
            return stored.disk.sector_size
        sector_size = find_sector_size(self._path, stored.disk.sector_size)
        if part is None or not options.fit:
            refuse_other_sectors(stored, part, self._path, sector_size)
        return sector_size

    def _choose_place(
        self, target_size: int, stored: DiskInImage, part: StoredPartition | None, options: RestoreOptions, *,
        sector_size: int,
    ) -> Extent:  # fmt: skip
        """The bytes of the target that will be written."""
        path = self._path
        room, name = Extent(0, target_size), path
        if options.onto is not None:
            with open_file_reader(path) as reader:
                layout = read_layout(reader)
            found = [target.extent for target in layout.partitions if target.number == options.onto]
            if not found:
                raise TargetError(f"{path} has no partition {options.onto}", hint="'stillframe disks' lists them.")
            room, name = found[0], f"partition {options.onto} of {path}"
        if part is None:
            return room
        if options.fit:
            fitting = fit_partition(stored, part, room.size, self._asked, sector_size=sector_size)
            return Extent(room.start, room.start + fitting)
        size = part.size
        if room.size < size:
            raise TargetError(
                f"{name} is too small: {format_size(room.size)}, and the partition needs {format_size(size)} "
                f"({format_size(size - room.size)} more)",
                hint="Choose a larger one; '--fit' makes what is in it smaller where that is possible.",
            )
        return Extent(room.start, room.start + size)

    def _conversion(
        self, stored: DiskInImage, size: int, options: RestoreOptions, places: Sequence[LeftPlace]
    ) -> Conversion | None:
        """What becomes of a disk that is to start in another way; ``None`` when none is."""
        if options.convert is None:
            return None
        _refuse_to_move(places, "--convert")
        return plan_conversion(stored, size, options.convert, options, self._asked)

    def _fitted(
        self, stored: DiskInImage, size: int, options: RestoreOptions, places: Sequence[LeftPlace]
    ) -> Fitted | None:
        """Where the partitions of a whole disk go; ``None`` when all stay as they were and none is left out."""
        if options.fit:
            _refuse_to_move(places, "--fit")
            return fit_disk(stored, size, options, self._asked)
        if options.moves or options.leave_out:
            _refuse_to_move([one for one in places if one.partition.number in options.moves], "--move")
            return place_disk(stored, size, options)
        _check_table_fits(stored, size)
        return None


def _with_anew(plan: RestorePlan, stored: DiskInImage) -> RestorePlan:
    """The plan, with what is made anew and what must be known."""
    plan = replace(plan, made_anew=parts_made_anew(plan, stored))
    return replace(plan, notices=(*restore_notices(plan), *anew_notices(plan, stored)))


def _refuse_to_move(places: Sequence[LeftPlace], option: str) -> None:
    """Refuse to move partitions of a target that stay as they are.

    Raises:
        TargetError: There are such.
    """
    stay = [str(place.partition.number) for place in places if place.stays]
    if stay:
        raise TargetError(
            f"partition {', '.join(stay)} is not in this image, and what lies in its place on the target stays there: "
            f"'{option}' would move it",
            hint=f"Restore without '{option}', without that partition ('--leave-out {stay[0]}'), or onto another disk.",
        )


def _check_table_fits(stored: DiskInImage, target_size: int) -> None:
    outside, disk = stored.outside(), stored.disk
    layout = stored_layout(disk, outside)
    if layout.scheme == "none" and target_size < disk.size:
        raise TargetError(
            f"the target is too small by {format_size(disk.size - target_size)}",
            hint="Choose a larger one; '--fit' makes partitions smaller where that is possible.",
        )
    fit_table(layout, outside, target_size)
