"""The recovery sheet: what stands on it, and what must never."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from stillframe.rescue.trying.sheet import PrintedKey, SheetFacts, build_sheet, key_of_maker, words_of_disks

FACTS = SheetFacts(
    machine="anna-laptop", maker="LENOVO", product="ThinkPad X1", disks=("1 TB, Samsung, serial number S64NNX",),
    system_size="1 TB", folder="/media/anna/Backup/stillframe", place="5 TB, Seagate Expansion, serial number NAAB",
    repository="2a1d28d55b7d0a632f9e4c519d378e1f", is_encrypted=True, image="27 November 2026", recovery="",
    made="today", has_bitlocker=False,
)  # fmt: skip
KEY = PrintedKey(text="SF1-01234-56789", picture="<svg></svg>")


def test_it_is_a_page_without_scripts_and_without_a_network() -> None:
    page = build_sheet(FACTS, KEY)
    tidy = page.removeprefix("<!DOCTYPE html>\n")
    for html, xml in ((r"&(nbsp|ndash|ldquo|rdquo);", " "), (r"<br>", "<br/>"), (r"<meta [^>]*>", "")):
        tidy = re.sub(html, xml, tidy)
    ET.fromstring(tidy)  # noqa: S314 - our own page
    for word in ("<script", "http:", "https:", "<link", "<img", "url(", "@import", "<iframe"):
        assert word not in page


def test_it_names_what_belongs_together() -> None:
    page = build_sheet(FACTS)
    for text in ("anna-laptop", FACTS.disks[0], FACTS.place, FACTS.folder, FACTS.repository, "<kbd>restore</kbd>"):
        assert text in page
    assert "<kbd>F12, or Enter</kbd> (Lenovo)" in page


def test_the_recovery_key_is_on_it_only_when_given() -> None:
    without, with_key = build_sheet(FACTS), build_sheet(FACTS, KEY)
    assert "SF1-" not in without
    assert "not on this page" in without
    assert "<svg" not in without
    assert KEY.text in with_key
    assert "Whoever has this page" in with_key
    assert "not on this page" not in build_sheet(replace(FACTS, is_encrypted=False))


def test_words_of_the_machine_stay_words() -> None:
    hostile = '<script>alert("x")</script>\n& more' + "x" * 1000
    page = build_sheet(replace(FACTS, machine=hostile, maker=hostile, folder=hostile, disks=(hostile,) * 30))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert len(page) < 12_000
    assert "and 26 more" in page


@pytest.mark.parametrize(
    ("maker", "key"),
    [
        ("Dell Inc.", "F12"), ("HP", "Esc, then F9"), ("Hewlett-Packard", "Esc, then F9"),
        ("LENOVO", "F12, or Enter"), ("ASUSTeK COMPUTER INC.", "Esc or F8"),
        ("Micro-Star International Co., Ltd.", "F11"), ("Nobody", None), ("", None),
    ],
)  # fmt: skip
def test_the_key_of_a_maker(maker: str, key: str | None) -> None:
    found = key_of_maker(maker)
    assert (found[1] if found else None) == key


def test_disks_in_words() -> None:
    assert words_of_disks([("1 TB", "", ""), ("2 TB", "X", "Y")]) == ("1 TB", "2 TB, X, serial number Y")
