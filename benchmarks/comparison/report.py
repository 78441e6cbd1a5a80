"""Tables and plots out of the figures of a run, and into the page between its marks.

Usage: python -m benchmarks.comparison.report FOLDER [PAGE]

FOLDER holds ``bench.json`` (``make bench``), ``scale.json`` (``benchmarks/scale.py``), or both; the plots go beside
them. In the page, what stands between ``<!-- NAME: made by ... -->`` and ``<!-- end of NAME -->`` is replaced.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.comparison import plots
from benchmarks.comparison.peers import peers

Figures = dict[str, Any]
_OURS, _LIMIT = "stillframe", "limit"
_LAST = 3
"""Sizes that growth is told from: at small ones the start of the program is most of a figure."""
_PHASES = {
    "full": "first backup, fast", "full balanced": "first backup, balanced", "full high": "first backup, high",
    "unchanged": "unchanged", "day": "a day later", "verify": "verify", "restore": "restore",
    "delta": "restore --delta, 1 % changed",
}  # fmt: skip


def write(folder: Path, page: Path | None) -> None:
    """Make what the folder's figures are good for; without a page print the tables."""
    parts: dict[str, str] = {}
    if (folder / "bench.json").exists():
        figures = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        parts |= {"how": how(figures), "phases": phases(figures), "peers": beside_peers(figures)}
        parts |= {"bars": bars(figures)}
        plots.draw_rates(rates(figures), folder)
    if (folder / "scale.json").exists():
        figures = json.loads((folder / "scale.json").read_text(encoding="utf-8"))
        parts["scale"] = scale(figures)
        plots.draw_scale(figures, folder)
    if page is None:
        print("\n\n".join(parts.values()))
        return
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = put(text, name, part)
    page.write_text(text, encoding="utf-8")


def put(text: str, name: str, part: str) -> str:
    """A page with one of its parts replaced.

    Raises:
        ValueError: The page has no marks of that name.
    """
    pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)"
    found, count = re.subn(pattern, lambda marks: f"{marks[1]}{part}\n{marks[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has no place for {name}")
    return found


def of(figures: Figures, disk: str, who: str, phase: str) -> list[Figures]:
    """The rows of one phase that have figures, in order of the runs."""
    return [
        row for row in figures["rows"]
        if (row["disk"], row["who"], row["phase"]) == (disk, who, phase) and not row["error"]
    ]  # fmt: skip


def middle(rows: Iterable[Figures], value: Callable[[Figures], float]) -> float:
    """The median; of nothing it is not a number."""
    values = [value(row) for row in rows]
    return statistics.median(values) if values else float("nan")


def ratio(mine: list[Figures], theirs: list[Figures]) -> float:
    """How many times as fast, the geometric mean over runs that both have; not a number when there is none."""
    other = {row["cycle"]: row["wall"] for row in theirs}
    pairs = [other[row["cycle"]] / row["wall"] for row in mine if row["cycle"] in other]
    return statistics.geometric_mean(pairs) if pairs else float("nan")


def how(figures: Figures) -> str:
    """Where and how it was measured."""
    on, tools = figures["machine"], "; ".join(figures["versions"].values())
    disks = "; ".join(
        f"*{name}* {disk['size'] / 1e9:.1f} GB, {disk['used'] / 1e9:.2f} GB in use, of which "
        f"{disk['changed'] / 1e6:.0f} MB (in blocks of 4 KiB) changed in the day"
        for name, disk in figures["disks"].items()
    )
    return (
        f"{figures['made'][:10]}, {on['processors']} processors ({on['processor']}), {on['memory'] / 2**30:.0f} GiB, "
        f"{on['system']}, Linux {on['kernel']}, Python {on['python']}; load at the start {on['load']:.1f}. "
        f"{figures['runs']} runs, {figures['seconds'] / 60:.0f} minutes. Disks: {disks}. Tools: {tools}."
    )


def phases(figures: Figures) -> str:
    """Ours, phase by phase."""
    head = (
        "disk",
        "phase",
        "wall s",
        "MB/s of used",
        "CPU s",
        "peak MB",
        "stored MB",
        "added MB",
        "of the limit's rate",
    )
    rows = []
    for disk in figures["disks"]:
        for phase, words in _PHASES.items():
            mine, theirs = of(figures, disk, _OURS, phase), of(figures, disk, _LIMIT, phase)
            rows.append((disk, words, *_cells(mine), _number(ratio(mine, theirs), 2)))
            if theirs:
                rows.append((disk, f"*limit: {words}*", *_cells(theirs), ""))
    return table(head, rows, left=2)


def _cells(rows: list[Figures]) -> tuple[str, ...]:
    return (
        _number(middle(rows, lambda row: row["wall"]), 2),
        _number(middle(rows, lambda row: row["used"] / 1e6 / row["wall"])),
        _number(middle(rows, lambda row: row["cpu"]), 1),
        _number(middle(rows, lambda row: row["peak"] / 1e6)),
        _number(middle(rows, lambda row: row["stored"] / 1e6)),
        _number(middle(rows, lambda row: row["added"] / 1e6)),
    )


