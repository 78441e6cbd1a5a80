"""The rescue program on real disks: loop devices with partitions, file systems that the kernel mounts, real jobs."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.host.mounts import read_mounts
from stillframe.rescue.answering.answers import Answers, RepositoryAnswer
from stillframe.rescue.flows.menu import menu
from stillframe.rescue.pages.pages import Choose, Page, TypeWord, Work
from stillframe.rescue.places.opened import Places
from stillframe.rescue.world import World
from stillframe.testing.command_line import call
from stillframe.testing.linux_disks import LinuxDisk, make_linux_disk, mounted_linux, tree_of
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.rescue_person import BACK, Person
from stillframe.testing.tools import unmount

MIB = 1 << 20
SECRET = "correct horse"  # noqa: S105 - of repositories made here
pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True, kw_only=True)
class Computer:
    """Three disks: one with a Linux, an empty one of the same size, and one with an ext4 called BACKUP."""

    folder: Path
    linux: LinuxDisk
    system: Path
    empty: Path
    backup: Path
    backup_file: Path

    def world(self, *more: Path, is_installed: bool = True) -> World:
        disks = (self.system, self.empty, self.backup, *more)
        return World(
            places=Places(loops=[str(disk) for disk in disks], folder=str(self.folder / "places")),
            also=tuple(str(disk) for disk in disks), is_installed=is_installed,
        )  # fmt: skip


@contextmanager
def partitioned(file: Path) -> Iterator[Path]:
    with loop_device(file) as device, partition_nodes(device):
        yield device


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Computer]:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.delenv("STILLFRAME_REPO", raising=False)
    linux = make_linux_disk(tmp_path / "system.img")
    (tmp_path / "empty.img").touch()
    os.truncate(tmp_path / "empty.img", linux.path.stat().st_size)
    backup = tmp_path / "backup.img"
    backup.touch()
    os.truncate(backup, 300 * MIB)
    subprocess.run(["sfdisk", "-q", backup], input="label: gpt\nsize=290M\n", text=True, check=True)
    with ExitStack() as stack:
        system = stack.enter_context(partitioned(linux.path))
        device = stack.enter_context(partitioned(backup))
        empty = stack.enter_context(loop_device(tmp_path / "empty.img"))
        subprocess.run(["mkfs.ext4", "-q", "-L", "BACKUP", f"{device}p1"], check=True)
        yield Computer(
            folder=tmp_path, linux=linux, system=system, empty=empty, backup=device, backup_file=backup
        )  # fmt: skip
    left = [mount.where for mount in read_mounts() if mount.where.startswith(str(tmp_path))]
    assert left == []


@pytest.fixture
def saved(computer: Computer) -> Computer:
    """With one image, under a passphrase, in ``stillframe`` on BACKUP."""
    with mounted(computer) as top:
        (computer.folder / "pw").write_text(SECRET)
        words = ("--password-file", computer.folder / "pw")
        assert call("init", top / "stillframe", *words).exit_code == 0
        assert call("backup", computer.system, "--repo", top / "stillframe", *words).exit_code == 0
    return computer


@contextmanager
def mounted(computer: Computer) -> Iterator[Path]:
    place = computer.folder / "by-hand"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", f"{computer.backup}p1", place], check=True)
    try:
        yield place
    finally:
        unmount(place)


def digest(path: Path) -> str:
    os.sync()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size


def words_of(page: Page) -> str:
    return "\n".join(page.lines)


TO_IMAGE = [("Stillframe", "Restore this computer"), ("Where are", "BACKUP"), ("Unlock", SECRET)]


def test_a_search_changes_no_byte_and_finds_by_identity(saved: Computer) -> None:
    before = digest(saved.backup_file), digest(saved.linux.path)
    with saved.world().places as places:
        found = places.search()
        places.close_all()
    assert (digest(saved.backup_file), digest(saved.linux.path)) == before
    (repository,) = found.repositories
    with mounted(saved) as top:
        assert json.loads((top / "stillframe" / "stillframe.json").read_text())["id"] == repository.id
    assert (repository.encryption, repository.images) == ("aes256", 1)
    assert repository.volume is not None
    assert (repository.volume.label, repository.volume.disk) == ("BACKUP", str(saved.backup))
    assert {volume.device for volume in found.volumes} >= {f"{saved.system}p2", f"{saved.backup}p1"}


def test_a_whole_restore_through_the_pages(saved: Computer) -> None:
    world = saved.world()
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answers([*TO_IMAGE, ("Which state", "20")])
        assert isinstance(page, Choose)
        refusals = {option.key: option.refusal for option in page.options}
        assert refusals[str(saved.backup)] == "the repository with the backups is on it"
        assert refusals[str(saved.empty)] == ""
        page = person.answers([("Onto which", str(saved.empty)), ("Is this the same", "Yes")])
        assert isinstance(page, TypeWord)
        assert any("On the target" in line or "write partition 1" in line for line in page.picture)
        assert saved.empty.exists()
        page = person.answer("This is going", "restore")
        assert page.title == "Restored"
        assert page.is_final
        assert person.answer("Restored", "Back to the menu").title == "Stillframe"
    assert tree_of(saved.linux, saved.folder / "empty.img") == tree_of(saved.linux)


@pytest.mark.slow
def test_the_passphrase_may_be_wrong_and_the_recovery_key_is_offered(saved: Computer) -> None:
    with mounted(saved) as top:
        kit = saved.folder / "kit.txt"
        words = ("--repo", top / "stillframe", "--password-file", saved.folder / "pw")
        assert call("recovery-kit", kit, *words).exit_code == 0
    key = next(line.split()[-1] for line in kit.read_text().splitlines() if line.startswith("Recovery key"))
    world = saved.world()
    with world.places:
        person = Person(lambda: menu(world))
        person.answers([*TO_IMAGE[:2], ("Unlock", ""), ("Unlock", "a")])
        assert "does not open it" in words_of(person.page)
        page = person.answers([("Unlock", "b"), ("Unlock", "c")])
        assert "recovery key" in words_of(page).lower()
        page = person.answers([("It does not open", "Type the recovery key"), ("Unlock", key)])
        assert page.title.startswith("Which state")


@pytest.mark.slow
def test_a_smaller_disk_is_fitted_and_one_far_too_small_is_refused(saved: Computer) -> None:
    size = saved.linux.path.stat().st_size
    for name, part in (("smaller", 0.75), ("tiny", 0.3)):
        (saved.folder / name).touch()
        os.truncate(saved.folder / name, int(size * part) // MIB * MIB)
    with loop_device(saved.folder / "smaller") as smaller, loop_device(saved.folder / "tiny") as tiny:
        world = saved.world(smaller, tiny)
        with world.places:
            person = Person(lambda: menu(world))
            page = person.answers(
                [*TO_IMAGE, ("Which state", "20"), ("Onto which", str(tiny)), ("Is this the same", "Yes")]
            )
            assert page.title == "Not onto this disk"
            assert "too few" in words_of(page)
            page = person.answers([("Not onto", ""), ("Onto which", str(smaller)), ("Is this the same", "Yes")])
            assert page.title == "The disk is smaller"
            page = person.answer("The disk is smaller", "Make it fit")
            assert isinstance(page, TypeWord)
            assert any("made smaller" in line for line in page.picture)
            assert person.answer("This is going", "restore").title == "Restored"
    assert tree_of(saved.linux, saved.folder / "smaller") == tree_of(saved.linux)


@pytest.mark.slow
def test_a_damaged_image_says_where_and_offers_an_older_one(saved: Computer) -> None:
    with mounted_linux(saved.linux) as root:
        (root / "noise").write_bytes(os.urandom(3 * MIB))
    with mounted(saved) as top:
        repo, words = top / "stillframe", ("--password-file", saved.folder / "pw")
        first = set((repo / "packs").rglob("*"))
        assert call("backup", saved.system, "--repo", repo, *words, "--no-verify").exit_code == 0
        second = max((one for one in (repo / "packs").rglob("*") if one.is_file() and one not in first), key=_size)
        second.chmod(0o600)
        with second.open("r+b") as file:
            file.seek(second.stat().st_size // 2)
            file.write(b"\xaa" * 4096)
    world = saved.world()
    onto = [("Onto which", str(saved.empty)), ("Is this the same", "Yes"), ("This is going", "restore")]
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answers(TO_IMAGE)
        assert isinstance(page, Choose)
        newest, older = (option.key for option in page.options)
        page = person.answers([("Which state", newest), *onto])
        assert page.title == "The image is damaged"
        assert "partition 4" in words_of(page)
        page = person.answer("The image is damaged", "older")
        assert page.title.startswith("Which state")
        assert person.answers([("Which state", older), *onto]).title == "Restored"


def pull_out(computer: Computer) -> None:
    """The device answers with errors from here on."""
    os.truncate(computer.backup_file, 2 * MIB)
    subprocess.run(["blockdev", "--flushbufs", computer.backup], check=False)
    Path("/proc/sys/vm/drop_caches").write_text("3")


@pytest.mark.slow
def test_a_stick_that_is_pulled_out_while_choosing_is_a_sentence_and_a_way_on(saved: Computer) -> None:
    kept = saved.backup_file.read_bytes()
    world = saved.world()
    with world.places:
        person = Person(lambda: menu(world))
        person.answers(TO_IMAGE[:2])
        pull_out(saved)
        page = person.answer("Unlock", SECRET)
        assert page.title == "That did not work"
        assert words_of(page).strip()
        saved.backup_file.write_bytes(kept)
        page = person.answer("That did not work")
        assert page.title == "Where are the backups?"
        page = person.answers([("Where are", "Look again"), ("Where are", "BACKUP"), ("Unlock", SECRET)])
        assert page.title.startswith("Which state")


@pytest.mark.slow
def test_a_stick_that_is_pulled_out_in_the_middle_is_a_sentence_and_a_way_on(saved: Computer) -> None:
    kept = saved.backup_file.read_bytes()

    def pull(page: Work) -> None:
        if page.title == "Restoring":
            pull_out(saved)

    world = saved.world()
    with world.places:
        person = Person(lambda: menu(world), during=pull)
        page = person.answers(
            [
                *TO_IMAGE, ("Which state", "20"), ("Onto which", str(saved.empty)), ("Is this the same", "Yes"),
                ("This is going", "restore"),
            ]
        )  # fmt: skip
        saved.backup_file.write_bytes(kept)
        assert page.title == "It was not finished"
        assert "not complete" in words_of(page)
        person.during = lambda _page: None
        assert person.answer("It was not finished", "Back to the menu").title == "Stillframe"


def test_a_backup_onto_an_empty_disk_with_a_new_passphrase(computer: Computer) -> None:
    world = computer.world(is_installed=False)
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answer("Stillframe", "Back up this computer")
        assert "Little Linux" in words_of(page)
        assert "BACKUP" in words_of(page)
        person.answers([("Back up", "Save all of it"), ("Protect", "Protect them"), ("A passphrase", SECRET)])
        page = person.answer("The same", "other")
        assert "different" in words_of(page)
        page = person.answers([("A passphrase", SECRET), ("The same", SECRET)])
        key = next(line.strip() for line in page.lines if line.strip().startswith("SF1-"))
        page = person.answer("Write this key down")
        assert page.title == "This is going to be saved"
        page = person.answer("This is going", "Start")
        assert page.title == "Saved"
        assert "every piece is right" in words_of(page)
        assert isinstance(page, Choose)
        assert [option.key for option in page.options] == ["restart", "switch-off", "menu"]
    with mounted(computer) as top:
        (computer.folder / "key").write_text(key)
        words = ("--repo", top / "stillframe", "--password-file", computer.folder / "key", "--json")
        assert len(call("images", "--all", *words).result["images"]) == 1


@pytest.mark.slow
def test_a_backup_into_a_folder_that_has_none_yet_and_without_a_passphrase(computer: Computer) -> None:
    (computer.folder / "nas").mkdir()
    world = computer.world()
    with world.places:
        person = Person(lambda: menu(world))
        person.answers([("Stillframe", "Back up this computer"), ("Back up", "Put it on a share")])
        person.answers([("Where are", "Somewhere else"), ("Where are", str(computer.folder / "nas"))])
        page = person.answers([("Protect", "No passphrase"), ("No passphrase", "none"), ("This is going", "Start")])
        assert page.title == "Saved"
    repository = computer.folder / "nas" / "stillframe"
    assert len(call("images", "--all", "--repo", repository, "--json").result["images"]) == 1


@pytest.mark.slow
def test_files_onto_a_stick(saved: Computer) -> None:
    stick = saved.folder / "stick.img"
    stick.touch()
    os.truncate(stick, 64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-L", "STICK", stick], check=True)
    with loop_device(stick) as device:
        world = saved.world(device)
        with world.places:
            person = Person(lambda: menu(world))
            person.answers(
                [("Stillframe", "Take files out"), *TO_IMAGE[1:], ("Files of which", "20"), ("Which partition", "4")]
            )
            page = person.answers([("Which files", "[etc]"), ("Which files", "fstab"), ("Onto which disk", "STICK")])
            assert page.title == "The files are there"
        place = saved.folder / "stick"
        place.mkdir()
        subprocess.run(["mount", "-o", "ro", device, place], check=True)
        try:
            (found,) = place.glob("files from backup */fstab")
            assert "UUID=" in found.read_text()
        finally:
            unmount(place)


@pytest.mark.slow
def test_a_copy_of_a_disk(computer: Computer) -> None:
    world = computer.world()
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answers([("Stillframe", "Copy one disk"), ("Which disk is copied", str(computer.system))])
        assert isinstance(page, Choose)
        refusals = {option.key: option.refusal for option in page.options}
        assert refusals[str(computer.system)] == "it is the disk that is copied"
        page = person.answers([("Onto which", str(computer.empty)), ("This is going", "clone")])
        assert page.title == "Copied"
    assert tree_of(computer.linux, computer.folder / "empty.img") == tree_of(computer.linux)


def test_nothing_found_offers_other_ways_and_a_folder_that_is_typed_is_opened(computer: Computer) -> None:
    folder = computer.folder / "there"
    assert call("init", folder, "--encryption", "none").exit_code == 0
    world = computer.world()
    world.settings = Answers(repository=RepositoryAnswer(where="smb://nobody@127.0.0.1/share"))
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answer("Stillframe", "Restore this computer")
        assert "No backups were found" in words_of(page)
        page = person.answers([("Where are", "Somewhere else"), ("Where are", "bogus")])
        assert "is no place" in words_of(page)
        page = person.answers([("Where are", "Somewhere else"), ("Where are", str(folder / "not"))])
        assert "there is no folder" in words_of(page).lower()
        page = person.answers(
            [("Where are", "Somewhere else"), ("Where are", str(folder)), ("That did not work", BACK)]
        )
        assert page.title.startswith("Where are")


def test_answers_restore_without_a_person(saved: Computer) -> None:
    answers, report = saved.folder / "rescue.toml", saved.folder / "report"
    report.touch()
    answers.write_text(
        f'[secret]\npassword-file = "pw"\n[restore]\ntarget = {{path = "{saved.empty}"}}\n'
        f'[after]\nreport = "{report}"\n'
    )
    also = [word for disk in (saved.empty, saved.backup) for word in ("--also", str(disk))]
    done = call("rescue", "start", "--answers", answers, *also)
    assert done.exit_code == 0, done.errors + done.output
    assert "write partition 1" in done.output
    (line,) = [line for line in report.read_text().splitlines() if line]
    verdict = json.loads(line)
    assert (verdict["type"], verdict["ok"], verdict["target"]) == ("verdict", True, str(saved.empty))
    assert tree_of(saved.linux, saved.folder / "empty.img") == tree_of(saved.linux)


def break_start(computer: Computer) -> None:
    """Its EFI system partition is emptied."""
    subprocess.run(["mdeltree", "-i", f"{computer.system}p1", "::/EFI"], check=True)
    os.sync()


@pytest.mark.slow
def test_a_disk_that_does_not_start_is_repaired_with_its_way_back_on_a_stick(computer: Computer) -> None:
    break_start(computer)
    before = digest(computer.linux.path)
    world = computer.world()
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answers(
            [("Stillframe", "Repair how"), ("Which disk does", str(computer.system)), ("Is the disk in", "Yes")]
        )
        assert isinstance(page, Choose)
        refusals = {option.key: option.refusal for option in page.options}
        assert refusals[f"{computer.system}p2"] == "it is on the disk that is repaired"
        assert digest(computer.linux.path) == before, "nothing before the word"
        page = person.answer("Where is what", "BACKUP")
        assert isinstance(page, TypeWord)
        assert any("GRUB was installed for UEFI" in line for line in page.picture)
        page = person.answer("This is going", "repair")
    assert page.title.startswith("Repaired")
    assert digest(computer.linux.path) != before
    with mounted(computer) as top:
        (undo,) = top.glob("stillframe-undo-*.undo")
        assert call("boot-repair", computer.system, "--undo", undo, "--yes").exit_code == 0
    assert digest(computer.linux.path) == before


@pytest.mark.slow
def test_answers_repair_without_a_person(computer: Computer) -> None:
    break_start(computer)
    answers, report = computer.folder / "rescue.toml", computer.folder / "report"
    report.touch()
    also = [word for disk in (computer.system, computer.backup) for word in ("--also", str(disk))]
    text = f'[boot-repair]\nkeep-undo = "%s"\ndisk = {{path = "{computer.system}"}}\n[after]\nreport = "{report}"\n'
    for place, words in (("label:NOBODY", "no volume has the label"), ("label:boot", "on the disk that is repaired")):
        answers.write_text(text % place)
        refused = call("rescue", "start", "--answers", answers, *also)
        assert refused.exit_code == 22
        assert words in refused.output + refused.errors
    answers.write_text(text % "label:BACKUP")
    done = call("rescue", "start", "--answers", answers, *also)
    verdict = json.loads(report.read_text().splitlines()[-1])
    assert (verdict["verb"], verdict["target"]) == ("boot-repair", str(computer.system))
    assert done.exit_code == verdict["exit_code"] == 0, done.output
    assert verdict["changes"]
    with mounted(computer) as top:
        assert (top / os.path.basename(verdict["undo_file"])).stat().st_size > verdict["bytes_written"]


@pytest.mark.slow
def test_answers_that_cannot_be_carried_out_are_a_sentence(saved: Computer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.rescue.answering.unattended._SETTLE_S", 0.0)
    key = f'[secret]\npassword = "{SECRET}"\n'
    answers, before = saved.folder / "rescue.toml", digest(saved.folder / "empty.img")
    also = [word for disk in (saved.system, saved.empty, saved.backup) for word in ("--also", str(disk))]
    for text, code, words in (
        ('[secret]\npassword = "wrong"\n[restore]\n', 12, "no key slot opens"),
        (f"{key}[restore]\n", 22, "several disks can be the target"),
        (f'{key}[restore]\ntarget = {{path = "{saved.backup}"}}\n', 22, "the repository with the backups is on it"),
        ('[repository]\nid = "00"\n[restore]\n', 10, "no repository with the id 00"),
        (f'{key}[restore]\nmachine = "nobody"\n', 10, "no image of nobody"),
        ("[after]\n", 2, "asks for nothing"),
    ):
        answers.write_text(text)
        done = call("rescue", "start", "--answers", answers, *also)
        assert done.exit_code == code, done.output + done.errors
        assert words in done.output + done.errors
        assert "Traceback" not in done.errors
    assert digest(saved.folder / "empty.img") == before
