"""Opening a source: read-only, refused while something may write to it, and asked again afterwards.

Answers: "may this be copied, and did it stay still?" A source in use is copied only when the person insists, and then
it is ``torn``: never called good, never a baseline.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from stillframe.block.file import FileReader, open_file_reader
from stillframe.capture.source import CapturedDisk, Consistency, Selection, capture_disk
from stillframe.errors import SourceInUse
from stillframe.events import Notice
from stillframe.host.changes import ChangeStamp, change_stamp
from stillframe.host.disks import DiskFacts, describe
from stillframe.host.mounts import Use, users_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSource:
    """A source that is open for reading. Use as a context; it is closed at the end."""

    facts: DiskFacts
    reader: FileReader
    consistency: Consistency
    notices: tuple[Notice, ...]
    stamp: ChangeStamp | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.reader.close()

    def capture(self, selection: Selection) -> CapturedDisk:
        """Decide which bytes matter; the source's own consistency counts, not the selection's."""
        wanted = Selection(
            all_sectors=selection.all_sectors,
            include_paging=selection.include_paging,
            exclude=selection.exclude,
            consistency=self.consistency,
        )
        return capture_disk(self.reader, self.facts, wanted)

    def stayed_still(self) -> bool:
        """Whether, seen from now, nothing has written to it since it was opened, and nobody can."""
        path = self.facts.path
        return self.consistency == "offline" and not _writers(path) and change_stamp(path) == self.stamp


def open_source(path: str, *, allow_torn: bool = False) -> OpenSource:
    """Open a disk, a partition or a disk file for reading.

    Raises:
        UsageError: There is no such thing.
        SourceInUse: It is mounted read-write, or something else may write to it.
        MachineRefusal: This user may not read it.
    """
    facts = describe(path)
    writers = _writers(facts.path)
    if writers and not allow_torn:
        raise SourceInUse(
            f"{facts.path} is in use: {_in_words(writers)}",
            hint="Unmount it, or start the computer from a rescue stick. "
            "'--allow-torn' copies it as it changes: such an image may be unusable and is never called good.",
        )
    notices: tuple[Notice, ...] = ()
    if writers:
        notices = (
            Notice(
                code="source-torn",
                message=f"{facts.path} was copied while in use ({_in_words(writers)}): this image may be unusable",
                hint="Unmount it and make another.",
            ),
        )
    stamp = change_stamp(facts.path)
    return OpenSource(
        facts=facts, reader=open_file_reader(facts.path), consistency="torn" if writers else "offline",
        notices=notices, stamp=stamp,
    )  # fmt: skip


def _writers(path: str) -> tuple[Use, ...]:
    return tuple(use for use in users_of(path) if use.read_write)


def _in_words(uses: tuple[Use, ...]) -> str:
    words = [
        f"{use.device} is mounted at {use.where}" if use.kind == "mounted" else f"{use.device} is used by {use.where}"
        for use in uses
    ]
    return "; ".join(words[:3]) + (f"; and {len(words) - 3} more" if len(words) > 3 else "")
