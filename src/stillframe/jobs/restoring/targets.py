"""What lies at a target, and why it may not be written: the same answers for ``restore`` and ``clone``.

Answers: "what would be lost there, and is it a place that must never be written?" Only looks. That the target is still
the same when the first byte is written is checked by ``host.target``.
"""

from collections.abc import Collection, Iterator

from stillframe.block import WindowReader
from stillframe.block.file import open_file_reader
from stillframe.capture import OpenSource
from stillframe.disk import read_layout
from stillframe.errors import DeviceError, DiskFormatError, TargetError
from stillframe.extents import Extent
from stillframe.fs.registry import identify
from stillframe.host.disks import describe
from stillframe.host.places import is_same, lies_on
from stillframe.units import format_size


def describe_contents(path: str, staying: Collection[Extent] = ()) -> Iterator[str]:
    """What is on a disk now, a line for each partition; nothing for a disk of zeros.

    Args:
        path: The disk.
        staying: Places that are not going to be written: a partition that is just one of them is not told.
    """
    with open_file_reader(path) as reader:
        try:
            layout = read_layout(reader)
        except (DiskFormatError, DeviceError) as error:
            yield f"something that cannot be read as partitions ({error.message})"
            return
        windows = [(f"partition {p.number}", p.extent, p.type_name) for p in layout.partitions]
        for name, extent, type_name in windows or [("the whole disk", Extent(0, reader.size), "")]:
            if extent in staying:
                continue
            volume = identify(WindowReader(reader, extent)).volume
            words = [volume.filesystem or type_name, f"'{volume.label}'" if volume.label else ""]
            if windows or volume.filesystem:
                yield f"{name}: {' '.join(word for word in words if word)}, {format_size(extent.size)}"


def refuse_repository(folder: str, target_path: str) -> None:
    """Refuse a target that holds the repository.

    Raises:
        TargetError: It does, or nobody can say.
    """
    verdict = lies_on(folder, target_path) if folder else False
    if verdict is None:
        raise TargetError(
            f"nobody can say whether {target_path} holds the repository", hint="Choose a target that surely does not."
        )
    if verdict:
        raise TargetError(
            f"{target_path} holds the repository at {folder}: it would destroy itself", hint="Choose another disk."
        )


def refuse_source(source: OpenSource, target_path: str) -> None:
    """Refuse a target that is the source, a part of its disk, or holds it.

    Raises:
        TargetError: Which of these.
    """
    facts, target = source.facts, describe(target_path)
    behind = [facts.backing] if facts.backing else []
    if any(is_same(path, target_path) for path in (*source.paths, *behind)):
        raise TargetError("the source and the target are the same disk", hint="Name another target.")
    if facts.path == target.parent or target.path == facts.parent:
        raise TargetError(f"{target_path} and {facts.path} are parts of one disk", hint="Name another target.")
    if facts.kind == "file" and any(lies_on(path, target_path) is not False for path in source.paths):
        raise TargetError(f"{target_path} holds the source {facts.path}", hint="Name another target.")


def require_same_sectors(path: str, sector_size: int) -> None:
    """Refuse a device whose sectors have another size than those of the saved disk. A file has none.

    Raises:
        TargetError: With what can be done about it.
    """
    facts = describe(path)
    if facts.kind != "file" and facts.sector_size != sector_size:
        raise TargetError(
            f"{path} has sectors of {facts.sector_size} bytes, the source of {sector_size}: a copy block by block "
            "would not start there",
            hint="Use a disk with the same sector size; some can be switched with 'nvme format' or the maker's tool.",
        )
