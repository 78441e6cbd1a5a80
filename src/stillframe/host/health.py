"""How a disk says it feels.

Answers: "will this disk fail, and by which numbers is that known?" in one sentence for a person. Disks count what goes
wrong in them (SMART); smartctl asks for it. A disk that counts nothing bad may fail all the same, and the words say so.

Sources: as ``host.health_report``; which counts of an ATA disk foretell failing: Pinheiro, Weber, Barroso, "Failure
Trends in a Large Disk Drive Population" (FAST 2007): scan errors, reallocations, offline reallocations, probational
counts.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import THIS_MACHINE, KernelPaths
from stillframe.host.disks import DiskFacts, describe, list_disks
from stillframe.host.health_report import (
    BELOW_THRESHOLD,
    FAILING,
    NOT_OPENED,
    NOT_PARSED,
    ONCE_BELOW,
    HealthReport,
    parse_health,
)
from stillframe.host.run import Finished, run
from stillframe.units import format_count

Condition = Literal["failing", "watch", "good", "unknown"]
_TIMEOUT_S: Final = 60.0
# Bridges between USB and a disk do not say what is behind them: SATA, or NVMe by one of three makers. smartctl(8), -d.
_BRIDGES: Final = ("sat", "sntasmedia", "sntjmicron", "sntrealtek")
_SAVE: Final = "save what is on it now, then replace it"
_HOT: Final = 70
_NVME_WARNINGS: Final = (
    (0, "its spare room is used up"), (2, "it is no longer reliable"), (3, "it can only be read any more"),
    (4, "its cache would lose data in a power cut"),
)  # fmt: skip

Run = Callable[[Sequence[str]], Finished]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number that a verdict rests on: of what, how much, and what that means."""

    name: str
    value: int
    means: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a disk is.

    Attributes:
        path, model, serial, size: Which disk.
        condition: ``failing``: save and replace it; ``watch``: look again soon; ``unknown``: it does not say.
        verdict: One sentence for a person.
        measures: The numbers that this rests on.
        hours, temperature: It ran so long, and is so warm (degrees Celsius); ``None`` when not known.
        way: The kind that smartctl was told (``-d``), for a disk behind a USB bridge; else empty.
    """

    path: str
    model: str = ""
    serial: str = ""
    size: int = 0
    condition: Condition
    verdict: str
    measures: tuple[Measure, ...] = ()
    hours: int | None = None
    temperature: int | None = None
    way: str = ""


def read_health(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> Health:
    """Ask one disk, or the disk of a partition.

    Raises:
        UsageError: There is nothing there.
        MachineRefusal: smartctl is not installed, or this user may not ask.
    """
    facts = describe(path, kernel=kernel)
    return ask_disk(describe(facts.parent, kernel=kernel) if facts.parent else facts, kernel=kernel)


def read_all_health(*, kernel: KernelPaths = THIS_MACHINE) -> tuple[Health, ...]:
    """Ask every disk of this machine; errors as ``read_health``."""
    return tuple(ask_disk(facts, kernel=kernel) for facts in list_disks(kernel=kernel))


def ask_disk(facts: DiskFacts, *, kernel: KernelPaths = THIS_MACHINE, call: Run | None = None) -> Health:
    """Ask one disk by what is known of it. ``call`` starts smartctl; tests have another."""
    if facts.kind != "disk" or not facts.is_hardware:
        words = "This is no drive of its own, so it has no health: ask the disks that it lies on."
        return _health(facts, None, condition="unknown", verdict=words)
    ways: tuple[str, ...] = ("", *_BRIDGES) if is_on_usb(facts.path, kernel=kernel) else ("",)
    first: HealthReport | None = None
    for way in ways:
        report = _ask(facts.path, way, call or _call)
        if _says_something(report):
            return judge_health(facts, report, way=way)
        first = first or report
    assert first is not None
    return judge_health(facts, first)


def is_on_usb(path: str, *, kernel: KernelPaths = THIS_MACHINE) -> bool:
    """Whether a disk hangs on USB."""
    folder = os.path.realpath(f"{kernel.sys}/block/{os.path.basename(path)}/device")
    while len(folder) > 1:
        if os.path.exists(f"{folder}/idVendor"):
            return True
        folder = os.path.dirname(folder)
    return False


def judge_health(facts: DiskFacts, report: HealthReport, *, way: str = "") -> Health:
    """What a report means. The worst of its numbers decides."""
    if not _says_something(report):
        return _health(facts, report, condition="unknown", verdict=_unknown_words(report), way=way)
    found = tuple(_iter_failing(report)), tuple(_iter_watch(report))
    measures = tuple(measure for _, measure in (*found[0], *found[1]))
    if found[0]:
        condition, verdict = "failing", f"{found[0][0][0]}: {_SAVE}."
    elif found[1]:
        condition, verdict = "watch", f"{found[1][0][0]}."
    else:
        condition, verdict = "good", "This disk counts nothing that foretells failing; it may fail all the same."
    return _health(facts, report, condition=condition, verdict=verdict, measures=measures, way=way)  # type: ignore[arg-type]


def _iter_failing(report: HealthReport) -> Iterator[tuple[str, Measure]]:
    """Signs that a disk is failing, the gravest first, each with its words."""
    if report.passed is False or report.bits & FAILING:
        yield "This disk says itself that it is failing", Measure(name="own verdict", value=0, means="failing")
    for one in (one for one in report.attributes if one.when_failed == "now"):
        words = f"This disk says that {one.name or one.number} is worse than its maker allows"
        yield words, Measure(name=one.name, value=one.raw or 0, means="failing")
    counted = (
        (197, "This disk reports {} it could not read", "sector", "sectors waiting to be read again"),
        (198, "This disk found {} in itself that cannot be read", "sector", "unreadable sectors"),
        (187, "This disk failed to read {}", "time", "errors reported as not correctable"),
    )
    for number, words, noun, name in counted:
        attribute = report.attribute(number)
        if attribute is not None and attribute.raw:
            yield words.format(format_count(attribute.raw, noun)), _bad(name, attribute.raw)
    if report.nvme is not None:
        warned = report.nvme.critical_warning or 0
        for bit, meaning in _NVME_WARNINGS:
            if warned >> bit & 1:
                yield f"This disk warns: {meaning}", _bad("critical warning", warned)
        if report.nvme.media_errors:
            words = f"This disk could not keep or read its data {format_count(report.nvme.media_errors, 'time')}"
            yield words, _bad("media errors", report.nvme.media_errors)
    if report.scsi is not None and report.scsi.uncorrected:
        words = f"This disk met {format_count(report.scsi.uncorrected, 'error')} that it could not correct"
        yield words, _bad("errors not corrected", report.scsi.uncorrected)


def _iter_watch(report: HealthReport) -> Iterator[tuple[str, Measure]]:
    """Signs of age, the gravest first."""
    moved = report.attribute(5)
    defects = moved.raw if moved is not None else report.scsi.grown_defects if report.scsi is not None else None
    if defects:
        words = f"This disk has put spare sectors in the place of {format_count(defects, 'bad one')}: look again weekly"
        yield words, _worn("sectors replaced", defects)
    if report.failed_tests:
        words = f"This disk failed {format_count(report.failed_tests, 'self-test')}: run 'smartctl -t long' again"
        yield words, _worn("failed self-tests", report.failed_tests)
    if report.bits & (BELOW_THRESHOLD | ONCE_BELOW):
        yield "This disk was once worse than its maker allows: look again weekly", _worn("was below a threshold", 1)
    log = report.nvme or report.scsi
    if log is not None and log.percentage_used is not None and log.percentage_used >= 100:
        words = (
            f"This disk has written more than it was built for ({log.percentage_used} % of its life): replace it soon"
        )
        yield words, _worn("percent of life used", log.percentage_used)
    cable = report.attribute(199)
    if cable is not None and cable.raw:
        words = f"Data arrived damaged {format_count(cable.raw, 'time')} on the way to this disk: change its cable"
        yield words, _worn("errors on the cable", cable.raw)
    if report.temperature is not None and report.temperature >= _HOT:
        yield f"This disk is hot ({report.temperature} °C): give it air", _worn("temperature", report.temperature)


def _bad(name: str, value: int) -> Measure:
    return Measure(name=name, value=value, means="failing")


def _worn(name: str, value: int) -> Measure:
    return Measure(name=name, value=value, means="watch")


def _says_something(report: HealthReport) -> bool:
    """Whether a report holds anything that tells of failing."""
    if report.bits & (NOT_PARSED | NOT_OPENED):
        return False
    counts = report.attributes or report.nvme is not None
    scsi = report.scsi is not None and (report.scsi.grown_defects, report.scsi.uncorrected) != (None, None)
    return bool(report.passed is not None or counts or scsi)


def _unknown_words(report: HealthReport) -> str:
    if report.has_smart is False:
        return "This disk keeps no counts of its health (SMART): only time tells, so keep its images fresh."
    said = next((message.rstrip(".") for message in report.messages), "")
    said = said.partition(": ")[2] if said.startswith("/dev/") else said
    reason = f": {said}" if said else ""
    return f"This disk says nothing of its health, as most virtual disks and many USB sticks do{reason}."


def _health(
    facts: DiskFacts, report: HealthReport | None, *, condition: Condition, verdict: str,
    measures: tuple[Measure, ...] = (), way: str = "",
) -> Health:  # fmt: skip
    return Health(
        path=facts.path, model=facts.model or (report.model if report is not None else ""),
        serial=facts.serial or (report.serial if report is not None else ""), size=facts.size, condition=condition,
        verdict=verdict, measures=measures, hours=None if report is None else report.hours,
        temperature=None if report is None else report.temperature, way=way,
    )  # fmt: skip


def _ask(path: str, way: str, call: Run) -> HealthReport:
    done = call(["smartctl", "--json=c", "-a", *(["-d", way] if way else []), path])
    report = parse_health(done.output, bits=done.exit_code)
    if done.exit_code & NOT_OPENED and any("Permission denied" in message for message in report.messages):
        raise MachineRefusal(f"this user may not ask {path} how it is", hint="Use sudo.")
    return report


def _call(arguments: Sequence[str]) -> Finished:
    return run(arguments, timeout_s=_TIMEOUT_S)
