"""Repositories on LUKS, and on LVM in a RAID 1 that lacks a disk: the medium opens them, and changes no byte to look.

The volumes are made by cryptsetup and LVM without a device mapper; the one of the medium reads them. One start: it does
what its answers say, then it is asked from inside by SSH.
"""

import filecmp
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stillframe.testing.command_line import call
from stillframe.testing.debian_guest import cache, make_disk
from stillframe.testing.loops import loop_device
from stillframe.testing.medium_machine import MediumMachine, RunningMedium, start_medium
from stillframe.testing.tools import run_tool
from stillframe.testing.virtual_machine import Drive
from stillframe.testing.volumes_luks import CHEAP_ARGON2, PASSPHRASE, decrypt2, encrypt2
from stillframe.testing.volumes_lvm import LvmTools
from stillframe.testing.volumes_raid import MemberPlan, build_member

pytestmark = [pytest.mark.root, pytest.mark.vm]
MIB = 1 << 20
LIMIT_S = 1800
SECRET = "four words on paper"  # noqa: S105 - of a test
SIZE = 64 * MIB
ROOM = 160 * MIB
KILLED = f"""
/stillframe/venv/bin/python3 - <<'END'
import os, signal
from stillframe.rescue.places.opened import Places
with Places() as places:
    for closed in places.search().closed:
        found = places.open_closed(closed, {PASSPHRASE!r} if closed.is_locked else "")
        print("opened", closed.kind, len(found.repositories), flush=True)
        for inner in found.closed:
            print("inside", inner.name, len(places.open_closed(inner).repositories), flush=True)
    os.system("ls /dev/mapper; cat /proc/mdstat; blockdev --getro /dev/md* /dev/dm-*")
    os.kill(os.getpid(), signal.SIGKILL)
END
sleep 15
echo "then:"
"""
"""Everything is opened, and then the process is killed."""
REPORT = "/run/verdict.json"
"""Not the serial line, on which letters come twice when this machine is busy."""
LEFT = "ls /dev/mapper; cat /proc/mdstat; losetup -a; findmnt -rno TARGET | grep places; ls /run/stillframe/places"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What is plugged in, and what a restore of the image is."""

    luks: Path
    raid: Path
    wanted: Path
    ids: tuple[str, str]


def small_disk(folder: Path) -> Path:
    """A disk with one ext4 that has files."""
    files = folder / "files"
    files.mkdir()
    for number in range(20):
        (files / f"{number}").write_bytes(bytes([number]) * 100_000)
    disk = make_disk(folder / "small.img", SIZE)
    run_tool("sgdisk", "-n1:2048:+48M", str(disk))
    run_tool("mkfs.ext4", "-q", "-d", str(files), "-E", "offset=1048576", str(disk), "48M")
    return disk


def repository_of(folder: Path, name: str, disk: Path) -> tuple[Path, str]:
    """A repository with an image of a disk, in a folder to be put onto a volume; its id."""
    (folder / "pw").write_text(SECRET)
    words = ("--password-file", folder / "pw")
    top = folder / name
    top.mkdir()
    made = call("init", top / "stillframe", *words, "--json")
    assert made.exit_code == 0, made.output
    assert call("backup", disk, "--repo", top / "stillframe", *words).exit_code == 0
    return top, str(made.result["repository"])


def ext4_with(folder: Path, top: Path, size: int) -> Path:
    volume = make_disk(folder / f"{top.name}.ext4", size)
    run_tool("mkfs.ext4", "-q", "-L", "BACKUP", "-d", str(top), str(volume))
    return volume


def lvm_in_raid(folder: Path, top: Path) -> Path:
    """A member of a RAID 1 whose other disk is not there; in it a group with a volume, in that an ext4."""
    physical = make_disk(folder / "physical.img", ROOM + 16 * MIB)
    with loop_device(physical) as device:
        lvm = LvmTools(devices=(str(device),))
        lvm.make_group()
        lvm.make_volume("backups", "-L", f"{ROOM}b")
        lvm.make_volume("other", "-L", "4m")
        lvm.write_volume("backups", ext4_with(folder, top, ROOM))
    disk = folder / "raid.img"
    disk.write_bytes(build_member(physical.read_bytes(), MemberPlan(roles=(0, 1))))
    assert "raid1" in run_tool("mdadm", "--examine", str(disk))
    return disk


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    disk = small_disk(tmp_path)
    on_luks, first = repository_of(tmp_path, "on-luks", disk)
    on_raid, second = repository_of(tmp_path, "on-raid", disk)
    luks = tmp_path / "luks.img"
    encrypt2(ext4_with(tmp_path, on_luks, ROOM), luks, *CHEAP_ARGON2, label="STICK")
    words = ("--repo", on_luks / "stillframe", "--password-file", tmp_path / "pw", "--yes")
    wanted = make_disk(tmp_path / "wanted.img", SIZE)
    assert call("restore", "latest", wanted, *words).exit_code == 0
    return Made(luks=luks, raid=lvm_in_raid(tmp_path, on_raid), wanted=wanted, ids=(first, second))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def iso(tmp_path: Path, key: Path) -> Path:
    path = tmp_path / "rescue.iso"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE_DIR", str(cache() / "media"))
        outcome = call("rescue", "build", path, "--serial", "--yes", "--ssh-key", f"{key}.pub")
    assert outcome.exit_code == 0, outcome.output[-3000:]
    return path


def answers(repository: str, verb: str, *, unlock: str = PASSPHRASE) -> str:
    return f"""
