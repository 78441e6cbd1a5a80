"""The way there and back by the command line, on a disk file; other tools judge the outcome. And what it refuses."""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.cli import looking, saving
from stillframe.cli.progress import JsonLines
from stillframe.events import BytesMoved, Event
from stillframe.host.machine import Machine
from stillframe.testing.command_line import Outcome, call
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import unmount

MIB = 1 << 20
PASSPHRASE = "several words of mine"  # noqa: S105 - guards nothing
FILE = bytes(range(256)) * 8192  # 2 MiB
VOLUME_START = 9 * MIB


def tool(*command: object, text: str = "", allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, check=False)
    assert done.returncode in allowed, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def make_disk(path: Path) -> None:
    """A GPT disk of 40 MiB: an EFI partition, and ext4 with one file."""
    folder = path.parent / "files"
    folder.mkdir()
    (folder / "file").write_bytes(FILE)
    path.write_bytes(b"")
    os.truncate(path, 40 * MIB)
    tool("sfdisk", "-q", path, text="label: gpt\nsize=8M,type=uefi,name=start\nsize=28M,type=linux\n")
    tool("mkfs.fat", "-n", "EFI", "--offset", 2048, path, 8192)
    tool("mkfs.ext4", "-q", "-L", "daily", "-d", folder, "-E", f"offset={VOLUME_START}", path, "28M")


def tree(folder: Path) -> dict[str, str]:
    """The digest of every file under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "disk.raw"
    make_disk(path)
    return path


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    for name in ("PASSWORD", "NEW_PASSWORD", "REPO"):
        monkeypatch.delenv(f"STILLFRAME_{name}", raising=False)


@pytest.fixture(scope="session")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without encryption, with one image named 'daily'."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE_DIR", str(folder / "cache"))
        patch.setenv("STILLFRAME_STATE_DIR", str(folder / "state"))
        patch.delenv("STILLFRAME_PASSWORD", raising=False)
        assert call("init", folder / "repo", "--encryption", "none").exit_code == 0
        done = call("backup", source, "--repo", folder / "repo", "--name", "daily", "--comment", "first")
        assert done.exit_code == 0, done.errors
    return folder / "repo"


@pytest.fixture
def repo(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may spoil, named by the environment."""
    folder = tmp_path / "repo"
    shutil.copytree(made, folder)
    monkeypatch.setenv("STILLFRAME_REPO", str(folder))
    return folder


