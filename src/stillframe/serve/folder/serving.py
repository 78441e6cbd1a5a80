"""A folder that is served until somebody unmounts it.

Answers: "show this there." libfuse runs in a thread of its own and answers from several; the main thread stays free for
Ctrl-C. libfuse 3 is asked for by name: where version 2 is there too, it would be taken.
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from stillframe.errors import MachineRefusal, StillframeError
from stillframe.hanging import leave_behind, patience
from stillframe.host.attaching import is_mount_point
from stillframe.host.linux import is_root
from stillframe.host.run import find_program, run
from stillframe.serve.folder.operations import (
    MAX_READ,
    ChangeableOperations,
    DiskFile,
    Operations,
    Reported,
    ShownFolder,
)

_START_S: Final = 20.0
_END_S: Final = 30.0
_STEP_S: Final = 0.02
_HARMLESS: Final = (b"invalid max threads", b"unknown session")
"""mfusepy passes -1 for a number of threads; and a process with two sessions has one place for signal handlers."""


class ServedFolder:
    """A folder that is shown. ``serve_folder`` makes it."""

    def __init__(self, place: str, thread: threading.Thread, ended: threading.Event) -> None:
        self.place: Final = place
        self._thread = thread
        self._ended = ended

    @property
    def is_over(self) -> bool:
        """Whether somebody has unmounted it."""
        return self._ended.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is over, or for so long; whether it is over."""
        return self._ended.wait(timeout_s)

    def unmount(self, *, lazily: bool = False) -> str:
        """Unmount it; empty, or why that was not possible: a program has something in it open."""
        if self.is_over:
            return ""
        flags = ["--lazy"] if lazily else []
        if is_root():
            ended = run(["umount", *flags, "--", self.place])
        else:
            ended = run(["fusermount3", "-u", *(["-z"] if lazily else []), "--", self.place])
        if ended.exit_code:
            return ended.errors.decode(errors="replace").strip().splitlines()[-1] if ended.errors else "it is busy"
        self._ended.wait(patience(_END_S))
        self._thread.join(patience(_END_S))
        if self._thread.is_alive():  # what it reads for somebody hangs
            leave_behind(self._thread)
        return ""


@contextmanager
def serve_folder(
    shown: Sequence[DiskFile | ShownFolder], place: str, reported: Reported, *, name: str = "stillframe",
    for_others: bool = False, for_kernel: bool = False,
) -> Iterator[ServedFolder]:  # fmt: skip
    """Show disk files and folders at a place, until it is unmounted or the block ends.

    Args:
        shown: What is shown.
        place: An empty folder.
        reported: Is told of reads that failed; who reads gets an I/O error.
        name: What lists of mounts call it.
        for_others: Whether other users than this one may look; permissions are then checked by the kernel.
        for_kernel: Loop devices are made over its files: they are kept out of the page cache, which would read more
            than was asked for, and fail where bytes behind that cannot be read.

    Raises:
        MachineRefusal: FUSE is not possible here.
    """
    options: dict[str, Any] = {"direct_io": True} if for_kernel else {"kernel_cache": True, "ro": True}
    if for_others:
        options |= {"allow_other": True, "default_permissions": True}
    operations = (ChangeableOperations if for_kernel else Operations)(shown, reported)
    ended = threading.Event()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            _run_libfuse(operations, place, {"fsname": name, **options})
        except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
            failures.append(error)
        finally:
            ended.set()

    _require_fuse()
    thread = threading.Thread(target=serve, daemon=True, name=f"fuse {place}")
    thread.start()
    folder = ServedFolder(place, thread, ended)
    try:
        _await_start(folder, operations, failures)
        yield folder
    finally:
        if folder.unmount():
            folder.unmount(lazily=True)


def _require_fuse() -> None:
    """Raise ``MachineRefusal`` where FUSE is not possible, with the way to make it so."""
    if not os.path.exists("/dev/fuse"):
        raise MachineRefusal(
            "this machine has no /dev/fuse, so nothing can be shown as a folder",
            hint="Load it with 'modprobe fuse', or use 'stillframe get' and 'stillframe export'.",
        )
    if not is_root():
        find_program("fusermount3")


def _log(_level: int, words: bytes, values: int) -> None:
    """What libfuse says goes to standard error, but for two complaints that mean nothing here.

    Source: libfuse fuse_log.h, ``fuse_log_func_t``.
    """
    if not any(harmless in words for harmless in _HARMLESS):
        ctypes.CDLL(None).vdprintf(2, words, ctypes.c_void_p(values))


_LOG: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_log)


def _run_libfuse(operations: Operations, place: str, options: dict[str, Any]) -> None:
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        import mfusepy  # noqa: PLC0415 - it looks for libfuse when it is loaded
    except (ImportError, OSError) as error:
        raise MachineRefusal(
            f"libfuse 3 cannot be loaded: {error}",
            hint="On Debian or Ubuntu: sudo apt install fuse3. 'stillframe get' and 'export' need none.",
        ) from error
    mfusepy._libfuse.fuse_set_log_func(_LOG)  # noqa: SLF001 - mfusepy has no name of its own for it
    mfusepy.FUSE(operations, place, foreground=True, subtype="stillframe", max_read=MAX_READ, **options)


def _await_start(folder: ServedFolder, operations: Operations, failures: list[BaseException]) -> None:
    deadline = time.monotonic() + _START_S
    while not (operations.started.is_set() and is_mount_point(folder.place)):
        if failures and isinstance(failures[0], StillframeError):
            raise failures[0]
        if folder.is_over or time.monotonic() > deadline:
            words = f": {failures[0]}" if failures else ""
            raise MachineRefusal(
                f"{folder.place} could not be mounted{words}",
                hint="Is the folder empty and yours? 'stillframe get' and 'stillframe export' need no mount.",
            )
        time.sleep(_STEP_S)
