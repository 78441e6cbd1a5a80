"""A Linux in LVM, LUKS or RAID 1, restored under new ids or for another computer; judged by the tools of each layer."""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk import read_layout
from stillframe.events import Event, Notice
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.jobs.saving.unlocking import Unlocking
from stillframe.jobs.starts.unlocking_inside import unlock_disk
from stillframe.store.local import LocalStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.linux_disks import KERNEL
from stillframe.testing.linux_nested import (
    TARGET,
    NestedLinux,
    Stack,
    cut,
    group_of,
    make_nested_linux,
    mounted_nested,
)
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_luks import PASSPHRASE, opens
from stillframe.testing.volumes_lvm import GROUP
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root
INITRD = f"boot/initrd.img-{KERNEL}"
KEPT = "var/backups/stillframe"
TEXTS = ("etc/fstab", "etc/crypttab", "boot/grub/grub.cfg")
MIB = 1 << 20


def restored(
    disk: NestedLinux, target: Path, options: RestoreOptions, *, with_key: bool = True
) -> tuple[RestoreResult, list[Notice]]:
    notices: list[Notice] = []

    class Heard:
        def emit(self, event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event)

    repository = make_repository(LocalStore(str(target.with_suffix(".repository"))))
    manifest = backup_paths(repository, disk.path).manifest
    plan = plan_restore(repository, manifest, 1, str(target), repository_folder="", options=options)
    context = job_context(events=Heard())
    if with_key and "luks" in disk.stack:
        key = target.with_suffix(".key")
        key.write_text(f"{PASSPHRASE}\n")
        with open_file_reader(str(disk.path)) as reader:
            keys = unlock_disk(reader, read_layout(reader), None, Unlocking(files=(str(key),)))
        context = type(context)(owner=context.owner, events=context.events, cancel=context.cancel, keys=keys)
    result = apply_restore(repository, plan, context)
    return result, notices


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is on a disk: every file by its hash, some texts, the files of the initrd by cpio, and all ids."""

    tree: dict[str, str]
    texts: dict[str, str]
    early: dict[str, str]
    ids: dict[str, str]


def look(disk: NestedLinux, path: Path) -> Seen:
    work = path.with_name(f"{path.name}.work")
    work.mkdir()
    with mounted_nested(disk, path, work) as root:
        tree, texts = hash_tree(root), {name: (root / name).read_text() for name in TEXTS}
        raw = gzip.decompress((root / INITRD).read_bytes())
    ids, folder = ids_of(disk, path, work), work / "early"
    folder.mkdir()
    subprocess.run(["cpio", "-i", "-d", "--quiet"], input=raw, cwd=folder, check=True)
    found = [one for one in folder.rglob("*") if one.is_file()]
    early = {one.relative_to(folder).as_posix(): one.read_text(errors="replace") for one in found}
    shutil.rmtree(work)
    return Seen(tree=tree, texts=texts, early=early, ids=ids)


def ids_of(disk: NestedLinux, path: Path, work: Path) -> dict[str, str]:
    """The ids that a disk has now, by LVM, cryptsetup, mdadm and blkid."""
    found = {"/": blkid(work / "root"), "/boot": blkid(work / "boot")}
    if disk.stack != "luks":
        with group_of(disk, work) as lvm:
            found["swap"] = blkid(lvm.read_volume("swap", work / "swap"))
            lvm.run("vgck", GROUP)
            (found["group"], name), found["pv"] = lvm.ask("vgs", "vg_uuid,vg_name")[0], lvm.ask("pvs", "pv_uuid")[0][0]
            found["lv"] = lvm.ask("lvs", "lv_uuid", f"{GROUP}/root")[0][0]
            assert name == GROUP
    if "luks" in disk.stack:
        volume = work / ("volume" if disk.stack == "luks-lvm" else "outer")
        found["luks"] = run_tool("cryptsetup", "luksUUID", str(volume)).strip()
        assert opens(volume, PASSPHRASE)
    if disk.stack == "lvm-raid":
        said = [
            run_tool("mdadm", "--examine", str(cut(path, disk.places[number], work / f"member{number}")))
            for number in (3, 4)
        ]
        assert all(re.search(r"Checksum : \w+ - correct", one) for one in said)
        (array,) = {re.findall(r"Array UUID : (\S+)", one)[0] for one in said}
        found["array"] = array.replace(":", "")
    return found


def blkid(volume: Path) -> str:
    return run_tool("blkid", "-p", "-s", "UUID", "-o", "value", str(volume)).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stack",
    [
        "lvm-luks",
        pytest.param("lvm", marks=pytest.mark.slow),
        pytest.param("luks", marks=pytest.mark.slow),
        pytest.param("luks-lvm", marks=pytest.mark.slow),
        pytest.param("lvm-raid", marks=pytest.mark.slow),
    ],
)
def test_every_id_in_every_layer_is_another(tmp_path: Path, stack: Stack) -> None:
    disk, target = make_nested_linux(tmp_path / "source", stack), tmp_path / "target"
    result, notices = restored(disk, target, RestoreOptions(new_identity=True))
    assert [one.message for one in notices if one.code != "group-names-kept"] == []
    assert not result.may_not_start
    before, after = look(disk, disk.path), look(disk, target)
    old, new = before.ids, after.ids
    assert {name for name in old if old[name] == new[name]} == {"lv"} & set(old), "as vgimportclone does"
    written = {"etc/fstab", "boot/grub/grub.cfg"} | ({"etc/crypttab"} if stack in ("luks", "lvm-luks") else set())
    early = {INITRD} if "luks" in stack else set()  # it names what it opens
    assert {name for name in before.tree if after.tree[name] != before.tree[name]} == written | early
    assert set(after.tree) == set(before.tree)
    for name in written:
        text = before.texts[name]
        for one in old:
            text = text.replace(old[one], new[one]).replace(old[one].replace("-", ""), new[one].replace("-", ""))
        assert after.texts[name] == text, name
    if "luks" in stack:
        assert after.early["cryptroot/crypttab"].startswith(f"{TARGET} ")
        assert not [name for name, text in after.early.items() if old["luks"] in text]
    if stack != "luks":
        (notice,) = [one for one in notices if one.code == "group-names-kept"]
        assert f"vgrename {new['group']} " in notice.hint
    if stack == "lvm-raid":
        whole = target.read_bytes()
        mirrors = [whole[disk.places[number].start + MIB : disk.places[number].end] for number in (3, 4)]
        assert mirrors[0] == mirrors[1]


@pytest.mark.parametrize(
    "stack",
    [
        "lvm",
        pytest.param("luks-lvm", marks=pytest.mark.slow),
        pytest.param("luks", marks=pytest.mark.slow),
        pytest.param("lvm-luks", marks=pytest.mark.slow),
        pytest.param("lvm-raid", marks=pytest.mark.slow),
    ],
)
def test_its_initramfs_opens_what_its_root_lies_in(tmp_path: Path, stack: Stack) -> None:
    disk, target = make_nested_linux(tmp_path / "source", stack), tmp_path / "target"
    result, notices = restored(disk, target, RestoreOptions(adapt=True))
    assert notices == []
    assert not result.may_not_start
    before, after = look(disk, disk.path), look(disk, target)
    assert after.ids == before.ids
    written = {INITRD, "etc/network/interfaces"}
    assert {name for name in before.tree if after.tree[name] != before.tree[name]} == written
    assert after.tree[f"{KEPT}/etc/network/interfaces"] == before.tree["etc/network/interfaces"]
    assert "MODULES=most\n" in after.early["conf/settings"]
    assert (f"{TARGET} " in after.early["cryptroot/crypttab"]) == ("luks" in stack)
    assert {"sbin/lvm", "sbin/mdadm", "sbin/cryptsetup"} <= set(after.early)


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["lvm-luks", "lvm-raid", "luks-lvm"])
def test_dracut_is_told_what_to_open(tmp_path: Path, stack: Stack) -> None:
    """By the ids that are on the target, not those of the source."""
    disk, target = make_nested_linux(tmp_path / "source", stack, dracut=True), tmp_path / "target"
    result, _ = restored(disk, target, RestoreOptions(adapt=True, new_identity=True))
    assert not result.may_not_start
    after = look(disk, target)
    modules, words = after.early["etc/told"].strip().split(" | ")
    array = after.ids.get("array", "")
    expected = {
        "lvm-luks": ("crypt lvm", [f"rd.luks.uuid=luks-{after.ids.get('luks')}",
                                   f"rd.luks.name={after.ids.get('luks')}={TARGET}", f"rd.lvm.lv={GROUP}/root"]),
        "luks-lvm": ("lvm crypt", [f"rd.luks.uuid=luks-{after.ids.get('luks')}",
                                   f"rd.luks.name={after.ids.get('luks')}={TARGET}", f"rd.lvm.lv={GROUP}/root"]),
        "lvm-raid": ("mdraid lvm", [f"rd.md.uuid={':'.join(array[at : at + 8] for at in range(0, 32, 8))}",
                                    f"rd.lvm.lv={GROUP}/root"]),
    }[stack]  # fmt: skip
    assert (modules, words.split()) == expected


def left_over() -> list[str]:
    """Loop devices and mounts of workbenches of this process."""
    ours = f"stillframe-{os.getpid()}-"
    listed = run_tool("losetup", "--list", "--noheadings", "--output", "BACK-FILE").splitlines()
    mounts = Path("/proc/mounts").read_text().splitlines()
    return [line for line in (*listed, *mounts, *os.listdir(tempfile.gettempdir())) if ours in line]


@pytest.mark.slow
def test_an_initramfs_that_cannot_open_its_root_is_a_failure(tmp_path: Path) -> None:
    disk = make_nested_linux(tmp_path / "source", "luks", without="usr/sbin/cryptsetup")
    result, notices = restored(disk, tmp_path / "target", RestoreOptions(adapt=True))
    assert result.may_not_start
    assert [one.code for one in notices] == ["linux-not-repaired"]
    assert f"initrd.img-{KERNEL} was made anew without the program for luks" in notices[0].message
    before, after = look(disk, disk.path), look(disk, tmp_path / "target")
    assert after.tree == before.tree, "all of it or nothing"
    assert left_over() == []


@pytest.mark.slow
def test_without_its_key_an_encrypted_root_stays_as_it_is(tmp_path: Path) -> None:
    disk = make_nested_linux(tmp_path / "source", "lvm-luks")
    result, notices = restored(disk, tmp_path / "target", RestoreOptions(new_identity=True), with_key=False)
    assert [one.code for one in notices] == ["uuids-kept"]
    assert "not opened: partition 3 (crypto_LUKS)" in notices[0].message
    assert "'--unlock'" in notices[0].hint
    assert not result.may_not_start
    assert look(disk, tmp_path / "target") == look(disk, disk.path)


@pytest.mark.slow
def test_half_of_a_mirror_is_not_changed(tmp_path: Path) -> None:
    """Its other half would not have what is changed, and md would take both for equal."""
    disk = make_nested_linux(tmp_path / "source", "lvm-raid")
    options = RestoreOptions(adapt=True, leave_out=frozenset({4}))
    result, notices = restored(disk, tmp_path / "target", options)
    assert result.may_not_start
    assert "other members of this RAID 1 are on another disk" in notices[0].message
    assert cut(tmp_path / "target", disk.places[3], tmp_path / "one").read_bytes() == (
        cut(disk.path, disk.places[3], tmp_path / "other").read_bytes()
    )


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = make_nested_linux(tmp_path / "source", "lvm", waits=True)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, disk.path).manifest
    script = (
        "import sys; from stillframe.cli.main import main; sys.exit(main(sys.argv[1:]))",
        "restore", manifest.image, str(tmp_path / "target"), "--adapt", "--yes", "--repo", str(tmp_path / "repository"),
    )  # fmt: skip
    running = subprocess.Popen([sys.executable, "-c", *script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours = f"stillframe-{running.pid}-"

    def ours_now() -> list[str]:
        listed = run_tool("losetup", "--list", "--noheadings", "--output", "BACK-FILE").splitlines()
        mounts = Path("/proc/mounts").read_text().splitlines()
        return [line for line in (*listed, *mounts, *os.listdir(tempfile.gettempdir())) if ours in line]

    try:
        deadline = time.monotonic() + 120
        while not any("/linux-lvm-house-root" in line for line in ours_now()):
            assert time.monotonic() < deadline, "it was not mounted"
            assert running.poll() is None
            time.sleep(0.2)
    finally:
        running.kill()
        running.wait()
    while ours_now():
        assert time.monotonic() < deadline + 60, ours_now()
        time.sleep(0.2)
