"""Work in another process: what it sends arrives, and its end does not take this process along."""

import os
import signal
import time

import pytest

from stillframe.block import ReadFault
from stillframe.errors import Cancelled, DeviceError, MachineRefusal, UsageError
from stillframe.extents import Extent
from stillframe.host.streamed import Send, stream_apart


def never() -> None:
    """Go on."""


def test_records_arrive_in_their_order() -> None:
    def produce(send: Send) -> None:
        for number in range(5000):
            send((number, "x" * (number % 100)))

    records = [one for bundle in stream_apart(produce, what="counting", check=never) for one in bundle]
    assert records == [(number, "x" * (number % 100)) for number in range(5000)]


def test_an_error_keeps_its_class_words_and_hint() -> None:
    def produce(_send: Send) -> None:
        raise UsageError("wrong", hint="try that")

    with pytest.raises(UsageError, match="wrong") as caught:
        list(stream_apart(produce, what="trying", check=never))
    assert caught.value.hint == "try that"


def test_an_error_with_more_than_words_comes_as_its_family() -> None:
    def produce(_send: Send) -> None:
        raise ReadFault("byte 7 is gone", extent=Extent(7, 8))

    with pytest.raises(DeviceError, match="byte 7 is gone"):
        list(stream_apart(produce, what="reading", check=never))


def test_a_bug_is_told() -> None:
    def produce(_send: Send) -> None:
        raise KeyError("what")

    with pytest.raises(MachineRefusal, match="looking failed: KeyError"):
        list(stream_apart(produce, what="looking", check=never))


def test_a_crash_is_survived_and_what_came_before_it_arrives() -> None:
    def produce(send: Send) -> None:
        for number in range(600):
            send(number)
        os.kill(os.getpid(), signal.SIGKILL)

    bundles = stream_apart(produce, what="reading partition 3", check=never)
    assert next(bundles) == list(range(512))
    with pytest.raises(MachineRefusal, match=r"reading partition 3 crashed \(signal 9\)"):
        next(bundles)


def test_silence_ends_it() -> None:
    with pytest.raises(MachineRefusal, match="said nothing"):
        list(stream_apart(lambda _send: time.sleep(600), what="sleeping", check=never, silence_s=0.1))


def test_who_cancels_ends_it_at_once() -> None:
    def check() -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        list(stream_apart(lambda _send: time.sleep(600), what="sleeping", check=check))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
