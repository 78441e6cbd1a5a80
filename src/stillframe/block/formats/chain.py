"""Disk files that rest on others: which were opened on the way down, and when it is too deep or a loop.

Answers: "may this file be the one below?"
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from stillframe.block.file import open_file_reader
from stillframe.block.formats.mapped import DiskFile
from stillframe.block.formats.raw import open_raw_disk
from stillframe.errors import DiskFormatError

DEPTH_MAX: Final = 64
"""So many files may rest on one another. VMware stops at 32 snapshots, Hyper-V at 50; QEMU has no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The way down so far.

    Attributes:
        above: Real paths of the files that rest on the next one, the topmost first.
        open_next: Opens a file by its path.
    """

    above: tuple[str, ...] = ()
    open_next: "Callable[[str, Chain], DiskFile] | None" = field(default=None)

    def entered(self, path: str, open_next: "Callable[[str, Chain], DiskFile]") -> "Chain":
        """The chain with one more file.

        Raises:
            DiskFormatError: The file was there already, or the chain is too long.
        """
        real = os.path.realpath(path)
        if real in self.above:
            raise DiskFormatError(
                f"{self.above[-1]} rests on {real}, which rests on it: the chain of files is a loop",
                hint="Find the file that it was made from; a file may have been renamed to another one's name.",
            )
        if len(self.above) >= DEPTH_MAX:
            raise DiskFormatError(
                f"{self.above[0]} rests on a chain of more than {DEPTH_MAX} files",
                hint="Merge its snapshots with the program that made them first.",
            )
        return Chain(above=(*self.above, real), open_next=open_next)

    def below(self, path: str, *, named: str) -> DiskFile:
        """Open the file that the last one rests on.

        Args:
            path: Where it is looked for.
            named: What the file above calls it, for messages.

        Raises:
            DiskFormatError: It is not there.
        """
        self._require_file(path, named)
        if self.open_next is None:
            raise AssertionError(path)
        return self.open_next(os.path.realpath(path), self)

    def below_raw(self, path: str, *, named: str) -> DiskFile:
        """The same for a file that is known to be raw, whatever its bytes look like."""
        self._require_file(path, named)
        return open_raw_disk(open_file_reader(os.path.realpath(path)))

    def _require_file(self, path: str, named: str) -> None:
        if not os.path.isfile(path):
            raise DiskFormatError(
                f"{self.above[-1]} rests on {named}, and there is no file {path}",
                hint="Put the file that it was made from beside it: without that most of the disk is missing.",
            )

    def beside(self, name: str) -> str:
        """The path that a name means which is written in the last file: relative to that file's folder."""
        return os.path.join(os.path.dirname(self.above[-1]), name)
