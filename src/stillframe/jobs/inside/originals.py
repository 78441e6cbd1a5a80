"""The volumes of an image as they are on this computer now.

Answers: "is the original of this partition here, and how are its files read?" A volume is known again by the kind and
the UUID of its file system. What is mounted is read through its mount, which is always right; what nobody uses, as it
lies on the disk.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from stillframe.block import BlockReader, CachedReader, WindowReader
from stillframe.block.file import FileReader
from stillframe.block.formats import DiskFile
from stillframe.disk.layout import read_layout
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.extents import Extent
from stillframe.fs.base import Volume
from stillframe.fs.files.contents import open_contents
from stillframe.fs.files.mounted import MountedFiles
from stillframe.fs.files.source import FileSource
from stillframe.fs.registry import identify
from stillframe.host.blocks import BlockTree, read_block_tree
from stillframe.host.disks import DiskFacts, describe, list_disks
from stillframe.host.mounted_files import is_mounted_at
from stillframe.host.mounts import Use, read_mounts, users_of_place
from stillframe.jobs.inside.here import read_here
from stillframe.jobs.inside.replayed import replayed_view
from stillframe.jobs.inside.volume_names import inner_word
from stillframe.jobs.inside.volumes import look_inside_disks
from stillframe.jobs.looking import open_disk
from stillframe.repo.records import Manifest, StoredPartition

_CARRIERS: Final = frozenset({"LVM2_member", "linux_raid_member"})

Key = tuple[str, str]
"""Kind and UUID of a file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A volume of this computer.

    Attributes:
        disk: The disk or disk file that it is on.
        place: Where it lies there.
        volume: What is in it.
        mounted_at: Where all its files are seen; empty when it is not mounted.
        obstacle: Why its files cannot be read; empty when they can.
        inner: Of a volume inside of that place, such as ``vg/root``.
    """

    disk: DiskFacts
    place: Extent
    volume: Volume
    mounted_at: str = ""
    obstacle: str = ""
    inner: str = ""

    @property
    def where(self) -> str:
        """For people."""
        return self.mounted_at or self.disk.path


def key_of(part: StoredPartition) -> Key | None:
    """By what the original of a partition is known again; ``None`` when nothing tells it from others."""
    return (part.filesystem, part.uuid) if part.filesystem and part.uuid else None


def find_originals(manifest: Manifest, volumes: Iterable[StoredPartition]) -> dict[Key, Original]:
    """The volumes of an image that are on this computer: on the disks it was made of, or on any other.

    Args:
        manifest: The image.
        volumes: Those that are looked for: partitions, and volumes inside of these.
    """
    wanted = {key for part in volumes if (key := key_of(part))}
    known = [disk.path for disk in manifest.disks if os.path.exists(disk.path)]
    tree, found = read_block_tree(), dict[Key, Original]()
    # An open logical volume is a device of its own, whatever it rests on.
    opened = [node.path for node in tree.nodes.values() if node.mapped_name]
    paths = dict.fromkeys([*known, *(facts.path for facts in list_disks(loops=True)), *opened])
    for path in paths if wanted else ():
        try:
            for original in _volumes_of(describe(path), tree):
                key = (original.volume.filesystem, original.volume.uuid)
                if key in wanted and (key not in found or found[key].obstacle):
                    found[key] = original
        except StillframeError:
            continue  # a disk that cannot be read holds no original that could be compared
    return found


@contextmanager
def original_files(original: Original) -> Iterator[FileSource]:
    """The files of a volume, until the end.

    Raises:
        MachineRefusal: They cannot be read here.
        StillframeError: The volume is broken, or its disk failed.
    """
    if original.obstacle:
        raise MachineRefusal(original.obstacle, hint="Mount the whole file system, or unmount it, and run this again.")
    if original.mounted_at:
        yield MountedFiles(original.mounted_at)
        return
    with open_disk(original.disk) as disk:
        reader: BlockReader = WindowReader(disk, original.place)
        if original.inner:
            reader = _open_inner(original, disk)
        view, _ = replayed_view(reader, original.volume)
        source = open_contents(CachedReader(view), original.volume)
        if source is None:
            raise MachineRefusal(
                f"the files of the {original.volume.filesystem} volume on {original.disk.path} are read only where it "
                "is mounted",
                hint="Mount it read-only, and run this again.",
            )
        yield source


def _volumes_of(facts: DiskFacts, tree: BlockTree) -> Iterator[Original]:
    whole = frozenset(mount.where for mount in read_mounts() if mount.root == "/")
    with open_disk(facts) as disk:
        layout = read_layout(disk)
        for place in [part.extent for part in layout.partitions] or [Extent(0, disk.size)]:
            volume = identify(WindowReader(disk, place)).volume
            if volume.uuid and volume.filesystem not in _CARRIERS:
                found = Original(disk=facts, place=place, volume=volume)
                uses = users_of_place(facts, place, tree)
                # Of a file it is only known that something in it is used: the loop device on it knows which part.
                is_known = facts.kind != "file" or place == Extent(0, disk.size)
                yield _judged(found, uses, whole if is_known else frozenset())
        yield from _inner_of(facts, disk, tree)


def _inner_of(facts: DiskFacts, disk: FileReader | DiskFile, tree: BlockTree) -> Iterator[Original]:
    """The volumes inside the partitions of a disk that is read by itself; what is open shows as a device."""
    exposed = read_here(disk)
    for one in look_inside_disks([exposed]).volumes:
        if one.part is None or not one.part.stored.uuid:
            continue
        carrier = exposed.partition(one.places[0][1]).stored
        place = Extent(carrier.start, carrier.start + carrier.size)
        if any(users_of_place(facts, place, tree)):
            continue
        stored = one.part.stored
        volume = Volume(
            filesystem=stored.filesystem, label=stored.label, uuid=stored.uuid, block_size=stored.block_size
        )  # fmt: skip
        yield Original(disk=facts, place=place, volume=volume, inner=inner_word(one))


def _open_inner(original: Original, disk: FileReader | DiskFile) -> BlockReader:
    """The bytes of a volume inside, again.

    Raises:
        MachineRefusal: It is not there any more.
    """
    for one in look_inside_disks([read_here(disk)]).volumes:
        if one.part is not None and inner_word(one) == original.inner and one.part.stored.uuid == original.volume.uuid:
            return one.part.reader
    raise MachineRefusal(
        f"volume {original.inner} on {original.disk.path} is not there any more", hint="Run this again."
    )


def _judged(found: Original, uses: tuple[Use, ...], whole: frozenset[str]) -> Original:
    """With how its files are read; ``whole`` are mount points that show all of a file system."""
    for use in uses:
        if use.kind == "mounted" and use.where in whole and is_mounted_at(use.device, use.where):
            return replace(found, mounted_at=use.where)
    words = f"{uses[0].device} is in use ({uses[0].where}), and not all of its files are seen there" if uses else ""
    return replace(found, obstacle=words)
