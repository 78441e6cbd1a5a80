"""Logical volumes in use are saved from snapshots of LVM: with every synced file, and without a trace afterwards.

One guest goes through all chapters of ``guest/snapshots.py``; the tests judge what it has seen.
"""

import json
import shutil
from typing import Any

import pytest

from stillframe.testing.busy_volume import WRITER
from stillframe.testing.debian_guest import GUEST, make_disk, run_job
from stillframe.testing.virtual_machine import Drive

pytestmark = [pytest.mark.root, pytest.mark.vm]
CHAPTERS = ("ext4", "xfs", "btrfs", "thin", "cloned", "killed", "full", "refused")

Seen = dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What the guest has seen in each chapter."""
    folder = tmp_path_factory.mktemp("snapshots")
    files, work = folder / "files", folder / "work"
    files.mkdir()
    work.mkdir()
    shutil.copy(GUEST / "snapshots.py", files)
    shutil.copy(WRITER, files)
    disks = [Drive(file=make_disk(folder / f"{name}.img", 3 << 30), serial=name) for name in ("pv", "repo")]
    done = run_job(work, f"python3 /job/snapshots.py {' '.join(CHAPTERS)}", disks, limit_s=3000, files=files)
    assert done.code == 0, done.output
    return {name: json.loads((done.folder / f"{name}.json").read_text()) for name in CHAPTERS}


def codes(run: Seen) -> set[str]:
    return {notice["code"] for notice in run["last"].get("notices", ())}


@pytest.mark.parametrize("chapter", ["ext4", "xfs", "btrfs", "thin"])
def test_every_synced_file_comes_back(seen: dict[str, Seen], chapter: str) -> None:
    found = seen[chapter]
    assert found["saved"]["code"] == 0, found["saved"]
    result = found["saved"]["last"]
    assert [(part["consistency"], part["map"]) for part in result["volumes"]] == [("snapshot", "used")]
    assert result["complete"]
    assert result["read_back"]["ok"]
    assert result["held"] is None
    assert "in-use" in codes(found["saved"])
    assert found["promised"] >= 15
    assert found["missing"] == []
    assert found["wrote_on"] > found["promised"]  # the writer was not stopped
    assert found["mounted"]
    assert found["left"] == {}
    assert found.get("fsck", 0) == 0  # ext4 in a snapshot looks unmounted: nothing is replayed


@pytest.mark.parametrize("chapter", ["ext4", "xfs", "btrfs", "thin"])
def test_looking_makes_no_snapshot(seen: dict[str, Seen], chapter: str) -> None:
    found = seen[chapter]
    assert found["dry"]["code"] == 0, found["dry"]
    assert "in-use" in codes(found["dry"])
    assert found["dry_run_changed_the_group"] is False


def test_a_clone_has_every_synced_file(seen: dict[str, Seen]) -> None:
    found = seen["cloned"]
    assert found["saved"]["code"] == 0, found["saved"]
    assert found["saved"]["last"]["complete"]
    assert found["promised"] >= 15
    assert found["missing"] == []
    assert found["mounted"]
    assert found["left"] == {}


def test_a_run_that_was_killed_leaves_a_snapshot_that_the_next_one_removes(seen: dict[str, Seen]) -> None:
    found = seen["killed"]
    assert found["first"]["code"] == -9
    ((name, tags),) = found["left"].items()
    assert name.startswith("stillframe-")
    assert "stillframe" in tags.split(",")
    assert found["second"]["code"] == 0, found["second"]
    assert "snapshot-removed" in codes(found["second"])
    assert found["mounted"]


def test_foreign_snapshots_stay(seen: dict[str, Seen]) -> None:
    """Those that lack the name, a tag or the owner, and one whose owner is alive, are nobody's leftovers."""
    assert seen["killed"]["gone"] == []
    assert seen["killed"]["more"] == []


def test_ctrl_c_leaves_nothing(seen: dict[str, Seen]) -> None:
    assert seen["killed"]["stopped"]["code"] == 130, seen["killed"]["stopped"]
    assert seen["killed"]["more_after_stop"] == []


def test_a_snapshot_that_is_full_gives_no_image(seen: dict[str, Seen]) -> None:
    found = seen["full"]
    assert found["over"]["code"] == 20, found["over"]
    assert found["over"]["last"]["code"] == "disturbed"
    assert "was lost (Invalid): it had room for 138 MB" in found["over"]["last"]["message"]
    assert found["later"] == found["images"]
    assert found["left"] == {}
    assert found["mounted"]


def test_with_too_little_room_the_volume_is_followed(seen: dict[str, Seen]) -> None:
    followed = seen["full"]["followed"]
    assert followed["code"] == 0, followed
    assert [part["consistency"] for part in followed["last"]["volumes"]] == ["frozen"]
    assert "no-snapshot" in codes(followed)


def test_several_volumes_in_use_are_held_still_together(seen: dict[str, Seen]) -> None:
    found = seen["refused"]
    assert found["two"]["code"] == 0, found["two"]
    assert [part["consistency"] for part in found["two"]["last"]["volumes"]] == ["frozen", "frozen"]
    assert found["changed_the_group"] is False


def test_a_repository_on_the_volume_itself_is_refused(seen: dict[str, Seen]) -> None:
    own = seen["refused"]["own"]
    assert (own["code"], own["last"]["code"]) == (20, "source-in-use")
    assert "lies on it" in own["last"]["message"]


def test_a_pool_that_is_nearly_full_is_left_alone(seen: dict[str, Seen]) -> None:
    pool = seen["refused"]["pool"]
    assert (pool["code"], pool["last"]["code"]) == (20, "source-in-use")
    assert "% full" in pool["last"]["message"]
    assert seen["refused"]["left"] == {}
