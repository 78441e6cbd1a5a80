"""Disks that several files of tests share: made once, never written by a test."""

from collections.abc import Callable

import pytest

from stillframe.testing.real_disks import RealDisk, build_disk

Disks = Callable[[str, int], RealDisk]


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Disks:
    """Disks by kind of table and size of sectors."""
    folder = tmp_path_factory.mktemp("disks")
    made: dict[tuple[str, int], RealDisk] = {}

    def get(label: str, sector_size: int) -> RealDisk:
        if (label, sector_size) not in made:
            made[label, sector_size] = build_disk(folder, label=label, sector_size=sector_size)
            made[label, sector_size].path.chmod(0o400)
        return made[label, sector_size]

    return get