[repository]
id = "{repository}"
[secret]
password = "{SECRET}"
[unlock]
password = "{unlock}"
{verb}
"""


def restore_onto(serial: str) -> str:
    return f'[restore]\ntarget = {{ serial = "{serial}" }}\n'


def carry_out(running: RunningMedium, text: str) -> dict[str, Any]:
    """The verdict of answers that are carried out from inside."""
    said = running.ask(
        f"cat > /run/a.toml <<'END'\n{text}\nEND\nstillframe rescue start --answers /run/a.toml --json", limit_s=LIMIT_S
    )
    found = [json.loads(line) for line in said.splitlines() if line.startswith('{"type":"result"')]
    assert found, said
    print(said)  # noqa: T201 - pytest -s shows it
    return dict(found[-1]["verdict"])


def test_backups_on_stacks_are_opened_and_looking_changes_nothing(made: Made, iso: Path, key: Path) -> None:
    folder = iso.parent / "m"
    folder.mkdir()
    for disk in (made.luks, made.raid):
        run_tool("cp", "--sparse=always", str(disk), f"{disk}.before")
    targets = [make_disk(folder / f"{name}.img", SIZE) for name in ("one", "two", "three")]
    (folder / "answers.toml").write_text(answers(made.ids[0], restore_onto("one")) + f'[after]\nreport = "{REPORT}"\n')
    drives = [Drive(file=made.luks, serial="luks"), Drive(file=made.raid, serial="raid")]
    drives += [Drive(file=file, serial=file.stem) for file in targets]
    machine = MediumMachine(
        folder=folder, medium=iso, plugged="usb", key=key, disks=drives, answers=folder / "answers.toml"
    )
    with start_medium(machine) as running:
        running.wait_for("Nothing is changed|carried out on another", limit_s=LIMIT_S)
        waiting = f"until test -s {REPORT}; do sleep 1; done; sleep 1; cat {REPORT}"
        at_start = json.loads(running.ask(waiting, limit_s=LIMIT_S))
        left = running.ask(LEFT, limit_s=LIMIT_S)
        wrong = carry_out(running, answers(made.ids[0], restore_onto("two"), unlock="wrong"))
        from_raid = carry_out(running, answers(made.ids[1], restore_onto("two")))
        onto_itself = carry_out(running, answers(made.ids[1], restore_onto("raid")))
        killed = running.ask(f"{KILLED}{LEFT}", limit_s=LIMIT_S)
        print(killed)  # noqa: T201 - pytest -s shows it
        still_left = running.ask(f"sync; {LEFT}", limit_s=LIMIT_S)
        for disk in (made.luks, made.raid):
            assert filecmp.cmp(disk, f"{disk}.before", shallow=False), f"{disk.name} was written to"
        saved = carry_out(running, answers(made.ids[0], '[backup]\nsources = [{ serial = "two" }]\n'))
        running.ask("sync; systemctl poweroff", limit_s=LIMIT_S)
        running.wait_for_end(limit_s=LIMIT_S)
    assert at_start["ok"], at_start
    assert (wrong["exit_code"], wrong["ok"]) == (12, False), wrong
    assert "does not open LUKS STICK (/dev/vd" in wrong["message"]
    assert from_raid["ok"], from_raid
    assert not onto_itself["ok"]
    assert "the repository with the backups is on it" in onto_itself["message"]
    for line in ("opened luks 1", "opened raid 0", "inside house/backups 1", "inside house/other 0"):
        assert line in killed, killed
    opened, _, after = killed.partition("then:")
    assert "house-backups" in opened
    assert "active (read-only) raid1" in opened
    for words in (left, after, still_left):
        assert words.split()[:2] == ["control", "Personalities"], f"something is left open: {words}"
        assert "active" not in words
        assert "places" not in words.replace("/run/stillframe/places", "")
    for target in targets[:2]:
        assert filecmp.cmp(target, made.wanted, shallow=False), f"{target.name} did not come back"
    assert filecmp.cmp(made.raid, f"{made.raid}.before", shallow=False)
    assert saved["ok"], saved
    check_saved(made, iso.parent)


def check_saved(made: Made, folder: Path) -> None:
    """What was saved onto the LUKS is there, by cryptsetup and the tools of ext4."""
    plain = decrypt2(made.luks, folder / "plain.img", ROOM)
    run_tool("e2fsck", "-fn", str(plain))
    out = folder / "out"
    out.mkdir()
    run_tool("debugfs", "-R", f"rdump /stillframe {out}", str(plain))
    words = ("--repo", out / "stillframe", "--password-file", folder / "pw", "--json")
    assert len(call("images", "--all", *words).result["images"]) == 2
    assert call("verify", "latest", *words).exit_code == 0
