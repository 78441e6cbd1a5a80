"""The plots: rates of several tools side by side, and how figures grow with the disk.

Answers: "what does this look like?" SVG, the same for the same figures.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

_OURS: Final = {"stillframe": "#1f6f43", "limit": "#9aa0a6"}
_SETTINGS: Final[Any] = {"svg.hashsalt": "stillframe", "svg.fonttype": "none", "font.size": 9.0}
_META: Final = {"Date": None, "Creator": None}


def draw_rates(rates: Mapping[str, Mapping[str, tuple[float, float]]], folder: Path) -> None:
    """One file for each disk: ``rates-DISK.svg``, MB of used data per second."""
    for disk, tools in rates.items():
        with mpl.rc_context(_SETTINGS):
            figure, sides = plt.subplots(1, 2, figsize=(9, 0.35 * len(tools) + 1.1), sharey=True, layout="constrained")
            for number, (axes, title) in enumerate(zip(sides, ("first backup", "restore"), strict=True)):
                values = [0.0 if math.isnan(found[number]) else found[number] for found in tools.values()]
                bars = axes.barh(list(tools), values, color=[_OURS.get(name, "#7aa6d6") for name in tools])
                axes.bar_label(bars, [f"{value:.0f}" if value else "no figure" for value in values], padding=3)
                axes.set(
                    title=f"{disk}: {title}", xlabel="MB of used data per second", xlim=(0, max(values) * 1.18 or 1)
                )
                axes.spines[["top", "right"]].set_visible(False)
            sides[0].invert_yaxis()
            figure.savefig(folder / f"rates-{disk}.svg", metadata=_META)
            plt.close(figure)


def draw_scale(figures: Mapping[str, Any], folder: Path) -> None:
    """``scale-seconds.svg`` and ``scale-memory.svg``: both axes logarithmic, so that a straight line is a power."""
    with mpl.rc_context(_SETTINGS):
        for name, ending, unit, factor in (("seconds", "_s", "seconds", 1.0), ("memory", "_bytes", "MB", 1e-6)):
            figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
            for key, words in figures["words"].items():
                points = [(row["chunks"], row[key] * factor) for row in figures["rows"] if row.get(key)]
                if key.endswith(ending) and len(points) > 1:
                    growth = f" (exponent {slope(points[-3:]):.2f})"
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=words + growth)
            if name == "memory":
                axes.axhline(400, color="#b3261e", linestyle="--", linewidth=1, label="the bar: 400 MB")
            axes.set(xscale="log", yscale="log", ylabel=unit, xlabel="size of the disk, in chunks of 256 KiB")
            axes.set_xticks([row["chunks"] for row in figures["rows"]], [row["size"] for row in figures["rows"]])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
            figure.savefig(folder / f"scale-{name}.svg", metadata=_META)
            plt.close(figure)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent of a power law through these points, by least squares of logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread if spread else 0.0
