"""What we say of this machine against lsblk, blockdev, findmnt and systemd-id128, on loop devices made for it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.host import machine as machine_module
from stillframe.host.disks import describe, list_disks
from stillframe.host.mounts import Use, read_mounts, users_of
from stillframe.host.places import disks_under, free_space, is_inside, is_same, lies_on
from stillframe.testing.loops import attach_loop, detach_loop, partition_nodes
from stillframe.testing.tools import unmount

pytestmark = pytest.mark.root
MIB = 1 << 20


def tool(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def loop(file: Path | str, *options: str) -> Iterator[str]:
    device = attach_loop(file, *options)
    try:
        yield device
    finally:
        detach_loop(device)


@contextlib.contextmanager
def mounted(device: str, where: Path, *options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    tool("mount", *options, device, str(where))
    try:
        yield where
    finally:
        unmount(where)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def ext4(path: Path, size: int = 8 * MIB) -> Path:
    tool("mkfs.ext4", "-q", "-F", str(sparse(path, size)))
    return path


@contextlib.contextmanager
def partitioned(path: Path) -> Iterator[str]:
    """A loop device with two partitions of 8 MiB, the second with an ext4."""
    sparse(path, 32 * MIB)
    tool("sgdisk", "-n1:2048:+8M", "-n2:0:+8M", str(path))
    with loop(path) as device, partition_nodes(device):
        tool("mkfs.ext4", "-q", f"{device}p2")
        yield device


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_facts_agree_with_lsblk_and_blockdev(tmp_path: Path, sector_size: int) -> None:
    with loop(sparse(tmp_path / "a.img", 4 * MIB), "--sector-size", str(sector_size), "--read-only") as device:
        facts = describe(device)
        columns = "PATH,SIZE,LOG-SEC,PHY-SEC,RM,RO,ROTA"
        (said,) = json.loads(tool("lsblk", "-J", "-b", "-o", columns, device))["blockdevices"]
        numbers = [int(line) for line in tool("blockdev", "--getss", "--getpbsz", "--getsize64", device).splitlines()]
        assert [facts.sector_size, facts.physical_sector_size, facts.size] == numbers
        assert (facts.path, facts.size, facts.sector_size) == (said["path"], said["size"], said["log-sec"])
        assert (facts.removable, facts.read_only, facts.rotational) == (said["rm"], said["ro"], said["rota"])
        assert facts.backing == str(tmp_path / "a.img")
        assert facts in list_disks(loops=True)
        with open_file_reader(device) as reader:
            assert [reader.sector_size, reader.size] == [numbers[0], numbers[2]]


def test_disks_of_this_machine_agree_with_lsblk() -> None:
    said = json.loads(tool("lsblk", "-J", "-b", "-d", "-o", "PATH,TYPE,SIZE,SERIAL"))["blockdevices"]
    expected = {d["path"]: d for d in said if d["type"] == "disk" and d["size"] and "zram" not in d["path"]}
    found = {disk.path: disk for disk in list_disks()}
    assert {path: disk.size for path, disk in found.items()} == {path: d["size"] for path, d in expected.items()}
    for path, disk in expected.items():  # without udev's database lsblk knows no serial number
        assert disk["serial"] in (None, "", found[path].serial)


def test_partitions_agree_with_lsblk(tmp_path: Path) -> None:
    with partitioned(tmp_path / "disk.img") as device:
        facts = describe(f"{device}p2")
        (said,) = json.loads(tool("lsblk", "-J", "-b", "-o", "PATH,SIZE,PKNAME,TYPE", f"{device}p2"))["blockdevices"]
        assert (facts.kind, facts.size, facts.parent) == (
            said["type"].replace("part", "partition"),
            said["size"],
            device,
        )
        assert said["pkname"] in ("", None, os.path.basename(device))
        diskseq = Path(f"/sys/block/{os.path.basename(device)}/diskseq").read_text()
        assert (facts.diskseq, facts.path) == (int(diskseq), f"{device}p2")


def test_mounts_agree_with_findmnt(tmp_path: Path) -> None:
    with (
        loop(ext4(tmp_path / "a.img")) as device,
        mounted(device, tmp_path / "with space", "-o", "ro"),
        mounted(str(tmp_path / "with space"), tmp_path / "bind", "--bind"),
    ):
        said = json.loads(tool("findmnt", "-J", "-l", "-o", "TARGET,FSTYPE,SOURCE,FSROOT,MAJ:MIN"))["filesystems"]
        ours = [(m.where, m.filesystem, m.root, str(m.number)) for m in read_mounts()]
        assert sorted(ours) == sorted((m["target"], m["fstype"], m["fsroot"], m["maj:min"]) for m in said)


def test_users_of_a_disk_a_partition_and_its_file(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    with partitioned(file) as device:
        held = Use(kind="holder", device=str(file), where=device, read_write=True)
        assert users_of(device) == ()
        assert users_of(str(file)) == (held,)
        for options, writable in (("ro", False), ("rw", True)):
            with mounted(f"{device}p2", tmp_path / "m", "-o", options) as where:
                use = Use(kind="mounted", device=f"{device}p2", where=str(where), read_write=writable)
                assert users_of(device) == (use,)
                assert users_of(f"{device}p2") == (use,)
                assert users_of(f"{device}p1") == ()
                assert users_of(str(file)) == (use, held)
    assert users_of(str(file)) == ()


def test_loop_on_a_device_and_a_deleted_file_are_seen(tmp_path: Path) -> None:
    file = sparse(tmp_path / "a.img", 4 * MIB)
    with loop(file) as lower, loop(lower, "--read-only", "--offset", str(MIB)) as upper:
        assert users_of(lower) == (Use(kind="holder", device=lower, where=upper, read_write=False),)
        os.link(file, tmp_path / "other name")
        file.unlink()
        assert {use.where for use in users_of(str(tmp_path / "other name"))} == {lower, upper}


def test_swap_is_seen(tmp_path: Path) -> None:
    with loop(sparse(tmp_path / "a.img", 4 * MIB)) as device:
        tool("mkswap", device)
        tool("swapon", device)
        try:
            assert tool("swapon", "--show=NAME", "--noheadings").splitlines() == [device]
            assert users_of(device) == (Use(kind="swap", device=device, where="swap", read_write=True),)
        finally:
            tool("swapoff", device)


def test_second_device_of_a_btrfs_is_seen(tmp_path: Path) -> None:
    files = [sparse(tmp_path / name, 128 * MIB) for name in ("a.img", "b.img")]
    with loop(files[0]) as first, loop(files[1]) as second:
        tool("mkfs.btrfs", "-q", "-f", first, second)
        tool("btrfs", "device", "scan", first, second)
        with mounted(first, tmp_path / "m") as where:
            tool("btrfs", "subvolume", "create", str(where / "home"))
            for device in (first, second):
                assert Use(kind="mounted", device=device, where=str(where), read_write=True) in users_of(device)
                assert lies_on(str(where / "home"), device) is True
            assert disks_under(str(where / "home")) == disks_under(str(tmp_path))


def test_mount_in_another_namespace_is_seen(tmp_path: Path) -> None:
    with loop(ext4(tmp_path / "a.img")) as device:
        (tmp_path / "m").mkdir()
        script = f"mount {device} {tmp_path}/m && echo ready && read -r _"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as elsewhere:
            assert elsewhere.stdout is not None
            assert elsewhere.stdin is not None
            assert elsewhere.stdout.readline() == b"ready\n"
            (use,) = users_of(device)
            assert (use.kind, use.read_write) == ("holder", True)
            assert "another mount namespace" in use.where
            assert users_of(device, probe=False) == ()
            elsewhere.stdin.write(b"\n")


def test_disks_under_agree_with_findmnt_and_lsblk(tmp_path: Path) -> None:
    source = tool("findmnt", "-n", "-o", "SOURCE", "-T", str(tmp_path))
    ancestors = tool("lsblk", "-n", "-s", "-p", "-l", "-o", "NAME,TYPE", source).splitlines()
    disks = {line.split()[0] for line in ancestors if line.split()[1] == "disk"}
    assert disks_under(str(tmp_path)) == disks
    assert disks_under("/proc") == frozenset()
    with loop(ext4(tmp_path / "a.img")) as device, mounted(device, tmp_path / "m") as where:
        assert disks_under(str(where / "not" / "there" / "yet")) == disks


def test_what_a_folder_lies_on(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    (whole_disk,) = disks_under(str(tmp_path))
    with partitioned(file) as device, mounted(f"{device}p2", tmp_path / "m") as where, loop(file) as again:
        repository = where / "repository"
        assert lies_on(str(repository), device) is True
        assert lies_on(str(repository), f"{device}p2") is True
        assert lies_on(str(repository), f"{device}p1") is False
        assert lies_on(str(repository), again) is True, "another loop on the same file"
        assert lies_on(str(repository), str(file)) is True
        assert lies_on(str(repository), whole_disk) is True
        other = sparse(tmp_path / "other.img", 4 * MIB)
        with loop(other) as elsewhere:
            assert lies_on(str(repository), elsewhere) is False
            assert lies_on(str(tmp_path / "repository"), elsewhere) is False, "writing a file harms no other file"
        with loop(file, "--offset", str(MIB), "--sizelimit", str(8 * MIB)) as first_partition:
            assert lies_on(str(repository), first_partition) is False
        with loop(file, "--offset", str(9 * MIB), "--sizelimit", str(8 * MIB)) as second_partition:
            assert lies_on(str(repository), second_partition) is True


def test_disk_file_on_a_btrfs_leads_to_its_disk(tmp_path: Path) -> None:
    with loop(sparse(tmp_path / "a.img", 128 * MIB)) as device:
        tool("mkfs.btrfs", "-q", "-f", device)
        with mounted(device, tmp_path / "m") as room:
            inner = ext4(room / "inner.img")
            with loop(inner) as upper, mounted(upper, tmp_path / "n") as where:
                assert lies_on(str(where), upper) is True
                assert lies_on(str(where), str(inner)) is True
                assert lies_on(str(where), device) is True
                assert disks_under(str(where)) == disks_under(str(tmp_path))
                inner.rename(room / "renamed.img")
                assert lies_on(str(where), device) is True, "the kernel follows a file that was renamed"
                (room / "renamed.img").unlink()
                assert lies_on(str(where), device) is None, "no path is left to follow: nobody can tell"
                assert lies_on(str(where), upper) is True


def test_file_in_the_repository_is_never_a_target(tmp_path: Path) -> None:
    inside = sparse(tmp_path / "inside.img", MIB)
    assert lies_on(str(tmp_path), str(inside)) is True
    assert lies_on(str(tmp_path), str(tmp_path / "new.img")) is True
    with loop(inside) as device:
        assert lies_on(str(tmp_path), device) is True
        (tmp_path / "repo").mkdir()
        assert lies_on(str(tmp_path / "repo"), str(inside)) is False


def test_overlay_lies_on_the_disk_of_its_layers(tmp_path: Path) -> None:
    with loop(ext4(tmp_path / "a.img")) as device, mounted(device, tmp_path / "m") as where:
        for name in ("low", "up", "work"):
            (where / name).mkdir()
        layers = f"lowerdir={where}/low,upperdir={where}/up,workdir={where}/work"
        with mounted("overlay", tmp_path / "ov", "-t", "overlay", "-o", layers) as over:
            assert lies_on(str(over), device) is True


def test_same_under_other_names(tmp_path: Path) -> None:
    file = sparse(tmp_path / "a.img", MIB)
    os.link(file, tmp_path / "b.img")
    (tmp_path / "c.img").symlink_to(file)
    assert is_same(str(file), str(tmp_path / "b.img"))
    assert is_same(str(file), str(tmp_path / "c.img"))
    assert not is_same(str(file), str(sparse(tmp_path / "d.img", MIB)))
    assert is_same(str(tmp_path / "no"), str(tmp_path / "." / "no"))
    assert is_inside(str(tmp_path), str(tmp_path / "c.img"))
    assert not is_inside(str(tmp_path / "a"), str(file)), "a name that merely begins alike"


def test_free_space_agrees_with_df(tmp_path: Path) -> None:
    with loop(ext4(tmp_path / "a.img")) as device, mounted(device, tmp_path / "m") as where:
        said = tool("df", "--output=avail", "-B1", str(where)).splitlines()[1]
        assert free_space(str(where / "not there yet")) == int(said)


def test_machine_id_agrees_with_systemd() -> None:
    said = tool("systemd-id128", "machine-id", f"--app-specific={machine_module.APPLICATION_ID.hex}")
    assert machine_module.machine().id == said
    assert machine_module.machine().boot_id == tool("systemd-id128", "boot-id")


def test_process_start_agrees_with_ps() -> None:
    here = machine_module.this_process()
    boot = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    started = int(tool("date", "-d", tool("ps", "-o", "lstart=", "-p", str(here.pid)), "+%s"))
    assert abs(boot + here.start_time / int(tool("getconf", "CLK_TCK")) - started) <= 2


def test_processors_agree_with_nproc() -> None:
    assert machine_module.cpu_count() == int(tool("nproc"))
