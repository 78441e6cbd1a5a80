"""Registry hives and their logs: what waits in them is applied, or nothing is.

Marvin32 is compared with the vectors of .NET's own tests (``MarvinTests.cs``). That whole hives come out as Windows 10
left them was seen with those of github.com/msuhanov/yarp, which are not kept here.
"""

import random
import struct
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.errors import DiskFormatError, StillframeError
from stillframe.systems.hive_cells import HiveCells
from stillframe.systems.hive_log_files import marvin32
from stillframe.systems.hive_logs import apply_logs, number_above, read_logs
from stillframe.systems.hive_writer import HiveWriter, NewValue, number_value
from stillframe.testing.hive_builder import Tree, build_hive
from stillframe.testing.hive_log_builder import entry, marvin, new_log, numbered, old_log

VECTORS = {
    "": 0x30ED35C100CD3C7D, "af": 0x48E73FC77D75DDC1, "e70f": 0xB5F6E1FC485DBFF8, "37f495": 0xF0B07C789B8CF7E8,
    "8642dc59": 0x7008F2E87E9CF556, "153fb79826": 0xE6C08C6DA2AFA997, "0932e6246c47": 0x6F04BF1A5EA24060,
    "ab427ea8d10fc7": 0xE11847E4F0678C41,
}  # fmt: skip
VECTOR_SEED = 0x004FB61A001BDBCC
FIRST = 40  # the number of the first entry of the logs


@cache
def states() -> tuple[bytes, ...]:
    """A hive and what became of it, step by step: values change, it grows, keys come and go."""
    tree: Tree = {f"Key{number}": {"Number": number, "Text": "x" * 60} for number in range(40)}
    made = [numbered(build_hive(tree), FIRST, FIRST)]
    for step in range(6):
        writer = HiveWriter.open(made[-1])
        writer.set_value(f"Key{step * 5}", number_value("Number", 1000 + step))
        writer.set_value(rf"New{step}\Below", NewValue(name="Data", kind=3, data=bytes([step]) * 3000))
        if step % 2:
            writer.delete_key(f"Key{step * 7 + 1}")
        made.append(numbered(writer.finish(), FIRST + step + 1, FIRST + step + 1))
    return tuple(made)


@cache
def entries() -> list[bytes]:
    made = states()
    return [entry(one, other, FIRST + step) for step, (one, other) in enumerate(pairwise(made))]


def dirty() -> bytes:
    return numbered(states()[0], FIRST + 1, FIRST)


def logs(*, split: int, swapped: bool = False) -> tuple[bytes, ...]:
    """Two logs, the first entries in one of them."""
    made = entries()
    pair = (
        new_log(states()[0], made[:split], FIRST), new_log(states()[split], made[split:], FIRST + split)
    )  # fmt: skip
    return pair[::-1] if swapped else pair


@pytest.mark.parametrize("text", VECTORS)
def test_marvin32_is_that_of_dot_net(text: str) -> None:
    data = bytes.fromhex(text)
    assert marvin32(data, VECTOR_SEED) == VECTORS[text]
    assert marvin(data, (VECTOR_SEED & 0xFFFFFFFF, VECTOR_SEED >> 32)) == VECTORS[text].to_bytes(8, "little")


@settings(deadline=None, max_examples=40)
@given(split=st.integers(1, 5), swapped=st.booleans())
def test_what_waits_in_two_logs_leads_to_the_last_state(split: int, swapped: bool) -> None:
    done = apply_logs(dirty(), logs(split=split, swapped=swapped))
    assert done.contents == states()[-1]
    assert done.applied == tuple(range(FIRST, FIRST + 6))


@pytest.mark.parametrize("empty", [b"", bytes(65536)])
def test_one_log_is_enough_when_the_other_was_not_used(empty: bytes) -> None:
    assert apply_logs(dirty(), (empty, new_log(states()[0], entries(), FIRST))).contents == states()[-1]


def test_numbers_that_begin_again_are_followed() -> None:
    one, other = states()[0], states()[1]
    pair = (
        new_log(one, [entry(one, other, 0)], 0), new_log(one, [entry(one, other, 0xFFFFFFFF)], 0xFFFFFFFF)
    )  # fmt: skip
    done = apply_logs(numbered(one, 0, 0xFFFFFFFF), pair)
    assert done.applied == (0xFFFFFFFF, 0)
    assert done.contents == numbered(other, 1, 1)


