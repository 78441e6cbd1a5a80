"""What holds for the project as a whole: its commands, its package lists, and what its files must not say."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from stillframe.jobs.demo.tools import PACKAGES

ROOT = Path(__file__).parents[2]
TARGETS = ("demo", "test", "test-all", "test-live", "test-vm", "lint", "fuzz", "bench", "wheel", "clean")


def tracked_files() -> list[Path]:
    """Files of the project: what git knows or would take, or without git everything that is no product of a run."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0 and (ROOT / ".git").exists():
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    folders = ("src", "tests", "docs", "tools", "benchmarks", ".ci")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


def debian_packages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in (ROOT / "tools" / "debian-packages.txt").read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            section.append(line)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_scripts_are_shell_without_mistakes() -> None:
    for script in (".ci/run", "tools/setup.sh"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_package_list_holds_what_the_demo_starts() -> None:
    assert set(PACKAGES.values()) <= set(debian_packages()["demo"])


def test_package_list_names_each_once_and_in_order() -> None:
    for names in debian_packages().values():
        assert names == sorted(set(names))
    assert not set(debian_packages()["demo"]) & set(debian_packages()["test"])


def test_no_file_speaks_of_one_machine() -> None:
    places = {f"{place}/" for place in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) if len(place.parts) > 2}
    places -= {"/usr/local/"}
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked_files()
        for place in places
        if place.encode() in path.read_bytes()
    ]
    assert not found


def test_wheel_would_hold_the_reader_and_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["stillframe"]
    package = ROOT / "src" / "stillframe"
    packaged = {str(path.relative_to(package)) for pattern in patterns for path in package.glob(pattern)}
    assert {"py.typed", "repo/reader/README.txt", "repo/reader/stillframe_reader.py"} <= packaged


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    lost = []
    for page in pages:
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        broken = (name for name in targets if "://" not in name and not (page.parent / name).exists())
        lost += [f"{page.relative_to(ROOT)}: {name}" for name in broken]
    assert not lost


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"adr/{name}" in index for name in names)
