"""Disk files of other programs as a source: what comes back is the disk in them, and what is in use is refused."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from stillframe.capture.diskfiles import open_file_source
from stillframe.errors import SourceInUse
from stillframe.host.disks import describe
from stillframe.testing.command_line import Outcome, call
from stillframe.testing.disk_files import held_by_qemu

MIB = 1 << 20
START = 9 * MIB


def tool(*command: object, text: str = "") -> str:
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT disk with one ext4 that holds a file, and noise where no file system has anything."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "files").mkdir()
    (folder / "files" / "letter").write_bytes(os.urandom(3 * MIB))
    path = folder / "disk.raw"
    path.write_bytes(b"")
    os.truncate(path, 40 * MIB)
    tool("sfdisk", "-q", path, text="label: gpt\nstart=9MiB,size=28MiB,type=linux\n")
    tool("mkfs.ext4", "-q", "-L", "letters", "-d", folder / "files", "-E", f"offset={START}", path, "28M")
    with path.open("r+b") as file:
        file.seek(START + 20 * MIB)
        file.write(os.urandom(MIB))
    return path


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("STILLFRAME_PASSWORD", raising=False)
    folder = tmp_path / "repo"
    assert call("init", folder, "--encryption", "none").exit_code == 0
    monkeypatch.setenv("STILLFRAME_REPO", str(folder))
    return folder


def converted(raw: Path, folder: Path, form: str, *options: str) -> Path:
    path = folder / "disk.img"
    tool("qemu-img", "convert", "-f", "raw", "-O", form, *options, raw, path)
    return path


def succeeded(*words: object) -> Outcome:
    done = call(*words)
    assert done.exit_code == 0, done.errors
    return done


def require_same(restored: Path, raw: Path) -> None:
    """The volume is the same to its own tools, and the file in it to the byte; the table is that of the original."""
    tool("e2fsck", "-fn", f"{restored}?offset={START}")
    found = [
        subprocess.run(
            ["debugfs", "-R", "cat /letter", f"{path}?offset={START}"], capture_output=True, check=True
        ).stdout
        for path in (restored, raw)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 3 * MIB
    tables = [tool("sfdisk", "-d", path).replace(str(path), "") for path in (restored, raw)]
    assert tables[0] == tables[1]


FORMS = [
    ("qcow2", "QCOW2"), ("qcow2 -c", "QCOW2"), ("vpc -o force_size=on", "VHD"), ("vhdx", "VHDX"), ("vmdk", "VMDK"),
    ("vmdk -o subformat=streamOptimized", "VMDK"), ("vmdk -o subformat=monolithicFlat", "VMDK"), ("vdi", "VDI"),
    ("raw", "raw"),
]  # fmt: skip


@pytest.mark.variants(4)
@pytest.mark.parametrize(("form", "name"), FORMS)
def test_what_is_imported_comes_back(form: str, name: str, raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, *form.split())
    before = source.read_bytes()
    done = succeeded("import", source, "--name", "vm", "--comment", "from there", "--json").result
    assert done["imported"]["format"] == name
    assert done["imported"]["path"] == str(source)
    assert [(one["map"], one["consistency"]) for one in done["volumes"]] == [("used", "offline")]
    assert done["bytes_added"] < 8 * MIB  # the noise that no file has is not stored
    succeeded("restore", "latest:vm", tmp_path / "back.raw", "--yes")
    require_same(tmp_path / "back.raw", raw)
    assert source.read_bytes() == before
    assert repo.is_dir()


@pytest.mark.parametrize("form", ["qcow2", "vhdx"])
def test_all_sectors_are_the_disk_to_the_byte(form: str, raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, form)
    succeeded("import", source, "--name", "vm", "--all-sectors")
    succeeded("restore", "latest:vm", tmp_path / "back.raw", "--yes")
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "back.raw", raw)
    assert repo.is_dir()


def test_backup_and_clone_take_them_too(raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, "vhdx")
    succeeded("backup", source, "--name", "vm")
    succeeded("restore", "latest", tmp_path / "back.raw", "--yes")
    require_same(tmp_path / "back.raw", raw)
    succeeded("clone", source, tmp_path / "clone.raw", "--yes")
    require_same(tmp_path / "clone.raw", raw)
    assert repo.is_dir()


def test_disks_shows_what_is_in_it(raw: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, "vmdk")
    (disk,) = succeeded("disks", source, "--json").result["disks"]
    assert (disk["size"], disk["model"], disk["scheme"]) == (40 * MIB, "VMDK file", "gpt")
    assert disk["partitions"][0]["label"] == "letters"
    assert "letters" in succeeded("disks", source).output


def test_an_imported_image_is_of_a_machine_of_its_own(raw: Path, repo: Path, tmp_path: Path) -> None:
    succeeded("backup", raw)
    own = succeeded("show", "latest", "--json").result["image"]
    source = converted(raw, tmp_path, "qcow2")
    first = succeeded("import", source, "--json").result
    assert first["machine"] == "disk.img (imported)"
    assert succeeded("show", "latest", "--json").result["image"] == own
    assert len(succeeded("images", "--json").result["images"]) == 1
    assert len(succeeded("images", "--all", "--json").result["images"]) == 2
    shown = succeeded("show", first["image"][:12], "--json").result
    assert shown["imported"] == {"format": "QCOW2", "path": str(source), "made": ""}
    assert f"from {source} (QCOW2)" in succeeded("show", first["image"][:12]).output
    second = succeeded("import", source, "--json").result
    assert (second["kind"], second["machine"]) == ("incremental", first["machine"])
    (tmp_path / "other").mkdir()
    elsewhere = succeeded("import", converted(raw, tmp_path / "other", "qcow2"), "--json").result
    machines = {one["machine_id"] for one in succeeded("images", "--all", "--json").result["images"]}
    assert len(machines) == 3
    succeeded("expire", "--keep-last", 1, "--yes")
    left = {one["id"] for one in succeeded("images", "--all", "--json").result["images"]}
    assert left == {own, second["image"], elsewhere["image"]}
    assert repo.is_dir()


def test_when_a_vhd_was_made_is_kept(raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, "vpc")
    made = succeeded("import", source, "--json").result["imported"]["made"]
    assert abs(time.mktime(time.strptime(made, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - time.time()) < 600
    assert repo.is_dir()


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_a_file_that_a_virtual_machine_uses_is_refused(form: str, raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, form)
    with held_by_qemu(source, form):
        for words in (("import", source), ("backup", source), ("clone", source, tmp_path / "new")):
            done = call(*words)
            assert done.exit_code == 20
            assert "QEMU" in done.errors
        assert not (tmp_path / "new").exists()
        torn = call("import", source, "--allow-torn", "--name", "torn", "--json")
        assert torn.exit_code == 3
        assert torn.result["volumes"][0]["consistency"] == "torn"
    with held_by_qemu(source, form, "-r"):
        succeeded("import", source)  # who only reads disturbs nobody
    assert repo.is_dir()


def test_a_backing_file_in_use_counts_too(raw: Path, repo: Path, tmp_path: Path) -> None:
    base = converted(raw, tmp_path, "qcow2")
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", tmp_path / "top")
    with held_by_qemu(base, "qcow2"):
        assert call("import", tmp_path / "top").exit_code == 20
    done = succeeded("import", tmp_path / "top", "--json").result
    assert any(notice["code"] == "reads-more-files" and str(base) in notice["message"] for notice in done["notices"])
    assert repo.is_dir()


def test_the_lock_of_vmware_is_seen(raw: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, "vmdk")
    lock = source.with_name("disk.img.lck")
    lock.mkdir()
    with open_file_source(describe(str(source)), allow_torn=False):
        pass  # an empty folder is nobody's lock
    (lock / "M12345.lck").touch()
    with pytest.raises(SourceInUse, match="VMware"):
        open_file_source(describe(str(source)), allow_torn=False)


@pytest.mark.parametrize("changed", ["top", "base"])
def test_a_file_that_changes_meanwhile_is_noticed(changed: str, raw: Path, tmp_path: Path) -> None:
    base, top = converted(raw, tmp_path, "qcow2"), tmp_path / "top"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    with open_file_source(describe(str(top)), allow_torn=False) as source:
        assert source.stayed_still()
        tool("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4k", top if changed == "top" else base)
        assert not source.stayed_still()


def test_a_clone_onto_a_file_that_the_source_rests_on_is_refused(raw: Path, tmp_path: Path) -> None:
    base, top = converted(raw, tmp_path, "raw"), tmp_path / "top"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    done = call("clone", top, base, "--yes")
    assert done.exit_code == 22
    assert base.read_bytes() == raw.read_bytes()


def test_what_cannot_be_imported_is_said(raw: Path, repo: Path, tmp_path: Path) -> None:
    broken = converted(raw, tmp_path, "qcow2")
    os.truncate(broken, 100_000)
    (tmp_path / "folder").mkdir()
    for path, code in ((broken, 21), (tmp_path / "nothing", 2), (tmp_path / "folder", 2)):
        done = call("import", path)
        assert done.exit_code == code
        assert str(path) in done.errors
    assert succeeded("images", "--all", "--json").result["images"] == []
    assert repo.is_dir()


def test_a_dry_run_makes_no_image(raw: Path, repo: Path, tmp_path: Path) -> None:
    source = converted(raw, tmp_path, "vhdx")
    plan = succeeded("import", source, "--dry-run", "--json").result
    assert plan["imported"]["format"] == "VHDX"
    assert plan["bytes_to_read"] < 20 * MIB
    assert succeeded("images", "--all", "--json").result["images"] == []
    assert repo.is_dir()
