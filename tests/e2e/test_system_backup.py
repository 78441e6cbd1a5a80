"""``backup --system``: what systems need comes back bit for bit, and data that was left out is never touched."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.host import disks as host_disks
from stillframe.jobs import looking
from stillframe.testing.command_line import Outcome, call, init_own
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.real_disks import mounted_kernel
from stillframe.testing.system_disks import (
    GPT_DISK,
    HOME,
    MIB,
    SIGNATURE,
    TYPES,
    Part,
    build_system_disk,
    debian_gpt,
    windows_gpt,
    windows_mbr,
)
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_linux import build_luks
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs

DATA = {f"Photos/{number}.jpg": random.Random(number).randbytes(40_000 + number) for number in range(4)}
OTHER_DISK = "6B2C1D3E-1111-4222-8333-0A0B0C0D0E0F"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Disks by name, made when they are asked for; no test may write to them."""
    folder = tmp_path_factory.mktemp("systems")
    labels = ("Systempartition", "Réservé au système", "Windows")  # misleading, and as translations have them
    recipes: dict[str, tuple[str, str, list[Part]]] = {
        "windows": ("gpt", GPT_DISK, windows_gpt(data=DATA, labels=labels)),
        "seven": ("dos", hex(SIGNATURE), windows_mbr(data=DATA, labels=("D", "Datos", "System"))),
        "debian": ("gpt", OTHER_DISK, debian_gpt(data=DATA)),
    }
    recipes["dual"] = ("gpt", GPT_DISK, [*recipes["windows"][2], *debian_gpt(data=DATA)[1:]])
    # The ESP, and a boot manager on it, lie on one disk; Windows, recovery and data on another.
    windows = recipes["windows"][2]
    recipes["starter"] = ("gpt", OTHER_DISK, [windows[0], replace(windows[4], guid="")])
    recipes["second"] = ("gpt", GPT_DISK, windows[1:])
    boot = debian_gpt(data=DATA)[:2]
    luks = Part(size=8 * MIB, type=TYPES["linux"], raw=build_luks(2))
    recipes["sealed"] = ("gpt", OTHER_DISK, [*boot, luks, replace(windows[4], guid="")])
    recipes["data"] = ("gpt", OTHER_DISK, [replace(windows[4], guid="")])

    def make(name: str) -> Path:
        path = folder / f"{name}.raw"
        if not path.exists():
            label, disk_id, parts = recipes[name]
            build_system_disk(path, label, disk_id, parts)
            path.chmod(0o400)
        return path

    return make


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


def good(*words: object) -> Outcome:
    done = call(*words)
    assert done.exit_code == 0, done.output + done.errors
    return done


def saved(*words: object) -> str:
    return str(good("backup", "--json", *words).result["image"])


def places(disk: Path) -> list[tuple[int, int]]:
    """Start and size of every partition in bytes, by sfdisk."""
    table = json.loads(run_tool("sfdisk", "-J", str(disk)))["partitiontable"]
    return [(one["start"] * 512, one["size"] * 512) for one in table["partitions"]]


def is_equal(one: Path, other: Path, place: tuple[int, int]) -> bool:
    command = ["cmp", "-s", "-i", str(place[0]), "-n", str(place[1]), str(one), str(other)]
    return subprocess.run(command, check=False).returncode == 0


def is_zero(disk: Path, place: tuple[int, int]) -> bool:
    command = ["cmp", "-s", "-i", f"{place[0]}:0", "-n", str(place[1]), str(disk), "/dev/zero"]
    return subprocess.run(command, check=False).returncode == 0


def copied(disk: Path, target: Path) -> Path:
    shutil.copyfile(disk, target)
    return target


