"""The demo: it ends well where all is right, and ends badly where something is not."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.errors import DamagedError, MachineRefusal, MissingProgram, UsageError
from stillframe.host.run import Finished, find_program, run
from stillframe.jobs.demo import run_demo, tools
from stillframe.jobs.demo.comparing import compare_disks
from stillframe.jobs.demo.disk import PARTS, Part
from stillframe.jobs.demo.tools import attached, mounted, require_machine
from stillframe.testing.job_runs import job_context

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The kept folder of a demo, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    said: list[str] = []
    result = run_demo(keep=str(folder), say=said.append, context=job_context())
    assert result.files_compared > 1000
    assert result.kept_in == str(folder)
    yield folder, said
    shutil.rmtree(folder)


@contextmanager
def open_restored(folder: Path, part: Part) -> Iterator[Path]:
    """The root of a volume of the restored disk, to be changed."""
    with (
        attached(str(folder / "new-disk.raw"), part.extent, read_only=False) as device,
        mounted(device, part.filesystem, read_only=False) as root,
    ):
        yield Path(root)


def compare(folder: Path) -> list[str]:
    return [found.words for found in compare_disks(str(folder / "computer.raw"), str(folder / "new-disk.raw"))]


def test_every_step_is_told(demo: tuple[Path, list[str]]) -> None:
    text = "\n".join(demo[1])
    assert [f"{number}." in text for number in range(1, 10)] == [True] * 9
    assert "All is right" in text
    assert "stillframe backup /dev/DISK" in text


def test_nothing_stays_attached(demo: tuple[Path, list[str]]) -> None:
    for name in ("computer.raw", "new-disk.raw"):
        assert run(["losetup", "--associated", str(demo[0] / name)]).text == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(3, "Users/Anna/Documents/letter 07.txt"), (5, "lost+found/extra")])
def test_other_file_is_named(demo: tuple[Path, list[str]], number: int, name: str) -> None:
    part = PARTS[number - 1]
    with open_restored(demo[0], part) as root:
        before = (root / name).read_bytes() if (root / name).exists() else None
        (root / name).write_bytes((before or b"") + b"x")
    with pytest.raises(DamagedError, match=re.escape(name)) as caught:
        compare(demo[0])
    assert caught.value.exit_code == 14
    with open_restored(demo[0], part) as root:
        (root / name).unlink() if before is None else (root / name).write_bytes(before)


@pytest.mark.slow
def test_paging_file_with_contents_is_named(demo: tuple[Path, list[str]]) -> None:
    for contents in (b"old", bytes(3)):
        with open_restored(demo[0], PARTS[2]) as root, (root / "hiberfil.sys").open("r+b") as file:
            file.seek(1 << 20)
            file.write(contents)
        if any(contents):
            with pytest.raises(DamagedError, match=r"hiberfil\.sys"):
                compare(demo[0])


def test_other_table_is_named(demo: tuple[Path, list[str]]) -> None:
    for name in ("other", PARTS[2].words):
        subprocess.run(["sgdisk", f"--change-name=3:{name}", demo[0] / "new-disk.raw"], check=True, capture_output=True)
        if name == "other":
            with pytest.raises(DamagedError, match="other"):
                compare(demo[0])


def test_half_a_table_is_named(demo: tuple[Path, list[str]]) -> None:
    with (demo[0] / "new-disk.raw").open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        header = file.read(512)
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
        file.flush()
        with pytest.raises(DamagedError, match="partition table"):
            compare(demo[0])
        file.seek(-512, os.SEEK_END)
        file.write(header)


def test_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        run_demo(keep=str(tmp_path), say=print, context=job_context())
    assert (tmp_path / "letter").read_text() == "mine"


def test_missing_programs_are_one_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name in ("mcopy", "sgdisk"):
            raise MissingProgram(name)
        return find_program(name)

    monkeypatch.setattr(tools, "find_program", find)
    with pytest.raises(MissingProgram, match="mcopy, sgdisk") as caught:
        require_machine()
    assert caught.value.hint == "On Debian or Ubuntu: sudo apt-get install -y gdisk mtools"


def test_other_users_are_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Finished(arguments=("id", "-u"), exit_code=0, output=b"1000\n", errors=b"")
    monkeypatch.setattr(tools, "run", lambda _: other)
    with pytest.raises(MachineRefusal) as caught:
        require_machine()
    assert "sudo" in caught.value.hint
