"""A disk in the format of a virtual machine, written by qemu-img, which reads it from us as a network block device.

Answers: "with which options does qemu-img write a format, and what did it stumble over?" The disk is served on a socket
that only this user can reach, for as long as the program runs.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.base import Buffer, KnownExtent, WrappedReader
from stillframe.errors import MachineRefusal, StillframeError, TargetError
from stillframe.events import BytesMoved
from stillframe.extents import Extent
from stillframe.host.run import Finished, run_watched
from stillframe.jobs.context import JobContext
from stillframe.serve.nbd import Export, nbd_server

_NAME: Final = "disk"
_DRIVERS: Final = {
    "qcow2": ("qcow2", ()),
    # Blocks of 1 MiB: the default of 8 MiB and more makes a small disk several times as large.
    "vhdx": ("vhdx", ("subformat=dynamic", "block_size=1048576")),
    # Else the size is rounded up to cylinders, and the second partition table is not at the end any more.
    "vhd": ("vpc", ("subformat=dynamic", "force_size=on")),
    "vmdk": ("vmdk", ("subformat=monolithicSparse",)),
}
"""Format to qemu-img's driver and options. Source: qemu-img(1), ``qemu-img convert -O DRIVER -o help``."""


class _WatchedReader(WrappedReader):
    """A reader that tells how much was read, and keeps the first error: the client sees only that there was one."""

    def __init__(self, inner: BlockReader, context: JobContext) -> None:
        super().__init__(inner)
        self._context = context
        self._lock = threading.Lock()
        self.error: StillframeError | None = None

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill ``buffer``."""
        with self._first_error():
            self._inner.read_into(offset, buffer)
        self._context.events.emit(BytesMoved(size=len(buffer)))

    def known_extents(self, within: Extent) -> Iterator[KnownExtent]:
        """What the inner reader knows."""
        with self._first_error():
            yield from self._inner.known_extents(within)

    @contextmanager
    def _first_error(self) -> Iterator[None]:
        try:
            yield
        except StillframeError as error:
            with self._lock:
                self.error = self.error or error
            raise


def convert(reader: BlockReader, written: str, name: str, *, path: str, context: JobContext) -> int:
    """Write a disk in a format.

    Args:
        reader: The disk.
        written: The file to make.
        name: One of ``FORMATS`` except ``raw``.
        path: What the file will be called, for messages.
        context: On whose behalf.

    Returns:
        Bytes of the file.

    Raises:
        DamagedError, DeviceError: The image cannot be read; as its reader says it.
        TargetError: There is no room, or the file system takes no such file.
        MachineRefusal: qemu-img failed in another way.
        Cancelled: The person stopped it.
    """
    watched = _WatchedReader(reader, context)
    driver, options = _DRIVERS[name]
    words = [word for option in options for word in ("-o", option)]
    _make_private(written, path)
    with tempfile.TemporaryDirectory(prefix="stillframe-export-") as folder:
        socket = os.path.join(folder, "nbd")
        with nbd_server([Export(name=_NAME, disk=watched)], socket=socket) as server:
            done = run_watched(
                ["qemu-img", "convert", "-f", "raw", "-O", driver, *words, server.uri(_NAME), _as_file(written)],
                check=context.cancel.check,
            )
    if watched.error is not None:
        raise watched.error
    _require_written(done, path)
    with open(written, "rb+") as file:
        os.fsync(file.fileno())
    return os.path.getsize(written)


def _make_private(written: str, path: str) -> None:
    """Make the file before qemu-img does: nobody else may read a disk."""
    try:
        os.close(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise TargetError(f"{path} cannot be made: {error.strerror}", hint="Name another folder.") from error


def _as_file(path: str) -> str:
    """A path that qemu-img takes for no protocol, whatever its name has in it."""
    return os.path.abspath(path)


def _require_written(done: Finished, path: str) -> None:
    text = done.errors.decode("utf-8", "replace")
    if done.exit_code and "No space left" in text:
        raise TargetError(f"there is no room left for {path}", hint="Name a folder on another disk.")
    if done.exit_code and "File too large" in text:
        raise TargetError(
            f"the file system takes no file as large as {path}",
            hint="Name a folder on another disk, or use '--format raw --split 4000M'.",
        )
    try:
        done.require_success(hint="The image is as it was. Try '--format raw'.")
    except MachineRefusal as error:
        raise MachineRefusal(f"{path} could not be made: {error.message}", hint=error.hint) from error