def ntfs_files(disk: Path, place: tuple[int, int], tmp_path: Path) -> dict[str, str]:
    cut = tmp_path / "cut.ntfs"
    run_tool("dd", f"if={disk}", f"of={cut}", "bs=64K", f"skip={place[0] >> 16}", f"count={place[1] >> 16}",
             "conv=sparse", "status=none")  # fmt: skip
    with mounted_ntfs(cut, tmp_path / "mounted", "ro") as mounted:
        return hash_tree(mounted)


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["seven"], [[True, True, False]]),
        (["dual"], [[True, True, True, True, False, True, True, True, False]]),
        (["starter", "second"], [[True, False], [True, True, True, False]]),
        (["sealed"], [[True, True, True, False]]),
    ],
)
def test_just_what_starts_is_saved_and_comes_back(
    names: list[str], taken: list[list[bool]], made: Callable[[str], Path], tmp_path: Path
) -> None:
    sources = [made(name) for name in names]
    image = saved("--system", "--all-sectors", *sources)
    shown = good("show", image, "--json").result["disks"]
    assert [[part["in_image"] for part in disk["partitions"]] for disk in shown] == taken
    for number, (source, parts) in enumerate(zip(sources, taken, strict=True), 1):
        back = tmp_path / f"back{number}.raw"
        good("restore", image, back, "--disk", number)
        assert run_tool("sfdisk", "--dump", str(back)).replace(str(back), "") == run_tool(
            "sfdisk", "--dump", str(source)
        ).replace(str(source), "")
        found = places(source)
        assert [is_equal(source, back, place) for place in found] == parts
        assert [is_zero(back, place) for place, is_taken in zip(found, parts, strict=True) if not is_taken] == [
            True for is_taken in parts if not is_taken
        ]
        assert is_equal(source, back, (0, found[0][0]))


def test_disks_says_beforehand_what_the_image_then_holds(made: Callable[[str], Path]) -> None:
    disk = good("disks", made("dual"), "--json").result["disks"][0]
    seen = [(part["in_system_backup"], part["reason"]) for part in disk["partitions"]]
    assert [reason for _, reason in seen] == [
        "EFI system partition with the loader of Windows",
        "Microsoft reserved partition, by its type",
        "Windows 11 Pro",
        "recovery environment, named by the boot configuration (BCD) of partition 1",
        "data: nothing that starts lies here",
        "/boot of Debian GNU/Linux 12 (bookworm) by its fstab",
        "Debian GNU/Linux 12 (bookworm) begins here",
        "swap of Debian GNU/Linux 12 (bookworm) by its fstab: only its header is kept",
        "data: /home of Debian GNU/Linux 12 (bookworm) by its fstab, though a start waits for it (no 'nofail')",
    ]
    image = saved("--system", made("dual"))
    stored = good("show", image, "--json").result["disks"][0]["partitions"]
    assert [part["in_image"] for part in stored] == [is_taken for is_taken, _ in seen]
    for part, (is_taken, reason) in zip(stored, seen, strict=True):
        told = [notice["message"] for notice in part["notices"] if notice["code"] == "partition-not-kept"]
        assert len(told) == (0 if is_taken else 1)
        assert all(reason in words for words in told)
        assert part["excluded"] == ([] if is_taken or part["filesystem"] == "swap" else [[0, part["size"]]]) or is_taken


def test_a_disk_with_its_data_keeps_it(made: Callable[[str], Path], tmp_path: Path) -> None:
    source = made("windows")
    image, target = saved("--system", "--all-sectors", source), copied(source, tmp_path / "broken.raw")
    found = places(target)
    with target.open("r+b") as file:  # the system breaks, and the data goes on
        file.seek(found[2][0])
        file.write(os.urandom(MIB))
        file.seek(found[4][0] + 14 * MIB)
        file.write(b"written after the backup")
    before = copied(target, tmp_path / "before.raw")
    for options in ([], ["--wipe"]):
        plan = good("restore", image, target, "--dry-run", *options).output
        assert "leave partition 5, which is not in the image, as it is: ntfs 'Windows', 16.8 MB, is still there" in plan
        assert "partition 3:" in plan.partition("What will be done")[0]
        assert "partition 5" not in plan.partition("What will be done")[0]
        good("restore", image, target, "--yes", *options)
        assert is_equal(before, target, found[4])
        assert all(is_equal(source, target, place) for place in found[:4])
    files = ntfs_files(target, found[2], tmp_path)
    assert files["Windows/notepad.exe"] == hashlib.sha256(bytes(range(256)) * 400).hexdigest()
    assert ntfs_files(target, found[4], tmp_path) == {
        path: hashlib.sha256(contents).hexdigest() for path, contents in DATA.items()
    }
    assert "No problems found" in run_tool("sgdisk", "-v", str(target))


