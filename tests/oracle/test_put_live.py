"""A file system under write, saved with a put key: what was stored cannot be read back to lay changes over it."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from stillframe.jobs.saving import live as live_job
from stillframe.jobs.saving.storing import store_leaves
from stillframe.store import LocalStore
from stillframe.testing.busy_volume import MIB, Judge, busy_volume, compare, save
from stillframe.testing.job_runs import backup_paths
from stillframe.testing.put_machines import add_put_machine, make_owned

pytestmark = pytest.mark.root


@pytest.mark.parametrize("filesystem", ["ext4", pytest.param("xfs", marks=pytest.mark.slow)])
def test_what_changes_in_a_chunk_that_was_known_comes_back(
    filesystem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run has stored nearly all chunks; in the second pages of them change after they were read."""
    (tmp_path / "repository").mkdir()
    owned = make_owned(LocalStore(str(tmp_path / "repository")))
    web = add_put_machine(owned, cache=tmp_path / "cache")
    with busy_volume(tmp_path, filesystem) as volume:
        steady = volume.mount / "steady"
        steady.write_bytes(os.urandom(48 * MIB))
        small = [volume.mount / f"small{number:03}" for number in range(200)]
        for file in small:
            file.write_bytes(os.urandom(12 << 10))
        os.sync()
        first = backup_paths(web.open(), volume.device, owner=web.owner)
        volume.write("files", 6)
        judge = Judge(volume)
        calls = 0

        def store_and_change(*arguments: object, **named: object) -> None:
            nonlocal calls
            store_leaves(*arguments, **named)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                with steady.open("r+b") as file:
                    for place in range(0, 48 * MIB, 4 * MIB):  # a page in each fourth MiB: below what needs a round
                        file.seek(place + 8192)
                        file.write(os.urandom(4096))
                    os.fsync(file.fileno())
                for file_name in small[::2]:
                    file_name.unlink()
                os.sync()
                with volume.ledger.open("a") as ledger:
                    ledger.write(f"steady {hashlib.sha256(steady.read_bytes()).hexdigest()}\n")

        monkeypatch.setattr(live_job, "store_leaves", store_and_change)
        repository, result = save(judge, web.open(), web.owner)
        assert repository.put is not None
        assert "steady" in judge.promised
    assert result.manifest.bytes_added < first.manifest.bytes_added
    compare(judge, owned, result)
    shutil.rmtree(tmp_path / "repository")
