"""Repositories that were made when version 1 of the format was frozen: every later program must read them.

How they were made: ``tools/make_golden.py``. What must come out of them stands in ``expected.json`` beside them: the
SHA-256 of each disk as it was, taken before Stillframe read it.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from stillframe.repo.format import ObjectType
from stillframe.repo.repository import open_repository
from stillframe.repo.rows import EntryKind
from stillframe.store import LocalStore
from stillframe.testing.command_line import call
from stillframe.testing.real_disks import hash_file

DATA: Final = Path(__file__).parent.parent / "data" / "format-v1"
EXPECTED: Final[dict[str, Any]] = json.loads((DATA / "expected.json").read_text())


@pytest.fixture(params=sorted(EXPECTED))
def golden(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    with tarfile.open(DATA / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    expected = EXPECTED[request.param]
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / request.param))
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "state"))  # else each test would put an older state back
    monkeypatch.delenv("STILLFRAME_PASSWORD", raising=False)
    if expected["passphrase"] is not None:
        monkeypatch.setenv("STILLFRAME_PASSWORD", expected["passphrase"])
    return tmp_path / request.param, expected


def see_images(expected: dict[str, Any], tmp_path: Path) -> None:
    """Every image gives back its disk."""
    listed = call("images", "--all", "--json").result["images"]
    assert {image["id"] for image in listed} >= {image["image"] for image in expected["images"]}
    for number, image in enumerate(expected["images"]):
        target = tmp_path / f"restored-{number}"
        assert call("restore", image["image"], target, "--yes").exit_code == 0
        assert hash_file(target) == image["sha256"]
        target.unlink()


def test_every_image_is_read_listed_and_whole(golden: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, expected = golden
    see_images(expected, tmp_path)
    names = {image["id"]: image["machine"] for image in call("images", "--all", "--json").result["images"]}
    assert all(names[image["image"]].split(" [put ")[0] == image["machine"] for image in expected["images"])
    assert call("check", "--json").result["ok"]
    for image in expected["images"]:
        assert call("verify", image["image"], "--json").result["ok"]


def test_everything_that_the_format_knows_is_in_one_of_them(tmp_path: Path) -> None:
    with tarfile.open(DATA / "sealed.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
        names = [entry.name for entry in archive if entry.isfile()]
    folders = {name.split("/")[1] for name in names if name.count("/") > 1}
    not_made = {ObjectType.SCREENSHOT, ObjectType.SESSION}
    assert folders == {kind.folder.strip("/") for kind in ObjectType if kind not in not_made} | {"reader"}
    secret = EXPECTED["sealed"]["passphrase"]
    repository = open_repository(LocalStore(str(tmp_path / "sealed")), where="sealed", secret=secret)
    tables = list(repository.load_index().tables())
    kinds = {table.location(row).kind for table in tables for row in range(len(table.rows))}
    assert kinds == set(EntryKind)


def test_a_forgotten_image_comes_back(golden: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, expected = golden
    for image in expected["forgotten"]:
        assert image["image"] not in {one["id"] for one in call("images", "--all", "--json").result["images"]}
        assert call("forget", image["image"], "--undo", "--yes").exit_code == 0
    see_images({"images": [*expected["images"], *expected["forgotten"]]}, tmp_path)


def test_the_recovery_key_opens_it(
    golden: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = golden
    if expected.get("recovery_key"):
        monkeypatch.setenv("STILLFRAME_PASSWORD", expected["recovery_key"])
    see_images({"images": expected["images"][:1]}, tmp_path)


def test_its_own_reader_reads_it(golden: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The program that lies in the repository since then, and needs nothing else of Stillframe."""
    folder, expected = golden
    password = tmp_path / "password"
    password.write_text(f"{expected['passphrase']}\n")
    secret = [] if expected["passphrase"] is None else ["--password-file", str(password)]
    for number, image in enumerate(expected["images"]):
        target = tmp_path / f"read-{number}"
        reader = [sys.executable, str(folder / "reader" / "stillframe_reader.py"), *secret, str(folder)]
        command = [*reader, "restore", image["image"], str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert hash_file(target) == image["sha256"]
        target.unlink()


def test_it_is_written_to_and_what_was_there_stays(golden: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A program of today adds an image, deletes what may go, and every image is as it was."""
    folder, expected = golden
    disk = tmp_path / "disk"
    assert call("restore", expected["images"][-1]["image"], disk, "--yes").exit_code == 0
    with disk.open("r+b") as file:
        file.seek(5 << 20)  # behind the partition: every byte there is kept
        file.write(b"later" * 1000)
    made = call("backup", disk, "--json")
    assert made.exit_code == 0
    assert call("expire", "--grace", "0", "--yes").exit_code == 0
    assert call("repair").exit_code == 0
    new = {"image": made.result["image"], "sha256": hash_file(disk)}
    see_images({"images": [*expected["images"], new]}, tmp_path)
    assert call("check", "--json").result["ok"]
    assert {path.name for path in folder.iterdir()} >= {"stillframe.json", "packs", "index", "images"}
