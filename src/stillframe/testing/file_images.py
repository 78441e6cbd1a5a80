"""A volume as a partition of an image, for tests of what reads its files, and what a folder holds afterwards.

Answers: "what would a person have got?" The partition is a volume in memory, as if an image had it.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from stillframe.block import BlockReader, MemoryDisk
from stillframe.events import RecordedEvents
from stillframe.host.destination import open_destination
from stillframe.jobs.browsing import ListedFile, Look, iter_files
from stillframe.jobs.exposing import ExposedPartition
from stillframe.jobs.getting import Tally, get_files
from stillframe.jobs.pipeline import CancelToken
from stillframe.testing.sample_repository import sample_partition

EVERYTHING: Final = Look(recursive=True)


def partition_of(contents: bytes | BlockReader, *, left_out: Sequence[tuple[int, int]] = ()) -> ExposedPartition:
    """A partition with these bytes, of which some ranges were left out of the image."""
    reader = MemoryDisk(contents) if isinstance(contents, bytes) else contents
    stored = replace(sample_partition(), excluded=tuple(left_out))
    return ExposedPartition(stored=stored, reader=reader)


def list_all(part: ExposedPartition, look: Look = EVERYTHING) -> list[object]:
    """Files and notices, in their order."""
    return [one for bundle in iter_files(part, look, cancel=CancelToken()) for one in bundle]


def listed(part: ExposedPartition, look: Look = EVERYTHING) -> dict[str, ListedFile]:
    """Files by path."""
    return {one.path: one for one in list_all(part, look) if isinstance(one, ListedFile)}


def get_all(part: ExposedPartition, folder: Path, *names: str, overwrite: bool = False) -> Tally:
    """Get everything, or some paths, into a folder."""
    places = [tuple(os.fsencode(name) for name in path.split("/")) for path in names] or [()]
    with open_destination(str(folder), overwrite=overwrite) as destination:
        return get_files(part, places, destination, events=RecordedEvents(), cancel=CancelToken())


def traits_of(folder: Path, *, with_modes: bool = True) -> dict[bytes, tuple[Any, ...]]:
    """Type, permissions, owner, time and contents of everything below a folder, by name."""
    found: dict[bytes, tuple[Any, ...]] = {}
    root = os.fsencode(folder)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            facts = os.lstat(path)
            contents: object = None
            if stat.S_ISREG(facts.st_mode):
                contents = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(facts.st_mode):
                contents = os.readlink(path)
            owned = (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid) if with_modes else ()
            key = os.path.relpath(path, root)
            found[key] = (stat.S_IFMT(facts.st_mode), *owned, facts.st_mtime_ns, contents)
    return found
