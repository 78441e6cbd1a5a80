"""The file that a differencing disk of Windows or VMware rests on, found by what the disk says of it.

Answers: "which of these names is there?" Such a name was written on another computer: backslashes, drive letters, and
folders that are not here. The file is looked for where a relative name says, then beside the file that names it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stillframe.block.formats.chain import Chain
from stillframe.block.formats.mapped import DiskFile
from stillframe.errors import DiskFormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentHint:
    """A name as it stands in the file; relative to the file's folder, or a path of the computer that wrote it."""

    name: str
    is_relative: bool


def find_parent(chain: Chain, hints: Sequence[ParentHint]) -> DiskFile:
    """Open the file below the last one of a chain.

    Raises:
        DiskFormatError: It is nowhere; or a loop, or broken.
    """
    for path in _candidates(chain, hints):
        if os.path.isfile(path):
            return chain.below(path, named=hints[0].name)
    names = ", ".join(dict.fromkeys(hint.name for hint in hints)) or "a file that it does not name"
    raise DiskFormatError(
        f"{chain.above[-1]} holds only what changed since {names}, and that file is not here",
        hint=f"Put it into the folder {os.path.dirname(chain.above[-1])}: without it most of the disk is missing.",
    )


@contextmanager
def require_parent(below: DiskFile, wanted: Sequence[str], *, path: str) -> Iterator[None]:
    """Check that the file below is the one that was meant; it is closed when it is not, or when the block fails.

    Raises:
        DiskFormatError: It is another file, or was used by itself since.
    """
    try:
        _compare(below, wanted, path)
        yield
    except BaseException:
        below.close()
        raise


def _compare(below: DiskFile, wanted: Sequence[str], path: str) -> None:
    if below.identity not in wanted or not below.identity:
        raise DiskFormatError(
            f"{path} rests on a file in the state {' or '.join(wanted)}, and {below.paths[0]} is in the state "
            f"{below.identity or '(none)'}",
            hint="It is another file of that name, or was written to after this one was made. Find the right one.",
        )


def _candidates(chain: Chain, hints: Sequence[ParentHint]) -> Iterator[str]:
    for hint in hints:
        if hint.is_relative:
            yield chain.beside(hint.name.replace("\\", "/"))
        elif hint.name.startswith("/"):
            yield hint.name
    for hint in hints:
        bare = re.split(r"[\\/]", hint.name)[-1]
        if bare and "\0" not in bare:
            yield chain.beside(bare)
