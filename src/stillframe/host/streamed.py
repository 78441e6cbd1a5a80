"""Work that may crash or hang, done in a process of its own that tells how it goes.

Answers: "what does this bring, piece by piece, if it survives?" As ``apart``, for many records: the child sends them in
bundles through a pipe while it works. It must be called while no other thread of this process is at work.
"""

import contextlib
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import stillframe.errors
from stillframe.errors import MachineRefusal, StillframeError
from stillframe.hanging import is_ended_from_outside
from stillframe.host.apart import how_it_ended

SILENCE_S: Final = 300.0
_BUNDLE_COUNT: Final = 512
_BUNDLE_S: Final = 0.2
_LOOK_S: Final = 0.2
_HEAD_SIZE: Final = 4
_HINT: Final = "Check the volume with the tools of its own system, or restore it to a disk and look there."

Send = Callable[[Any], None]
"""Sends one record, which must be something that can be pickled."""


class _Pipe:
    """The child's end: gathers records and sends them in bundles."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: list[Any] = []
        self._last = time.monotonic()

    def send(self, record: Any) -> None:
        self._held.append(record)
        if len(self._held) >= _BUNDLE_COUNT or time.monotonic() - self._last > _BUNDLE_S:
            self.flush(("more", self._held))

    def flush(self, message: tuple[Any, ...]) -> None:
        raw = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        rest = memoryview(len(raw).to_bytes(_HEAD_SIZE, "little") + raw)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._held, self._last = [], time.monotonic()

    def finish(self) -> None:
        self.flush(("more", self._held))
        self.flush(("end",))


def stream_apart(
    produce: Callable[[Send], None], *, what: str, check: Callable[[], None], silence_s: float = SILENCE_S
) -> Iterator[list[Any]]:
    """Run a function in a child process; yields its records in bundles, in their order.

    Args:
        produce: The function; it is given what sends a record.
        what: What it does, for the error, such as "reading the files of partition 3".
        check: Called a few times a second; what it raises ends the child.
        silence_s: A child that says nothing for so long is ended.

    Raises:
        StillframeError: What ``produce`` raised, or ``MachineRefusal``: it crashed, hung, or failed in another way.
    """
    if sys.platform == "win32":  # there is no fork
        records: list[Any] = []
        produce(records.append)
        yield records
        return
    answers, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _work(produce, ours)
    os.close(ours)
    try:
        yield from _iter_bundles(answers, child, what=what, check=check, silence_s=silence_s)
    finally:
        os.close(answers)
        _end(child)


def _iter_bundles(
    answers: int, child: int, *, what: str, check: Callable[[], None], silence_s: float
) -> Iterator[list[Any]]:
    buffer, last = bytearray(), time.monotonic()
    while True:
        check()
        ready, _, _ = select.select([answers], [], [], _LOOK_S)
        if not ready:
            if time.monotonic() - last > silence_s:
                raise MachineRefusal(f"{what} said nothing for {silence_s:g} seconds and was ended", hint=_HINT)
            continue
        last, part = time.monotonic(), os.read(answers, 1 << 20)
        if not part:
            _, status = os.waitpid(child, 0)
            raise MachineRefusal(f"{what} crashed ({how_it_ended(status)})", hint=_HINT)
        buffer += part
        while (message := _take(buffer)) is not None:
            match message:
                case ("more", records):
                    yield records
                case ("end",):
                    return
                case (name, words, hint):
                    raise _rebuild(name, words, hint, what)


def _take(buffer: bytearray) -> Any:
    """One whole message from the front of the buffer; ``None`` when it is not all there."""
    size = int.from_bytes(buffer[:_HEAD_SIZE], "little")
    if len(buffer) < _HEAD_SIZE or len(buffer) < _HEAD_SIZE + size:
        return None
    raw = bytes(buffer[_HEAD_SIZE : _HEAD_SIZE + size])
    del buffer[: _HEAD_SIZE + size]
    return pickle.loads(raw)  # noqa: S301 - written by our own child


def _rebuild(name: str, words: str, hint: str, what: str) -> StillframeError:
    kind = getattr(stillframe.errors, name, None)
    if kind is None:
        return MachineRefusal(f"{what} failed: {words}", hint=hint or _HINT)
    error: StillframeError = kind(words, hint=hint)
    return error


def _work(produce: Callable[[Send], None], ours: int) -> NoReturn:
    """The child: work, tell, and end without anything that this process would do at its end."""
    code = 1
    is_ended_from_outside()
    try:
        # Ctrl-C reaches the whole group; the parent decides, and ends this process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        pipe = _Pipe(ours)
        try:
            produce(pipe.send)
            pipe.finish()
        except StillframeError as error:
            pipe.flush((_family(type(error)), error.message, error.hint))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other process has to hear of it
            pipe.flush(("", f"{type(error).__name__}: {error}", ""))
        code = 0
    finally:
        os._exit(code)


def _family(kind: type[BaseException]) -> str:
    """The nearest class that the tree of errors itself names: others may want more than words."""
    return next(one.__name__ for one in kind.__mro__ if one.__module__ == stillframe.errors.__name__)


def _end(child: int) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
