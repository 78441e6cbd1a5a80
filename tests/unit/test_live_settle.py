"""How often a file system is written out before it is frozen."""

from types import SimpleNamespace

import pytest

from stillframe.host.live import freezing
from stillframe.host.live.freezing import MountedFilesystem, settle


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.05], 1),  # there was little left
        ([3.0, 1.0, 0.05], 3),  # less each time
        ([6.0] * 9, 3),  # it does not get less: 15 seconds are over
        ([0.11] * 99, 30),
    ],
)
def test_it_is_written_out_until_that_is_quick_or_will_never_be(
    seconds: list[float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = 0.0, 0

    def write_out(_descriptor: int) -> None:
        nonlocal now, calls
        now += seconds[calls]
        calls += 1

    monkeypatch.setattr(freezing, "sync_filesystem", write_out)
    monkeypatch.setattr(freezing, "time", SimpleNamespace(monotonic=lambda: now))
    settle([MountedFilesystem(where="/", descriptor=-1)])
    assert calls == expected
