"""Jobs as child processes: ``stillframe VERB ... --json``, and what they say while they work.

Answers: "how far is it, how did it end, and how is it stopped?" A job has a process of its own: it forks and makes
namespaces, which wants a single thread, and a fault of it never takes the screens away. A secret goes through a pipe to
its standard input, which is named as its password file.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from stillframe.errors import (
    Cancelled,
    DamagedError,
    DeviceError,
    DiskFormatError,
    Locked,
    MachineRefusal,
    RepositoryNotFound,
    StillframeError,
    StorageError,
    TargetError,
    UnsupportedFormat,
    UsageError,
    WrongKey,
)
from stillframe.host.talking import Talking, start_talking
from stillframe.rescue.verbs.records import NoticeSaid, R, parse

PASSWORD_FILE: Final = "/dev/stdin"  # noqa: S105 - where the secret comes from, not the secret
_FAMILIES: Final[dict[int, type[StillframeError]]] = {
    kind.exit_code: kind
    for kind in (
        UsageError, RepositoryNotFound, Locked, WrongKey, UnsupportedFormat, DamagedError, MachineRefusal,
        DiskFormatError, TargetError, DeviceError, StorageError, Cancelled,
    )
}  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. ``total`` is 0 when that is not known."""

    phase: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Generic[_T]):
    """How a job ended well: its result, and what it said besides. ``skipped``: something was left out (exit 3)."""

    result: _T
    notices: tuple[NoticeSaid, ...] = ()
    findings: tuple[NoticeSaid, ...] = ()
    skipped: bool = False


class Doing(Protocol):
    """Who watches a job."""

    def show(self, progress: Progress) -> None:
        """Take note of how far it is; may be called from any thread."""
        ...

    def check(self) -> None:
        """Raise ``Cancelled`` when the person asked to stop."""
        ...


@dataclass(slots=True)
class Watched:
    """A ``Doing`` that only remembers."""

    progress: list[Progress] = field(default_factory=list)
    stopped: bool = False

    def show(self, progress: Progress) -> None:
        """Keep it."""
        self.progress.append(progress)

    def check(self) -> None:
        """Stop, when that was asked for."""
        if self.stopped:
            raise Cancelled("stopped on request", hint="Run it again when you like.")


class _Line(msgspec.Struct, frozen=True):
    """Any line of ``--json``, as far as it is followed here."""

    type: str
    name: str = ""
    what: str = ""
    message: str = ""
    hint: str = ""
    code: str = ""
    exit_code: int = 1
    bytes_total: int = 0
    done: int = 0
    total: int = 0


def call_job(words: Sequence[str], kind: type[R], doing: Doing, *, secret: str | None = None) -> Ended[R]:
    """Run a verb of Stillframe and wait for its result.

    Args:
        words: The verb and what it is told; ``--json`` is added.
        kind: The record of its result.
        doing: Told how far it is; when it asks to stop, the job is asked so too.
        secret: What opens the repository.

    Raises:
        StillframeError: The error that the job told, of the same family and with the same words.
    """
    command = [sys.executable, "-m", "stillframe", *words, "--json"]
    if secret is not None:
        command += ["--password-file", PASSWORD_FILE]
    follower = _Follower(doing)
    with start_talking(command, given=f"{secret or ''}\n".encode()) as talking, _stopping(talking, doing):
        for raw in talking.lines():
            follower.take(raw)
        code = talking.end()
        said = talking.last_words()
    if follower.error is not None:
        raise follower.error
    if follower.result is None:
        raise MachineRefusal(
            f"'stillframe {words[0]}' ended with exit code {code} and said nothing more: {said or 'no reason'}",
            hint="Try it again; the shell (in the menu) shows more with the same command.",
        )
    return Ended(
        result=parse(follower.result, kind, verb=words[0]), notices=tuple(follower.notices),
        findings=tuple(follower.findings), skipped=code == 3,
    )  # fmt: skip


class Runs(Protocol):
    """What runs a verb; ``call_job`` does."""

    def __call__(self, words: Sequence[str], kind: type[R], doing: Doing, *, secret: str | None = None) -> Ended[R]:
        """As ``call_job``."""
        ...


class _Follower:
    """Takes the lines of one job."""

    def __init__(self, doing: Doing) -> None:
        self._doing = doing
        self._phase = ""
        self._began = time.monotonic()
        self.notices: list[NoticeSaid] = []
        self.findings: list[NoticeSaid] = []
        self.result: bytes | None = None
        self.error: StillframeError | None = None

    def take(self, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=_Line)
        except msgspec.MsgspecError:
            return
        match line.type:
            case "job_started" | "phase_started":
                self._phase = line.name or line.what
                self._began = time.monotonic()
                self._doing.show(Progress(phase=self._phase, total=line.bytes_total))
            case "bytes_moved":
                seconds = time.monotonic() - self._began
                self._doing.show(Progress(phase=self._phase, done=line.done, total=line.total, seconds=seconds))
            case "notice":
                self.notices.append(NoticeSaid(code=line.code, message=line.message, hint=line.hint))
            case "finding":
                self.findings.append(NoticeSaid(code=line.code, message=line.message, hint=line.hint))
            case "result":
                self.result = raw
            case "error":
                self.error = _FAMILIES.get(line.exit_code, StillframeError)(line.message, hint=line.hint)


@contextlib.contextmanager
def _stopping(talking: Talking, doing: Doing) -> Iterator[None]:
    """Ask the job to stop when the person does."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                doing.check()
            except Cancelled:
                talking.interrupt()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
