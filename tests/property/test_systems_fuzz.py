"""Registry files and the texts of a Linux with bytes changed at random."""

import random

import pytest

from stillframe.errors import StillframeError
from stillframe.systems.boot_files import parse_menu
from stillframe.systems.fstab import parse_crypttab, parse_lines
from stillframe.systems.hive import Hive
from stillframe.systems.linux import parse_fstab, parse_release
from stillframe.testing.hive_builder import Tree, build_hive

VERSION = r"Microsoft\Windows NT\CurrentVersion"
NAMES = ("ProductName", "UBR", "Big")
TREE: Tree = {
    "Microsoft": {"Windows NT": {"CurrentVersion": {"ProductName": "Windows 10", "UBR": 5, "Big": bytes(40_000)}}}
}


def fuzz_hive(data: bytes) -> None:
    """Any bytes give an answer or an error of ours, within a bounded number of reads."""
    reads = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert size <= 2 << 20
        assert reads < 1_000_000
        return data[offset : offset + size]

    try:
        hive = Hive.open(read)
        key = hive.find_key(VERSION) if hive else None
        for name in NAMES if hive and key else ():
            assert hive is not None
            assert key is not None
            hive.read_value(key, name)
        above = hive.find_key("Microsoft") if hive else None
        for name in hive.iter_names(above) if hive and above else ():
            assert len(name) <= 32_766
    except StillframeError:
        pass


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
def test_changed_hives_end_in_an_answer_or_an_error_of_ours(lists: str) -> None:
    source, whole = random.Random(lists), build_hive(TREE, lists=lists)
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            # the records come first; the large value behind them says nothing
            place = source.randrange(0, 6000)
            changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
        fuzz_hive(bytes(changed))


def fuzz_linux(data: bytes) -> None:
    """Any text gives fields that fit on one line."""
    text = data.decode(errors="replace")
    for fields in (parse_release(text), parse_fstab(text), dict(parse_crypttab(text))):
        assert all(word.isprintable() and len(word) <= 150 for pair in fields.items() for word in pair)
    for line in parse_lines(text):
        assert all(word.isprintable() and len(word) <= 150 for word in (line.what, line.where, line.kind))
    assert all(name.isprintable() and len(name) <= 150 for name in parse_menu(text))


def test_changed_texts_give_plain_words() -> None:
    source = random.Random(1)
    whole = (
        b"NAME=\"Debian\"\nPRETTY_NAME='Debian 12'\nID=debian\n\nUUID=12 / ext4 defaults 0 1\n/dev/sda1\t/boot ext2\n"
        b"search --fs-uuid --set=root 0123-ABCD\nlinux /k root=PARTUUID=p1 resume=LABEL=swap\nUUID=3 none swap sw\n"
    )
    for _ in range(2000):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        fuzz_linux(bytes(changed))
