"""Programs of the person's that run right before and right after sources are held still.

Answers: "how does a database bring its files into order before the freeze, and learn that it is over?" The command is
an argument list, not a shell's line; ``sh -c '...'`` is one too. It must not write to what is going to be frozen after
it has ended, and whatever it holds, the second command lets go.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import HookFailed, MachineRefusal, UsageError
from stillframe.events import Notice
from stillframe.host.run import run

LIMIT_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What to run around a freeze.

    Attributes:
        before: Program and arguments; empty for none.
        after: The same; it runs whenever ``before`` was started, whatever came of it.
        limit_s: After so many seconds a program is stopped, which counts as a failure.
        on_failure: Whether a failure of ``before`` stops the backup. A failure of ``after`` is always a notice: the
            image is right, but something may still be held.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    limit_s: int = LIMIT_S
    on_failure: Literal["stop", "continue"] = "stop"


def parse_command(text: str, *, option: str) -> tuple[str, ...]:
    """Take a command line apart as a shell would, without running one.

    Raises:
        UsageError: A quote is not closed.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{option}: {text!r} cannot be taken apart: {error}", hint="Close the quote.") from error


@contextmanager
def hooked(hooks: Hooks, note: Callable[[Notice], None]) -> Iterator[None]:
    """Run one program before the block and one after it; ``note`` is told of a failure that stops nothing.

    Raises:
        HookFailed: The first one failed, and that is to stop the backup.
    """
    try:
        if hooks.before:
            _run_before(hooks, note)
        yield
    finally:
        if hooks.after:
            reason = _failure(hooks.after, hooks.limit_s)
            if reason:
                note(_notice("hook-after-failed", hooks.after, reason, "Look whether something is still held."))


def _run_before(hooks: Hooks, note: Callable[[Notice], None]) -> None:
    reason = _failure(hooks.before, hooks.limit_s)
    if not reason:
        return
    if hooks.on_failure == "stop":
        raise HookFailed(
            f"'{shlex.join(hooks.before)}' before the freeze failed: {reason}",
            hint="Run it by hand to see why, or add '--hook-failure continue'.",
        )
    note(_notice("hook-before-failed", hooks.before, reason, "The data of that program may not be in order."))


def _failure(command: tuple[str, ...], limit_s: int) -> str:
    """Run a command; why it failed, or nothing."""
    try:
        run(command, timeout_s=limit_s).require_success(hint="")
    except MachineRefusal as error:
        return error.message
    return ""


def _notice(code: str, command: tuple[str, ...], reason: str, hint: str) -> Notice:
    return Notice(code=code, message=f"'{shlex.join(command)}' failed: {reason}", hint=hint)
