"""Which images a policy keeps: by sequence, per machine and job, never the newest good one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.clock import rfc3339
from stillframe.errors import UsageError
from stillframe.repo.blockmap import UNUSED, MapRoot
from stillframe.repo.records import Consistency, MachineName, Manifest, StoredDisk, StoredPartition, stored_map
from stillframe.repo.retention import RetentionPlan, RetentionPolicy, plan_retention

START = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
EMPTY = stored_map(MapRoot(0, UNUSED))


def image(
    sequence: int, *, days: float = 0, consistency: Consistency = "offline", machine: str = "1", job: str = "all"
) -> Manifest:
    moment = rfc3339(START + timedelta(days=days))
    part = StoredPartition(number=1, index=0, start=0, size=0, blocks=EMPTY, consistency=consistency)
    disk = StoredDisk(
        number=1, path="/dev/sda", size=0, sector_size=512, scheme="none", outside=EMPTY, partitions=(part,)
    )
    return Manifest(
        image=f"{machine:0>16}{sequence:016d}", program="0", created=moment, finished=moment,
        machine=MachineName(id=machine * 32, name=machine), name=job, kind="full", sequence=sequence, domain="0" * 32,
        chunk_size=65536, session="0" * 32, bytes_total=0, bytes_used=0, bytes_read=0, bytes_added=0, disks=(disk,),
    )  # fmt: skip


def kept(plan: RetentionPlan) -> list[int]:
    return [judged.manifest.sequence for judged in plan.keep]


def test_a_policy_without_rules_keeps_everything() -> None:
    plan = plan_retention([image(n, days=n) for n in range(1, 9)], RetentionPolicy())
    assert kept(plan) == list(range(1, 9))
    assert plan.forget == ()


def test_the_last_so_many_are_kept() -> None:
    plan = plan_retention([image(n) for n in range(1, 9)], RetentionPolicy(keep_last=3))
    assert kept(plan) == [6, 7, 8]
    assert [judged.manifest.sequence for judged in plan.forget] == [1, 2, 3, 4, 5]


def test_of_each_day_the_newest_is_kept() -> None:
    images = [image(1, days=0), image(2, days=0.2), image(3, days=1), image(4, days=1.2), image(5, days=5)]
    assert kept(plan_retention(images, RetentionPolicy(keep_daily=3))) == [2, 4, 5]
    assert kept(plan_retention(images, RetentionPolicy(keep_daily=2))) == [4, 5]


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    images = [image(n + 1, days=n) for n in range(40)]  # 2 March to 10 April 2026
    sundays = [7, 14, 21, 28, 35]  # 8, 15, 22, 29 March and 5 April
    assert kept(plan_retention(images, RetentionPolicy(keep_weekly=9))) == [*sundays, 40]
    assert kept(plan_retention(images, RetentionPolicy(keep_monthly=9))) == [30, 40]


def test_rules_add_up_and_each_says_why() -> None:
    images = [image(n + 1, days=n) for n in range(10)]
    plan = plan_retention(images, RetentionPolicy(keep_last=1, keep_daily=2, keep_weekly=2))
    assert kept(plan) == [7, 9, 10]
    assert plan.keep[-1].reasons == ("newest good image", "last 1 of 1", "daily 1 of 2", "weekly 1 of 2")


def test_sequence_decides_when_the_clock_went_back() -> None:
    images = [image(1, days=100), image(2, days=0), image(3, days=1)]
    assert kept(plan_retention(images, RetentionPolicy(keep_last=1))) == [3]


def test_machines_and_jobs_are_groups_of_their_own() -> None:
    images = [image(n, machine=machine, job=job) for machine in "12" for job in ("a", "b") for n in (1, 2)]
    plan = plan_retention(images, RetentionPolicy(keep_last=1))
    assert kept(plan) == [2, 2, 2, 2]


def test_torn_images_take_nobodys_place() -> None:
    images = [image(1), image(2, consistency="torn"), image(3), image(4, consistency="torn")]
    plan = plan_retention(images, RetentionPolicy(keep_last=2))
    assert kept(plan) == [1, 3, 4]
    assert plan.keep[-1].reasons == ("no good image is newer",)


def test_an_image_that_failed_its_proof_is_not_the_newest_good_one() -> None:
    images = [image(1), image(2)]
    assert kept(plan_retention(images, RetentionPolicy(keep_last=1), failed={images[1].image})) == [1, 2]


def test_without_a_good_image_nothing_is_forgotten() -> None:
    images = [image(n, consistency="torn") for n in (1, 2, 3)]
    assert kept(plan_retention(images, RetentionPolicy(keep_last=1))) == [1, 2, 3]


def hundred_each(manifests: Sequence[Manifest]) -> list[int]:
    return [100 * (number + 1) for number in range(len(manifests))]


def test_a_limit_of_size_forgets_the_oldest_first() -> None:
    images = [image(n, days=n) for n in range(1, 6)]
    plan = plan_retention(images, RetentionPolicy(max_size=250), sizes=hundred_each)
    assert (kept(plan), plan.size, plan.is_over) == ([4, 5], 200, False)


def test_a_limit_of_size_never_takes_the_newest_good_image_of_a_group() -> None:
    images = [image(1, machine="1", days=0), image(1, machine="2", days=9), image(2, machine="2", days=10)]
    plan = plan_retention(images, RetentionPolicy(max_size=50), sizes=hundred_each)
    assert [judged.manifest.machine.name for judged in plan.keep] == ["1", "2"]
    assert (plan.size, plan.is_over) == (200, True)


def test_a_limit_of_size_needs_sizes() -> None:
    with pytest.raises(UsageError):
        plan_retention([image(1)], RetentionPolicy(max_size=1))


def test_a_negative_rule_is_refused() -> None:
    with pytest.raises(UsageError):
        RetentionPolicy(keep_last=-1)


@given(
    torn=st.lists(st.booleans(), min_size=1, max_size=12),
    policy=st.builds(
        RetentionPolicy, keep_last=st.integers(0, 3), keep_daily=st.integers(0, 3), keep_weekly=st.integers(0, 3),
        keep_monthly=st.integers(0, 3), max_size=st.none() | st.integers(0, 1500),
    ),
    days=st.lists(st.integers(-400, 400), min_size=12, max_size=12),
)  # fmt: skip
def test_laws(torn: list[bool], policy: RetentionPolicy, days: list[int]) -> None:
    images = [image(n + 1, days=days[n]) for n in range(len(torn))]
    images = [
        replace(one, disks=image(1, consistency="torn").disks) if is_torn else one
        for one, is_torn in zip(images, torn, strict=True)
    ]
    plan = plan_retention(images, policy, sizes=hundred_each)
    names = [judged.manifest.image for judged in (*plan.keep, *plan.forget)]
    assert sorted(names) == sorted(one.image for one in images)  # each judged once
    assert all(judged.reasons for judged in (*plan.keep, *plan.forget))
    good = [one for one in images if not one.is_torn]
    if good:
        assert good[-1].image in {judged.manifest.image for judged in plan.keep}
        enough = [one.image for one in good[-policy.keep_last :]] if policy.keep_last else []
        if policy.max_size is None:
            assert set(enough) <= {judged.manifest.image for judged in plan.keep}
    assert plan.is_over or policy.max_size is None or 100 * len(plan.keep) <= policy.max_size
