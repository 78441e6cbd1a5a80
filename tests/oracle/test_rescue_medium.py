"""ISO and stick as xorriso, mtools, sgdisk, fsck and unsquashfs read them. The Debian in them is a stand-in."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.block import BlockWriter
from stillframe.block.file import open_file_reader
from stillframe.errors import DeviceError, TargetError
from stillframe.events import NoEvents
from stillframe.rescue.medium import cache, plan
from stillframe.rescue.medium import stick as stick_module
from stillframe.rescue.medium import tree as tree_module
from stillframe.rescue.medium.base import Base, BaseWishes, Step
from stillframe.rescue.medium.iso import make_iso
from stillframe.rescue.medium.mirror import PackageSources
from stillframe.rescue.medium.settings import Settings
from stillframe.rescue.medium.stick import plan_stick, write_stick
from stillframe.rescue.medium.tree import make_filesystem, make_tree
from stillframe.systems.grub_image import read_core
from stillframe.testing.command_line import call
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
BIOS = Path("/usr/lib/grub/i386-pc")
MODULES = ("biosdisk", "part_gpt", "fat", "iso9660", "normal", "configfile", "linux")
SOURCES = PackageSources(lines=("deb http://mirror.example/debian bookworm main",), has_firmware=False)
EPOCH = 1_700_000_000


def fill_base(folder: Path) -> Base:
    """A base with the real GRUB for a BIOS, and stand-ins for all else."""
    pieces = folder / "pieces"
    for name, size in (("vmlinuz", 900_000), ("initrd", 1_500_000), ("modules.alias", 1000), ("packages.txt", 100),
                       ("memtest86+x64.bin", 5000), ("memtest86+x64.efi", 6000), ("efi/BOOTX64.EFI", 950_000),
                       ("efi/grubx64.efi", 2_600_000), ("efi/mmx64.efi", 850_000)):  # fmt: skip
        file = pieces / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size])
    (pieces / "label").write_text("SF-0A1B2C3D\n")
    (pieces / "kernel-version").write_text("6.1.0-0-amd64\n")
    (pieces / "grub/i386-pc").mkdir(parents=True)
    for name in ("normal.mod", "linux.mod", "moddep.lst"):
        (pieces / "grub/i386-pc" / name).write_bytes((BIOS / name).read_bytes())
    for name in ("boot.img", "boot_hybrid.img"):
        (pieces / "grub" / name).write_bytes((BIOS / name).read_bytes())
    for form, prefix, name in (("i386-pc-eltorito", "/boot/grub", "cd"), ("i386-pc", "(,gpt1)/boot/grub", "stick")):
        run_tool("grub-mkimage", "-O", form, "-p", prefix, "-o", str(pieces / f"grub/{name}.img"), *MODULES)
    root = folder / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/hello").write_text("hello\n")
    run_tool("mksquashfs", str(root), str(folder / "filesystem.squashfs"), "-comp", "zstd", "-quiet", "-no-progress")
    return Base(folder=str(folder), made=EPOCH, reused=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return fill_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of others, which take longest."""
    monkeypatch.setattr(tree_module, "make_packages", lambda room, _: few_packages(room))


def few_packages(room: str) -> str:
    folder = Path(room, "packages", "stillframe-packages")
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("")
    os.utime(folder / "one.py", (EPOCH, EPOCH))
    return str(folder.parent)


def new_step(tmp_path: Path, check: Callable[[], None] = lambda: None) -> Step:
    return Step(events=NoEvents(), check=check, epoch=EPOCH, log=str(tmp_path / "log"))


def plain_tree(base: Base, tmp_path: Path) -> Path:
    """The files of a medium, with the base's file system as it is."""
    return Path(make_tree(base, base.squashfs, Settings(), str(tmp_path), serial=False))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.slow
