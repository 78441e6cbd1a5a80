"""What ``rescue build`` refuses before it begins, what it would do, and what it keeps."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, UsageError
from stillframe.host.run import find_program
from stillframe.host.wheels import installed_packages
from stillframe.rescue.medium import cache, mirror, plan, recipe
from stillframe.rescue.medium.base import BaseWishes, find_base
from stillframe.rescue.medium.menu import menu
from stillframe.rescue.medium.mirror import PackageSources, choose_sources, find_sources, parse_targets, with_firmware
from stillframe.testing.command_line import call

SOURCES = PackageSources(lines=("deb http://mirror.example/debian bookworm main",), has_firmware=False)
OWN = ("http://mirror.example/debian", "bookworm", "main")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here makes a base, installs a package, or asks apt."""
    monkeypatch.setenv("STILLFRAME_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(plan, "find_sources", lambda _: SOURCES)
    monkeypatch.setattr(plan, "missing_packages", lambda _: ())


def test_a_plan_says_what_is_made_and_makes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rescue.iso"
    shown = call("rescue", "build", file, "--repo", "smb://nas/backup", "--keyboard", "de", "--dry-run", "--json")
    assert shown.exit_code == 0
    words = "\n".join(shown.result["steps"])
    assert "mirror.example" in words
    assert "smb://nas/backup" in words
    assert str(file) in words
    assert shown.result["stick"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said", "hint"),
    [
        ((), 2, "not said what to make", "--usb"),
        (("/dev/null",), 22, "is a device", "--usb /dev/null"),
        (("/dev/no-such.iso",), 22, "no device", "disks"),
        (("{folder}",), 22, "is a folder", "rescue.iso"),
        (("{folder}/none/a.iso",), 22, "no folder", "Make it first"),
        (("--usb", "{folder}/none"), 22, "there is no", "disks"),
        (("--usb", "{folder}/small.img"), 22, "too small", "1 GB"),
        (("{folder}/a.iso", "--answers", "{folder}/none.toml"), 2, "cannot be read", ""),
        (("{folder}/a.iso", "--kernel", "tiny"), 2, "invalid choice", ""),
    ],
)
def test_what_cannot_be_made_is_refused(words: Sequence[str], code: int, said: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "small.img").write_bytes(bytes(1 << 20))
    arguments = [word.format(folder=tmp_path) for word in words]
    shown = call("rescue", "build", *arguments, "--json")
    assert (shown.exit_code, shown.result["type"]) == (code, "error")
    assert said in shown.result["message"]
    assert hint in shown.result["hint"]


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_space", lambda _: 100 << 20)
    shown = call("rescue", "build", tmp_path / "a.iso", "--json")
    assert (shown.exit_code, shown.result["code"]) == (30, "storage-full")


def test_missing_packages_are_named_where_they_cannot_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "missing_packages", lambda _: ("xorriso", "mmdebstrap"))
    monkeypatch.setattr(plan, "may_install", lambda: False)
    shown = call("rescue", "build", tmp_path / "a.iso", "--json")
    assert shown.result["code"] == "missing-program"
    assert "apt-get install xorriso mmdebstrap" in shown.result["hint"]
    monkeypatch.setattr(plan, "may_install", lambda: True)
    shown = call("rescue", "build", tmp_path / "a.iso", "--json", "--dry-run")
    assert shown.result["packages_missing"] == ["xorriso", "mmdebstrap"]
    assert shown.result["steps"][0] == "install on this machine: xorriso mmdebstrap"


def test_a_stick_is_shown_and_asked_for(tmp_path: Path) -> None:
    stick = tmp_path / "stick.img"
    with stick.open("wb") as file:
        file.truncate(2 << 30)
    subprocess.run(["sgdisk", "-n1:2048:+100M", "-c1:holiday", str(stick)], check=True, capture_output=True)
    before = stick.stat().st_mtime_ns
    shown = call("rescue", "build", "--usb", stick, "--dry-run", "--json")
    assert shown.result["stick"]["lost"] == ["partition 1: Linux, 105 MB"]
    refused = call("rescue", "build", "--usb", stick, "--json")
    assert (refused.exit_code, "nobody to ask" in refused.result["message"]) == (2, True)
    stopped = call("rescue", "build", "--usb", stick, typed=["no"])
    assert stopped.exit_code == 130
    assert "WILL BE LOST" in stopped.output
    assert stick.stat().st_mtime_ns == before


