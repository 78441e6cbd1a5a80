"""Every store obeys the one contract."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.store import LocalStore, MemoryStore, ReachableStore, Store
from stillframe.testing.faulty_store import CrashingStore, FailingReads, FullStore, VanishingStore
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.store_contract import STORE_LAWS
from stillframe.testing.tools import unmount

Law = Callable[[Store], None]

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "folder": lambda folder: LocalStore(str(folder)),
    "reachable": lambda folder: ReachableStore(LocalStore(str(folder)), where=str(folder)),
    "folder to be made": lambda folder: LocalStore(str(folder / "new")),
    "folder with a slash": lambda folder: LocalStore(f"{folder}/"),
    "crashing never": lambda _: CrashingStore(MemoryStore()),
    "crashing never, folder": lambda folder: CrashingStore(LocalStore(str(folder))),
    "full never": lambda _: FullStore(MemoryStore(), 1 << 40),
    "full never, late": lambda _: FullStore(MemoryStore(), 1 << 40, late=True),
    "failing never": lambda _: FailingReads(MemoryStore(), {}),
    "vanishing never": lambda _: VanishingStore(MemoryStore()),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("law", STORE_LAWS, ids=lambda law: law.__name__)
def test_store_obeys(law: Law, kind: str, tmp_path: Path) -> None:
    law(STORES[kind](tmp_path))


# How to make a file system, and how to mount it: kernel, and FUSE as external disks often are.
FILESYSTEMS: dict[str, tuple[list[str], list[str]]] = {
    "ext2": (["mkfs.ext2", "-q", "-b", "1024"], ["mount", "-t", "ext2"]),
    "exfat": (["mkfs.exfat"], ["mount.exfat-fuse"]),
    "ntfs": (["mkntfs", "-q", "-F"], ["ntfs-3g"]),
}


@pytest.mark.root
@pytest.mark.parametrize("law", STORE_LAWS, ids=lambda law: law.__name__)
def test_store_on_a_disk_obeys(law: Law, disk: Path, request: pytest.FixtureRequest) -> None:
    law(LocalStore(str(disk / request.node.callspec.id)))


@pytest.fixture(scope="module", params=FILESYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    make, mount = FILESYSTEMS[request.param]
    folder = tmp_path_factory.mktemp("mounted")
    image = tmp_path_factory.mktemp("image") / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    loop = attach_loop(image)
    try:
        _output(*make, loop)
        _output(*mount, loop, folder)
        try:
            yield folder
        finally:
            unmount(folder)
    finally:
        detach_loop(loop)


def _output(*command: str | Path) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert result.returncode == 0, result.stdout
    return result.stdout.strip()
