"""The recovery sheet on paper: laid out by WeasyPrint, counted by poppler, its code read from the page by zbarimg."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.rescue.trying.sheet import PrintedKey, SheetFacts, build_sheet
from stillframe.rescue.trying.sheet_file import draw_code

KEY = "SF1-01234-56789-ABCDE-FGHJK-MNPQR-STVWX-YZ012-34567"
DISK = "1 TB, Samsung SSD 970 EVO Plus, serial number S4EWNX0R123456"
FACTS = SheetFacts(
    machine="anna-laptop", maker="LENOVO", product="ThinkPad X1 Carbon Gen 9", disks=(DISK,), system_size="1 TB",
    folder="/media/anna/Backup/stillframe", place="5 TB, Seagate Expansion, serial number NAAB12345",
    repository="2a1d28d55b7d0a632f9e4c519d378e1f", is_encrypted=True, image="27 November 2026", recovery="24 min",
    made="27 November 2026", has_bitlocker=False,
)  # fmt: skip
# What is longest of all that people have: eight disks, a maker without a key of its own, long names, BitLocker.
FULL = replace(
    FACTS, machine="a-computer-with-a-long-name-in-the-office-of-a-school", maker="Micro Systems and Computers Ltd.",
    product="A Model With A Name That Fills The Line", disks=(DISK,) * 8, has_bitlocker=True,
    folder="/run/media/anna/Backup of the computers of the school/backups of all years/stillframe",
)  # fmt: skip


def printed(page: str, folder: Path, *, paper: str) -> Path:
    """The page as a PDF."""
    source, style, target = folder / "sheet.html", folder / "paper.css", folder / "sheet.pdf"
    source.write_text(page)
    style.write_text(f"@page {{ size: {paper} }}")
    subprocess.run(["weasyprint", "-q", "-s", style, source, target], check=True)
    return target


def facts_of(pdf: Path) -> dict[str, str]:
    said = subprocess.run(["pdfinfo", pdf], capture_output=True, text=True, check=True).stdout
    return {name: value.strip() for name, _, value in (line.partition(":") for line in said.splitlines())}


@pytest.mark.variants(3)
@pytest.mark.parametrize("paper", ["A4", "letter"])
@pytest.mark.parametrize("facts", [FACTS, FULL], ids=["usual", "fullest"])
@pytest.mark.parametrize("has_key", [False, True])
def test_it_is_exactly_one_page(tmp_path: Path, facts: SheetFacts, paper: str, *, has_key: bool) -> None:
    key = PrintedKey(text=KEY, picture=draw_code(KEY)) if has_key else None
    pdf = printed(build_sheet(facts, key), tmp_path, paper=paper)
    found = facts_of(pdf)
    assert found["Pages"] == "1"
    assert found["Page size"].startswith({"A4": "595", "letter": "612"}[paper])
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
    for words in ("How this computer comes back", facts.machine, facts.repository, "restore"):
        assert words in text
    assert (KEY in text) == has_key


def test_a_second_page_would_be_seen(tmp_path: Path) -> None:
    """The counter counts: a page that is too long is two."""
    long = build_sheet(FACTS).replace("</body>", "<p>more</p>" * 60 + "</body>")
    assert facts_of(printed(long, tmp_path, paper="A4"))["Pages"] == "2"


def test_the_code_on_the_paper_is_read_by_another_program(tmp_path: Path) -> None:
    key = PrintedKey(text=KEY, picture=draw_code(KEY))
    pdf = printed(build_sheet(FULL, key), tmp_path, paper="A4")
    subprocess.run(["pdftoppm", "-r", "200", "-png", "-singlefile", pdf, tmp_path / "page"], check=True)
    read = subprocess.run(
        ["zbarimg", "-q", "--raw", tmp_path / "page.png"], capture_output=True, text=True, check=False
    )
    assert read.stdout.strip() == KEY
