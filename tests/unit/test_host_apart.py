"""A child process answers, fails, crashes or hangs; this one goes on."""

import gc
import os
import signal
import time
from collections.abc import Callable

import pytest

from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.extents import Extent, ExtentSet
from stillframe.host.apart import call_apart, call_here


def test_the_answer_comes_back_whatever_its_size() -> None:
    extents = ExtentSet.of(Extent(1, 2), Extent(5, 1 << 50))
    assert call_apart(lambda: extents, what="asking") == extents
    assert call_apart(lambda: b"x" * 5_000_000, what="asking") == b"x" * 5_000_000
    assert call_apart(lambda: None, what="asking") is None


def test_what_the_child_changes_stays_there() -> None:
    seen: list[int] = []
    call_apart(lambda: seen.append(1), what="asking")
    assert seen == []


def test_the_child_does_not_look_through_what_it_was_born_with() -> None:
    before = gc.get_freeze_count()
    assert call_apart(gc.get_freeze_count, what="asking") > before
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("call", [call_apart, call_here])
def test_its_own_errors_keep_their_words(call: Callable[..., object]) -> None:
    def fail() -> None:
        raise DiskFormatError("the folder is broken", hint="look")

    with pytest.raises(MachineRefusal, match="asking failed: the folder is broken") as caught:
        call(fail, what="asking")
    assert caught.value.hint == "look"
    with pytest.raises(MachineRefusal, match="ZeroDivisionError"):
        call(lambda: 1 // 0, what="asking")


def test_where_there_is_no_fork_it_is_called_here() -> None:
    seen: list[int] = []
    call_here(lambda: seen.append(1), what="asking")
    assert seen == [1]


def test_a_crash_is_told() -> None:
    with pytest.raises(MachineRefusal, match=r"asking crashed \(signal 9\)"):
        call_apart(lambda: os.kill(os.getpid(), signal.SIGKILL), what="asking")


def test_a_child_that_hangs_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(MachineRefusal, match=r"did not end within 0\.2 seconds"):
        call_apart(lambda: time.sleep(600), what="asking", timeout_s=0.2)
    assert time.monotonic() - began < 60
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