def test_a_closed_hive_is_left_whatever_its_logs_say() -> None:
    done = apply_logs(states()[0], logs(split=3))
    assert (done.contents, done.applied) == (states()[0], ())


def test_entries_left_from_earlier_are_not_applied() -> None:
    """Behind the last entry of a log, and in the other log."""
    made = entries()
    rest = new_log(states()[2], [*made[2:4], made[0], made[1]], FIRST + 2)
    older = new_log(states()[0], made[:2], FIRST)
    hive = numbered(states()[2], FIRST + 3, FIRST + 2)
    assert apply_logs(hive, (older, rest)).contents == states()[4]


def test_a_base_block_that_is_broken_comes_from_the_log() -> None:
    hive = bytearray(dirty())
    hive[36] ^= 0xFF
    assert apply_logs(bytes(hive), logs(split=3)).contents == states()[-1]


def test_what_no_log_has_of_a_broken_base_block_stays() -> None:
    """A log has its first sector; behind it Windows 10 keeps ``ThawTmId`` and others, under no checksum."""
    hive, last = bytearray(dirty()), bytearray(states()[-1])
    hive[36] ^= 0xFF
    hive[4040:4088] = last[4040:4088] = bytes(range(48))
    assert apply_logs(bytes(hive), logs(split=3)).contents == bytes(last)


@pytest.mark.parametrize("flags", [0, 1])
def test_an_entry_sets_and_takes_the_mark_of_a_transaction(flags: int) -> None:
    one, other = (bytearray(state) for state in states()[:2])
    for hive in (one, other):
        struct.pack_into("<I", hive, 144, 3)
    log = new_log(bytes(one), [entry(bytes(one), bytes(other), FIRST, flags=flags)], FIRST)
    done = apply_logs(numbered(bytes(one), FIRST + 1, FIRST), (log,)).contents
    assert int.from_bytes(done[144:148], "little") == 2 | flags


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_log_that_ends_early_gives_a_state_that_was_or_nothing(data: st.DataObject) -> None:
    split = data.draw(st.integers(1, 5))
    pair = list(logs(split=split))
    which = data.draw(st.integers(0, 1))
    pair[which] = pair[which][: data.draw(st.integers(0, len(pair[which])))]
    try:
        done = apply_logs(dirty(), pair)
    except DiskFormatError:
        return
    assert done.contents == states()[len(done.applied)]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_changed_byte_of_a_log_is_never_applied(data: st.DataObject) -> None:
    pair = [bytearray(one) for one in logs(split=3)]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(pair[which]) - 1))
    pair[which][at] ^= data.draw(st.integers(1, 255))
    try:
        done = apply_logs(dirty(), [bytes(one) for one in pair])
    except DiskFormatError:
        return
    assert done.contents == states()[len(done.applied)]


def test_entries_that_are_missing_between_the_logs_are_said() -> None:
    first, second = logs(split=3)
    with pytest.raises(DiskFormatError, match="between its two logs entries are missing") as caught:
        apply_logs(dirty(), (first[: len(first) - 512], second))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("none", "there is no log of it"),
        ("older", "its logs are older than it"),
        ("both", "of different Windows versions"),
        ("root", "of a hive of another shape"),
        ("torn", "no entry of its log is whole"),
        ("place", "where they do not fit"),
        ("bins", "there is no bin at"),
        ("base", "no base block that is whole"),
        ("being written", "was being written itself"),
        ("three", "it has 3 logs"),
        ("lost", "entries before those of its log are missing"),
        ("only the log has a base", "entries before those of its log are missing"),
    ],
)
def test_what_is_in_doubt_is_refused_by_name(case: str, words: str) -> None:
    one, other, made = states()[0], states()[1], entries()
    log, hive = new_log(one, made, FIRST), dirty()
    moved = bytearray(one)
    struct.pack_into("<I", moved, 36, 64)
    cases: dict[str, tuple[bytes, ...]] = {
        "none": (b"", bytes(1024)), "both": (log, old_log(one, other, FIRST)),
        "root": (new_log(bytes(moved), made, FIRST),), "torn": (new_log(one, [made[0][:600]], FIRST),),
        "place": (new_log(one, [entry(one, one, FIRST, pages=[(len(one) - 4096, bytes(512))])], FIRST),),
        "bins": (new_log(one, [entry(one, one, FIRST, pages=[(0, bytes(4096))])], FIRST),),
        "base": (b"\1" + log[1:],), "being written": (numbered(log, FIRST + 1, FIRST),), "three": (log, log, log),
    }  # fmt: skip
    if case == "lost":
        cases[case] = (b"", logs(split=3)[1])
    if case == "only the log has a base":
        hive = hive[:500] + b"?" + hive[501:]
    if case == "older":
        hive = numbered(one, 1000, 999)
    with pytest.raises(DiskFormatError, match=words) as caught:
        apply_logs(hive, cases.get(case, (log,)))
    assert "shut it down" in caught.value.hint


