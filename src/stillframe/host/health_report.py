"""What smartctl says of a disk, read into a record.

Answers: "what does this report hold that tells of failing?" Pure: the output and the exit code in, a record out. What
it means is for ``host.health``.

Sources: smartctl(8) 7.3, "EXIT STATUS" and ``--json``; smartmontools 7.3, ataprint.cpp, nvmeprint.cpp, scsiprint.cpp
(the names of the keys); NVM Express Base Specification 2.0, figure 207 (critical warning); ACS-4 and the attribute
names of smartmontools' drivedb.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stillframe.errors import DiskFormatError

NOT_PARSED: Final = 1 << 0
NOT_OPENED: Final = 1 << 1
COMMAND_FAILED: Final = 1 << 2
FAILING: Final = 1 << 3
BELOW_THRESHOLD: Final = 1 << 4
ONCE_BELOW: Final = 1 << 5
ERRORS_LOGGED: Final = 1 << 6
TESTS_FAILED: Final = 1 << 7
"""Bits of smartctl's exit code."""

_NUMBER: Final = re.compile(r"\s*(\d{1,19})")
_ROWS_MAX: Final = 4096
_TEXT_MAX: Final = 200
_HINT: Final = "Look yourself: 'smartctl -a DEVICE'. A failing disk or its cable may answer with nonsense."


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute of an ATA disk: its number, the maker's name, the count behind it, and when it failed."""

    number: int
    name: str
    raw: int | None
    when_failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeLog:
    """The health log of an NVMe disk; ``None`` for what it does not say."""

    critical_warning: int | None
    percentage_used: int | None
    media_errors: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiLog:
    """What a SCSI or SAS disk counts; ``None`` for what it does not say."""

    grown_defects: int | None
    uncorrected: int | None
    percentage_used: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """A report.

    Attributes:
        bits: smartctl's exit code.
        messages: What smartctl itself complains of.
        protocol: ``ATA``, ``NVMe``, ``SCSI``, or empty.
        has_smart: Whether the disk keeps such counts at all; ``None`` when it does not say.
        passed: The disk's own verdict; ``None`` when it gives none.
        hours, temperature: It ran so long, and is so warm (degrees Celsius); ``None`` when not known.
        attributes, nvme, scsi: What it counts, by its kind.
        failed_tests: Self-tests that ended with a failure, of those that it remembers.
    """

    bits: int
    messages: tuple[str, ...]
    protocol: str
    model: str
    serial: str
    has_smart: bool | None
    passed: bool | None
    hours: int | None
    temperature: int | None
    attributes: tuple[Attribute, ...]
    nvme: NvmeLog | None
    scsi: ScsiLog | None
    failed_tests: int

    def attribute(self, number: int) -> Attribute | None:
        """An attribute by its number."""
        return next((one for one in self.attributes if one.number == number), None)


def parse_health(output: bytes, *, bits: int) -> HealthReport:
    """Read the output of ``smartctl --json=c -a``.

    Args:
        output: What it wrote.
        bits: Its exit code.

    Raises:
        DiskFormatError: It is no such output.
    """
    try:
        found = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DiskFormatError(f"smartctl's answer is no JSON: {error}", hint=_HINT) from error
    if not isinstance(found, dict):
        raise DiskFormatError("smartctl's answer is JSON, and no record", hint=_HINT)
    report = _Tree(found)
    return HealthReport(
        bits=bits,
        messages=tuple(text for row in report.rows("smartctl", "messages") if (text := row.text("string"))),
        protocol=report.text("device", "protocol"),
        model=report.text("model_name") or report.text("scsi_model_name"),
        serial=report.text("serial_number"),
        has_smart=report.flag("smart_support", "available"),
        passed=report.flag("smart_status", "passed"),
        hours=report.count("power_on_time", "hours"),
        temperature=report.count("temperature", "current") or None,  # 0 is what a disk without a sensor says
        attributes=tuple(_iter_attributes(report)),
        nvme=_parse_nvme(report),
        scsi=_parse_scsi(report),
        failed_tests=_count_failed_tests(report),
    )


class _Tree:
    """JSON of which nothing is certain: what is not of the kind that was asked for is not there."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def _at(self, *path: str) -> Any:
        here = self._found
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        return here

    def has(self, *path: str) -> bool:
        return isinstance(self._at(*path), dict)

    def text(self, *path: str) -> str:
        here = self._at(*path)
        return " ".join(here.split())[:_TEXT_MAX] if isinstance(here, str) else ""

    def flag(self, *path: str) -> bool | None:
        here = self._at(*path)
        return here if isinstance(here, bool) else None

    def count(self, *path: str) -> int | None:
        """A count; smartctl writes those that JavaScript could not hold as a text of their own beside it."""
        here = self._at(*path)
        return here if isinstance(here, int) and not isinstance(here, bool) and 0 <= here < 1 << 63 else None

    def rows(self, *path: str) -> "Iterator[_Tree]":
        here = self._at(*path)
        yield from (_Tree(row) for row in (here[:_ROWS_MAX] if isinstance(here, list) else ()))


def _iter_attributes(report: _Tree) -> Iterator[Attribute]:
    for row in report.rows("ata_smart_attributes", "table"):
        number = row.count("id")
        if number is not None and number <= 255:
            # The text is the count as the maker means it: six bytes may hold several numbers.
            shown = _NUMBER.match(row.text("raw", "string"))
            raw = int(shown[1]) if shown else row.count("raw", "value")
            yield Attribute(number=number, name=row.text("name"), raw=raw, when_failed=row.text("when_failed"))


def _parse_nvme(report: _Tree) -> NvmeLog | None:
    log = "nvme_smart_health_information_log"
    if not report.has(log):
        return None
    return NvmeLog(
        critical_warning=report.count(log, "critical_warning"),
        percentage_used=report.count(log, "percentage_used"), media_errors=report.count(log, "media_errors"),
    )  # fmt: skip


def _parse_scsi(report: _Tree) -> ScsiLog | None:
    if report.text("device", "protocol") != "SCSI":
        return None
    counters = [
        report.count("scsi_error_counter_log", way, "total_uncorrected_errors") for way in ("read", "write", "verify")
    ]
    known = [count for count in counters if count is not None]
    return ScsiLog(
        grown_defects=report.count("scsi_grown_defect_list"), uncorrected=sum(known) if known else None,
        percentage_used=report.count("scsi_percentage_used_endurance_indicator"),
    )  # fmt: skip


def _count_failed_tests(report: _Tree) -> int:
    counts = [report.count("ata_smart_self_test_log", kind, "error_count_total") for kind in ("standard", "extended")]
    return max((count for count in counts if count is not None), default=0)
