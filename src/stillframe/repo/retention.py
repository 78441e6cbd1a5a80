"""Which images are kept and which are forgotten, by rules.

Answers: "which images does this policy let go, and why is each of the others kept?" Pure: deletes nothing and reads
nothing. Images are grouped by machine and job name and ordered by their sequence, because a clock may be wrong; dates
(in UTC) only decide which images share a day, a week or a month.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from stillframe.errors import UsageError
from stillframe.repo.records import Manifest, parse_time

CumulativeSizes = Callable[[Sequence[Manifest]], Sequence[int]]
"""Stored bytes of the first image, of the first two together, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How many images to keep of each machine and job. A policy without any rule keeps everything.

    Attributes:
        keep_last: The newest so many.
        keep_daily: The newest image of each of the last so many days that have one.
        keep_weekly: Likewise of ISO weeks.
        keep_monthly: Likewise of months.
        max_size: Bytes that all images of all machines together may take; a limit on top of the rules.
    """

    keep_last: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    max_size: int | None = None

    def __post_init__(self) -> None:
        counts = (self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly, self.max_size or 0)
        if min(counts) < 0:
            raise UsageError("a retention rule cannot be negative", hint="0 means: this rule keeps nothing.")

    @property
    def has_rules(self) -> bool:
        """Whether some image may be forgotten for its age."""
        return any((self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly))


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedImage:
    """An image and the reasons for what becomes of it."""

    manifest: Manifest
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlan:
    """What is kept and what is forgotten, oldest first.

    Attributes:
        size: Stored bytes that the kept images need, when sizes were asked for.
        is_over: Even so they need more than ``max_size``: the newest good image of a group is never forgotten.
    """

    keep: tuple[JudgedImage, ...]
    forget: tuple[JudgedImage, ...]
    size: int | None = None
    is_over: bool = False


def plan_retention(
    images: Iterable[Manifest],
    policy: RetentionPolicy,
    *,
    failed: Collection[str] = (),
    sizes: CumulativeSizes | None = None,
) -> RetentionPlan:
    """Decide which images are kept.

    The newest good image of each machine and job is always kept, and so is the newest of those that hold every
    partition. Torn images, and those that failed a proof, count for no rule; they are kept while no good image is
    newer.

    Args:
        images: Manifests, in any order.
        policy: The rules.
        failed: Ids of images whose newest proof found damage.
        sizes: Needed for ``max_size``.

    Raises:
        UsageError: ``max_size`` is set and ``sizes`` is not given.
    """
    groups: dict[tuple[str, str, bool], list[Manifest]] = {}
    for manifest in images:  # an image of the system alone never pushes out one of everything
        groups.setdefault((manifest.machine.id, manifest.name, manifest.is_partial), []).append(manifest)
    judged: list[tuple[Manifest, list[str], bool]] = []
    for group in groups.values():
        group.sort(key=lambda manifest: (manifest.sequence, manifest.created, manifest.image), reverse=True)
        judged += _judge_group(group, policy, frozenset(failed))
    kept = [(manifest, reasons, protected) for manifest, reasons, protected in judged if reasons]
    gone = [
        JudgedImage(manifest=manifest, reasons=("no rule keeps it",)) for manifest, reasons, _ in judged if not reasons
    ]
    if policy.max_size is None:
        return RetentionPlan(keep=_sorted(_as_judged(kept)), forget=_sorted(gone))
    if sizes is None:
        raise UsageError("a limit of size needs the sizes of images", hint="Open the index first.")
    return _limit(kept, gone, policy.max_size, sizes)


def _judge_group(
    newest_first: list[Manifest], policy: RetentionPolicy, failed: frozenset[str]
) -> list[tuple[Manifest, list[str], bool]]:
    """Reasons to keep each image, none to forget it; and whether it is protected from every rule."""
    good = [manifest for manifest in newest_first if not manifest.is_torn and manifest.image not in failed]
    reasons: dict[str, list[str]] = {manifest.image: [] for manifest in newest_first}
    if good:
        reasons[good[0].image].append("newest good image")
    newer = newest_first[: newest_first.index(good[0])] if good else newest_first
    for manifest in newer:
        reasons[manifest.image].append("no good image is newer")
    if not policy.has_rules:
        for manifest in newest_first:
            reasons[manifest.image].append("no rule lets it go")
    rules: list[tuple[str, int, Callable[[Manifest], object]]] = [
        ("last", policy.keep_last, lambda manifest: manifest.image),
        ("daily", policy.keep_daily, lambda manifest: _day(manifest).date()),
        ("weekly", policy.keep_weekly, lambda manifest: _day(manifest).isocalendar()[:2]),
        ("monthly", policy.keep_monthly, lambda manifest: (_day(manifest).year, _day(manifest).month)),
    ]
    for word, count, period in rules:
        seen: set[object] = set()
        for manifest in good:
            if len(seen) < count and period(manifest) not in seen:
                seen.add(period(manifest))
                reasons[manifest.image].append(f"{word} {len(seen)} of {count}")
    protected = {manifest.image for manifest in (good[:1] or newest_first[:1])}
    return [(manifest, reasons[manifest.image], manifest.image in protected) for manifest in newest_first]


def _limit(
    kept: list[tuple[Manifest, list[str], bool]], gone: list[JudgedImage], max_size: int, sizes: CumulativeSizes
) -> RetentionPlan:
    """Forget the oldest of what is kept until the rest fits; protected images stay."""
    order = sorted(kept, key=lambda item: (item[2], item[0].created, item[0].sequence, item[0].image), reverse=True)
    order = _in_sequence(order)
    totals = [0, *sizes([manifest for manifest, _, _ in order])]
    if len(totals) != len(order) + 1 or any(after < before for before, after in pairwise(totals)):
        raise ValueError("sizes must be one growing number for each image")
    protected = sum(is_protected for _, _, is_protected in order)
    count = max([number for number, total in enumerate(totals) if total <= max_size], default=0)
    count = max(count, protected)
    reason = f"the oldest beyond {max_size} bytes in all"
    gone = gone + [JudgedImage(manifest=manifest, reasons=(reason,)) for manifest, _, _ in order[count:]]
    return RetentionPlan(
        keep=_sorted(_as_judged(order[:count])),
        forget=_sorted(gone),
        size=totals[count],
        is_over=totals[count] > max_size,
    )


def _in_sequence(order: list[tuple[Manifest, list[str], bool]]) -> list[tuple[Manifest, list[str], bool]]:
    """The same places, but within a group and its protection the images by sequence: a clock may have gone back."""
    places: dict[tuple[str, str, bool], list[int]] = {}
    for place, (manifest, _, is_protected) in enumerate(order):
        places.setdefault((manifest.machine.id, manifest.name, is_protected), []).append(place)
    result = list(order)
    for numbers in places.values():
        items = sorted((order[number] for number in numbers), key=lambda item: item[0].sequence, reverse=True)
        for number, item in zip(numbers, items, strict=True):
            result[number] = item
    return result


def _as_judged(kept: list[tuple[Manifest, list[str], bool]]) -> list[JudgedImage]:
    return [JudgedImage(manifest=manifest, reasons=tuple(reasons)) for manifest, reasons, _ in kept]


def _sorted(judged: list[JudgedImage]) -> tuple[JudgedImage, ...]:
    return tuple(
        sorted(judged, key=lambda item: (item.manifest.machine.id, item.manifest.name, item.manifest.sequence))
    )


def _day(manifest: Manifest) -> datetime:
    return parse_time(manifest.created)
