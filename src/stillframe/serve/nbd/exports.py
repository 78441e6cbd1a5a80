"""What is served: named disks, and what is said of each.

Answers: "what can a client do with this export?"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, BlockWriter
from stillframe.errors import UsageError
from stillframe.serve.nbd import protocol as nbd

BLOCK_SIZE_MIN: Final = 1
BLOCK_SIZE_PREFERRED: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A disk under a name.

    Attributes:
        name: How a client asks for it; whoever asks for the empty name gets the only export.
        disk: What is read.
        writer: What is written, and then also read; ``None`` serves ``disk`` read-only. It must show a write to every
            thread at once, and its flush must keep what any thread wrote: several connections share it.
        description: Words for a person who lists the exports.
    """

    name: str
    disk: BlockReader
    writer: BlockWriter | None = None
    description: str = ""

    @property
    def shown(self) -> BlockReader:
        """What a client reads."""
        return self.writer or self.disk

    def flags(self, *, structured: bool) -> int:
        """The transmission flags."""
        flags = nbd.SEND_HAS_FLAGS | nbd.SEND_FLUSH | nbd.SEND_MULTI_CONN | nbd.SEND_CACHE
        flags |= nbd.SEND_DF if structured else 0
        if self.writer is None:
            return flags | nbd.SEND_READ_ONLY
        return flags | nbd.SEND_FUA | nbd.SEND_TRIM | nbd.SEND_WRITE_ZEROES


class ExportList:
    """The exports of a server, by name.

    Raises:
        UsageError: There is none, two have one name, or a name is too long for the protocol.
    """

    def __init__(self, exports: Sequence[Export]) -> None:
        self.exports: Final = tuple(exports)
        names = [export.name for export in exports]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            which = f"two disks have the name {twice[0]!r}" if twice else "no disk was given"
            raise UsageError(f"{which}: nothing can be served", hint="Give each disk a name of its own.")
        for text in (*names, *(export.description for export in exports)):
            if len(text.encode("utf-8", "surrogateescape")) > nbd.STRING_MAX or "\0" in text:
                raise UsageError(
                    f"the name {text[:40]!r}... cannot be served", hint="At most 4096 bytes, none of them 0."
                )
        self._by_name = {
            name.encode("utf-8", "surrogateescape"): export for name, export in zip(names, exports, strict=True)
        }

    def find(self, name: bytes) -> Export | None:
        """The export of a name."""
        if not name and len(self.exports) == 1:
            return self.exports[0]
        return self._by_name.get(name)
