"""Registry files with other keys and values: hivexml reads what was written, and everything else as it was."""

import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from stillframe.errors import DiskFormatError
from stillframe.systems.hive import Hive
from stillframe.systems.hive_writer import (
    REG_BINARY,
    REG_DWORD,
    REG_EXPAND_SZ,
    HiveWriter,
    NewValue,
    number_value,
    text_value,
    texts_value,
)
from stillframe.testing.hive_builder import Tree, build_hive
from stillframe.testing.hive_dump import dump_hive

SERVICES: dict[str, Tree] = {
    f"svc{number:04}": {"Start": number % 5, "ImagePath": f"system32\\drivers\\{number}.sys", "StartOverride": {"0": 3}}
    for number in range(30)
}
TREE: Tree = {
    "ControlSet001": {"Services": SERVICES, "Control": {"Empty": {}, "big": b"\xa5" * 40_000, "text": "some text"}},
    "Select": {"Current": 1, "Default": 1},
}
SERVICE = r"\ControlSet001\Services"


def written(folder: Path, hive: bytes, *, name: str = "hive") -> dict[str, object]:
    """What hivexml reads in a hive that hivexsh also accepts for writing, and whose base block is in order."""
    path = folder / name
    path.write_bytes(hive)
    subprocess.run(["hivexsh", "-w", str(path)], input=b"commit\n", check=True, capture_output=True)
    assert Hive.open(lambda offset, size: hive[offset : offset + size]) is not None
    return dict(dump_hive(path))


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_a_value_is_changed_in_its_place_and_nothing_else(tmp_path: Path, lists: str) -> None:
    before = build_hive(TREE, lists=lists)
    writer = HiveWriter.open(before)
    assert writer.set_value(r"controlset001\SERVICES\svc0003", number_value("start", 0))
    after = writer.finish()
    assert len(after) == len(before)
    changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len([at for at in changed if at >= 512]) == 1, "one byte of the number"
    expected = written(tmp_path, before) | {rf"{SERVICE}\svc0003:Start": "int32:0"}
    assert written(tmp_path, after) == expected


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_keys_are_removed_with_all_that_is_below_them(tmp_path: Path, lists: str) -> None:
    before = build_hive(TREE, lists=lists)
    writer = HiveWriter.open(before)
    for number in range(0, 30, 2):
        assert writer.delete_key(rf"ControlSet001\Services\svc{number:04}\StartOverride")
    assert writer.delete_key(r"ControlSet001\Control")
    assert not writer.delete_key(r"ControlSet001\Control")
    gone = [rf"{SERVICE}\svc{number:04}\StartOverride" for number in range(0, 30, 2)] + [r"\ControlSet001\Control"]
    expected = {
        name: value
        for name, value in written(tmp_path, before).items()
        if not any(name == one or name.startswith((f"{one}:", f"{one}\\")) for one in gone)
    }
    assert written(tmp_path, writer.finish()) == expected


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_keys_and_values_are_added(tmp_path: Path, lists: str) -> None:
    before = build_hive(TREE, lists=lists)
    writer = HiveWriter.open(before)
    path = r"ControlSet001\Services\svc0003x"
    writer.set_value(path, number_value("Start", 0))
    writer.set_value(path, text_value("ImagePath", r"system32\drivers\x.sys", REG_EXPAND_SZ))
    writer.set_value(path, texts_value("", "one", "two"))
    writer.set_value(path, NewValue(name="raw", kind=REG_BINARY, data=bytes(range(48))))
    writer.set_value(rf"{path}\Parameters\PnpInterface", number_value("5", 1))
    writer.set_value("DriverDatabase", NewValue(name="two", kind=REG_BINARY, data=b"\1\2"))
    expected = written(tmp_path, before) | {
        rf"\{path}": "", rf"\{path}:Start": "int32:0", rf"\{path}:ImagePath": r"expand:system32\drivers\x.sys",
        rf"\{path}:(default)": "string-list:one|two", rf"\{path}:raw": f"binary:{bytes(range(48)).hex()}",
        rf"\{path}\Parameters": "", rf"\{path}\Parameters\PnpInterface": "",
        rf"\{path}\Parameters\PnpInterface:5": "int32:1", r"\DriverDatabase": "", r"\DriverDatabase:two": "binary:0102",
    }  # fmt: skip
    assert written(tmp_path, writer.finish()) == expected


