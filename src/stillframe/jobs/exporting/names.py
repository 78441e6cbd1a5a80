"""Names of exported files: the format that a name means, the parts of a split one, names while they are written.

Answers: "which files will there be, which are in the way, and what is a file called until it is complete?"
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.errors import TargetError

FORMATS: Final = ("raw", "qcow2", "vhdx", "vhd", "vmdk")
PARTS_MAX: Final = 999
"""Numbers of parts have three digits, so that a plain sort is their order."""
_ENDINGS: Final = {".qcow2": "qcow2", ".vhdx": "vhdx", ".vhd": "vhd", ".vmdk": "vmdk"}
_LINE_MAX: Final = 8000
"""Longest line that Windows' command interpreter takes, rounded down. Source: Microsoft, "Command prompt line string
limitation": 8191 characters."""
STANDARD_OUTPUT: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file of an export. ``sha256`` in hexadecimal, empty where it was not made."""

    path: str
    size: int
    sha256: str = ""


def format_of(path: str, asked: str) -> str:
    """The format: what was asked for, else what the ending of the name means, else raw."""
    return asked or _ENDINGS.get(os.path.splitext(path)[1].lower(), "raw")


def is_stream(path: str) -> bool:
    """Whether bytes go there one after the other: standard output, or a pipe."""
    return path == STANDARD_OUTPUT or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def part_path(path: str, number: int) -> str:
    """The name of a part, counted from 1."""
    return f"{path}.{number:03}"


def checksum_path(path: str) -> str:
    """The name of the file with the checksums of the parts."""
    return f"{path}.sha256"


def files_in_the_way(path: str, *, is_split: bool) -> list[str]:
    """Files that an export would replace; of a split one also older parts, which would be joined with the new ones."""
    if not is_split:
        return [path] if os.path.lexists(path) else []
    folder, name = os.path.split(os.path.abspath(path))
    wanted = re.compile(re.escape(name) + r"\.(\d{3}|sha256)\Z")
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, other) for other in found if wanted.match(other)]


@contextmanager
def unfinished(path: str) -> Iterator[str]:
    """A name beside ``path`` to write to; whatever is there at the end of the block is removed."""
    folder, name = os.path.split(os.path.abspath(path))
    written = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}.unfinished")
    try:
        yield written
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)


def put_in_place(written: str, path: str, *, overwrite: bool) -> None:
    """Give a complete file its name.

    Raises:
        TargetError: Something came into being there meanwhile.
    """
    if not overwrite and os.path.lexists(path):
        raise TargetError(
            f"{path} came into being while the export was made", hint="Name another file, or add '--overwrite'."
        )
    try:
        os.replace(written, path)
    except OSError as error:
        raise TargetError(f"{path} cannot be made: {error.strerror}", hint="Name another file.") from error


def checksum_text(path: str, parts: Sequence[WrittenFile]) -> str:
    """What ``sha256sum -c`` reads: a line for each part. Comments say how the parts are joined."""
    name, names = os.path.basename(path), [os.path.basename(part.path) for part in parts]
    joined = "copy /b " + "+".join(f'"{part}"' for part in names) + f' "{name}"'
    quoted = "'" + name.replace("'", "'\\''") + "'"
    comments = [f"# Check:           sha256sum -c {quoted}.sha256", f"# Join:            cat {quoted}.??? > {quoted}"]
    if len(joined) <= _LINE_MAX:
        comments.append(f"# Join on Windows: {joined}")
    rows = [_checksum_row(part.sha256, part_name) for part, part_name in zip(parts, names, strict=True)]
    return "".join(f"{line}\n" for line in (*(_one_line(comment) for comment in comments), *rows))


def _one_line(text: str) -> str:
    return text.replace("\r", "?").replace("\n", "?")


def _checksum_row(digest: str, name: str) -> str:
    """One row: a name with a backslash or newline is escaped, and a backslash stands before all.

    Source: GNU Coreutils manual, "md5sum invocation".
    """
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{chr(92) if escaped != name else ''}{digest}  {escaped}"
