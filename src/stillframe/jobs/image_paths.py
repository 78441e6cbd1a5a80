"""What ``latest:office:3/etc/hosts`` means.

Answers: "which image, which partition, which path?" The first ``:`` that is followed by digits and then by ``/`` or the
end begins the partition; all before it is the image. A ``:`` at the very end says that there is no partition, for an
image whose name is digits: ``latest:2024:``. Behind the digits ``@NAME`` is a volume inside the partition: a logical
volume of LVM, or with no name what a RAID 1 holds: ``latest:3@root/etc/hosts``, ``latest:3@/etc/hosts``.
"""

import re
from dataclasses import dataclass
from typing import Final

from stillframe.errors import UsageError
from stillframe.fs.files.names import read_name

_WITH_PARTITION: Final = re.compile(
    r"(?P<image>.+?):(?P<number>[0-9]{1,9})(?:@(?P<volume>[A-Za-z0-9+_.-]*))?(?P<path>/.*)?", re.DOTALL
)
"""The letters are those of LVM's names: lvm(8) "Valid names"."""
_HINT: Final = "Write IMAGE:N/PATH, such as latest:3/etc/hosts; 'stillframe ls IMAGE' lists the partitions."


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePath:
    """A place inside an image.

    Attributes:
        image: The word for the image.
        partition: Its number; ``None`` when none was named.
        volume: The name of a volume inside the partition, which may be empty; ``None`` for the partition itself.
        names: Of the folders on the way and of the file, as bytes; none for the root.
    """

    image: str
    partition: int | None
    volume: str | None = None
    names: tuple[bytes, ...] = ()


def parse_image_path(text: str) -> ImagePath:
    """Take a word of the command line apart.

    Raises:
        UsageError: There is no image in it, or ``.`` or ``..`` in its path.
    """
    found = _WITH_PARTITION.fullmatch(text)
    if found is None:
        image = text.removesuffix(":")
        if not image:
            raise UsageError("no image is named", hint=_HINT)
        return ImagePath(image=image, partition=None)
    names = tuple(read_name(name) for name in (found["path"] or "").split("/") if name)
    if b"." in names or b".." in names:
        raise UsageError(f"{text}: '.' and '..' are not followed", hint=_HINT)
    return ImagePath(image=found["image"], partition=int(found["number"]), volume=found["volume"], names=names)


def parse_file_path(text: str) -> ImagePath:
    """As ``parse_image_path``, for verbs that need a partition."""
    place = parse_image_path(text)
    if place.partition is None:
        raise UsageError(f"{text}: no partition is named", hint=_HINT)
    return place