def test_a_value_changes_its_size_and_type(tmp_path: Path) -> None:
    before = build_hive(TREE)
    writer = HiveWriter.open(before)
    control = r"ControlSet001\Control"
    assert not writer.set_value(control, text_value("text", "some text"))
    assert writer.finish() == before, "nothing to change: not one byte is other"
    assert writer.set_value(control, text_value("text", "a much longer text than the one before"))
    assert writer.set_value(control, number_value("big", 7))
    assert writer.set_value("Select", text_value("Current", "no number any more"))
    expected = written(tmp_path, before) | {
        rf"\{control}:text": "string:a much longer text than the one before", rf"\{control}:big": "int32:7",
        r"\Select:Current": "string:no number any more",
    }  # fmt: skip
    assert written(tmp_path, writer.finish()) == expected


def test_many_keys_are_divided_into_lists_in_order(tmp_path: Path) -> None:
    writer = HiveWriter.open(build_hive({"Services": {}, "x": 1}))
    names = [f"Driver{number:04}" for number in range(620)]
    for name in random.Random(1).sample(names, len(names)):
        writer.set_value(rf"Services\{name}", number_value("Start", 0))
    found = written(tmp_path, writer.finish())
    keys = [name for name in found if name.startswith("\\Services\\") and ":" not in name]
    assert [key.rpartition("\\")[2] for key in keys] == names, "hivexml lists them as they lie"
    assert HiveWriter.open(writer.finish()).find_key(r"Services\DRIVER0577") is not None


def test_names_beyond_latin_letters(tmp_path: Path) -> None:
    writer = HiveWriter.open(build_hive({"a": {"x": 1}}))
    writer.set_value("a\\Тест", text_value("имя", "да"))
    found = written(tmp_path, writer.finish())
    assert found["\\a\\Тест:имя"] == "string:да"


def test_a_hive_is_written_again_and_again(tmp_path: Path) -> None:
    hive = build_hive(TREE)
    expected = written(tmp_path, hive)
    for turn in range(5):
        writer = HiveWriter.open(hive)
        writer.set_value(rf"New{turn}\Below", number_value("n", turn))
        writer.delete_key(f"New{turn - 2}")
        hive = writer.finish()
    added: Mapping[str, object] = {
        name: value
        for turn in (3, 4)
        for name, value in ((rf"\New{turn}", ""), (rf"\New{turn}\Below", ""), (rf"\New{turn}\Below:n", f"int32:{turn}"))
    }
    assert written(tmp_path, hive) == expected | dict(added)


def test_what_is_dirty_or_damaged_is_refused() -> None:
    with pytest.raises(DiskFormatError, match="not closed"):
        HiveWriter.open(build_hive(TREE, dirty=True))
    with pytest.raises(DiskFormatError, match="no hive"):
        HiveWriter.open(b"regf")
    whole = build_hive(TREE)
    for place, name in ((4096, "no bin"), (4096 + 32, "does not fit")):
        broken = bytearray(whole)
        broken[place : place + 4] = b"\x03\0\0\0"
        with pytest.raises(DiskFormatError, match=name):
            HiveWriter.open(bytes(broken))
    with pytest.raises(ValueError, match="too many"):
        NewValue(name="", kind=REG_DWORD, data=bytes(20_000))


def test_elements_of_the_tree_are_what_hivexml_says(tmp_path: Path) -> None:
    """The reader of these tests reads what the builder was given."""
    path = tmp_path / "hive"
    path.write_bytes(build_hive({"key": {"n": 5, "t": "text", "b": b"\0\1"}}))
    assert dict(dump_hive(path)) == {
        "\\key": "", "\\key:n": "int32:5", "\\key:t": "string:text", "\\key:b": "binary:0001",
    }  # fmt: skip
