"""What a clone will do, in words.

Answers: "what happens to the target, step by step?" Pure but for a look at which firmware this computer has.
"""

from typing import TYPE_CHECKING

from stillframe.capture import CapturedDisk
from stillframe.host.target import TargetIdentity
from stillframe.jobs.starts import efi_start
from stillframe.units import format_size

if TYPE_CHECKING:
    from stillframe.jobs.clone import CloneOptions


def clone_steps(
    disk: CapturedDisk, target_path: str, target: TargetIdentity | None, size: int, options: "CloneOptions"
) -> list[str]:
    """What will be done, a line for each step; ``target`` is ``None`` for a file to be made."""
    steps = [f"make {target_path}, a sparse file of {format_size(size)}"] if target is None else []
    steps.append("clear the partition table that is there")
    for volume in disk.volumes:
        name = volume.volume.filesystem or volume.partition.type_name
        steps.append(f"copy partition {volume.partition.number}: {name}, {format_size(volume.kept.size)} in use")
    if options.new_identity or options.adapt:
        steps.append("change what the systems on it need changed, on a copy of what was written")
    steps.append("write what lies between partitions, then the partition table")
    types = [part.type for part in disk.layout.partitions]
    return [*steps, *efi_start.told_steps(target, types, is_copy=options.new_identity)]
