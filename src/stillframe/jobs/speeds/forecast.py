"""From speeds to times: what a first backup, the next one and a restore will take, and what they wait for.

Answers: "how long, and which part of this computer is the slowest?" Pure: numbers in, numbers out. A backup reads,
works and writes at the same time, so the slowest of the three decides; reading back comes after it, as it does by
default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.jobs.backup import Compression

Part = Literal["source", "processor", "repository"]
DAY_SHARE: Final = 0.01
"""Of what is in use, what changes until the next backup, in this forecast."""
NEARLY: Final = 1.05
"""Longer by less than this is as quick, and then what stores less is better."""
SAVES: Final = 0.95
"""Compression that leaves less than this of the bytes saves room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Bytes per second, of all threads together.

    Attributes:
        read: Of the source; ``None`` when there is none.
        hash: Naming chunks.
        seal: Encrypting; opening is as quick.
        expand: Undoing compression, per byte that comes out.
        write: To the repository, durable; ``None`` when there is none.
        read_back: From the repository.
    """

    read: float | None
    hash: float
    seal: float
    expand: float
    write: float | None
    read_back: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One level of compression: bytes per second of all threads, and what is left of a byte."""

    compression: Compression
    rate: float | None
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What to expect of one level of compression. Seconds and bytes.

    ``bottleneck`` is what a first backup waits for; ``None`` when there is neither a source nor a repository.
    """

    compression: Compression
    bytes_stored: int
    first_s: float
    next_s: float
    restore_s: float
    bottleneck: Part | None


def forecast(speeds: Speeds, packed: Packed, *, size: int, encrypted: bool) -> Forecast:
    """Expect times for ``size`` bytes in use that are not zeros."""
    stored = size * packed.ratio
    parts = _parts(speeds, packed, size=size, encrypted=encrypted)
    back = _reading_back(speeds, size=size, stored=stored, encrypted=encrypted)
    changed = DAY_SHARE * max(parts.values())
    unchanged = max(size / speeds.hash, _seconds(size, speeds.read))
    slowest: Part = max(parts, key=lambda part: parts[part])
    measured = speeds.read is not None or speeds.write is not None
    return Forecast(
        compression=packed.compression, bytes_stored=int(stored), first_s=max(parts.values()) + back,
        next_s=unchanged + changed + DAY_SHARE * back, restore_s=back,
        bottleneck=slowest if measured else None,
    )  # fmt: skip


def recommended(forecasts: Sequence[Forecast]) -> Forecast:
    """The quickest of those that save room, or one that is nearly as quick and stores less.

    Not compressing is taken only where nothing is saved worth the name: a quick disk soon makes it the quickest.
    """
    whole = max(one.bytes_stored for one in forecasts)
    choice = [one for one in forecasts if one.bytes_stored < whole * SAVES] or list(forecasts)
    quickest = min(one.first_s for one in choice)
    return min((one for one in choice if one.first_s <= quickest * NEARLY), key=lambda one: one.bytes_stored)


def _parts(speeds: Speeds, packed: Packed, *, size: int, encrypted: bool) -> dict[Part, float]:
    """The seconds that each part of this computer needs for a first backup."""
    work = size / speeds.hash + _seconds(size, packed.rate)
    work += size * packed.ratio / speeds.seal if encrypted else 0.0
    return {
        "source": _seconds(size, speeds.read),
        "processor": work,
        "repository": _seconds(size * packed.ratio, speeds.write),
    }


def _reading_back(speeds: Speeds, *, size: int, stored: float, encrypted: bool) -> float:
    """The seconds in which all that is stored is read, opened, expanded and checked."""
    work = size / speeds.hash + (stored / speeds.seal if encrypted else 0.0)
    work += size / speeds.expand if stored < size else 0.0
    return max(work, _seconds(stored, speeds.read_back))


def _seconds(size: float, rate: float | None) -> float:
    return size / rate if rate else 0.0