def test_a_stick_that_holds_the_repository_is_refused(tmp_path: Path) -> None:
    stick = tmp_path / "repo" / "stick.img"
    stick.parent.mkdir()
    with stick.open("wb") as file:
        file.truncate(2 << 30)
    shown = call("rescue", "build", "--usb", stick, "--repo", stick.parent, "--json")
    assert (shown.exit_code, "holds the repository" in shown.result["message"]) == (22, True)


def test_sources_are_those_of_this_machines_apt() -> None:
    listed = (
        "http://mirror.example/debian bookworm main Debian\nhttp://mirror.example/debian bookworm main Debian\n"
        "http://mirror.example/security bookworm-security main Debian\nhttps://other.example/apt stable main Other\n"
        "http://mirror.example/debian bookworm non-free-firmware Debian\ncdrom:[x]/ bookworm main Debian\n"
        "http://mirror.example/debian bookworm contrib Debian\nhttp://broken.example bookworm main\n"
    )
    found = choose_sources(parse_targets(listed))
    assert found.lines == (
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/security bookworm-security main",
        "deb http://mirror.example/debian bookworm non-free-firmware",
    )
    assert found.has_firmware
    assert found.notices == ()


def test_another_debian_has_the_right_mirror_and_another_suite() -> None:
    rows = [
        ("http://mirror.example/debian", "trixie-updates", "main"),
        ("http://mirror.example/debian", "trixie", "main"),
    ]
    found = choose_sources(rows)
    assert found.lines == ("deb http://mirror.example/debian bookworm main",)
    assert [notice.code for notice in found.notices] == ["no-security-updates"]


def test_a_machine_without_a_mirror_of_debian_is_told_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineRefusal, match="no mirror") as refused:
        choose_sources([("http://mirror.example/other", "jammy", "universe")])
    assert "--mirror" in refused.value.hint
    with pytest.raises(UsageError, match="no address"):
        find_sources("mirror.example")
    assert find_sources("http://mirror.example/debian").lines == SOURCES.lines

    def no_apt(_: object) -> None:
        find_program("no-such-program")

    monkeypatch.setattr(mirror, "run", no_apt)
    with pytest.raises(MachineRefusal, match="no Debian"):
        find_sources("")


@pytest.mark.parametrize(
    ("release", "has_firmware"),
    [
        ("Origin: Debian\nComponents: main contrib non-free-firmware non-free\nDescription: x\n", True),
        ("Origin: Debian\nComponents: main contrib non-free\nDescription: non-free-firmware\n", False),
        (None, False),
    ],
)
def test_a_mirror_is_asked_whether_it_has_firmware(tmp_path: Path, release: str | None, *, has_firmware: bool) -> None:
    if release is not None:
        (tmp_path / "dists/bookworm").mkdir(parents=True)
        (tmp_path / "dists/bookworm/Release").write_text(release)
    named = find_sources(f"file://{tmp_path}")
    found = with_firmware(named, f"file://{tmp_path}")
    assert found.has_firmware == has_firmware
    more = (f"deb file://{tmp_path} bookworm non-free-firmware",) if has_firmware else ()
    assert found.lines == (*named.lines, *more)


def test_no_server_is_named_in_the_code() -> None:
    for path in Path(recipe.__file__).parent.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            words = path.read_text()
            assert "debian.org" not in words, path
            assert "://HOST" in words or "http://" not in words.replace("http://HOST", ""), path


def test_a_base_is_named_by_all_that_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "root"
    shutil.copytree(recipe.ROOT_FILES, copy)
    monkeypatch.setattr(recipe, "ROOT_FILES", copy)
    wishes = BaseWishes(kernel="generic", wifi=False, sources=SOURCES)
    names = {wishes.digest, BaseWishes(kernel="cloud", wifi=False, sources=SOURCES).digest}
    names.add(BaseWishes(kernel="generic", wifi=True, sources=SOURCES).digest)
    firmware = PackageSources(lines=SOURCES.lines, has_firmware=True)
    names.add(BaseWishes(kernel="generic", wifi=True, sources=firmware).digest)
    (copy / "etc/hostname").write_text("other\n")
    names.add(wishes.digest)
    assert len(names) == 5
    assert BaseWishes(kernel="generic", wifi=False, sources=SOURCES, fresh=True).digest == wishes.digest


