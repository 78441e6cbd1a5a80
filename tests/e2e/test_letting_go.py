"""Forgetting and taking it back, machines and their retirement, on the command line."""

import subprocess
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.host.machine import machine
from stillframe.repo.repository import open_repository
from stillframe.store import LocalStore
from stillframe.testing.command_line import call, init_own
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.repositories import BackupRun, Draft, make_owner

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = MemoryDisk(bytes(4 * MIB))
    write_gpt(made, [Extent(MIB, 3 * MIB)])
    fill_with_noise(made, Extent(MIB, 3 * MIB), 1)
    (tmp_path / "disk").write_bytes(bytes(made.contents))
    return tmp_path / "disk"


def packs(repo: Path) -> int:
    return sum(one.is_file() for one in (repo / "packs").rglob("*"))


def test_an_image_forgotten_by_mistake_comes_back_whole(repo: Path, disk: Path, tmp_path: Path) -> None:
    image = call("backup", disk, "--name", "d", "--json").result["image"]
    assert call("forget", "latest:d", "--yes").exit_code == 0
    assert call("images", "--json").result["images"] == []
    assert "can come back" in call("images", "--forgotten").output
    (listed,) = call("images", "--forgotten", "--json").result["forgotten"]
    assert (listed["id"], listed["can_come_back"]) == (image, True)
    told = call("restore", image[:8], tmp_path / "early", "--yes", "--json")
    assert (told.exit_code, told.result["code"]) == (10, "not-found")
    assert f"forget --undo {image[:8]}" in told.result["hint"]
    plan = call("expire", "--dry-run", "--json").result
    assert (plan["can_come_back"], plan["let_go"], plan["bytes_dead"]) == ([image], [], 0)
    assert call("expire", "--grace", "0", "--undelete-days", "7", "--yes").exit_code == 0
    assert call("forget", "--undo", image[:8], "--dry-run").exit_code == 0
    assert call("images", "--json").result["images"] == []
    assert call("forget", "--undo", image[:8]).exit_code == 0
    (back,) = call("images", "--json").result["images"]
    assert (back["id"], back["proof"]) == (image, "good")
    assert call("restore", "latest:d", tmp_path / "back", "--yes").exit_code == 0
    subprocess.run(["cmp", disk, tmp_path / "back"], check=True)
    for word, code in (("latest", 2), (image[:8], 10), ("ffff", 10)):
        assert call("forget", "--undo", word).exit_code == code
    assert call("check").exit_code == 0
    assert packs(repo) > 0


def test_room_that_is_needed_now_comes_now(repo: Path, disk: Path) -> None:
    image = call("backup", disk, "--json").result["image"]
    call("forget", image, "--yes")
    plan = call("expire", "--grace", "0", "--dry-run", "--json").result
    assert plan["let_go"] == [image]
    done = call("expire", "--grace", "0", "--yes", "--json").result
    assert done["packs_deleted"] > 0
    assert packs(repo) == 0
    assert call("forget", "--undo", image).exit_code == 10


def test_a_machine_that_died_is_retired_and_comes_back(repo: Path, disk: Path) -> None:
    call("backup", disk, "--name", "d")
    repository = open_repository(LocalStore(str(repo)), where="here", secret=None)
    BackupRun(repository, make_owner("laptop"), Draft(chunks=[]))  # and its disk dies
    listed = {one["name"]: one for one in call("machines", "--json").result["machines"]}
    assert [one["verb"] for one in listed["laptop"]["sessions"]] == ["backup"]
    assert (listed[machine().name]["images"], listed[machine().name]["sessions"]) == (1, [])
    assert "laptop" in call("machines").output
    plan = call("retire", "laptop", "--dry-run")
    assert "It will not count." in plan.output
    assert call("retire", "laptop").exit_code == 2  # nobody is there to ask
    assert call("retire", "laptop", "--yes").exit_code == 0
    after = {one["name"]: one for one in call("machines", "--json").result["machines"]}
    assert after["laptop"]["retired"]
    assert after["laptop"]["sessions"] == []
    assert call("retire", "lapt", "--yes").exit_code == 10
    assert call("retire", "--undo", "laptop").exit_code == 0
    assert call("retire", "--undo", "laptop").exit_code == 10  # it has nothing here any more
    assert call("retire", "--undo", machine().name).exit_code == 2


def test_this_machine_when_it_was_retired_is_told(repo: Path, disk: Path, tmp_path: Path) -> None:
    assert call("backup", disk, "--name", "d").exit_code == 0
    name = machine().name
    assert "This is the machine that you sit at." in call("retire", name, "--yes").output
    told = call("backup", disk, "--json")
    assert (told.exit_code, told.result["code"]) == (20, "machine-retired")
    assert f"retire --undo {name}" in told.result["hint"]
    assert call("restore", "latest:d", tmp_path / "back", "--yes").exit_code == 0
    assert call("verify", "latest:d").exit_code == 0
    assert call("retire", "--undo", name).exit_code == 0
    assert call("backup", disk).exit_code == 0
    assert repo.is_dir()
