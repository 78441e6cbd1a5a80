"""The one machine that ``make test`` starts: a boot sector, from its backup to the screenshot, by the command line."""

from pathlib import Path

import pytest

from stillframe.testing.boot_sector import make_boot_disk
from stillframe.testing.command_line import call

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))


def save(folder: Path, contents: bytes) -> None:
    (folder / "disk.raw").write_bytes(contents)
    assert call("init", folder / "repo", "--encryption", "none").exit_code == 0
    assert call("backup", folder / "disk.raw", "--no-verify").exit_code == 0


def test_a_disk_that_starts_is_proven_and_one_look_shows_it(tmp_path: Path) -> None:
    save(tmp_path, make_boot_disk("\nThis is a boot sector.\n\nsector login: "))
    done = call("prove", "latest", "--memory", 64, "--cpus", 1, "--json")
    assert done.exit_code == 0, done.output
    assert done.result["outcome"] == "booted"
    assert "sector login:" in done.result["reason"]
    assert done.result["firmware"] == "bios"
    assert call("images").output.splitlines()[1].split()[-3] == "booted"
    shown = call("show", "latest", "--screenshot", tmp_path / "screen.png", "--json")
    assert (shown.result["rung"], shown.result["boots"]) == ("booted", True)
    proof = shown.result["proofs"][-1]
    assert (proof["kind"], proof["outcome"], proof["screenshot"]) == ("booted", "booted", True)
    png = (tmp_path / "screen.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(png[16:20], "big") == 720  # IHDR: the width of a VGA's text mode
    assert call("check").exit_code == 0


def test_a_disk_with_nothing_to_start_is_unclear_and_says_so(tmp_path: Path) -> None:
    save(tmp_path, bytes(MIB) + b"no system" + bytes(3 * MIB))
    done = call("prove", "latest")
    assert done.exit_code == 3
    assert "nothing that boots was found" in done.output
    assert call("images").output.splitlines()[1].split()[-1] == "unproven"
    assert call("show", "latest", "--screenshot", tmp_path / "x").exit_code == 10
    ran = call("run", "latest", "--display", "none")
    assert ran.exit_code == 2
    assert "nothing that boots was found" in ran.errors
