"""The laws of patches, by whole jobs: random edits, any number of days, any images forgotten.

What comes back is what was saved, and no patch rests on a patch; with patches and without them the images are the same.
"""

import random
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.events import NoEvents
from stillframe.extents import Extent
from stillframe.jobs.backup import BackupOptions
from stillframe.repo.check import check_repository
from stillframe.repo.expire import apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.session import begin_session
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise, write_gpt
from stillframe.testing.job_runs import ANNA, backup, make_repository, restore, verify

MIB = 1 << 20
PARTITION = Extent(MIB, 3 * MIB)
edits = st.lists(st.tuples(st.floats(0, 0.999), st.sampled_from([1, 16, 512, 4096, 70_000])), min_size=1, max_size=6)


def a_disk() -> MemoryDisk:
    disk = MemoryDisk(bytes(4 * MIB))
    fill_with_noise(disk, PARTITION, 3)
    write_gpt(disk, [PARTITION])
    return disk


def edit(disk: MemoryDisk, changes: list[tuple[float, int]], seed: int) -> None:
    chance = random.Random(seed)
    for where, size in changes:
        start = PARTITION.start + int(where * PARTITION.size)
        disk.write_at(start, chance.randbytes(min(size, PARTITION.end - start)))


def patches_in(repository: Repository) -> int:
    """How many there are; the base of each is whole."""
    index, count = repository.load_index(), 0
    for table in index.tables():
        if len(table.bases):
            assert index.contains(table.bases, whole=True).all()
            count += len(np.unique(table.rows["id"][table.patches], axis=0))
    return count


def come_back(repository: Repository, images: dict[str, tuple[Manifest, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for image, (manifest, state) in images.items():
            restore(repository, manifest, Path(folder, image))
            assert Path(folder, image).read_bytes() == state
    for manifest, _ in images.values():
        assert verify(repository, manifest).ok


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    days=st.lists(edits, min_size=1, max_size=4),
    forgotten=st.sets(st.integers(0, 4)),
    levels=st.sampled_from(("fast", "balanced", "high")),
    encrypted=st.booleans(),
)
def test_every_image_that_nobody_forgot_comes_back(
    days: list[list[tuple[float, int]]], forgotten: set[int], levels: str, *, encrypted: bool
) -> None:
    disk = a_disk()
    repository = make_repository(MemoryStore(), passphrase="one two" if encrypted else None)
    options = BackupOptions(compression="fast" if levels == "fast" else "balanced" if levels == "balanced" else "high")
    images: dict[str, tuple[Manifest, bytes]] = {}
    for number, changes in enumerate([[], *days]):
        edit(disk, changes, number)
        result = backup(repository, disk, options=options)
        assert result.read_back is not None
        assert not result.read_back.findings
        images[result.manifest.image] = (result.manifest, bytes(disk.contents))
    whole = 1 + sum(size > 60_000 for changes in days for _, size in changes) * 2
    if len(images) > 1 and whole == 1:
        assert patches_in(repository)
    come_back(repository, images)
    gone = [image for number, image in enumerate(images) if number in forgotten]
    session = begin_session(repository, ANNA, "expire")
    forget_images(session, gone)
    for _ in range(2):
        apply_expire(session, plan_expire(repository, own_session=session.id, grace=timedelta(0)))
    session.end()
    left = {image: found for image, found in images.items() if image not in gone}
    patches_in(repository)
    come_back(repository, left)
    assert check_repository(repository, events=NoEvents()).ok


def test_ten_days_of_small_changes_cost_little_and_rest_on_what_is_whole() -> None:
    """Half a page in each of eight chunks, every day; without patches each of them is stored anew."""
    added = {}
    for patches in (True, False):
        disk, repository = a_disk(), make_repository(MemoryStore())
        states: dict[str, tuple[Manifest, bytes]] = {}
        for day in range(11):
            if day:
                edit(disk, [(number / 8, 2048) for number in range(8)], 100 + day)
            made = backup(repository, disk, options=BackupOptions(patches=patches, verify=False)).manifest
            states[made.image] = (made, bytes(disk.contents))
            added[patches, day] = made.bytes_added
        assert patches_in(repository) == (80 if patches else 0)
        come_back(repository, {image: states[image] for image in list(states)[::5]})
    assert added[True, 0] == added[False, 0]
    for day in range(1, 11):
        assert 8 * 2048 < added[True, day] < 8 * 2048 + 16_000
        assert added[False, day] > 8 * 65_536
