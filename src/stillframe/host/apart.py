"""Calling code that may crash or hang without being taken along: in a process of its own.

Answers: "what does this say, if it survives?" For C libraries that read what a disk says. The child is a copy of this
process, so it can read through whatever is open here; only its answer comes back. It must be called while no other
thread of this process is at work.
"""

import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar, cast

from stillframe.errors import MachineRefusal, StillframeError
from stillframe.hanging import STEP_S, check, is_ended_from_outside

TIMEOUT_S: Final = 120.0
_READ_SIZE: Final = 1 << 20
_HINT: Final = "Everything else goes on without it. Check the volume with the tools of its own system."

Answer = TypeVar("Answer")


def call_apart(question: Callable[[], Answer], *, what: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Call a function in a child process and return its answer, which must be something that can be pickled.

    Args:
        question: The function; it should only read.
        what: What it does, for the error, such as "reading the files of /dev/sda3".
        timeout_s: After so many seconds it is ended.

    Raises:
        MachineRefusal: It failed, crashed or did not end; its own error's words, where it had any.
    """
    if sys.platform == "win32":  # there is no fork
        return call_here(question, what=what)
    answers, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _answer(question, ours)
    os.close(ours)
    try:
        raw = _read_all(answers, time.monotonic() + timeout_s)
    finally:
        os.close(answers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has answered, or has had its time
        _, status = os.waitpid(child, 0)
    if raw is None:
        raise MachineRefusal(f"{what} did not end within {timeout_s:g} seconds", hint=_HINT)
    if not raw:
        raise MachineRefusal(f"{what} crashed ({how_it_ended(status)})", hint=_HINT)
    good, answer, hint = pickle.loads(raw)  # noqa: S301 - written by our own child
    if not good:
        raise MachineRefusal(f"{what} failed: {answer}", hint=hint or _HINT)
    return cast("Answer", answer)


def call_here(question: Callable[[], Answer], *, what: str) -> Answer:
    """Call a function in this process, where there is no other way: an error is survived, a crash is not.

    Raises:
        MachineRefusal: It failed; its own error's words.
    """
    try:
        return question()
    except StillframeError as error:
        raise MachineRefusal(f"{what} failed: {error.message}", hint=error.hint or _HINT) from error
    except Exception as error:
        raise MachineRefusal(f"{what} failed: {type(error).__name__}: {error}", hint=_HINT) from error


def _answer(question: Callable[[], object], ours: int) -> NoReturn:
    """The child: answer and end, without anything that this process would do at its end."""
    code = 1
    is_ended_from_outside()
    gc.freeze()  # what it was born with goes on as it is; looking through that again and again copies its pages
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            raw = pickle.dumps((True, question(), ""))
        except StillframeError as error:
            raw = pickle.dumps((False, error.message, error.hint))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other process has to hear of it
            raw = pickle.dumps((False, f"{type(error).__name__}: {error}", ""))
        rest = memoryview(raw)
        while rest:
            rest = rest[os.write(ours, rest) :]
        code = 0
    finally:
        os._exit(code)


def _read_all(descriptor: int, deadline: float) -> bytes | None:
    """Everything until the other end is closed; ``None`` when that takes too long."""
    parts: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, min(left, STEP_S)))
        if not ready and left <= 0:
            return None
        if not ready:
            check()  # the run may be stopped meanwhile: what is read may hang
            continue
        part = os.read(descriptor, _READ_SIZE)
        if not part:
            return b"".join(parts)
        parts.append(part)


def how_it_ended(status: int) -> str:
    """What ``waitpid`` says of a child, in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"
