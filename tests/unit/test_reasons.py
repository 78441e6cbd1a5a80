"""Every decision of a plan has a sentence: for each branch of the planner, what a person is told."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from stillframe.block import MemoryDisk
from stillframe.disk import Flexibility, Partition, Wish, fit_partitions, read_layout
from stillframe.disk.fitting import Placement
from stillframe.extents import Extent
from stillframe.host.resizing import RESIZERS
from stillframe.jobs.restoring.fitted import Fitted
from stillframe.jobs.restoring.plan import Beside, RestoreOptions, RestorePlan, Start
from stillframe.jobs.restoring.reasons import TOOLS, beside_reasons, plan_reasons
from stillframe.jobs.restoring.staying import LeftPlace
from stillframe.repo.records import Manifest
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import write_gpt
from stillframe.testing.job_runs import backup, make_repository

MIB = 1 << 20
GROWS = Flexibility(smallest=4 * MIB, can_grow=True)
KEPT = Flexibility(smallest=10 * MIB, reason="vfat is kept at its size")
STILL = Flexibility(smallest=10 * MIB, can_move=False)
DISK = MemoryDisk(bytes(64 * MIB))
write_gpt(DISK, [Extent(MIB, 11 * MIB), Extent(14 * MIB, 34 * MIB), Extent(40 * MIB, 50 * MIB)])
LAYOUT = read_layout(DISK)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """An image of a disk with three partitions, of which the second is an NTFS."""
    found = backup(make_repository(MemoryStore()), DISK).manifest
    disk = found.disks[0]
    parts = [
        replace(part, filesystem=kind) for part, kind in zip(disk.partitions, ("vfat", "ntfs", "ext4"), strict=True)
    ]
    return replace(found, disks=(replace(disk, partitions=tuple(parts)),))


def plan_of(manifest: Manifest, options: RestoreOptions, *, size: int = 64 * MIB) -> RestorePlan:
    disk = manifest.disks[0]
    kept = tuple(part for part in disk.partitions if part.number not in options.leave_out)
    return RestorePlan(
        manifest=manifest, source_disk=replace(disk, partitions=kept), partition=None, target=None, target_path="t",
        target_size=size, place=Extent(0, size), options=options, bytes_to_write=0, steps=(), lost=(), notices=(),
        left_out=tuple(part for part in disk.partitions if part.number in options.leave_out),
    )  # fmt: skip


def told(
    manifest: Manifest, *, size: int = 64, wishes: Mapping[int, Wish] | None = None,
    moves: Mapping[int, Start] | None = None, may: Mapping[int, Flexibility] | None = None,
    leave_out: frozenset[int] = frozenset(),
) -> dict[int | None, list[str]]:  # fmt: skip
    """The sentences for a disk that is made to fit a target of so many MiB, by partition."""
    options = RestoreOptions(fit=True, wishes=wishes or {}, moves=moves or {}, leave_out=leave_out)
    flexibility = may or {1: KEPT, 2: GROWS, 3: GROWS}
    layout = replace(LAYOUT, partitions=tuple(part for part in LAYOUT.partitions if part.number not in leave_out))
    room = Extent(MIB, size * MIB - MIB)
    starts = {n: LAYOUT.partitions[n - 1].extent.start if s == "keep" else s for n, s in options.moves.items()}
    found = fit_partitions(layout, room, flexibility, options.wishes, starts)
    plan = replace(plan_of(manifest, options, size=size * MIB), placements=found)
    fitted = Fitted(placements=found, layout=layout, room=room, flexibility=flexibility)
    lines: dict[int | None, list[str]] = {}
    for reason in plan_reasons(plan, fitted):
        assert reason.text.endswith(".")
        lines.setdefault(reason.partition, []).append(reason.text)
    assert set(lines) == {1, 2, 3, None}
    for one in found:  # a place and a size each, and the tool where the file system is resized
        assert len(lines[one.partition.number]) == 3 if one.is_resized else 2
    return lines


def has(lines: list[str], *words: str) -> bool:
    return all(any(part in line for line in lines) for part in words)


def test_a_larger_disk(manifest: Manifest) -> None:
    lines = told(manifest, size=100)
    assert has(lines[1], "begins where it did, at byte 1048576.", "there is room for it as it is")
    assert has(lines[2], "takes what is left of the target, because it is the largest one that can grow", "ntfsresize",
               "Windows checks it at its next start")  # fmt: skip
    assert has(lines[3], "later than before, to make room", "behind the end of partition 2")
    assert has(lines[None], "second copy of the partition table", "written last", "notes of the places")


def test_a_smaller_disk(manifest: Manifest) -> None:
    lines = told(manifest, size=46)
    assert has(
        lines[3], "as the last one it makes room alone", "It needs 4.19 MB, a reserve of 5 % included", "resize2fs"
    )
    assert has(lines[2], "nothing more was missing")
    lines = told(manifest, size=32)
    assert has(lines[2], "the same share of what they can spare", "earlier than before, to close a gap")
    assert has(lines[1], "It stays 10.5 MB: vfat is kept at its size.")


def test_wishes(manifest: Manifest) -> None:
    lines = told(manifest, size=100, wishes={2: 30 * MIB, 1: "keep", 3: "max"}, moves={3: 60 * MIB - 5})
    assert has(lines[2], "It is 31.5 MB, as '--resize' asks.")
    assert has(lines[1], "as '--resize 1=keep' asks")
    assert has(lines[3], "as '--resize 3=max' asks", "as '--move' asks, rounded up to a multiple of 1.05 MB")
    lines = told(manifest, wishes={2: "max"}, moves={2: "keep", 3: 34 * MIB})
    assert has(lines[2], "begins at byte 14680064, as '--move' asks.", "no room left for '--resize 2=max'")


def test_what_must_stay_where_it_is(manifest: Manifest) -> None:
    lines = told(manifest, size=100, may={1: STILL, 2: GROWS, 3: GROWS})
    assert has(lines[1], "boot code knows it by its place")


def test_what_is_left_out(manifest: Manifest) -> None:
    lines = told(manifest, leave_out=frozenset({2}))
    assert has(lines[2], "as '--leave-out' asks")


def test_without_fit(manifest: Manifest) -> None:
    plan = plan_of(manifest, RestoreOptions(), size=100 * MIB)
    reasons = list(plan_reasons(plan, None))
    assert [reason.partition for reason in reasons][:3] == [1, 2, 3]
    assert has([reason.text for reason in reasons], "without '--fit' nothing is moved", "stay free; '--fit' uses them",
               "The ids stay those of the source, so that")  # fmt: skip
    fresh = list(plan_reasons(replace(plan, options=RestoreOptions(new_identity=True)), None))
    assert has([reason.text for reason in fresh], "get new ids, as '--new-identity' asks")
    moves = RestoreOptions(moves={3: 50 * MIB})
    part = LAYOUT.partitions[2]
    found = tuple(Placement(partition=one, place=one.extent if one is not part else Extent(50 * MIB, 60 * MIB))
                  for one in LAYOUT.partitions)  # fmt: skip
    fitted = Fitted(
        placements=found, layout=LAYOUT, room=Extent(MIB, 63 * MIB), flexibility=dict.fromkeys((1, 2, 3), KEPT)
    )
    moved = list(plan_reasons(replace(plan_of(manifest, moves), placements=found), fitted))
    assert has([reason.text for reason in moved], "sizes are changed with '--fit' or '--resize' only")


def test_places_that_stay_and_disks_without_a_table(manifest: Manifest) -> None:
    plan = plan_of(manifest, RestoreOptions())
    gone = manifest.disks[0].partitions[2]
    for stays, words in ((True, "it may be the only copy"), (False, "'--wipe' clears it")):
        place = LeftPlace(partition=gone, is_same=False, there="", stays=stays)
        texts = [reason.text for reason in plan_reasons(replace(plan, left_places=(place,)), None)]
        assert has(texts, f"It is not in this image, {'so nothing' if stays else 'and'}", words)
    bare = replace(plan, source_disk=replace(plan.source_disk, scheme="none"))
    assert has([reason.text for reason in plan_reasons(bare, None)], "the disk is one volume")


def test_one_partition(manifest: Manifest) -> None:
    part = manifest.disks[0].partitions[1]
    whole = replace(plan_of(manifest, RestoreOptions(partition=2)), partition=part, place=Extent(0, part.size))
    assert has([reason.text for reason in plan_reasons(whole, None)], "holds it alone", "It keeps its size")
    onto = replace(whole, options=RestoreOptions(partition=2, onto=1, fit=True))
    for size, word in ((part.size - MIB, "smaller"), (part.size + MIB, "larger")):
        texts = [reason.text for reason in plan_reasons(replace(onto, place=Extent(MIB, MIB + size)), None)]
        assert has(texts, "where partition 1 of the target lies", f"It is made {word}", "ntfsresize")


def test_beside_others(manifest: Manifest) -> None:
    disk = manifest.disks[0]

    def added(number: int, extent: Extent, guid: str) -> Partition:
        return Partition(number=number, extent=extent, type="", type_name="", name="", guid=guid, attributes=0,
                         index=number - 1, logical=False)  # fmt: skip

    new = (
        added(1, Extent(MIB, 11 * MIB), disk.partitions[0].guid), added(5, Extent(20 * MIB, 50 * MIB), "other"),
        added(6, Extent(50 * MIB, 60 * MIB), "another"),
    )  # fmt: skip
    options = RestoreOptions(added=(1, 2, 3), wishes={2: 30 * MIB}, moves={3: 50 * MIB})
    beside = Beside(layout=LAYOUT, added=new, contents=(), notices=())
    for fresh, why in ((False, "the target has one of that id"), (True, "'--new-identity' asks for it")):
        plan = plan_of(manifest, replace(options, new_identity=fresh))
        texts = [reason.text for reason in beside_reasons(plan, beside)]
        assert has(texts, "as in the image: that place is free", "in room that is free there", "as '--move' asks")
        assert has(texts, "It keeps its size", "as '--resize' asks", "It becomes partition 5", why, "good at any time")


def test_every_tool_that_resizes_is_named() -> None:
    assert {kind: resizer.programs for kind, resizer in RESIZERS.items()}.keys() == TOOLS.keys()
    assert all(TOOLS[kind] in resizer.programs for kind, resizer in RESIZERS.items())
