"""An empty FAT32, such as a new EFI system partition.

Answers: "make a file system here that firmware reads." What is put into it is for ``esp_files``.

Source: mkfs.fat(8); UEFI Specification 2.10, section 13.3.1.1 "System Partition" (FAT32 on hard disks).
"""

from typing import Final

from stillframe.host.run import run

PROGRAMS: Final = ("mkfs.fat", "mcopy", "mdir", "mmd")
"""What is needed to make one and to fill it."""
_LIMIT_S: Final = 300.0


def make_fat(device: str, *, label: str, volume_id: str) -> None:
    """Make an empty FAT32; what was there is lost.

    Args:
        device: A partition of a disk that is ours, or a file.
        label: At most 11 letters.
        volume_id: Eight hex digits.

    Raises:
        MachineRefusal: It was not made.
    """
    command = ["mkfs.fat", "-F", "32", "-n", label, "-i", volume_id, device]
    run(command, timeout_s=_LIMIT_S).require_success(hint="'--convert uefi=SIZE' makes the partition larger.")
