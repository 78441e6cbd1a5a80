"""What ``bench`` measured, in words.

Answers: "what is fast here, what is slow, and what should I do?" Pure: lines out.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.cli.words import table
from stillframe.jobs.bench import BenchPlan, BenchResult
from stillframe.jobs.speeds.forecast import DAY_SHARE, Forecast, Part
from stillframe.jobs.speeds.working import thread_count
from stillframe.units import format_count, format_duration, format_rate, format_size

_PARTS: Final[dict[Part, str]] = {
    "source": "reading the disk", "processor": "this computer's processor",
    "repository": "writing to the repository's disk or network",
}  # fmt: skip
_ADVICE: Final[dict[Part, str]] = {
    "source": "Nothing makes the first backup quicker but a quicker disk.",
    "processor": "'--compression fast' asks least of it; a quicker disk for the repository would not help.",
    "repository": "A quicker disk, port or network makes the first backup quicker; so does what stores less.",
}


def bench_plan_lines(plan: BenchPlan) -> list[str]:
    """What will be measured, before anything is."""
    lines = ["The processors work on a sample for a few seconds."]
    if plan.disk is not None:
        lines.insert(
            0, f"Up to {format_size(plan.bytes_to_read)} of {plan.disk.facts.path} are read. It is not changed."
        )
    if plan.folder:
        room = "" if plan.free_space is None else f" ({format_size(plan.free_space)} are free there)"
        lines.append(
            f"{format_size(plan.bytes_to_write)} are written into a temporary file in {plan.folder}{room}, read back, "
            "and taken away. Nothing of the repository is touched."
        )
    return lines


def bench_lines(result: BenchResult) -> list[str]:
    """Speeds, times, and what holds them up."""
    return [*_speed_lines(result), *_forecast_lines(result)]


def _speed_lines(result: BenchResult) -> list[str]:
    threads = format_count(thread_count(), "processor")
    lines = [f"Measured with {threads}. Speeds are bytes of the disk per second.", ""]
    return [*lines, *table(("", "speed", ""), list(_speed_rows(result)), right=(1,))]


def _speed_rows(result: BenchResult) -> Iterator[tuple[str, str, str]]:
    speeds, sample, plan = result.speeds, result.sample, result.plan
    if plan.disk is not None:
        zeros = f", {sample.zeros:.0%} of it zeros" if sample.zeros >= 0.005 else ""
        words = f"{format_size(sample.bytes_read)} all over it{zeros}"
        yield f"reading {plan.disk.facts.path}", _rate(speeds.read), words
    yield "naming (BLAKE3)", _rate(speeds.hash), ""
    for packed in result.packed:
        if packed.rate is not None:
            yield f"packing, {packed.compression}", _rate(packed.rate), f"to {packed.ratio:.0%}"
    yield "sealing (AES-256)", _rate(speeds.seal), "" if plan.encrypted else "not needed: this repository is open"
    yield "expanding", _rate(speeds.expand), ""
    if result.storage is not None:
        size = format_size(result.storage.bytes_written)
        yield f"writing to {plan.folder}", _rate(speeds.write), size
        how = "" if result.storage.past_caches else "perhaps out of memory: this system cannot be asked to forget it"
        yield "reading it back", _rate(speeds.read_back), how


def _forecast_lines(result: BenchResult) -> list[str]:
    best, disk = result.recommended, result.plan.disk
    if best is None or disk is None:
        return ["", "Name a disk as well, to learn how long its backups take."]
    rows = [_forecast_row(one) for one in result.forecasts]
    head = ("compression", "first backup", "stored", "next backup", "restore")
    title = f"Expected for {disk.facts.path}, {format_size(disk.bytes_used)} in use:"
    lines = ["", title, "", *table(head, rows, right=(1, 2, 3, 4)), "", *_verdict(best)]
    lines += [
        f"A backup counts with reading back what it stored; the next one with {DAY_SHARE:.0%} changed.",
        "A restore takes longer where its target is slower than reading the repository.",
    ]
    if not result.plan.folder:
        lines += ["The repository is not in these times: add '--repo'."]
    return lines


def _forecast_row(one: Forecast) -> Sequence[str]:
    times = (one.first_s, one.next_s, one.restore_s)
    first, later, back = (format_duration(seconds) for seconds in times)
    return one.compression, first, format_size(one.bytes_stored), later, back


def _verdict(best: Forecast) -> list[str]:
    lines = []
    if best.bottleneck is not None:
        lines += [f"The first backup waits for {_PARTS[best.bottleneck]}.", _ADVICE[best.bottleneck]]
    return [*lines, f"Best here: '--compression {best.compression}'."]


def _rate(rate: float | None) -> str:
    return "" if rate is None else format_rate(int(rate), 1.0)