def test_a_restore_that_was_killed_goes_on_around_the_data(made: Callable[[str], Path], tmp_path: Path) -> None:
    source = made("debian")
    image, target = saved("--system", source), copied(source, tmp_path / "half.raw")
    with target.open("r+b") as file:  # as a killed one leaves it: without any table
        for place in (0, target.stat().st_size - 33 * 512):
            file.seek(place)
            file.write(bytes(33 * 512))
    assert subprocess.run(["sfdisk", "-J", str(target)], check=False, capture_output=True).returncode
    good("restore", image, target, "--yes", "--delta")
    assert all(is_equal(source, target, place) for place in places(source)[3:])
    assert run_tool("e2fsck", "-fn", f"{target}?offset={places(source)[4][0]}")


def test_data_that_was_resized_since_is_not_cut_off(made: Callable[[str], Path], tmp_path: Path) -> None:
    image, target = saved("--system", made("debian")), copied(made("debian"), tmp_path / "resized.raw")
    start, size = places(target)[4]
    run_tool("sfdisk", "-q", "--delete", str(target), "5")
    run_tool("sh", "-c", f"echo 'start={start // 512}, size={(size - MIB) // 512}' | sfdisk -q -a '{target}'")
    before = hashlib.sha256(target.read_bytes()).digest()
    done = call("restore", image, target, "--yes")
    assert (done.exit_code, "would cut it off" in done.errors) == (22, True)
    assert hashlib.sha256(target.read_bytes()).digest() == before
    good("restore", image, target, "--partition", "3:3", "--yes")


def test_on_another_disk_the_place_is_left_and_wipe_clears_it(made: Callable[[str], Path], tmp_path: Path) -> None:
    image, target = saved("--system", made("debian")), copied(made("windows"), tmp_path / "other.raw")
    home, before = places(made("debian"))[4], made("windows")
    plan = good("restore", image, target, "--yes").output
    assert "partition 4: ntfs" in plan.partition("What will be done")[0]  # it lies there, and the new table has it not
    assert "leave the place of partition 5, which is not in the image, as it is: it was ext4 'home'" in plan
    assert is_equal(before, target, home)
    assert "clear partition 5, which is not in the image" in good("restore", image, target, "--yes", "--wipe").output
    assert is_zero(target, home)


def test_what_is_not_in_the_image_is_refused_by_name(made: Callable[[str], Path], tmp_path: Path) -> None:
    image = saved("--system", "--all-sectors", made("debian"))
    for words in (
        ("ls", f"{image}:5"), ("get", f"{image}:5/Photos/1.jpg", tmp_path / "out"),
        ("restore", image, tmp_path / "new.raw", "--partition", 5), ("find", f"{image}:5", "*.jpg"),
        ("export", image, tmp_path / "new.qcow2", "--partition", 5),
    ):  # fmt: skip
        done = call(*words)
        assert (done.exit_code, "partition 5 of disk 1 is not in this image" in done.errors) == (2, True), words
    assert "not in this image" in good("ls", image).output
    reader = Path(__file__).parents[2] / "tools" / "stillframe_reader.py"
    command = [sys.executable, str(reader), str(tmp_path / "repo"), "restore", image, str(tmp_path / "read.raw")]
    subprocess.run(command, check=True, capture_output=True)
    home = places(made("debian"))[4]
    assert is_zero(tmp_path / "read.raw", home)
    assert is_equal(made("debian"), tmp_path / "read.raw", places(made("debian"))[0])
    assert "Photos" not in good("find", image, "*").output
    assert "partition 5 is not in the image" in good("export", image, tmp_path / "all.raw").output
    assert "partition 5" not in json.dumps(good("verify", image, "--filesystems", "--json").result["filesystems"])


