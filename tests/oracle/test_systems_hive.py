"""Registry files: what hivexget reads in them, and what hivexsh wrote into them, against ours."""

import random
import subprocess
from pathlib import Path

import pytest

from stillframe.errors import DiskFormatError
from stillframe.systems.hive import VALUE_SIZE_MAX, Hive
from stillframe.testing.hive_builder import Tree, build_hive

BIG = random.Random(3).randbytes(100_000)
TREE: Tree = {
    "Microsoft": {
        f"Filler {number}": {"x": number} for number in range(40)
    } | {"Windows NT": {"CurrentVersion": {"ProductName": "Windows 10 Pro", "UBR": 3007, "Big": BIG, "Tiny": b"ab"}}},
    "Select": {"Current": 1, "Empty": ""},
}  # fmt: skip
VERSION = r"Microsoft\Windows NT\CurrentVersion"


def opened(raw: bytes) -> Hive:
    hive = Hive.open(lambda offset, size: raw[offset : offset + size])
    assert hive is not None
    return hive


def hivexget(file: Path, *words: str) -> bytes:
    return subprocess.run(["hivexget", str(file), *words], capture_output=True, check=True).stdout


def ours(hive: Hive, path: str, name: str) -> str | int | bytes | None:
    key = hive.find_key(path)
    assert key is not None
    return hive.read_value(key, name)


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_another_program_reads_the_same(tmp_path: Path, lists: str) -> None:
    file = tmp_path / "SOFTWARE"
    file.write_bytes(build_hive(TREE, lists=lists))
    hive = opened(file.read_bytes())
    assert not hive.is_dirty
    assert hivexget(file, f"\\{VERSION}", "ProductName").decode().strip() == ours(hive, VERSION, "productname")
    assert int(hivexget(file, f"\\{VERSION}", "UBR")) == ours(hive, VERSION, "UBR")
    assert hivexget(file, f"\\{VERSION}", "Big") == BIG
    assert ours(hive, VERSION, "Big") == BIG
    assert ours(hive, VERSION, "Tiny") == b"ab"
    assert ours(hive, r"select", "Empty") == ""
    assert ours(hive, r"Microsoft\FILLER 39", "x") == 39
    assert hive.find_key(r"Microsoft\Nothing") is None
    assert ours(hive, VERSION, "Nothing") is None


def test_what_hivexsh_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "SYSTEM"
    file.write_bytes(build_hive({"Select": {"Current": 1}}))
    words = ("Current", "dword:2", "Name", "string:ANNA-PC")
    folders = ("cd \\", "add ControlSet002", "cd ControlSet002", "add Control", "cd Control", "add Ümlaut")
    script = "\n".join((*folders, "cd \\Select", "setval 2", *words, "commit", "quit"))
    subprocess.run(["hivexsh", "-w", str(file)], input=script.encode(), check=True, capture_output=True)
    hive = opened(file.read_bytes())
    assert ours(hive, "Select", "Current") == 2
    assert ours(hive, "Select", "Name") == "ANNA-PC"
    assert hive.find_key(r"ControlSet002\Control\Ümlaut") is not None


def test_a_hive_that_was_not_closed_says_so_and_is_read() -> None:
    hive = opened(build_hive(TREE, dirty=True))
    assert hive.is_dirty
    assert ours(hive, VERSION, "UBR") == 3007


def test_bytes_that_are_no_hive_are_none() -> None:
    assert Hive.open(lambda offset, size: bytes(8192)[offset : offset + size]) is None
    assert Hive.open(lambda offset, size: build_hive({})[:4000][offset : offset + size]) is None


def test_a_value_larger_than_its_limit_is_refused_and_its_neighbours_are_read() -> None:
    hive = opened(build_hive({"Key": {"Large": bytes(VALUE_SIZE_MAX + 1), "Largest": bytes(VALUE_SIZE_MAX), "x": 5}}))
    assert ours(hive, "Key", "Largest") == bytes(VALUE_SIZE_MAX)
    assert ours(hive, "Key", "x") == 5
    with pytest.raises(DiskFormatError, match=f"says that it has {VALUE_SIZE_MAX + 1} bytes"):
        ours(hive, "Key", "Large")


def test_a_hive_cut_anywhere_gives_the_truth_or_an_error_of_ours() -> None:
    whole, told, refused = build_hive(TREE), 0, 0
    for size in range(4096, len(whole), 1021):
        hive = opened(whole[:size])
        try:
            key = hive.find_key(VERSION)
            assert key is None or hive.read_value(key, "ProductName") == "Windows 10 Pro"
            told += 1
        except DiskFormatError:
            refused += 1
    assert told
    assert refused
