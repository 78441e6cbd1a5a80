"""Tables and plots out of figures, the limit as a process, and the words of the other tools."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.comparison import report

    return report


def row(who: str, phase: str, cycle: int, wall: float, **more: Any) -> dict[str, Any]:
    plain = {
        "disk": "small", "cycle": cycle, "who": who, "phase": phase, "used": 10**9, "wall": wall, "cpu": wall * 2,
        "peak": 10**8, "stored": 5 * 10**8, "added": 10**7, "note": "", "error": "",
    }  # fmt: skip
    return {**plain, **more}


def figures(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "made": "2026-01-02T03:04:05Z", "runs": 3, "seconds": 600, "versions": {"restic": "restic 1"},
        "machine": {"processor": "one", "processors": 2, "memory": 2 << 30, "system": "Debian", "kernel": "6",
                    "python": "3.11", "load": 0.1},
        "disks": {"small": {"size": 2 * 10**9, "used": 10**9, "changed": 10**7}}, "rows": list(rows),
    }  # fmt: skip


def test_ratios_are_taken_within_a_run(report: ModuleType) -> None:
    """Both were twice as slow in the second run: the ratio stays; a run without a partner does not count."""
    ours = [row("stillframe", "full", 0, 2.0), row("stillframe", "full", 1, 4.0), row("stillframe", "full", 2, 90.0)]
    limit = [row("limit", "full", 0, 1.0), row("limit", "full", 1, 2.0)]
    assert report.ratio(ours, limit) == pytest.approx(0.5)


def test_the_table_has_medians_and_the_ratio(report: ModuleType) -> None:
    walls = (1.0, 2.0, 50.0)
    rows = [row("stillframe", "full", n, wall) for n, wall in enumerate(walls)]
    rows += [row("limit", "full", n, wall / 2) for n, wall in enumerate(walls)]
    told = report.phases(figures(*rows)).splitlines()
    assert told[2] == "| small | first backup, fast | 2.00 | 500 | 4.0 | 100 | 500 | 10 | 0.50 |"
    assert "limit: first backup" in told[3]


def test_a_tool_that_is_missing_is_listed_and_one_that_failed_says_how(report: ModuleType) -> None:
    rows = [
        row("stillframe", "full", 0, 1.0), row("restic", "full", 0, 0.0, error="not installed: restic"),
        row("casync", "full", 0, 3.0), row("casync", "restore", 0, 1.0, error="exit 1: no"),
    ]  # fmt: skip
    told = report.beside_peers(figures(*rows))
    assert "- small, restic, full: not installed: restic" in told
    assert "- small, casync, restore: exit 1: no" in told
    assert "| small | casync | 3.00 |" in told


def test_only_what_stands_between_its_marks_is_replaced(report: ModuleType) -> None:
    page = "a\n<!-- one: made by x -->\nold\n<!-- end of one -->\nb\n<!-- two: made by x -->\n<!-- end of two -->\n"
    once = report.put(page, "one", "| new\\1 |")
    assert once == page.replace("old", "| new\\1 |")
    assert report.put(once, "one", "| new\\1 |") == once
    assert report.put(once, "two", "x").endswith("-->\nx\n<!-- end of two -->\n")
    with pytest.raises(ValueError, match="no place for three"):
        report.put(page, "three", "x")


def test_the_page_has_a_place_for_every_part(report: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    for name in ("how", "phases", "peers", "bars", "scale"):
        assert report.put(page, name, "x") != page


@pytest.mark.parametrize(("power", "words"), [(0, "does not grow"), (1, "grows with the disk"), (1.5, "FASTER")])
def test_growth_is_told_in_words(report: ModuleType, power: float, words: str) -> None:
    rows = [{"chunks": 4**n, "open_s": 3.0 * (4**n) ** power} for n in range(1, 7)]
    assert words in report.slopes_in_words(rows, ["open_s"])["open_s"]


def test_plots_are_the_same_for_the_same_figures(report: ModuleType, tmp_path: Path) -> None:
    rows = [row(who, phase, 0, 1.0) for who in ("stillframe", "limit", "restic") for phase in ("full", "restore")]
    scale = {
        "words": {"open_s": "opening", "open_bytes": "memory"},
        "rows": [{"size": f"{n} GiB", "chunks": 4096 * n, "open_s": n / 10, "open_bytes": 10**7} for n in (1, 16, 256)],
    }
    drawn = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "bench.json").write_text(json.dumps(figures(*rows)))
        (folder / "scale.json").write_text(json.dumps(scale))
        report.write(folder, None)
        drawn.append({path.name: path.read_bytes() for path in folder.glob("*.svg")})
    assert sorted(drawn[0]) == ["rates-small.svg", "scale-memory.svg", "scale-seconds.svg"]
    assert drawn[0] == drawn[1]
    assert b"restic" in drawn[0]["rates-small.svg"]
    assert b"exponent 1.00" in drawn[0]["scale-seconds.svg"]


def test_the_limit_brings_back_what_it_stored(tmp_path: Path) -> None:
    """It is no fair limit unless it does the work."""
    disk, target = tmp_path / "disk", tmp_path / "target"
    disk.write_bytes(bytes(1 << 20) + b"abc" * 400_000 + bytes(range(256)) * 4000)
    used = [[0, 100_000], [1_000_000, disk.stat().st_size - 1_000_000]]
    (tmp_path / "used.json").write_text(json.dumps({"size": disk.stat().st_size, "extents": used}))
    limit = [sys.executable, "-m", "benchmarks.comparison.limit"]
    places = [disk, tmp_path / "used.json", tmp_path / "work"]
    for phase in ("scan", "full", "second", "verify"):
        subprocess.run([*limit, phase, *places], check=True, cwd=ROOT)
    before = sum(path.stat().st_size for path in (tmp_path / "work" / "packs").iterdir())
    assert 0 < before < disk.stat().st_size // 10
    subprocess.run([*limit, "restore", *places, "--target", target], check=True, cwd=ROOT)
    assert target.read_bytes() == disk.read_bytes()
    pack = next((tmp_path / "work" / "packs").iterdir())
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.write_bytes(raw)
    assert subprocess.run([*limit, "verify", *places], check=False, cwd=ROOT, stderr=subprocess.PIPE).returncode
