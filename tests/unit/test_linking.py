"""The number of a new image is taken by one run of a machine at a time, and nobody waits for ever for another."""

import time
from pathlib import Path

import pytest

from stillframe.errors import Cancelled
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.saving import linking
from stillframe.jobs.saving.linking import linked, own_turn
from stillframe.store import MemoryStore
from stillframe.testing.repositories import Draft, make_owner, make_repository, store_image, with_sequence

FREE = CancelToken().check


def test_a_turn_is_waited_for_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "PATIENCE_S", 0.3)
    folder = str(tmp_path / "state")
    with own_turn(folder, "a", FREE):
        began = time.monotonic()
        with own_turn(folder, "b", FREE):  # another repository
            pass
        assert time.monotonic() - began < 0.3
        with own_turn(folder, "a", FREE):
            pass
        assert time.monotonic() - began >= 0.3
    began = time.monotonic()
    with own_turn(folder, "a", FREE):
        pass
    assert time.monotonic() - began < 0.3


def test_waiting_for_a_turn_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with own_turn(str(tmp_path), "a", FREE), pytest.raises(Cancelled), own_turn(str(tmp_path), "a", token.check):
        raise AssertionError


@pytest.mark.parametrize("folder", ["", "/proc/nowhere"])
def test_without_a_place_for_it_nobody_waits(folder: str) -> None:
    with own_turn(folder, "a", FREE), own_turn(folder, "a", FREE):
        pass


def test_the_next_number_follows_the_last_of_several() -> None:
    repository = make_repository(MemoryStore())
    first = store_image(repository, make_owner(), Draft(chunks=[1]))
    mine = with_sequence(first.manifest, 77)
    found = linked(repository, mine, ("ab" * 16,))
    assert (found.sequence, found.previous, found.beside) == (2, first.digest.hex(), ("ab" * 16,))
    other = store_image(repository, make_owner("bert"), Draft(chunks=[1])).manifest
    assert linked(repository, with_sequence(other, 9), ()).sequence == 2
