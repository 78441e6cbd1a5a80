"""Programs that say what they do while they do it, and programs that a person uses.

Answers: "how far is it, and how is it stopped?" A program that talks is asked to stop when whoever started it ends.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from stillframe.host.linux import memory_file
from stillframe.host.run import Process, launch

_ERRORS_MAX = 4096


class Talking:
    """A program that runs and is listened to. ``start_talking`` makes it."""

    def __init__(self, process: Process, errors: int) -> None:
        self._process = process
        self._errors = errors

    def lines(self) -> Iterator[bytes]:
        """What it writes, line by line, until it ends."""
        if self._process.stdout is not None:
            yield from self._process.stdout

    def interrupt(self) -> None:
        """Ask it to stop, as Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait()

    def last_words(self) -> str:
        """The last line that it wrote to its standard error."""
        os.lseek(self._errors, max(os.lseek(self._errors, 0, os.SEEK_END) - _ERRORS_MAX, 0), os.SEEK_SET)
        lines = os.read(self._errors, _ERRORS_MAX).decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


@contextmanager
def start_talking(arguments: Sequence[str], *, given: bytes = b"") -> Iterator[Talking]:
    """Run a program and read what it says meanwhile; a block that is left early asks it to stop, and waits.

    Args:
        arguments: Program and arguments.
        given: What it reads on its standard input, at most as much as a pipe holds: a secret has its place here.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    if sys.platform == "linux":  # the kernel asks it when the thread that started it ends
        arguments = ["setpriv", "--pdeathsig", "TERM", *arguments]
    errors = memory_file("errors")
    try:
        with launch(arguments, errors=errors) as process:
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.write(given)
                    process.stdin.close()
            talking = Talking(process, errors)
            try:
                yield talking
            except BaseException:
                talking.interrupt()
                raise
    finally:
        os.close(errors)


def run_shown(arguments: Sequence[str]) -> int:
    """Run a program that a person uses at this terminal, until it ends; its exit code.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    with launch(arguments) as process:
        return process.wait()
