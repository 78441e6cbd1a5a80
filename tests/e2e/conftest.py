"""What several files of tests share: disks, made once and never written, and a temporary folder of their own."""

import tempfile
from collections.abc import Callable
from pathlib import Path

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


@pytest.fixture
def own_temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files is this test's own: what it finds there, nobody else has left there."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
