"""Whether the manifests of each machine are the ones that were written: none missing, none put back.

Two runs of a machine that were at work beside each other may have given one number to two images: then one of them
names the session of the other, which began while it was open. Of two images of one number of which none does, one was
put back.

Answers: "is this an older state of the repository?" Pure. Normative: ``docs/format/v1.md``, section 10. A machine
that never saw the newer state cannot tell: only what was last seen, kept elsewhere, can.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from stillframe.events import Finding
from stillframe.repo.deletion_records import ForgottenImage
from stillframe.repo.records import Manifest
from stillframe.repo.repository import StoredImage

UNKNOWN_MACHINE: Final = "0" * 32
"""The machine in a tombstone of an image whose manifest could not be read."""
_SHOWN: Final = 20

LastSeen = Mapping[str, tuple[int, str]]
"""For a machine's id the sequence and the id of the newest image that was seen of it."""


@dataclass(frozen=True, slots=True)
class MissingImages:
    """Sequence numbers of a machine that no manifest and no tombstone explains."""

    machine_name: str
    numbers: tuple[int, ...]
    count: int


def find_gaps(images: Iterable[StoredImage], forgotten: Iterable[ForgottenImage]) -> list[MissingImages]:
    """Sequence numbers below a machine's newest image that are nowhere."""
    forgotten = list(forgotten)
    unknown = sum(image.machine == UNKNOWN_MACHINE for image in forgotten)
    gaps = []
    for machine_id, mine in _by_machine(images).items():
        known = {image.manifest.sequence for image in mine}
        known |= {image.sequence for image in forgotten if image.machine == machine_id and image.sequence}
        ordered = [0, *sorted(known)]
        count = max(known) - len(known)
        shown = [n for low, high in pairwise(ordered) for n in range(low + 1, min(high, low + 1 + _SHOWN))][:_SHOWN]
        explained = min(count, unknown)
        unknown -= explained
        if count > explained:
            gaps.append(MissingImages(mine[0].manifest.machine.name, tuple(shown), count - explained))
    return gaps


def judge_lineage(
    images: Iterable[StoredImage], forgotten: Iterable[ForgottenImage], last_seen: LastSeen
) -> Iterator[Finding]:
    """Everything that says that manifests are missing, doubled or older than they were."""
    images, forgotten = list(images), list(forgotten)
    for gap in find_gaps(images, forgotten):
        numbers = ", ".join(map(str, gap.numbers)) + (", ..." if gap.count > len(gap.numbers) else "")
        yield Finding(
            code="images-missing",
            message=f"{gap.count} images of {gap.machine_name} are missing and were never forgotten: number {numbers}",
            hint="They were deleted, or an older state was put back. Look for another copy of the repository.",
            thing=gap.machine_name,
        )
    machines = _by_machine(images)
    for mine in machines.values():
        yield from _judge_chain(mine, forgotten)
    gone = {image.image for image in forgotten}
    for machine_id, (sequence, image_id) in last_seen.items():
        mine = machines.get(machine_id, [])
        newest = max((image.manifest.sequence for image in mine), default=0)
        is_there = image_id in gone or any(image.manifest.image == image_id for image in mine)
        if newest <= sequence and not is_there:  # another one of its number may be there
            yield Finding(
                code="older-state",
                message=f"image {image_id[:8]}, number {sequence} of its machine, was here and is gone; "
                f"the newest is number {newest}: an older state of the repository was put back",
                hint="If nobody did that on purpose, somebody else can write here. Look for the newer copy.",
                thing=image_id,
            )


def _judge_chain(mine: list[StoredImage], forgotten: list[ForgottenImage]) -> Iterator[Finding]:
    """Neighbours in one machine's sequence, and images that share a number."""
    ordered = sorted(mine, key=lambda image: image.manifest.place)
    digests, there = dict[int, set[str]](), {image.manifest.image for image in mine}
    for image in mine:
        digests.setdefault(image.manifest.sequence, set()).add(image.digest.hex())
    machine = mine[0].manifest.machine.id
    deleted = {one.sequence for one in forgotten if one.machine == machine and one.image not in there}
    for before, after in pairwise(ordered):
        old, new = before.manifest, after.manifest
        if old.sequence == new.sequence and not _were_beside(old, new):
            yield Finding(
                code="sequence-twice",
                message=f"images {old.image[:8]} and {new.image[:8]} of {new.machine.name} are both number "
                f"{new.sequence}: one was put back after the other was made",
                hint="Restore from either; forget the one you do not need.",
                thing=new.image,
            )
    for image in ordered:
        new, wanted = image.manifest, image.manifest.sequence - 1
        known = digests.get(wanted, set())
        # One of that number may have been forgotten and be deleted by now: then it may be the one that was followed.
        if new.previous and known and new.previous not in known and wanted not in deleted:
            old = next(one.manifest for one in reversed(ordered) if one.manifest.sequence == wanted)
            yield Finding(
                code="chain-broken",
                message=f"image {new.image[:8]} of {new.machine.name} followed another image than {old.image[:8]}: "
                f"the manifest number {old.sequence} was replaced",
                hint="An older or foreign manifest was put back. Verify both images before you rely on them.",
                thing=old.image,
            )


def _were_beside(one: Manifest, other: Manifest) -> bool:
    return one.session in other.beside or other.session in one.beside


def _by_machine(images: Iterable[StoredImage]) -> dict[str, list[StoredImage]]:
    machines: dict[str, list[StoredImage]] = {}
    for image in images:
        machines.setdefault(image.manifest.machine.id, []).append(image)
    return machines
