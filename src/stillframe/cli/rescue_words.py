"""What is tried before the disaster, in words and in fields: check, rehearsal.

Answers: "how is this told to a person, and to a program?" Pure.
"""

from collections.abc import Iterable, Sequence

from stillframe.cli.results import Fields
from stillframe.rescue.trying.checking import Answer, is_fit
from stillframe.rescue.trying.rehearsing import RehearsalResult
from stillframe.units import format_duration

_HEADS = {"booted": "it comes back", "failed": "DOES NOT COME BACK", "unclear": "unclear whether it comes back"}
_MARKS = {"yes": "yes ", "no": "NO  ", "note": "note"}


def check_lines(medium: str, release: str, answers: Sequence[Answer]) -> list[str]:
    """The list: yes or no, and a sentence each."""
    lines = [f"The medium {medium} (Linux {release}) and this computer:", ""]
    for answer in answers:
        lines.append(f"{_MARKS[answer.verdict]}  {answer.about}: {answer.words}.")
        lines += [f"      {answer.hint}"] if answer.hint else []
    missing = sum(answer.verdict == "no" for answer in answers)
    verdict = "Nothing is missing, as far as lists of drivers tell. Start from the medium once to be sure."
    return [
        *lines,
        "",
        verdict if not missing else f"{missing} of these would stand in the way on the day it is needed.",
    ]


def check_fields(medium: str, release: str, answers: Iterable[Answer]) -> Fields:
    """The same for a program."""
    found = tuple(answers)
    return {
        "medium": medium, "kernel": release, "ok": is_fit(found),
        "answers": [
            {"code": one.code, "about": one.about, "verdict": one.verdict, "message": one.words, "hint": one.hint}
            for one in found
        ],
    }  # fmt: skip


def rehearsal_lines(result: RehearsalResult) -> list[str]:
    """What a rehearsal came to, and the recovery time with its parts."""
    parts = result.parts
    lines = [f"Image {result.image[:8]}  {_HEADS[result.outcome]}: {result.reason}"]
    if result.outcome == "booted":
        how = "emulated, so slower than a real computer" if result.emulated else "in a virtual machine"
        lines += [
            f"Recovery time {format_duration(parts.total)}  ({how})",
            (
                f"              {format_duration(parts.medium)} until the restore began, "
                f"{format_duration(parts.restore)} to restore, {format_duration(parts.start)} to start"
            ),
        ]
    if result.picture:
        lines.append(f"'stillframe show {result.image[:8]} --screenshot FILE' writes what was on its screen.")
    return lines


def rehearsal_fields(result: RehearsalResult) -> Fields:
    """The same for a program."""
    parts = result.parts
    return {
        "image": result.image, "outcome": result.outcome, "reason": result.reason, "firmware": result.firmware,
        "emulated": result.emulated, "screenshot": bool(result.picture), "seconds": round(parts.total, 1),
        "medium_seconds": round(parts.medium, 1), "restore_seconds": round(parts.restore, 1),
        "start_seconds": round(parts.start, 1),
    }  # fmt: skip