@pytest.fixture
def typed_secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Secrets that a person will type, in order; what is not asked for stays in the list."""
    secrets: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda _question, _stream: secrets.pop(0))
    return secrets


def of_json(*words: object) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    assert done.errors == ""
    assert done.result["type"] == "result"
    assert done.result["verb"] == words[0]
    return done.result


# The way there and back


def test_a_restored_disk_is_the_disk(source: Path, repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "back.raw"
    assert call("restore", "latest", target).exit_code == 0
    tables = [json.loads(tool("sfdisk", "--json", path))["partitiontable"] for path in (source, target)]
    for table in tables:
        table.pop("device")
        for row in table["partitions"]:
            row.pop("node")
    assert tables[0] == tables[1]
    volume = tmp_path / "volume"
    volume.write_bytes(target.read_bytes()[VOLUME_START : VOLUME_START + 28 * MIB])
    tool("e2fsck", "-fn", volume)
    tool("debugfs", "-R", f"dump /file {tmp_path / 'file'}", volume)
    assert (tmp_path / "file").read_bytes() == FILE
    efi = tmp_path / "efi"
    efi.write_bytes(target.read_bytes()[MIB : 9 * MIB])
    tool("fsck.fat", "-n", efi)
    assert repo.is_dir()


def test_one_partition_comes_back_as_a_file(repo: Path, tmp_path: Path) -> None:
    target = tmp_path / "part.raw"
    assert call("restore", "latest:daily", target, "--partition", "2", "--repo", repo).exit_code == 0
    assert target.stat().st_size == 28 * MIB
    assert "LABEL=daily" in tool("blkid", "-p", "-o", "export", target)
    tool("e2fsck", "-fn", target)


def test_a_clone_is_the_disk(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "clone.raw"
    result = of_json("clone", source, target)
    assert result["complete"] is True
    assert tool("sfdisk", "--dump", target).replace(str(target), "") == tool("sfdisk", "--dump", source).replace(
        str(source), ""
    )
    assert "LABEL=daily" in tool("blkid", "-p", "-O", VOLUME_START, "-S", 28 * MIB, "-o", "export", target)


def test_the_second_image_is_incremental_and_adds_next_to_nothing(source: Path, repo: Path) -> None:
    result = of_json("backup", source, "--name", "daily")
    assert result["kind"] == "incremental"
    assert result["bytes_added"] < 100_000
    assert len(of_json("images")["images"]) == 2
    assert repo.is_dir()


def test_backup_tells_its_plan_before_it_begins(source: Path, repo: Path) -> None:
    done = call("backup", source, "--repo", repo)
    plan = done.output
    for words in ("vfat", "EFI", "ext4", "daily", "used map", "To read", "To store", "Free there", "full"):
        assert words in plan
    assert "good: every chunk" in plan or "no fault" in plan
    assert done.exit_code == 0


# The contract of --json


def test_backup_result(source: Path, repo: Path) -> None:
    result = of_json("backup", source, "--kind", "full")
    wanted = {"image", "kind", "bytes_read", "bytes_used", "bytes_added", "seconds", "notices", "volumes"}
    assert wanted <= result.keys()
    assert result["volumes"] == [
        {"disk": 1, "partition": number, "consistency": "offline", "map": "used"} for number in (1, 2)
    ]
    assert (repo / "images").is_dir()


def test_images_result(repo: Path) -> None:
    (image,) = of_json("images", "--repo", repo)["images"]
    wanted = {"id", "name", "kind", "created", "machine", "bytes_used", "bytes_total", "proofs"}
    assert wanted <= image.keys()
    assert (image["name"], image["bytes_total"], image["proof"]) == ("daily", 40 * MIB, "good")
    assert image["created"].endswith("Z")


def test_show_and_disks_say_what_other_tools_say(source: Path, repo: Path) -> None:
    shown, seen = of_json("show", "latest"), of_json("disks", source)
    rows = json.loads(tool("sfdisk", "--json", source))["partitiontable"]["partitions"]
    wanted = {"number", "start", "size", "type", "filesystem", "label", "uuid", "bytes_used", "system"}
    for disk in (shown["disks"][0], seen["disks"][0]):
        for row, part in zip(rows, disk["partitions"], strict=True):
            assert wanted <= part.keys()
            assert (part["start"], part["size"]) == (row["start"] * 512, row["size"] * 512)
            assert part["type"] == row["type"].upper()
            words = tool("blkid", "-p", "-O", part["start"], "-S", part["size"], "-o", "export", source).splitlines()
            known = dict(word.split("=", 1) for word in words if "=" in word)
            assert (part["filesystem"], part["label"], part["uuid"]) == (known["TYPE"], known["LABEL"], known["UUID"])
    (disk,) = seen["disks"]
    assert {"path", "model", "serial", "sector_size"} <= disk.keys()
    assert all({"in_system_backup", "reason"} <= part.keys() for part in disk["partitions"])
    assert shown["comment"] == "first"
    assert repo.is_dir()


def test_verify_check_and_restore_results(repo: Path, tmp_path: Path) -> None:
    for words in (("verify", "latest"), ("verify",), ("verify", "--quick"), ("check",), ("repair",)):
        result = of_json(*words)
        assert (result["ok"], result["findings"]) == (True, [])
    result = of_json("restore", "latest", tmp_path / "new.raw", "--repo", repo)
    assert {"bytes_written", "bytes_skipped", "seconds", "changes"} <= result.keys()


def test_every_line_of_json_is_an_event_and_the_last_one_the_result(source: Path, repo: Path) -> None:
    types = [line["type"] for line in call("backup", source, "--repo", repo, "--json").lines]
    assert types[0] == "job_started"
    assert types.count("result") == 1
    assert types[-1] == "result"
    assert {"phase_started", "bytes_moved", "job_finished"} <= set(types)


def test_an_error_in_json_is_the_last_line(tmp_path: Path) -> None:
    done = call("images", "--repo", tmp_path / "nowhere", "--json")
    assert done.exit_code == 10
    assert done.errors == ""
    assert done.result.keys() == {"type", "code", "message", "hint", "exit_code"}
    assert (done.result["type"], done.result["code"], done.result["exit_code"]) == ("error", "not-found", 10)


# Nothing is written by a plan


@pytest.mark.parametrize(
    "words",
    ["backup {source}", "restore latest {target}", "restore latest {old}", "clone {source} {target}",
     "clone {source} {old}", "repair", "forget latest", "expire --keep-last 1", "init {new}", "disks {source}",
     "check"],
)  # fmt: skip
def test_a_dry_run_changes_nothing(words: str, source: Path, repo: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.raw"
    old.write_bytes(b"mine" * MIB * 10)
    places = {"source": source, "target": tmp_path / "target.raw", "old": old, "new": tmp_path / "new"}
    before = tree(tmp_path) | {"source": hashlib.sha256(source.read_bytes()).hexdigest()}
    command = [word.format(**places) for word in words.split()]
    options = [] if command[0] in {"disks", "check"} else ["--dry-run"]
    done = call(*command, *options)
    assert done.exit_code == 0, done.errors
    assert done.output
    after = {name: digest for name, digest in tree(tmp_path).items() if not name.startswith("cache")}
    assert after | {"source": hashlib.sha256(source.read_bytes()).hexdigest()} == before
    if options:
        assert of_json(*command, *options)["dry_run"] is True
    assert repo.is_dir()


def test_a_backup_does_not_change_its_source(source: Path, repo: Path) -> None:
    before = source.read_bytes()
    assert call("backup", source, "--repo", repo).exit_code == 0
    assert source.read_bytes() == before


# What is asked, what is refused


def old_target(tmp_path: Path) -> Path:
    path = tmp_path / "old.raw"
    path.write_bytes(b"")
    os.truncate(path, 64 * MIB)
    tool("sfdisk", "-q", path, text="label: dos\nsize=40M,type=83\n")
    tool("mkfs.ext4", "-q", "-L", "precious", "-E", f"offset={MIB}", path, "40M")
    return path


def test_a_restore_shows_what_will_be_lost_and_asks(repo: Path, tmp_path: Path) -> None:
    target = old_target(tmp_path)
    before = target.read_bytes()
    for words in (["yes"], [""], ["no"]):
        done = call("restore", "latest", target, typed=words)
        assert done.exit_code == 130
        assert "precious" in done.output
        assert target.read_bytes() == before
    assert call("restore", "latest", target).exit_code == 2  # nobody to ask
    assert target.read_bytes() == before
    assert call("restore", "latest", target, "--repo", repo, typed=["restore"]).exit_code == 0
    assert "daily" in tool("blkid", "-p", "-O", VOLUME_START, "-o", "export", target)


def test_a_target_that_cannot_be_meant_is_refused(source: Path, repo: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.raw"
    small.write_bytes(bytes(MIB))
    assert call("restore", "latest", small, "--yes").exit_code == 22
    assert small.read_bytes() == bytes(MIB)
    assert call("restore", "latest", repo / "disk.raw", "--yes").exit_code == 22
    for words in (("restore", "latest"), ("clone", source)):
        assert call(*words, "/dev/no-such-disk", "--yes").exit_code == 22
        assert not Path("/dev/no-such-disk").exists()  # a file there would fill the memory
    assert not (repo / "disk.raw").exists()


@pytest.mark.parametrize("kind", ["qcow2", "vpc", "vhdx", "vmdk", "vdi", "fixed"])
def test_a_disk_file_of_another_program_is_never_written_to(
    kind: str, source: Path, repo: Path, tmp_path: Path
) -> None:
    path = tmp_path / "foreign"
    options = ["-O", "vpc", "-o", "subformat=fixed"] if kind == "fixed" else ["-O", kind]
    tool("qemu-img", "convert", "-f", "raw", *options, source, path)
    before = path.read_bytes()
    for words in (("restore", "latest", path, "--yes"), ("clone", source, path, "--yes")):
        done = call(*words)
        assert done.exit_code == 2
        assert "'export'" in done.errors
    assert path.read_bytes() == before
    assert len(of_json("images", "--repo", repo)["images"]) == 1


@pytest.mark.parametrize(
    "words",
    ["backup {source} --system", "backup {source} --exclude a//b", "backup",
     "restore latest {new} --controller 8086:2922", "restore latest {new} --experimental",
     "restore latest {new} --disk 2", "restore latest {new} --partition 9", "images --repo s3://bucket",
     "backup {source} {source}", "backup {new}", "disks {new}", "key list", "recovery-kit {new}", "nonsense"],
)  # fmt: skip
def test_what_cannot_be_done_is_said_and_nothing_is_made(words: str, source: Path, repo: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    done = call(*words.format(source=source, new=new).split())
    assert done.exit_code == 2
    first, *rest = done.errors.splitlines()
    assert first.startswith("stillframe: ")
    assert rest
    assert rest[0].startswith("  ")
    assert not new.exists()
    assert len(of_json("images", "--repo", repo)["images"]) == 1


def test_no_repository_is_named(tmp_path: Path) -> None:
    done = call("images")
    assert done.exit_code == 2
    assert "STILLFRAME_REPO" in done.errors
    assert tmp_path.is_dir()


def test_latest_on_another_machine_lists_the_choices(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "machine", lambda: Machine(id="5" * 32, name="rescue", boot_id=""))
    done = call("show", "latest", "--repo", repo)
    assert done.exit_code == 2
    assert "daily" in done.errors
    assert call("show", "latest:daily").exit_code == 0
    assert "1 more of other machines" in call("images").output
    assert "daily" in call("images", "--all").output


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "mounted.raw", tmp_path / "place"
    image.write_bytes(b"")
    os.truncate(image, 8 * MIB)
    tool("mkfs.ext4", "-q", image)
    place.mkdir()
    tool("mount", "-o", "loop", image, place)
    try:
        yield image
    finally:
        unmount(place)


@pytest.mark.root
def test_a_source_in_use_is_refused_unless_the_person_insists(mounted: Path, repo: Path) -> None:
    (part,) = of_json("disks", mounted)["disks"][0]["partitions"]
    assert str(mounted.parent / "place") in part["in_use_at"]
    assert call("backup", mounted).exit_code == 20
    assert call("clone", mounted, mounted.parent / "new").exit_code == 20
    done = call("backup", mounted, "--allow-torn", "--json", "--repo", repo)
    assert done.exit_code == 3
    assert done.result["volumes"][0]["consistency"] == "torn"
    assert done.result["complete"] is False
    assert "TORN" in call("show", done.result["image"]).output


@pytest.mark.root
def test_a_target_in_use_is_refused(mounted: Path, repo: Path) -> None:
    before = mounted.read_bytes()
    done = call("restore", "latest", mounted, "--partition", "1", "--yes", "--repo", repo)
    assert done.exit_code == 22
    assert len(mounted.read_bytes()) == len(before)


@pytest.fixture
def loops() -> Iterator[Callable[[Path], str]]:
    """A function that shows a file as a disk."""
    made: list[str] = []

    def show(path: Path) -> str:
        made.append(attach_loop(path))
        return made[-1]

    yield show
    for device in made:
        detach_loop(device)


@pytest.mark.root
def test_from_device_to_device(source: Path, repo: Path, tmp_path: Path, loops: Callable[[Path], str]) -> None:
    target = old_target(tmp_path)
    first, second = loops(source), loops(target)
    image = of_json("backup", first, "--repo", repo)["image"]
    plan = of_json("restore", image, second, "--dry-run")
    assert plan["target_size"] == 64 * MIB
    assert any("precious" in line for line in plan["lost"])
    assert call("restore", image, second, "--yes").exit_code == 0
    start = {line.split(":")[1] for line in tool("sfdisk", "--dump", target).splitlines() if "start=" in line}
    assert start == {line.split(":")[1] for line in tool("sfdisk", "--dump", source).splitlines() if "start=" in line}
    assert "LABEL=daily" in tool("blkid", "-p", "-O", VOLUME_START, "-S", 28 * MIB, "-o", "export", target)
    assert of_json("clone", first, second, "--yes")["complete"] is True
    assert call("clone", first, first, "--yes").exit_code == 22


@pytest.mark.root
def test_the_disk_that_holds_the_repository_is_refused(
    source: Path, tmp_path: Path, loops: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, place = tmp_path / "backup-disk.raw", tmp_path / "backup-disk"
    image.write_bytes(b"")
    os.truncate(image, 128 * MIB)
    tool("mkfs.ext4", "-q", image)
    place.mkdir()
    device = loops(image)
    tool("mount", device, place)
    try:
        monkeypatch.setenv("STILLFRAME_REPO", str(place / "repo"))
        assert call("init", place / "repo", "--encryption", "none").exit_code == 0
        assert call("backup", source).exit_code == 0
        for target in (device, image):
            done = call("restore", "latest", target, "--yes")
            assert done.exit_code == 22
            assert "repository" in done.errors
        assert call("backup", device).exit_code == 20
        assert of_json("check")["ok"] is True
    finally:
        unmount(place)


# Damage


def test_damage_is_found_named_and_told_by_the_exit_code(repo: Path, tmp_path: Path) -> None:
    pack = max((path for path in (repo / "packs").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(raw)
    done = call("verify", "latest", "--json")
    assert done.exit_code == 14
    assert done.result["ok"] is False
    assert done.result["findings"]
    assert any(line["type"] == "finding" for line in done.lines)
    assert "partition" in done.result["findings"][0]["message"]
    assert of_json("images")["images"][0]["proof"] == "damaged"
    assert call("restore", "latest", tmp_path / "new.raw").exit_code == 14
    pack.unlink()
    assert call("check").exit_code == 14
    assert call("repair").exit_code == 14
    assert call("verify", "--quick").exit_code == 14


def test_an_older_state_that_was_put_back_is_noticed(source: Path, repo: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(repo, older)
    assert call("backup", source).exit_code == 0
    shutil.rmtree(repo)
    shutil.copytree(older, repo)
    done = call("check", "--json")
    assert done.exit_code == 14
    assert "older-state" in [finding["code"] for finding in done.result["findings"]]


# Care


def test_forgetting_and_expiring(source: Path, repo: Path) -> None:
    first = of_json("images")["images"][0]["id"]
    second = of_json("backup", source, "--name", "daily")["image"]
    assert call("expire", "--keep-last", "1").exit_code == 2  # nobody to ask
    result = of_json("expire", "--keep-last", "1", "--yes")
    assert result["forgotten"] == [first]
    assert [image["id"] for image in of_json("images")["images"]] == [second]
    assert of_json("verify")["ok"] is True
    assert call("forget", "latest", typed=["no"]).exit_code == 130
    assert call("forget", "latest", typed=["forget"]).exit_code == 0
    assert of_json("images")["images"] == []
    assert of_json("expire", "--grace", "0", "--yes")["packs_deleted"] > 0
    assert [path for path in (repo / "packs").rglob("*") if path.is_file()] == []
    assert of_json("check")["ok"] is True


# Secrets


def test_a_passphrase_from_a_file_the_environment_or_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed_secrets: list[str]
) -> None:
    folder, kit, file = tmp_path / "repo", tmp_path / "kit.txt", tmp_path / "secret"
    typed_secrets += [PASSPHRASE, PASSPHRASE]
    assert call("init", folder, "--recovery-kit", kit, typed=[]).exit_code == 0
    assert typed_secrets == []
    assert stat.S_IMODE(kit.stat().st_mode) == 0o600
    monkeypatch.setenv("STILLFRAME_REPO", str(folder))
    assert call("images").exit_code == 12  # nobody to ask
    file.write_text(f"{PASSPHRASE}\r\nanother line\n")
    assert call("images", "--password-file", file).exit_code == 0
    typed_secrets += ["wrong", PASSPHRASE]
    assert call("images", typed=[]).exit_code == 0
    typed_secrets += ["wrong"] * 3
    assert call("images", typed=[]).exit_code == 12
    assert typed_secrets == []
    monkeypatch.setenv("STILLFRAME_PASSWORD", PASSPHRASE)
    assert call("images").exit_code == 0
    (key,) = [word for word in kit.read_text().split() if word.startswith("SF1-")]
    monkeypatch.setenv("STILLFRAME_PASSWORD", key.lower())
    assert call("images").exit_code == 0
    assert PASSPHRASE not in kit.read_text()


def test_keys_are_added_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, kit = tmp_path / "repo", tmp_path / "kit.txt"
    monkeypatch.setenv("STILLFRAME_REPO", str(folder))
    monkeypatch.setenv("STILLFRAME_PASSWORD", PASSPHRASE)
    assert "recovery-kit" in call("init", folder).output  # says that there is no kit yet
    monkeypatch.setenv("STILLFRAME_NEW_PASSWORD", "other words")
    added = of_json("key", "add", "--label", "anna")["key"]
    assert of_json("recovery-kit", kit)["key"]
    kinds = [(key["kind"], key["label"]) for key in of_json("key", "list")["keys"]]
    assert sorted(kinds) == [
        ("passphrase", "anna"), ("passphrase", "first passphrase"), ("recovery", "recovery kit"),
    ]  # fmt: skip
    monkeypatch.setenv("STILLFRAME_PASSWORD", "other words")
    assert call("key", "remove", added).exit_code == 2
    assert call("key", "remove", added, typed=["remove"]).exit_code == 0
    assert call("key", "list").exit_code == 12


def test_a_kit_is_never_put_beside_its_lock_nor_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_PASSWORD", PASSPHRASE)
    folder, there = tmp_path / "repo", tmp_path / "there.txt"
    there.write_text("older kit")
    for kit in (folder / "kit.txt", there, tmp_path / "missing" / "kit.txt"):
        assert call("init", folder, "--recovery-kit", kit).exit_code == 2
        assert not folder.exists()
    assert there.read_text() == "older kit"
    assert call("init", folder).exit_code == 0
    before = tree(folder)
    assert call("recovery-kit", folder / "kit.txt", "--repo", folder).exit_code == 2
    assert {name for name in tree(folder) if not name.startswith("sessions")} == set(before)


def test_where_a_repository_cannot_be_made(tmp_path: Path, typed_secrets: list[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder in ("full", "file", "not/mounted"):
        done = call("init", tmp_path / folder, "--encryption", "none")
        assert done.exit_code == 2
    assert not (tmp_path / "not").exists()
    assert tree(tmp_path) == tree(tmp_path)
    typed_secrets += ["one", "two"]
    assert call("init", tmp_path / "new", typed=[]).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_a_repository_in_the_top_folder_of_a_fresh_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    (disk / "System Volume Information").mkdir()
    assert call("init", disk, "--encryption", "none").exit_code == 0
    assert call("init", disk, "--encryption", "none").exit_code == 2
    assert "NOT encrypted" in call("init", tmp_path / "second", "--encryption", "none").output


# Stopping, bugs, and the real program


def test_ctrl_c_stops_a_backup_and_the_next_run_goes_on(
    source: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = JsonLines.emit

    def press(sink: JsonLines, event: Event) -> None:
        emit(sink, event)
        if isinstance(event, BytesMoved):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "emit", press)
        patch.setattr("stillframe.cli.call.signal.SIG_DFL", signal.SIG_IGN)  # only the first one is meant here
        done = call("backup", source, "--kind", "full", "--json", "--repo", repo)
    assert done.exit_code == 130
    assert done.result["code"] == "cancelled"
    assert signal.getsignal(signal.SIGINT) is before
    assert len(of_json("images")["images"]) == 1
    assert call("backup", source).exit_code == 0
    assert call("check").exit_code == 0


def test_our_own_bug_says_so_and_leaves_its_traceback(
    source: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the roof is off")

    monkeypatch.setattr(saving, "plan_backup", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = call("backup", source, "--repo", repo)
    assert done.exit_code == 1
    assert "bug" in done.errors
    (report,) = tmp_path.glob("stillframe-bug-*.txt")
    assert str(report) in done.errors
    assert "the roof is off" in report.read_text()
    assert "Traceback" not in done.errors
    assert "Traceback" in call("backup", source, "--debug").errors
    assert call("backup", source, "--json").result["code"] == "bug"


def program(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stillframe.cli.main import run; run()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


def test_the_program_ends_with_the_exit_code(tmp_path: Path) -> None:
    assert program("--version").returncode == 0
    assert program("nonsense").returncode == 2
    assert program("images", "--repo", tmp_path).returncode == 10


def test_help_loads_nothing_heavy() -> None:
    heavy = "numpy", "rich", "msgspec", "zstandard", "cryptography", "blake3", "argon2"
    code = (
        "import sys; from stillframe.cli.main import main\n"
        "for words in (['--help'], ['backup', '--help'], ['--version']): assert main(words) == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("place", ["{source}", "{source}.missing --json"])
def test_a_reader_that_went_away_is_no_error(unbuffered: str, place: str, source: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ["disks", *place.format(source=source).split()]
    command = [sys.executable, "-c", "from stillframe.cli.main import run; run()", *words]
    more = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=more)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_backup_goes_on_when_nobody_reads_its_events(
    source: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "emit", closed)
        assert call("backup", source, "--json", "--repo", repo).exit_code == 0
    assert len(of_json("images")["images"]) == 2


def test_an_outcome_without_json_has_no_json(repo: Path) -> None:
    done: Outcome = call("images", "--repo", repo)
    assert not done.output.startswith("{")
