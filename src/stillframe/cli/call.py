"""One call of the program, as a verb sees it: what was asked for, where words go, and how to be stopped.

Answers: "which repository, with which secret, and has the person pressed Ctrl-C?"
"""

import argparse
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from stillframe.cli.screen import Screen
from stillframe.errors import PutOnly, UsageError
from stillframe.hanging import heeding

if TYPE_CHECKING:  # loaded by the verbs that need them: '--help' must be there at once
    from stillframe.jobs.context import JobContext
    from stillframe.jobs.repositories import SecretSources
    from stillframe.repo.repository import Repository

REPOSITORY_VARIABLE = "STILLFRAME_REPO"
PUT_KEY_VARIABLE = "STILLFRAME_PUT_KEY"
SECRET_VARIABLE = "STILLFRAME_PASSWORD"  # noqa: S105 - the name of a variable, not a secret
NEW_SECRET_VARIABLE = "STILLFRAME_NEW_PASSWORD"  # noqa: S105 - likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the program."""

    options: argparse.Namespace
    screen: Screen
    environment: Mapping[str, str]

    @property
    def folder(self) -> str:
        """The folder of the repository that was named.

        Raises:
            UsageError: None was.
        """
        from stillframe.jobs.repositories import folder_of  # noqa: PLC0415 - see above

        return folder_of(self.options.repo or self.environment.get(REPOSITORY_VARIABLE, ""))

    def secrets(self, *, new: bool = False) -> "SecretSources":
        """Where the secret comes from; ``new`` asks for another one than the one that opens."""
        from stillframe.jobs.repositories import secrets_from  # noqa: PLC0415 - see above

        variable = NEW_SECRET_VARIABLE if new else SECRET_VARIABLE
        file = self.options.new_password_file if new else self.options.password_file
        ask = self.screen.ask_secret if self.screen.has_person else None
        return secrets_from(self.environment, variable, file=file, ask=ask)

    @property
    def put_key(self) -> str:
        """The file of the put key that was given; empty where a passphrase or no secret was.

        Raises:
            UsageError: A put key and a passphrase were named both.
        """
        file = str(getattr(self.options, "put_key", ""))
        if file and self.options.password_file:
            raise UsageError("'--put-key' and '--password-file' exclude each other", hint="Leave out one of them.")
        if file or self.options.password_file or self.environment.get(SECRET_VARIABLE):
            return file
        return self.environment.get(PUT_KEY_VARIABLE, "")

    def open_repository(self, *, to_add: bool = False) -> "Repository":
        """Open the repository that was named.

        Args:
            to_add: A put key is enough.

        Raises:
            PutOnly: A put key was given, and this verb reads.
        """
        from stillframe.jobs.repositories import open_at, open_to_put_at  # noqa: PLC0415 - see above

        put_key = self.put_key
        if put_key and not to_add:
            raise PutOnly(
                f"a put key adds images and reads none: '{self.options.verb}' is not possible with it",
                hint="Do it on a machine that has the passphrase or the recovery key.",
            )
        repository = open_to_put_at(self.folder, put_key) if put_key else open_at(self.folder, self.secrets())
        repository.box.events = self.screen  # where it says that parity had to help
        self.screen.before_result.append(repository.box.tell_uses)
        return repository


Verb = Callable[[Call], int]
"""What a verb is: it returns the exit code."""


@contextmanager
def running(screen: Screen) -> "Iterator[JobContext]":
    """What a job of this machine is given while it runs; what happens is drawn on the screen.

    The first Ctrl-C asks the job to stop at the next chunk; what hangs is left behind. The second ends the program at
    once, and should never be needed. ``SIGTERM``, with which a system shuts down, counts as Ctrl-C. Outside of this,
    Ctrl-C ends the program.
    """
    from stillframe.host.machine import state_dir  # noqa: PLC0415 - see above
    from stillframe.jobs.context import JobContext  # noqa: PLC0415
    from stillframe.jobs.owner import this_owner  # noqa: PLC0415
    from stillframe.jobs.pipeline import CancelToken  # noqa: PLC0415

    token = CancelToken()

    def stop(number: int, _frame: FrameType | None) -> None:
        token.cancel()
        signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(RuntimeError, OSError):  # it may have come in the middle of another line
            screen.warn("", "Stopping after the piece that is at work. Press Ctrl-C again to end at once.")

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with heeding(token.check):
            yield JobContext(owner=this_owner(), events=screen, cancel=token, state_folder=state_dir())
    finally:
        for number, handler in before:
            signal.signal(number, handler)
