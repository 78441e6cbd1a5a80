"""Stamps of devices and files: equal only when nothing was written."""

from pathlib import Path

from stillframe.host.changes import change_stamp, parse_block_stat


def test_a_file_that_is_written_has_another_stamp(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    before = change_stamp(str(disk))
    assert before is not None
    assert change_stamp(str(disk)) == before
    with disk.open("r+b") as file:
        file.write(b"x")
    assert change_stamp(str(disk)) != before


def test_the_kernels_counters_of_writes_and_discards_are_the_stamp() -> None:
    # /sys/block/sda/stat of a running machine; fields as in Documentation/block/stat.rst
    text = "  1021 11 65010 512 3300 77 91016 4410 0 3020 4922 12 0 4096 5 140 60\n"
    stamp = parse_block_stat(text)
    assert stamp is not None
    assert stamp.numbers == (3300, 91016, 12, 4096)
    read_more = parse_block_stat(text.replace("1021 11 65010", "1022 11 65018"))
    assert read_more == stamp
    assert parse_block_stat(text.replace("91016", "91024")) != stamp


def test_a_kernel_without_discards_is_read_too_and_nonsense_is_unknown() -> None:
    old = parse_block_stat("1 2 3 4 5 6 7 8 9 10 11")
    assert old is not None
    assert old.numbers == (5, 7)
    assert parse_block_stat("") is None
    assert parse_block_stat("a b c d e f g h i j k") is None
