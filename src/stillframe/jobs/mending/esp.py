"""The EFI system partition of a disk, made anew where there is nothing in it.

Answers: "can loaders be put onto it?" One that holds anything that is not known is left as it is.
"""

from typing import Final

from stillframe.block import WindowReader
from stillframe.disk import Layout, Partition
from stillframe.errors import MachineRefusal
from stillframe.fs.registry import identify
from stillframe.host.esp_files import FatVolume
from stillframe.host.new_fat import make_fat
from stillframe.jobs.starts.linux_parts import ESP_TYPES
from stillframe.jobs.starts.workbench import Workbench

_STEP: Final = 4 << 20
_LABEL: Final = "ESP"


def find_esp(layout: Layout) -> Partition | None:
    """The EFI system partition by its type; ``None`` when there is none, or there are several."""
    found = [part for part in layout.partitions if part.type in ESP_TYPES]
    return found[0] if len(found) == 1 else None


def require_fat(bench: Workbench, part: Partition, volume_id: str) -> tuple[FatVolume, tuple[str, ...]]:
    """The files of an EFI system partition, made anew in one that is all zeros; and what was done, in words.

    Args:
        bench: The disk.
        part: The partition.
        volume_id: Eight hex digits, by which tables may name it.

    Raises:
        MachineRefusal: Something else is in it.
    """
    volume = FatVolume(path=bench.disk.node(part.number))
    kind = identify(WindowReader(bench.view, part.extent)).volume.filesystem
    if kind == "vfat":
        return volume, ()
    if kind or not _is_blank(bench, part):
        raise MachineRefusal(
            f"partition {part.number} is an EFI system partition by its type, and holds "
            f"{kind or 'something that is not known'}; it is not made anew",
            hint="If nothing in it is needed: make an image first, then 'mkfs.fat -F 32' on it, and repair again.",
        )
    make_fat(volume.path, label=_LABEL, volume_id=volume_id)
    return volume, (f"partition {part.number} was empty, and is a new EFI system partition",)


def _is_blank(bench: Workbench, part: Partition) -> bool:
    for start in range(part.extent.start, part.extent.end, _STEP):
        if any(bench.view.read_at(start, min(_STEP, part.extent.end - start))):
            return False
    return True
