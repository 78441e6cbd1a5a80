"""Words that many commands share: tables, times, notices, plans.

Answers: "how is this told to a person?" Pure: lines in, lines out.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from stillframe.events import Notice
from stillframe.repo.records import StoredNotice


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows under a head, in columns as wide as needed; the columns in ``right`` end together, as numbers do."""
    cells = [[cell.replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def local_time(text: str) -> str:
    """A stored time, which is in UTC, as the clock on this wall shows it."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return text


def notice_lines(notices: Iterable[Notice | StoredNotice]) -> list[str]:
    """Each notice once, with its next step."""
    lines: dict[str, None] = {}
    for notice in notices:
        lines[f"Note: {notice.message}" + (f"\n      {notice.hint}" if notice.hint else "")] = None
    return list(lines)


def plan_lines(
    title: str, identity: Sequence[str], *, steps: Sequence[str], lost: Sequence[str], notices: Iterable[Notice]
) -> list[str]:
    """A plan that overwrites something: what the target is, what is lost there, what will be done."""
    lines = [title, *(f"  {line}" for line in identity), ""]
    if lost:
        lines += ["WILL BE LOST on the target:", *(f"  {line}" for line in lost), ""]
    lines += ["What will be done:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))]
    return [*lines, *notice_lines(notices)]
