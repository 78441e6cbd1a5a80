"""The recovery sheet as a file: one page on any paper, and a key that opens."""

import subprocess
from pathlib import Path

import pytest

from stillframe.rescue.trying.sheet_file import draw_code
from stillframe.testing.command_line import call

KEY = "SF1-01234-56789-ABCDE-FGHJK-MNPQR-STVWX-YZ012-34567"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("STILLFRAME_PASSWORD", "correct horse")
    monkeypatch.setenv("STILLFRAME_REPO", str(tmp_path / "repo"))
    assert call("init", tmp_path / "repo").exit_code == 0
    return tmp_path / "repo"


def test_the_key_on_the_page_opens_the_repository(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "sheet.html"
    assert call("rescue", "sheet", page, "--with-recovery-key").exit_code == 0
    assert page.stat().st_mode & 0o077 == 0
    key = page.read_text().partition("<code>SF1-")[2].partition("</code>")[0]
    monkeypatch.setenv("STILLFRAME_PASSWORD", f"SF1-{key}")
    assert call("images", "--repo", repo).exit_code == 0


def test_without_being_asked_no_key_is_made(repo: Path, tmp_path: Path) -> None:
    before = sorted((repo / "keys").rglob("*"))
    done = call("rescue", "sheet", tmp_path / "sheet.html", "--json")
    assert (done.exit_code, done.result["recovery_key"]) == (0, False)
    assert sorted((repo / "keys").rglob("*")) == before
    assert "SF1-" not in (tmp_path / "sheet.html").read_text()


def test_a_page_is_never_written_over_nor_into_the_repository(repo: Path, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    assert call("rescue", "sheet", page, "--dry-run").exit_code == 0
    assert not page.exists()
    page.write_text("mine")
    assert call("rescue", "sheet", page).exit_code == 2
    assert page.read_text() == "mine"
    before = sorted((repo / "keys").rglob("*"))
    assert call("rescue", "sheet", repo / "sheet.html", "--with-recovery-key").exit_code == 2
    assert sorted((repo / "keys").rglob("*")) == before


@pytest.mark.usefixtures("repo")
def test_an_open_repository_has_no_key(tmp_path: Path) -> None:
    assert call("init", tmp_path / "open", "--encryption", "none").exit_code == 0
    done = call("rescue", "sheet", tmp_path / "x.html", "--with-recovery-key", "--repo", tmp_path / "open")
    assert done.exit_code == 2
    assert not (tmp_path / "x.html").exists()


def test_the_code_is_read_by_another_program(tmp_path: Path) -> None:
    """Drawn as dots for zbarimg: a pixel each, from the path of the SVG by cairo."""
    svg, png = tmp_path / "code.svg", tmp_path / "code.png"
    svg.write_text(
        draw_code(KEY).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400" ', 1)
    )
    subprocess.run(["rsvg-convert", "-b", "white", "-o", png, svg], check=True)
    read = subprocess.run(["zbarimg", "-q", "--raw", png], capture_output=True, text=True, check=False)
    assert read.stdout.strip() == KEY