def test_a_base_is_reused_while_it_is_young(tmp_path: Path) -> None:
    wishes = BaseWishes(kernel="generic", wifi=False, sources=SOURCES)
    folder = tmp_path / "base" / wishes.digest
    assert find_base(wishes, str(tmp_path), 1000.0) is None
    folder.mkdir(parents=True)
    assert find_base(wishes, str(tmp_path), 1000.0) is None, "it is not whole"
    (folder / "base.json").write_text('{"made": 1000}')
    assert find_base(wishes, str(tmp_path), 1000.0 + 30 * 86400) is not None
    assert find_base(wishes, str(tmp_path), 1001.0 + 30 * 86400) is None
    assert find_base(wishes, str(tmp_path), 999.0) is None, "the clock went back: nobody knows how old it is"
    fresh = BaseWishes(kernel="generic", wifi=False, sources=SOURCES, fresh=True)
    assert find_base(fresh, str(tmp_path), 1000.0) is None
    (folder / "base.json").write_text("[]")
    assert find_base(wishes, str(tmp_path), 1000.0) is None


def test_rooms_of_builds_that_were_killed_are_cleared_and_others_are_not(tmp_path: Path) -> None:
    above = tmp_path / "cache" / "rescue" / "work"
    with cache.work_room() as alive:
        left = above / "build-killed"
        left.mkdir()
        (left / "half").touch()
        with cache.work_room() as other:
            assert not left.exists()
            assert os.path.isdir(alive)
            assert alive != other
    assert list(above.iterdir()) == []


def test_two_builds_do_not_make_the_same_at_once() -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with cache.made_once("base/x", check=stop) as place:
        began = time.monotonic()
        with pytest.raises(Stop), cache.made_once("base/x", check=stop):
            pass
        assert time.monotonic() - began < 30
        with cache.made_once("base/y", check=stop) as other:
            assert other != place


def test_what_is_kept_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "room" / "new"
    old.mkdir()
    (old / "a").touch()
    new.mkdir(parents=True)
    (new / "b").touch()
    cache.keep(str(new), str(old))
    assert [path.name for path in old.iterdir()] == ["b"]
    assert list((tmp_path / "room").iterdir()) == []


def test_each_entry_of_the_menu_says_to_the_kernel_what_it_promises() -> None:
    words = menu(keyboard="de", serial=False, has_memtest=True)
    plain = menu(keyboard="", serial=True, has_memtest=False)
    starts = [line for line in words.splitlines() if line.strip().startswith("linux /live")]
    assert len(starts) == 4
    assert all("boot=live nopersistence" in line and "stillframe.keyboard=de" in line for line in starts)
    assert [("console=ttyS0" in line, "toram" in line, "nomodeset" in line) for line in starts] == [
        (False, False, False), (False, True, False), (False, False, True), (True, False, False),
    ]  # fmt: skip
    assert "set default=rescue" in words
    assert "set default=serial" in plain
    assert "memtest" not in plain
    assert "keyboard" not in plain


@pytest.mark.parametrize("has_memtest", [True, False])
def test_grub_itself_takes_the_menu(has_memtest: bool, tmp_path: Path) -> None:
    file = tmp_path / "grub.cfg"
    file.write_text(menu(keyboard="fr", serial=True, has_memtest=has_memtest))
    subprocess.run(["grub-script-check", str(file)], check=True)


def test_scripts_of_the_medium_are_right_for_the_shell() -> None:
    files = [path for path in recipe.ROOT_FILES.rglob("*") if path.is_file()]
    scripts = [path for path in files if path.read_text().startswith("#!/bin/sh")]
    assert len(scripts) >= 5
    for path in scripts:
        subprocess.run(["dash", "-n", str(path)], check=True)


def test_the_packages_of_stillframe_are_found_with_what_they_need() -> None:
    found = {package.name.lower(): package for package in installed_packages("stillframe")}
    assert {"numpy", "zstandard", "cryptography", "cffi", "argon2-cffi-bindings", "markdown-it-py"} <= set(found)
    assert not {"pytest", "mypy", "ruff", "setuptools", "stillframe"} & set(found)
    for package in found.values():
        assert package.files
        assert all(os.path.isfile(source) for _, source in package.files), package.name
    with pytest.raises(MachineRefusal, match="no-such-package"):
        installed_packages("no-such-package")