@pytest.mark.slow
def test_images_of_everything_and_of_the_system_live_beside_each_other(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    source, images = made("debian"), list[str]()
    found = places(source)
    for words in ([], ["--system"], []):
        images.append(saved(source, "--name", "one", "--all-sectors", *words))
    shown = [good("show", image, "--json").result for image in images]
    assert [one["baseline"] for one in shown] == ["", *images[:2]]
    for image, holds_home in zip(images, (True, False, True), strict=True):
        back = tmp_path / f"{image}.raw"
        good("restore", image, back)
        kept = found if holds_home else found[:4]
        assert all(is_equal(source, back, place) for place in kept)
        assert is_zero(back, found[4]) is not holds_home
    kept = good("expire", "--keep-last", "1", "--dry-run", "--json").result["kept"]
    assert {one["image"] for one in kept} == set(images[1:])
    assert good("show", saved("--system", source), "--json").result["name"] == "system"


def test_where_nothing_starts_nothing_is_saved(made: Callable[[str], Path]) -> None:
    done = call("backup", "--system", made("data"))
    assert (done.exit_code, "is a part of a system" in done.errors) == (2, True)
    done = call("backup", "--system", made("windows"), made("data"))
    assert (done.exit_code, str(made("data")) in done.errors) == (2, True)
    alone: dict[str, Any] = good("backup", "--system", made("starter"), "--json").result
    assert alone["notices"][0]["code"] == "system-not-whole"
    assert "names a Windows that is on none of these disks" in alone["notices"][0]["message"]


@pytest.fixture
def system_folder() -> Iterator[Path]:
    """An empty folder where a volume of the running system may be mounted."""
    place = Path(tempfile.mkdtemp(dir="/opt"))
    yield place
    place.rmdir()


@pytest.mark.root
def test_the_disks_of_the_running_system_are_found_and_held_still(
    made: Callable[[str], Path], tmp_path: Path, system_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, back = copied(made("debian"), tmp_path / "running.raw"), tmp_path / "back.raw"
    disk.chmod(0o600)
    found = places(disk)
    with loop_device(disk) as device, partition_nodes(device):
        mounts = [(f"{device}p3", system_folder), (f"{device}p5", tmp_path / "data")]
        mounts[1][1].mkdir()
        for volume, place in mounts:
            run_tool("mount", volume, str(place))
        try:
            monkeypatch.setattr(
                looking, "list_disks",
                lambda **_: [one for one in host_disks.list_disks(loops=True) if one.path == str(device)],
            )  # fmt: skip
            image = saved("--system")
        finally:
            for _, place in mounts:
                unmount(place)
    parts = good("show", image, "--json").result["disks"][0]["partitions"]
    assert [part["in_image"] for part in parts] == [True, True, True, True, False]
    assert parts[2]["consistency"] == "frozen"
    good("restore", image, back)
    root = tmp_path / "root.ext4"
    run_tool("dd", f"if={back}", f"of={root}", "bs=64K", f"skip={found[2][0] >> 16}", f"count={found[2][1] >> 16}",
             "conv=sparse", "status=none")  # fmt: skip
    run_tool("e2fsck", "-fp", str(root), accept=(0, 1))
    with mounted_kernel(root, tmp_path / "restored", options="ro") as place:
        assert hash_tree(place)["usr/bin/true"] == hashlib.sha256(b"\x7fELF" * 5000).hexdigest()
    assert is_zero(back, found[4])
    assert HOME in run_tool("blkid", "-p", "-O", str(found[4][0]), "-S", str(found[4][1]), str(disk))
