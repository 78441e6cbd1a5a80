"""Patterns of ``--exclude`` and names as text: examples, and laws against a plain regular expression."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import UsageError
from stillframe.fs.files.names import fold_case, read_name, show_name
from stillframe.fs.files.patterns import PATTERN_LENGTH_MAX, Trail, match_name, parse_pattern

NAMES = st.text("abAB.", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
PARTS = st.one_of(st.text("abA.*", min_size=1, max_size=6), st.just("**")).filter(
    lambda part: part not in (".", "..") and (part == "**" or "**" not in part)
)
PATTERNS = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["/", ""]), st.lists(PARTS, min_size=1, max_size=5), st.sampled_from(["/", ""]),
)  # fmt: skip
PATHS = st.lists(NAMES, min_size=1, max_size=6).map(lambda names: "/" + "/".join(names))


def as_regex(pattern: str) -> re.Pattern[str]:
    """The language once more, as a regular expression over the whole path."""
    body = pattern if pattern.startswith("/") else "/**/" + pattern
    body = body + "**" if body.endswith("/") else body
    *parts, last = body[1:].split("/")
    text = "".join("(?:/[^/]+)*" if part == "**" else "/" + name_regex(part) for part in parts)
    text += "(?:/[^/]+)+" if last == "**" else "/" + name_regex(last)
    return re.compile(text)


def name_regex(part: str) -> str:
    """One name; ``*`` alone stands for a whole one, and no name is empty."""
    return "(?=[^/])" + "[^/]*".join(map(re.escape, part.split("*")))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/home/anna/film.iso", "/home/anna/film.iso", True),
        ("/home/anna/film.iso", "/old/home/anna/film.iso", False),
        ("/home/*/film*.iso", "/home/anna/film 2.iso", True),
        ("/home/*/film*.iso", "/home/a/b/film.iso", False),
        ("/home/**/film.iso", "/home/film.iso", True),
        ("/home/**/film.iso", "/home/a/b/film.iso", True),
        ("/home/anna/films/", "/home/anna/films/a/b.mkv", True),
        ("/home/anna/films/", "/home/anna/films", False),
        ("/home/anna/films", "/home/anna/films/a", False),
        ("*.iso", "/a.iso", True),
        ("*.iso", "/a/b/c.iso", True),
        ("node_modules/", "/a/node_modules/x/y.js", True),
        ("node_modules/", "/a/node_modules.js", False),
        ("a/b", "/x/a/b", True),
        ("/a?[b]", "/a?[b]", True),
        ("/a?[b]", "/axb", False),
        ("/**", "/x/y", True),
        (r"/bad\xffname", r"/bad\xffname", True),
    ],
)
def test_examples(pattern: str, path: str, expected: bool) -> None:
    assert parse_pattern(pattern).matches(path, ignore_case=False) is expected


@pytest.mark.parametrize(
    "text", ["", "/", "//a", "a//b", "/a/../b", "/a/./b", "a\0b", r"\Users\x", "/a**/b", "***", "a" * 4097]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_pattern(text)
    assert refused.value.hint


def test_the_longest_pattern_is_taken() -> None:
    assert parse_pattern("a" * PATTERN_LENGTH_MAX).names[-1] == "a" * PATTERN_LENGTH_MAX


@given(PATTERNS, PATHS)
def test_a_pattern_means_what_the_regular_expression_means(pattern: str, path: str) -> None:
    expected = as_regex(pattern).fullmatch(path) is not None
    assert parse_pattern(pattern).matches(path, ignore_case=False) is expected


@given(PATTERNS, PATHS)
def test_without_case_all_spellings_are_one(pattern: str, path: str) -> None:
    parsed = parse_pattern(pattern)
    answer = parsed.matches(path, ignore_case=True)
    assert answer is parsed.matches(path.swapcase(), ignore_case=True)
    assert answer is parse_pattern(pattern.swapcase()).matches(path, ignore_case=True)
    assert answer or not parsed.matches(path, ignore_case=False)


@given(st.lists(PATTERNS, max_size=4), PATHS)
def test_a_trail_that_is_over_never_matches_below(patterns: list[str], path: str) -> None:
    trail = Trail.start(map(parse_pattern, patterns), ignore_case=False)
    *folders, name = path[1:].split("/")
    over = trail.is_over
    for folder in folders:
        trail = trail.enter(folder)
        over = over or trail.is_over
    named = trail.names_file(name)
    assert named is any(parse_pattern(one).matches(path, ignore_case=False) for one in patterns)
    assert not (over and named)


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_a_star_stands_for_anything_between(head: str, tail: str) -> None:
    assert match_name(f"{head}*{tail}", f"{head}ab{tail}")
    assert match_name(f"{head}*{tail}", f"{head}{tail}")


def test_many_stars_take_no_time() -> None:
    assert not match_name("*a" * 100 + "b", "a" * 255)


@given(st.binary(max_size=12) | st.text(r"\x5cf8a", max_size=12).map(str.encode))
def test_a_name_comes_back_from_its_text(raw: bytes) -> None:
    text = show_name(raw)
    assert read_name(text) == raw
    text.encode()


@given(st.text(max_size=12))
def test_names_in_utf_8_without_such_backslashes_stay_as_they_are(name: str) -> None:
    if "\\x" not in name and name.isprintable():
        assert show_name(name.encode()) == name


@given(st.text(max_size=12))
def test_folding_twice_is_folding_once(name: str) -> None:
    assert fold_case(fold_case(name)) == fold_case(name)
    assert len(fold_case(name)) == len(name)


def test_letters_that_windows_keeps_apart_stay_apart() -> None:
    assert fold_case(string.ascii_lowercase) == string.ascii_uppercase
    assert fold_case("äéж") == "ÄÉЖ"
    for one, other in (("ß", "ss"), ("\u0131", "i"), ("\u017f", "s"), ("\u212a", "k"), ("\u03c2", "\u03c3")):
        assert fold_case(one) != fold_case(other)