def test_a_log_of_the_old_format_is_applied_when_it_is_of_that_time() -> None:
    one, other = states()[0], states()[1]
    hive = numbered(one, FIRST + 1, FIRST)
    for sequence in (FIRST, FIRST + 1):  # Windows XP, Windows Vista
        done = apply_logs(hive, (old_log(one, other, sequence), b""))
        assert done.contents == numbered(other, sequence + 1, sequence + 1)
    later = bytearray(other)
    later[12] = 9
    for log, words in (
        (old_log(one, bytes(later), FIRST), "no log of it is from when it was last written"),
        (old_log(one, other, FIRST + 7), "its log has another number"),
        (old_log(one, other, FIRST)[:-512], "too few for the"),
        (old_log(one, other, FIRST).replace(b"DIRT", b"CLEA"), "which pages wait"),
    ):
        with pytest.raises(DiskFormatError, match=words):
            apply_logs(hive, (log,))
    both = (old_log(one, other, FIRST), old_log(one, other, FIRST + 1))
    with pytest.raises(DiskFormatError, match="which of its two logs counts"):
        apply_logs(hive, both)


def test_after_a_change_no_entry_is_applied_any_more() -> None:
    """Not even when Windows is stopped right after it has marked the hive: its own next numbers are above them all."""
    pair = logs(split=3)
    left = new_log(states()[0], [*entries(), b"\0" * 512, entry(states()[4], states()[5], FIRST + 90)], FIRST)
    for some in (pair, (left,)):
        closed = number_above(apply_logs(dirty(), some).contents, some)
        first, second = struct.unpack_from("<II", closed, 4)
        assert first == second == (FIRST + 91 if some == (left,) else FIRST + 6)
        assert apply_logs(closed, some).contents == closed
        with pytest.raises(DiskFormatError, match="older than it"):
            apply_logs(numbered(closed, first + 1, first), some)


def test_which_files_are_the_logs_of_a_hive() -> None:
    files = {"S.LOG1": b"1", "S.LOG": b"0", "T.LOG": b"2", "T.LOG1": b"", "T.LOG2": b""}

    def read(path: str, offset: int, size: int) -> bytes | None:
        found = files.get(path)
        return None if found is None else found[offset : offset + size]

    assert read_logs(read, "S") == (b"1", b"")
    assert read_logs(read, "T") == (b"2",)
    assert read_logs(read, "U") == (b"",)


def fuzz_hive_logs(data: bytes) -> None:
    """Any bytes are logs that lead to a closed hive, or are refused; also when they are the hive."""
    middle = len(data) // 2
    for hive, some in (
        (dirty(), (data,)), (dirty(), (data[:middle], data[middle:])), (data, (new_log(data.ljust(512), [], 1),))
    ):  # fmt: skip
        number_above(states()[0], some)
        try:
            done = apply_logs(hive, some)
        except StillframeError:
            continue
        assert apply_logs(done.contents, ()).contents == done.contents


def test_logs_with_bytes_changed_at_random_are_applied_or_refused() -> None:
    chance = random.Random(20)
    made = entries()
    seeds = [new_log(states()[0], made, FIRST), old_log(states()[0], states()[1], FIRST), dirty()]
    for turn in range(150):
        raw = bytearray(seeds[turn % 3])
        for _ in range(chance.randrange(1, 6)):
            raw[chance.choice((chance.randrange(min(1100, len(raw))), chance.randrange(len(raw))))] = chance.choice(
                (0, 1, 0x7F, 0xFF, chance.randrange(256))
            )
        fuzz_hive_logs(bytes(raw))


def test_a_hive_with_its_logs_applied_can_be_changed() -> None:
    writer = HiveWriter.open(apply_logs(dirty(), logs(split=2)).contents)
    assert writer.set_value("Key0", number_value("Number", 7))
    HiveCells.open(writer.finish())
