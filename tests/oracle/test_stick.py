"""A folder as a stick: mtools and fsck.fat read what we say is there."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from stillframe.block import ReadFault
from stillframe.errors import UsageError
from stillframe.serve.stick import open_stick
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import fill_tree, hash_tree

START = 1 << 20
ZEROS = bytes(1 << 20)


def write_out(folder: Path, target: Path, *, start: int = START) -> Path:
    """The stick from a byte on as a file, by default its volume; what reads as zeros takes no room."""
    stick = open_stick(str(folder))
    with target.open("wb") as file:
        file.truncate(stick.size - start)
        for at in range(start, stick.size, 1 << 20):
            piece = stick.read_at(at, min(1 << 20, stick.size - at))
            if piece != ZEROS[: len(piece)]:
                file.seek(at - start)
                file.write(piece)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    fill_tree(made, seed=3, size=2 << 20)
    for path in [path for path in made.rglob("*") if path.is_symlink() or any(ord(c) > 126 for c in path.name)]:
        path.unlink() if not path.is_dir() else run_tool("rm", "-r", str(path))
    (made / "packs/0f").mkdir(parents=True)
    (made / "packs/0f" / ("a" * 26)).write_bytes(b"name of two whole pieces")
    (made / "packs/0f" / ("b" * 32)).write_bytes(os.urandom(8192))
    (made / "packs/empty").write_bytes(b"")
    (made / "packs/none").mkdir()
    return made


def test_the_tools_of_others_read_the_same_files(folder: Path, tmp_path: Path) -> None:
    image = write_out(folder, tmp_path / "stick.img")
    checked = subprocess.run(["fsck.fat", "-n", "-v", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "32 bit entries" in checked.stdout
    place = tmp_path / "copied"
    place.mkdir()
    run_tool("mcopy", "-s", "-Q", "-n", "-m", "-i", str(image), "::*", str(place))
    assert hash_tree(place) == hash_tree(folder)
    assert {path.relative_to(place) for path in place.rglob("*")} == {p.relative_to(folder) for p in folder.rglob("*")}


def test_blkid_knows_it_by_its_label(folder: Path, tmp_path: Path) -> None:
    image = write_out(folder, tmp_path / "stick.img")
    assert run_tool("blkid", "-p", "-o", "value", "-s", "LABEL", str(image)).strip() == "STILLFRAME"


def test_sfdisk_sees_its_one_partition(folder: Path, tmp_path: Path) -> None:
    image = write_out(folder, tmp_path / "stick.img", start=0)
    (row,) = json.loads(run_tool("sfdisk", "--json", str(image)))["partitiontable"]["partitions"]
    assert (row["start"] * 512, row["type"]) == (START, "c")
    assert row["size"] * 512 == image.stat().st_size - START


def test_every_range_reads_as_the_whole_does(folder: Path) -> None:
    stick = open_stick(str(folder))
    whole = stick.read_at(0, min(stick.size, 8 << 20))
    for offset, length in (
        (0, 1),
        (START + 16_383, 3),
        (START + 16_384, 513),
        (START + 270_001, 9000),
        (4_000_003, 70_001),
    ):
        assert stick.read_at(offset, length) == whole[offset : offset + length]


def test_a_folder_with_thousands_of_files(tmp_path: Path) -> None:
    made = tmp_path / "many"
    made.mkdir()
    for number in range(3000):
        (made / f"{number:032x}").write_bytes(b"%d" % number)
    image = write_out(made, tmp_path / "stick.img")
    assert subprocess.run(["fsck.fat", "-n", image], capture_output=True, check=False).returncode == 0
    assert run_tool("mtype", "-i", str(image), f"::{2999:032x}") == "2999"


def test_a_file_that_goes_away_is_an_error_and_never_zeros(folder: Path) -> None:
    stick = open_stick(str(folder))
    whole = stick.read_at(0, 8 << 20)
    (folder / "packs/0f" / ("b" * 32)).unlink()
    with pytest.raises(ReadFault):
        stick.read_at(0, len(whole))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be listed"):
        open_stick(str(tmp_path / "none"))


def test_a_file_that_no_fat_can_hold_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(UsageError, match="4 GiB"):
        open_stick(str(tmp_path))
