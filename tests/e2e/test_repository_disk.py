"""The disk with the repository is never a target: by any name, link, partition or loop, through any verb that writes.

ReaR issue 1271: the disk with the backups was wiped by the restore of them.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.testing.command_line import call, init_own
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.real_disks import copy_into, hash_file, mounted_kernel
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20
PARTITION = 2
"""The one with the repository; the first holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A disk with the repository on its second partition, and every name that it has."""

    disk: Path
    source: Path
    names: dict[str, Path]


@contextmanager
def mounted(device: Path, place: Path, *options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run_tool("mount", *options, str(device), str(place))
    try:
        yield place
    finally:
        unmount(place)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The disk is a loop device over a file; the file lies in a file system in another file."""
    folder = tmp_path_factory.mktemp("wiped")
    outer = folder / "outer"
    outer.touch()
    os.truncate(outer, 400 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(outer))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        lower = stack.enter_context(mounted_kernel(outer, folder / "lower"))
        file = lower / "disk"
        script = "label: gpt\nstart=1MiB, size=20MiB\nstart=30MiB, size=100MiB\nstart=140MiB, size=20MiB\n"
        file.write_bytes(make_disk(180 * MIB, sfdisk=script))
        volume = folder / "volume"
        volume.touch()
        os.truncate(volume, 100 * MIB)
        run_tool("mke2fs", "-q", "-F", "-t", "ext4", str(volume))
        copy_into(volume, file, 30 * MIB)
        disk = stack.enter_context(loop_device(file))
        stack.enter_context(partition_nodes(disk))
        second = Path(f"{disk}p{PARTITION}")
        stack.enter_context(mounted(second, folder / "mount"))
        bound = stack.enter_context(mounted(folder / "mount", folder / "bound", "--bind"))
        init_own(bound, patch)  # what the person types is the path through the bind mount
        source = folder / "source"
        source.write_bytes(make_disk(40 * MIB, sfdisk="label: gpt\nstart=1MiB, size=20MiB\n"))
        assert call("backup", source, "--name", "d").exit_code == 0
        links = folder / "by-id"
        links.mkdir()
        (links / "usb-Stick_123-0:0").symlink_to(disk)
        (links / "usb-Stick_123-0:0-part2").symlink_to(second)
        (links / "relative").symlink_to(os.path.relpath(disk, links))
        (links / "file").symlink_to(file)
        node = folder / "node"
        run_tool("mknod", str(node), "b", *map(str, numbers(disk)))
        os.link(file, lower / "hard")
        again = stack.enter_context(loop_device(file))
        window = stack.enter_context(loop_device(file, "--offset", str(28 * MIB), "--sizelimit", "8388608"))
        over = stack.enter_context(loop_device(disk))
        names = {
            "the disk": disk, "its partition": second, "a link as in /dev/disk/by-id": links / "usb-Stick_123-0:0",
            "a link to its partition": links / "usb-Stick_123-0:0-part2", "a relative link": links / "relative",
            "another node of it": node, "the file behind it": file, "a link to that file": links / "file",
            "another name of that file": lower / "hard", "another loop over that file": again,
            "a loop over the part with the repository": window, "a loop over the disk": over,
            "the file that holds that file": outer, "a file in the repository": bound / "repo" / "new",
            "a file in it, by its other path": folder / "mount" / "repo" / "new",
        }  # fmt: skip
        yield Place(disk=file, source=source, names=names)


def numbers(device: Path) -> tuple[int, int]:
    facts = device.stat()
    return os.major(facts.st_rdev), os.minor(facts.st_rdev)


NAMES = [
    "the disk", "its partition", "a link as in /dev/disk/by-id", "the file behind it", "another loop over that file",
    "a loop over the part with the repository", "a file in it, by its other path",
]  # fmt: skip
MORE_NAMES = [
    "a link to its partition", "a relative link", "another node of it", "a link to that file",
    "another name of that file", "a loop over the disk", "the file that holds that file", "a file in the repository",
]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_NAMES)])
def test_no_verb_takes_it_for_a_target(place: Place, tmp_path: Path, name: str) -> None:
    target = place.names[name]
    is_new = not target.exists()
    verbs: list[tuple[object, ...]] = [
        ("restore", "latest:d", target), ("restore", "latest:d", target, "--fit"),
        ("restore", "latest:d", target, "--partition", "1"), ("restore", "latest:d", target, "--leave-out", "1"),
        ("restore", "latest:d", "--to", f"1={target}"), ("clone", place.source, target),
    ]  # fmt: skip
    if not is_new:
        verbs += [
            ("restore", "latest:d", target, "--partition", "1:1"),
            ("restore", "latest:d", target, "--partition", f"1:{PARTITION}"),
            ("restore", "latest:d", target, "--partition", "1:new"),
            ("restore", "--undo-table", target),
            ("restore", "--undo-table", target, "--from", tmp_path / "any"),
            ("export", "latest:d", target, "--overwrite"),
        ]
    verbs.append(("export", "latest:d", target))
    for words in verbs:
        for more in (("--dry-run",), ("--yes",)) if words[0] != "export" else (("--dry-run",), ()):
            done = call(*words, *more)
            assert done.exit_code == 22, (words, more, done.errors)
            told = ("holds the repository", "lies in the repository", "exists already", "is a disk, and")
            assert any(part in done.errors for part in told), (words, done.errors)
    assert not is_new or not target.exists()
    assert call("verify", "latest:d").exit_code == 0


def test_the_first_partition_of_that_disk_is_another_place(place: Place) -> None:
    """What does not hold it is not refused for holding it: a partition beside it may be written to."""
    first = Path(f"{place.names['the disk']}p1")
    done = call("restore", "latest:d", first, "--partition", "1", "--dry-run")
    assert (done.exit_code, done.errors) == (0, "")
    before = hash_file(place.source)
    assert call("clone", place.names["the disk"], place.source, "--dry-run").exit_code in (20, 22)
    assert hash_file(place.source) == before