def test_stillframe_is_added_to_the_file_system_and_runs_from_there(base: Base, tmp_path: Path) -> None:
    settings = Settings(texts=(("settings/rescue.toml", b"[restore]\n"),), copies=(("drivers/a.inf", __file__),))
    made = make_filesystem(base, settings, str(tmp_path), new_step(tmp_path))
    out = tmp_path / "out"
    run_tool("unsquashfs", "-quiet", "-no-progress", "-d", str(out), made)
    assert sorted(path.name for path in out.iterdir()) == ["stillframe", "stillframe-packages", "usr"]
    assert (out / "usr/bin/hello").read_text() == "hello\n"
    own = out / "stillframe"
    assert (own / "settings/rescue.toml").read_text() == "[restore]\n"
    assert (own / "drivers/a.inf").read_bytes() == Path(__file__).read_bytes()
    assert os.readlink(own / "venv/bin/python3") == "/usr/bin/python3"
    owners = {(found.lstat().st_uid, found.lstat().st_gid) for found in own.rglob("*")}
    assert owners == {(0, 0)}
    site, packages = own / "venv/lib/python3.11/site-packages", out / "stillframe-packages"
    assert (site / "packages.pth").read_text() == "/stillframe-packages\n"
    assert not list(site.rglob("testing/medium_machine.py")), "tools of tests are not on the medium"
    assert (site / "stillframe/rescue/medium/root/usr/local/lib/stillframe/finish").exists()
    code = "import sys, stillframe.cli.main as main; sys.exit(main.main(['disks', '--json']))"
    environment = {"PYTHONPATH": f"{site}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if sys.version_info[:2] == (3, 11):
        done = subprocess.run(
            [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert json.loads(done.stdout.splitlines()[-1])["verb"] == "disks"
        assert list(packages.rglob("numpy/__pycache__/__init__.cpython-311.pyc"))
        assert list(site.rglob("stillframe/cli/__pycache__/main.cpython-311.pyc"))


@pytest.mark.slow
def test_a_rebuild_takes_what_is_kept_and_makes_the_same(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = [], list[str]()

    def note(room: str, _: Step) -> str:
        asked.append(room)
        return few_packages(room)

    monkeypatch.setattr(tree_module, "make_packages", note)
    for name in ("one", "two"):
        room = tmp_path / name
        room.mkdir()
        made.append(Path(make_filesystem(base, Settings(), str(room), new_step(tmp_path))).read_bytes())
    assert len(asked) == 1
    assert made[0] == made[1]
    other = Base(folder=base.folder, made=base.made + 1, reused=True)
    room = tmp_path / "three"
    room.mkdir()
    make_filesystem(other, Settings(), str(room), new_step(tmp_path))
    assert len(asked) == 2, "of a base that was made anew nothing is kept"


def without_places(image: bytes) -> bytes:
    """GRUB's image without the two tables that xorrisofs(1) writes into it: -boot-info-table, --grub2-boot-info."""
    return image[:8] + bytes(56) + image[64:2548] + bytes(8) + image[2556:]


def test_an_iso_has_all_files_and_what_bios_and_uefi_start(base: Base, tmp_path: Path) -> None:
    tree = plain_tree(base, tmp_path)
    iso = tmp_path / "medium.iso"
    make_iso(base, str(tree), str(iso), str(tmp_path), new_step(tmp_path))
    out = tmp_path / "out"
    run_tool("xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", "/", str(out))
    found, expected = files_of(out), files_of(tree)
    assert found.pop("boot/boot.cat")
    assert without_places(expected.pop("boot/grub/cd.img")) == without_places(found.pop("boot/grub/cd.img"))
    assert found == expected
    assert {".disk/info", "boot/grub/grub.cfg", "live/vmlinuz", "live/initrd", "live/filesystem.squashfs"} <= set(found)
    shown = run_tool("xorriso", "-indev", str(iso), "-report_el_torito", "plain", "-report_system_area", "plain")
    assert "Volume id    : 'SF-0A1B2C3D'" in shown
    assert "El Torito boot img :   1  BIOS  y   none" in shown
    assert "El Torito boot img :   2  UEFI  y   none" in shown
    assert "grub2-mbr" in shown
    assert "GPT partition" in shown
    listed = json.loads(run_tool("sfdisk", "--json", str(iso)))["partitiontable"]
    (efi,) = [part for part in listed["partitions"] if part["type"].startswith("C12A7328")]
    place = f"{iso}@@{efi['start'] * 512}"
    for name in ("BOOTX64.EFI", "grubx64.efi", "mmx64.efi"):
        copy = tmp_path / name
        run_tool("mcopy", "-i", place, f"::/EFI/BOOT/{name}", str(copy))
        assert copy.read_bytes() == found[f"EFI/BOOT/{name}"]


def test_the_same_files_and_time_give_the_same_iso(base: Base, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        room = tmp_path / name
        room.mkdir()
        iso = room / "medium.iso"
        make_iso(base, str(plain_tree(base, room)), str(iso), str(room), new_step(tmp_path))
        made.append(iso.read_bytes())
    assert len(made[0]) == len(made[1])
    differing = sum(one != other for one, other in zip(made[0], made[1], strict=True))
    assert differing == 0, f"{differing} bytes"


def new_stick(tmp_path: Path, size: int) -> Path:
    """A stick on which there was something: noise, and a table."""
    path = tmp_path / "stick.img"
    with path.open("wb") as file:
        file.truncate(size)
        file.write(os.urandom(8 << 20))
    run_tool("sgdisk", "-o", "-n1:2048:+10M", str(path))
    return path


def test_a_stick_has_a_table_and_file_systems_that_others_find_right(base: Base, tmp_path: Path) -> None:
    tree, path = plain_tree(base, tmp_path), new_stick(tmp_path, 700 << 20)
    planned = plan_stick(str(path), "", 100 << 20)
    assert planned.lost
    written = write_stick(planned, base, str(tree), str(tmp_path), new_step(tmp_path))
    assert written > 5 << 20
    assert "No problems found" in run_tool("sgdisk", "--verify", str(path))
    listed = json.loads(run_tool("sfdisk", "--json", str(path)))["partitiontable"]["partitions"]
    kinds = [(part["name"], part["type"][:8]) for part in listed]
    assert kinds[0] == ("Stillframe rescue", "C12A7328")
    assert {("GRUB", "21686148"), ("STILLFRAME", "EBD0A0A2")} <= set(kinds)
    parts = {part["name"]: tmp_path / f"{number}.img" for number, part in enumerate(listed)}
    with path.open("rb") as file:
        for part in listed:
            file.seek(part["start"] * 512)
            parts[part["name"]].write_bytes(file.read(part["size"] * 512))
    esp, rest = parts["Stillframe rescue"], parts["STILLFRAME"]
    run_tool("fsck.fat", "-n", str(esp))
    run_tool("fsck.exfat", "-n", str(rest))
    assert 'LABEL="SF-0A1B2C3D"' in run_tool("blkid", "-p", str(esp))
    assert 'LABEL="STILLFRAME"' in run_tool("blkid", "-p", str(rest))
    out = tmp_path / "out"
    out.mkdir()
    run_tool("mcopy", "-s", "-i", str(esp), "::/", str(out))
    assert files_of(out) == files_of(tree)


def test_grub_for_a_bios_is_where_the_boot_sector_looks(base: Base, tmp_path: Path) -> None:
    """Followed from sector 0 by the parser that reads disks of grub-install; that it starts is for tests/vm."""
    tree, path = plain_tree(base, tmp_path), new_stick(tmp_path, 700 << 20)
    write_stick(plan_stick(str(path), "", 100 << 20), base, str(tree), str(tmp_path), new_step(tmp_path))
    with open_file_reader(str(path)) as disk:
        core = read_core(disk)
        assert core is not None
        assert b"(,gpt1)/boot/grub" in core.kernel
        made = Path(base.piece("grub/stick.img")).read_bytes()
        assert disk.read_at(1 << 20, len(made))[512:] == made[512:]
        assert disk.read_at(446, 1) == b"\x80"
        code = bytearray(disk.read_at(0, 440))
    code[0x5C:0x64], code[0x66:0x68] = (BIOS / "boot.img").read_bytes()[0x5C:0x64], code[0x66:0x68]
    assert code[:0x66] == (BIOS / "boot.img").read_bytes()[:0x66]
    assert code[0x68:440] == (BIOS / "boot.img").read_bytes()[0x68:440]


def test_a_stick_too_small_for_a_volume_of_its_own_has_none(base: Base, tmp_path: Path) -> None:
    tree, path = plain_tree(base, tmp_path), new_stick(tmp_path, 120 << 20)
    write_stick(plan_stick(str(path), "", 1 << 20), base, str(tree), str(tmp_path), new_step(tmp_path))
    listed = json.loads(run_tool("sfdisk", "--json", str(path)))["partitiontable"]["partitions"]
    assert sorted(part["name"] for part in listed) == ["GRUB", "Stillframe rescue"]


def test_a_stick_that_changed_since_it_was_shown_is_not_written(base: Base, tmp_path: Path) -> None:
    tree, path = plain_tree(base, tmp_path), new_stick(tmp_path, 700 << 20)
    planned = plan_stick(str(path), "", 1 << 20)
    with path.open("r+b") as file:
        file.write(b"another")
    before = path.read_bytes()
    with pytest.raises(TargetError, match="not the target that was shown"):
        write_stick(planned, base, str(tree), str(tmp_path), new_step(tmp_path))
    assert path.read_bytes() == before


def test_a_stick_in_use_is_refused(tmp_path: Path) -> None:
    path, place = new_stick(tmp_path, 600 << 20), tmp_path / "mounted"
    place.mkdir()
    device = attach_loop(path)
    try:
        run_tool("mkfs.ext4", "-q", device)
        run_tool("mount", device, str(place))
        try:
            with pytest.raises(TargetError, match="in use"):
                plan_stick(device, "", 1 << 20)
        finally:
            unmount(place)
        assert plan_stick(device, "", 1 << 20).lost
    finally:
        detach_loop(device)


def test_a_stick_that_does_not_keep_what_is_written_is_named(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, path = plain_tree(base, tmp_path), new_stick(tmp_path, 700 << 20)
    planned, copy = plan_stick(str(path), "", 1 << 20), stick_module._copy

    def forget(image: str, size: int, target: BlockWriter, start: int, step: Step) -> None:
        copy(image, size, target, start, step)
        target.write_at(start + 4096, b"\xff" * 512)

    monkeypatch.setattr(stick_module, "_copy", forget)
    with pytest.raises(DeviceError, match="does not hold what was written"):
        write_stick(planned, base, str(tree), str(tmp_path), new_step(tmp_path))


@pytest.mark.usefixtures("small")
def test_the_whole_command_makes_an_iso_and_a_stick_from_a_base_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_sources", lambda _: SOURCES)
    place = Path(cache.media_cache()) / "base" / BaseWishes(kernel="generic", wifi=False, sources=SOURCES).digest
    place.mkdir(parents=True)
    fill_base(place)
    now = int(Path(place, "pieces/label").stat().st_mtime)
    (place / "base.json").write_text(json.dumps({"made": now}))
    iso, stick = tmp_path / "out" / "rescue.iso", new_stick(tmp_path, 1 << 30)
    iso.parent.mkdir()
    iso.write_text("an old one")
    pieces = tmp_path / "pieces"
    shown = call("rescue", "build", iso, "--usb", stick, "--pieces", pieces, "--yes", "--json")
    assert shown.exit_code == 0, shown.output
    result = shown.result
    assert result["base_reused"]
    assert result["files"] == [*(str(pieces / name) for name in ("vmlinuz", "initrd", "filesystem.squashfs")),
                               str(iso), str(stick)]  # fmt: skip
    assert result["size"] == iso.stat().st_size
    assert [step["name"] for step in result["steps"]] == ["Debian", "Stillframe", "pieces", "ISO", "stick"]
    assert [path.name for path in iso.parent.iterdir()] == ["rescue.iso"]
    assert list((tmp_path / "cache/rescue/work").iterdir()) == []
    said = call("rescue", "build", iso)
    assert said.exit_code == 0
    assert "Made" in said.output
    assert "Time" in said.output


def test_a_build_that_fails_leaves_the_old_file_and_says_where_the_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plan, "find_sources", lambda _: PackageSources(lines=("deb file:///none x main",), has_firmware=False)
    )
    iso = tmp_path / "out" / "rescue.iso"
    iso.parent.mkdir()
    iso.write_text("an old one")
    shown = call("rescue", "build", iso, "--json")
    assert (shown.exit_code, shown.result["code"]) == (20, "refused")
    assert "installing Debian failed" in shown.result["message"]
    log = tmp_path / "cache/rescue/last-build.log"
    assert str(log) in shown.result["hint"]
    assert "mmdebstrap" in log.read_text()
    assert iso.read_text() == "an old one"
    assert list((tmp_path / "cache/rescue/work").iterdir()) == []


KILLED = """
import sys
import time
from stillframe.events import NoEvents
from stillframe.rescue.medium.base import NAMESPACES, Step
step = Step(events=NoEvents(), check=lambda: None, epoch=1, log=sys.argv[1] + "/log")
script = 'mount -t tmpfs none "$1" && touch "$1/there" && sleep 98765 & sleep 98765; wait'
step.run([*NAMESPACES, "sh", "-c", script, "sh", sys.argv[1]], what="work")
"""


def sleepers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"98765" in path.read_bytes():
                found.append(path.read_text())
        except OSError:  # it ended in this moment
            continue
    return found


def test_a_killed_build_leaves_no_program_and_no_mount(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    build = subprocess.Popen([sys.executable, "-c", KILLED, str(place)])
    deadline = time.monotonic() + 60
    while len(sleepers()) < 3:
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert str(place) not in Path("/proc/self/mounts").read_text(), "its mounts are seen by nobody else"
    build.kill()
    build.wait()
    while sleepers():
        assert time.monotonic() < deadline, sleepers()
        time.sleep(0.1)
    assert list(place.iterdir()) == []
