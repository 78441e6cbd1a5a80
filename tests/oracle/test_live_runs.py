"""Every file system under every writer, saved while it is written to, again and again.

``make test-live RUNS=30`` is the long form; the number of runs stands in STILLFRAME_LIVE_RUNS. Each run has a seed of
its own, which a failure names, and which can be given alone by STILLFRAME_LIVE_SEED.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.testing.busy_volume import MAKE, MIB, WRITERS, Judge, busy_volume, compare, save

pytestmark = [pytest.mark.root, pytest.mark.slow]
RUNS = int(os.environ.get("STILLFRAME_LIVE_RUNS", "2"))
FIRST_SEED = int(os.environ.get("STILLFRAME_LIVE_SEED", "1"))


def runs() -> Iterator[tuple[str, str, int]]:
    for seed in range(FIRST_SEED, FIRST_SEED + RUNS):
        for filesystem in MAKE:
            for writer in WRITERS:
                yield filesystem, writer, seed


@pytest.mark.parametrize(("filesystem", "writer", "seed"), list(runs()))
def test_a_busy_file_system_is_saved_as_it_was_at_one_moment(
    filesystem: str, writer: str, seed: int, tmp_path: Path
) -> None:
    began = time.monotonic()
    outcome = "FAILED"
    try:
        with busy_volume(tmp_path, filesystem, size=400 * MIB) as volume:
            volume.write(writer, seed)
            judge = Judge(volume)
            repository, result = save(judge)
        compare(judge, repository, result)
        outcome = f"good: {len(judge.promised)} promised files, frozen {judge.calls} times"
    finally:
        print(f"\nrun {filesystem} {writer} seed {seed}: {outcome}, {time.monotonic() - began:.1f} s")  # noqa: T201 one line for each run
        shutil.rmtree(tmp_path / "repository", ignore_errors=True)
