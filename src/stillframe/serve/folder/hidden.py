"""Disk files in a folder that nobody else sees, for the kernel and for programs of others.

Answers: "let something that wants a file work on this reader." Everything that was mounted from the files is taken away
before the files are.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stillframe.host.attaching import Keeper
from stillframe.serve.folder.operations import DiskFile, Reported
from stillframe.serve.folder.serving import serve_folder


@contextmanager
def _same_folder() -> Iterator[Callable[[], None]]:
    """Gives what goes back to the folder that this process is in: libfuse leaves it for ``/`` when it begins to serve.

    Paths that a person wrote without their folder would mean others from then on. Source: libfuse lib/helper.c,
    ``fuse_daemonize``.
    """
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # whoever may be there need not be able to list it
    try:
        yield lambda: os.chdir(here)
    finally:
        os.close(here)


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
    with _same_folder() as come_back, serve_folder(files, disks, reported, name=name, for_kernel=True):
        come_back()
        mark = keeper.mark
        try:
            yield hidden
        finally:
            keeper.undo_to(mark)
