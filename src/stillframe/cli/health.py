"""The verb ``health``: disks are asked whether they are failing."""

from collections.abc import Sequence
from typing import Final

from stillframe.cli.call import Call
from stillframe.cli.results import Fields
from stillframe.cli.words import table
from stillframe.errors import DeviceError
from stillframe.host.health import Health, read_all_health, read_health
from stillframe.units import format_size

LOOK_AGAIN: Final = 3
"""Exit code: a disk shows signs of age."""


def health(call: Call) -> int:
    """Ask disks how they are."""
    screen = call.screen
    disk = call.options.disk
    found = (read_health(disk),) if disk else read_all_health()
    lines = health_lines(found[0]) if disk else health_table(found) if found else ["No disk was found."]
    screen.finish("health", {"disks": [health_fields(one) for one in found]}, lines)
    conditions = {one.condition for one in found}
    if "failing" in conditions:
        return DeviceError.exit_code
    return LOOK_AGAIN if "watch" in conditions else 0


def health_table(found: Sequence[Health]) -> list[str]:
    """All disks, one a line, and what to do below."""
    rows = [(one.path, one.model, format_size(one.size), _condition(one), _warmth(one), _hours(one)) for one in found]
    head = ("disk", "model", "size", "health", "warmth", "has run")
    return [*table(head, rows, right=(2, 4, 5)), "", *(f"{one.path}: {one.verdict}" for one in found)]


def health_lines(one: Health) -> list[str]:
    """One disk: the sentence first, then the numbers that it rests on."""
    title = "  ".join(word for word in (one.path, one.model, one.serial, format_size(one.size)) if word)
    lines = [one.verdict, "", title]
    lines += [f"  {measure.name}: {measure.value}" for measure in one.measures]
    lines += [f"  warmth: {_warmth(one)}"] if one.temperature is not None else []
    return lines + ([f"  has run: {_hours(one)}"] if one.hours is not None else [])


def health_fields(one: Health) -> Fields:
    """One disk for a program."""
    return {
        "path": one.path, "model": one.model, "serial": one.serial, "size": one.size, "condition": one.condition,
        "verdict": one.verdict, "hours": one.hours, "temperature": one.temperature, "way": one.way,
        "measures": [{"name": m.name, "value": m.value, "means": m.means} for m in one.measures],
    }  # fmt: skip


def _condition(one: Health) -> str:
    return {"failing": "FAILING", "watch": "look again", "good": "good", "unknown": "not known"}[one.condition]


def _warmth(one: Health) -> str:
    return "" if one.temperature is None else f"{one.temperature} °C"


def _hours(one: Health) -> str:
    if one.hours is None:
        return ""
    return f"{one.hours} h" if one.hours < 48 else f"{one.hours // 24} days"
