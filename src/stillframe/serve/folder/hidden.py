"""Disk files in a folder that nobody else sees, for the kernel and for programs of others.

Answers: "let something that wants a file work on this reader." Everything that was mounted from the files is taken away
before the files are.
"""

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stillframe.host.attaching import Keeper
from stillframe.serve.folder.operations import DiskFile, Reported
from stillframe.serve.folder.serving import serve_folder


@contextmanager
def serve_hidden(files: Sequence[DiskFile], keeper: Keeper, reported: Reported, *, name: str) -> Iterator[str]:
    """Show files, until the block ends. Call it with one thread.

    Args:
        files: What is shown.
        keeper: Takes everything away, also what the caller makes with it meanwhile.
        reported: Is told of reads that failed.
        name: What lists of mounts call it.

    Yields:
        The hidden folder. The files are in its folder ``disks``; others may be made beside that.

    Raises:
        MachineRefusal: FUSE is not possible here.
    """
    # tempfile would make it before the keeper knows
    hidden = keeper.make_folder(f"{tempfile.gettempdir()}/stillframe-{os.getpid()}-{secrets.token_hex(4)}")
    disks = keeper.make_folder(f"{hidden}/disks")
    keeper.will("mount", disks)
    with serve_folder(files, disks, reported, name=name, for_kernel=True):
        mark = keeper.mark
        try:
            yield hidden
        finally:
            keeper.undo_to(mark)