def beside_peers(figures: Figures) -> str:
    """Ours and the other tools, a line each."""
    head = (
        "disk", "tool", "backup s", "MB/s", "CPU s", "peak MB", "stored MB", "a day later s", "added MB", "restore s",
        "came back", "verify s", "runs", "ours is faster: backup", "a day later", "restore", "verify",
    )  # fmt: skip
    rows = []
    for disk in figures["disks"]:
        names = dict.fromkeys(row["who"] for row in figures["rows"] if row["disk"] == disk and row["who"] != _LIMIT)
        for who in names:
            found = {phase: of(figures, disk, who, phase) for phase in ("full", "day", "restore", "verify")}
            mine = {phase: of(figures, disk, _OURS, phase) for phase in found}
            wall, rate, cpu, peak, stored, _ = _cells(found["full"])
            notes = [row["note"] for row in found["restore"] if row["note"]]
            times = ["" if who == _OURS else _number(ratio(mine[phase], found[phase]), 1) for phase in found]
            rows.append(
                (disk, who, wall, rate, cpu, peak, stored, _cells(found["day"])[0], _cells(found["day"])[5],
                 _cells(found["restore"])[0], *(notes[:1] or [""]), _cells(found["verify"])[0],
                 str(len(found["full"])), *times)
            )  # fmt: skip
    errors = dict.fromkeys(
        f"- {r['disk']}, {r['who']}, {r['phase']}: {r['error']}" for r in figures["rows"] if r["error"]
    )
    says = [f"- {peer.name}: {peer.says}." for peer in peers([])]
    shown = [f"![{disk}: backup and restore](performance/rates-{disk}.svg)" for disk in figures["disks"]]
    return "\n".join([table(head, rows, left=2), "", *shown, "", *says, *errors])


def bars(figures: Figures) -> str:
    """What was promised, and what was measured."""
    rows = []
    for disk in figures["disks"]:
        mine = {phase: of(figures, disk, _OURS, phase) for phase in _PHASES}
        limit = {phase: of(figures, disk, _LIMIT, phase) for phase in _PHASES}
        used = figures["disks"][disk]["used"]
        rows += [
            (disk, "first backup, of the limit's rate", _number(ratio(mine["full"], limit["full"]), 2)),
            (disk, "unchanged backup, of the rate of read + BLAKE3",
             _number(ratio(mine["unchanged"], limit["unchanged"]), 2)),
            (disk, "unchanged backup, times the rate of the first", _number(ratio(mine["unchanged"], mine["full"]), 1)),
            (disk, "restore, of the limit's rate", _number(ratio(mine["restore"], limit["restore"]), 2)),
            (disk, "restore --delta, times as long as reading and hashing the target",
             _number(1 / ratio(mine["delta"], limit["delta"]), 2)),
            (disk, "stored, of what is in use", _number(middle(mine["full"], lambda row: row["stored"]) / used, 3)),
            (disk, "most memory, MB", _number(max((r["peak"] / 1e6 for p in mine.values() for r in p), default=0))),
        ]  # fmt: skip
    return table(("disk", "what", "measured"), rows, left=2)


def rates(figures: Figures) -> dict[str, dict[str, tuple[float, float]]]:
    """For each disk and tool the MB/s of backup and of restore."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for disk in figures["disks"]:
        for who in dict.fromkeys(row["who"] for row in figures["rows"] if row["disk"] == disk):
            both = [of(figures, disk, who, phase) for phase in ("full", "restore")]
            first, second = (middle(rows, lambda row: row["used"] / 1e6 / row["wall"]) for rows in both)
            found.setdefault(disk, {})[who] = (first, second)
    return found


def scale(figures: Figures) -> str:
    """How it grows: one line for each figure, one column for each size, and the growth in words."""
    rows = figures["rows"]
    names = {key: words for key, words in figures["words"].items() if any(row.get(key) for row in rows)}
    growth = slopes_in_words(rows, list(names))
    lines = [
        (words, *(_scale_cell(key, row.get(key)) for row in rows), growth.get(key, "")) for key, words in names.items()
    ]
    lines.insert(0, ("chunks", *(f"{row['chunks']:,}" for row in rows), ""))
    head = ("", *(row["size"] for row in rows), f"growth over the last {_LAST} sizes")
    shown = [f"![{name}](performance/scale-{name}.svg)" for name in ("seconds", "memory")]
    return "\n".join([table(head, lines, left=1), "", *shown])


def _scale_cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:.0f}" if key.endswith("bytes") else f"{value:.3g}"


def slopes_in_words(rows: list[Figures], keys: list[str]) -> dict[str, str]:
    """How each figure grows with the number of chunks, from its largest sizes, by a fit of logarithms."""
    found = {}
    for key in keys:
        points = [(row["chunks"], row[key]) for row in rows if row.get(key)][-_LAST:]
        if len(points) < 2:
            continue
        slope = plots.slope(points)
        word = "does not grow" if abs(slope) < 0.1 else "grows more slowly than the disk" if slope < 0.85 else (
            "grows with the disk" if slope < 1.15 else "grows FASTER than the disk")  # fmt: skip
        found[key] = f"{word} (exponent {slope:.2f})"
    return found


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, left: int) -> str:
    """Markdown; the first ``left`` columns are words."""
    names = list(head)
    lines = [names, ["---"] * left + ["--:"] * (len(names) - left), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float, digits: int = 0) -> str:
    return "" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - not a number


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
