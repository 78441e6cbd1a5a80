"""A restore that makes a disk start in another way: what was asked, and what was found and decided. Records.

Answers: "what will this disk be afterwards?" Decided in ``planning``, carried out in ``grub_starts`` and
``windows_starts_uefi``.
"""

from dataclasses import dataclass
from typing import Literal

from stillframe.disk import Layout, Partition
from stillframe.disk.converting import Draft, StartsBy
from stillframe.jobs.restoring.fitted import Fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertWish:
    """What a person asked for.

    Attributes:
        starts_by: What is to start the disk.
        esp_size: How large a new EFI system partition is, in bytes.
        is_experimental: What was never proven may be done.
    """

    starts_by: StartsBy
    esp_size: int | None = None
    is_experimental: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxOnDisk:
    """The Linux of a disk that is to start in another way. Partitions are named by their numbers in the image.

    Attributes:
        name: As people say it.
        folder: What its files are below in an EFI system partition, such as ``debian``.
        root: The partition with ``/``.
        boot: The partition with the boot menu.
        loader: ``signed`` when its own shim and GRUB are used, which firmware with Secure Boot starts; else ``made``.
    """

    name: str
    folder: str
    root: int
    boot: int
    loader: Literal["signed", "made"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsOnDisk:
    """The Windows of an MBR disk that is to start by UEFI.

    Attributes:
        name: As people say it.
        number: Its partition, in the image.
        version: Such as ``(6, 1, 7601)``.
        esp_used: Bytes that it takes in an EFI system partition.
    """

    name: str
    number: int
    version: tuple[int, int, int]
    esp_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What becomes of a disk.

    Attributes:
        draft: Its partitions under the new table.
        layout: Them at their places on the target.
        system: What is to start.
        esp_id: The id of a new FAT, eight hex digits.
        fitted: How its places and sizes were decided, by the numbers of the source.
    """

    draft: Draft
    layout: Layout
    system: LinuxOnDisk | WindowsOnDisk
    esp_id: str
    fitted: Fitted

    def takes(self, number: int) -> bool:
        """Whether this partition of the source is taken over."""
        return number in self.draft.numbers

    @property
    def linux(self) -> LinuxOnDisk:
        """The Linux that is to start.

        Raises:
            TypeError: It is a Windows: a bug of the caller.
        """
        if not isinstance(self.system, LinuxOnDisk):
            raise TypeError(f"{self.system.name} is no Linux")
        return self.system

    @property
    def starts_by(self) -> StartsBy:
        """What starts it."""
        return self.draft.starts_by

    @property
    def added(self) -> tuple[Partition, ...]:
        """Partitions that the source has not."""
        new = {part.number for part in self.draft.new}
        return tuple(part for part in self.layout.partitions if part.number in new)
