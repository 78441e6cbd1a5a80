"""Encrypted partitions: with the passphrase only what is in use is kept, encrypted, and all of it comes back."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.capture import Selection, open_source
from stillframe.extents import Extent, ExtentSet
from stillframe.testing.block_contract import contents
from stillframe.testing.command_line import Outcome, call, init_own
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.real_disks import Hashes, extract, make_ext4, read_files, used_by_partclone
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_luks import (
    CHEAP_ARGON2,
    HEAD_SIZE,
    PASSPHRASE,
    decrypt1,
    decrypt2,
    edit_json,
    encrypt1,
    encrypt2,
)
from stillframe.testing.volumes_lvm import GROUP, lvm_on
from stillframe.testing.volumes_windows import keep_only

pytestmark = pytest.mark.root
MIB = 1 << 20
PV_SIZE = 24 * MIB
PLACES = {
    1: Extent(MIB, 22 * MIB), 2: Extent(22 * MIB, 36 * MIB), 3: Extent(36 * MIB, 68 * MIB),
    4: Extent(68 * MIB, 78 * MIB), 5: Extent(78 * MIB, 82 * MIB),
}  # fmt: skip
SIZE = 84 * MIB
BITLOCKER_MAGIC = b"\xeb\x58\x90-FVE-FS-"  # libbde, "BitLocker Drive Encryption format", section 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A disk: ext4 in LUKS2 and in LUKS1, LVM in LUKS2, noise in LUKS2, and a BitLocker volume by its name."""

    path: Path
    key: Path
    plain: dict[int, Path]
    files: dict[int, Hashes]


def make_group(path: Path) -> Hashes:
    """A physical volume that has a volume of 8 MiB and gave the rest to none."""
    path.write_bytes(contents(PV_SIZE, seed=3))
    with lvm_on((path, Extent(0, PV_SIZE))) as lvm:
        lvm.make_group()
        lvm.make_volume("root", "-L", "8m", lvm.devices[0])
        files = make_ext4(path.with_name("root"), 8 * MIB, seed=9)
        lvm.write_volume("root", path.with_name("root"))
    return files


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("luks")
    plain = {number: folder / f"plain{number}" for number in range(1, 5)}
    files = {1: make_ext4(plain[1], 12 * MIB, seed=1), 2: make_ext4(plain[2], 12 * MIB, seed=2)}
    files[3] = make_group(plain[3])
    plain[4].write_bytes(contents(2 * MIB - 4096, seed=4))
    sealed = {number: folder / f"sealed{number}" for number in plain}
    encrypt2(plain[1], sealed[1], "--pbkdf", "argon2id", *CHEAP_ARGON2, label="cellar")
    encrypt1(plain[2], sealed[2])
    encrypt2(plain[3], sealed[3])
    encrypt2(plain[4], sealed[4])
    table = "label: gpt\n" + "".join(f"start={one.start // 512}, size={one.size // 512}\n" for one in PLACES.values())
    disk = bytearray(make_disk(SIZE, sfdisk=table))
    for number, volume in sealed.items():
        found = volume.read_bytes()
        assert len(found) <= PLACES[number].size
        disk[PLACES[number].start : PLACES[number].start + len(found)] = found
    disk[PLACES[5].start : PLACES[5].start + len(BITLOCKER_MAGIC)] = BITLOCKER_MAGIC
    path, key = folder / "disk.img", folder / "key"
    path.write_bytes(disk)
    key.write_text(f"{PASSPHRASE}\n")
    return Built(path=path, key=key, plain=plain, files=files)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return init_own(tmp_path, monkeypatch)


def said(outcome: Outcome, code: str) -> list[str]:
    return [notice["message"] for notice in outcome.result["notices"] if notice["code"] == code]


def restored(built: Built, folder: Path, image: str = "latest") -> Path:
    """A target that was full of other bytes."""
    target = folder / "target.img"
    target.write_bytes(b"\xee" * SIZE)
    assert call("restore", image, target, "--yes").exit_code == 0
    before, after = built.path.read_bytes(), target.read_bytes()
    for place in PLACES.values():  # headers and key slots
        assert after[place.start : place.start + 2 * MIB] == before[place.start : place.start + 2 * MIB]
    return target


def require_files(kind_of: dict[int, Path], files: dict[int, Hashes]) -> None:
    for number, volume in kind_of.items():
        run_tool("e2fsck", "-fn", str(volume))
        assert read_files("ext4", volume) == files[number]


@pytest.mark.usefixtures("repo")
def test_only_what_is_in_use_is_kept_and_other_programs_open_what_comes_back(built: Built, tmp_path: Path) -> None:
    made = call("backup", built.path, "--unlock-file", built.key, "--json")
    assert made.exit_code == 0, made.output
    volumes = {one["partition"]: one for one in made.result["volumes"]}
    assert [volumes[number]["map"] for number in PLACES] == ["used", "used", "used", "raw", "raw"]
    assert made.result["bytes_used"] < 50 * MIB  # of 84: 8 are a header three times, and 10 and 4 are kept whole
    words = said(made, "unlocked")
    assert [message.split(":")[0] for message in words] == [
        "partition 1 (LUKS2 'cellar', 22 MB) was unlocked", "partition 2 (LUKS1, 14.7 MB) was unlocked",
        "partition 3 (LUKS2, 33.6 MB) was unlocked",
    ]  # fmt: skip
    assert [message.split(": ")[1].split(".")[0] for message in words] == [
        "it holds ext4 'linux'", "it holds ext4 'linux'", "it holds LVM",
    ]  # fmt: skip
    assert len(said(made, "unlocked-whole")) == 1
    (locked,) = said(made, "encrypted-whole")
    assert locked.startswith("partition 5 is encrypted by BitLocker: all 4.19 MB of it are kept")

    target = restored(built, tmp_path)
    after = {number: extract(target, place, tmp_path / f"after{number}") for number, place in PLACES.items()}
    assert after[4].read_bytes() == extract(built.path, PLACES[4], tmp_path / "before4").read_bytes()
    plain = {
        1: decrypt2(after[1], tmp_path / "open1", 12 * MIB),
        2: decrypt1(after[2], tmp_path / "open2"),
    }
    require_files(plain, built.files)
    group = decrypt2(after[3], tmp_path / "open3", PV_SIZE)
    with lvm_on((group, Extent(0, PV_SIZE))) as lvm:
        lvm.run("vgck", GROUP)
        require_files({3: lvm.read_volume("root", tmp_path / "root")}, built.files)


def test_the_kept_sectors_are_those_that_partclone_calls_used(built: Built) -> None:
    kept = captured(built.path, built.key)
    for number, head in ((1, HEAD_SIZE), (2, 2 * MIB)):
        used = used_by_partclone("ext4", built.plain[number])
        assert not len(used.shifted(head) - kept[number])
        assert not len(ExtentSet.of(Extent(0, head)) - kept[number])
        behind = PLACES[number].size - head - built.plain[number].stat().st_size
        assert kept[number].size <= head + used.size + behind + 64 * 1024


def captured(path: Path, key: Path | None) -> dict[int, ExtentSet]:
    from stillframe.jobs.saving.unlocking import Unlocking, unlock_sources

    with open_source(str(path)) as source:
        keys = unlock_sources([source], Unlocking(files=(str(key),) if key else ()))
        disk = source.capture(Selection(keys=keys))
        assert not any(one.left_out or one.excluded.size for one in disk.volumes)  # no zeros in what is encrypted
        return {one.partition.number: one.kept for one in disk.volumes}


@pytest.mark.usefixtures("repo")
def test_without_the_key_all_of_it_is_kept_and_a_note_says_what_the_key_would_save(
    built: Built, tmp_path: Path
) -> None:
    made = call("backup", built.path, "--json")
    assert made.exit_code == 0
    assert {one["map"] for one in made.result["volumes"]} == {"raw"}
    notices = [one for one in made.result["notices"] if one["code"] == "encrypted-whole"]
    assert [one["message"].split(":")[0] for one in notices] == [
        "partition 1 is encrypted (LUKS2)", "partition 2 is encrypted (LUKS1)", "partition 3 is encrypted (LUKS2)",
        "partition 4 is encrypted (LUKS2)", "partition 5 is encrypted by BitLocker",
    ]  # fmt: skip
    assert all("'--unlock'" in one["hint"] for one in notices[:4])
    assert restored(built, tmp_path).read_bytes() == built.path.read_bytes()
    assert "is encrypted (LUKS2)" in call("show", "latest").output
    again = call("backup", built.path, "--unlock-file", built.key, "--json")  # the same chunks, or fewer
    assert again.result["kind"] == "incremental"
    assert again.result["bytes_used"] < 50 * MIB
    require_files({1: decrypt2(extract(restored(built, tmp_path), PLACES[1], tmp_path / "after"), tmp_path / "open1",
                               12 * MIB)}, built.files)  # fmt: skip


def test_a_passphrase_that_opens_nothing_is_refused_before_anything_is_written(
    built: Built, repo: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("something else")
    files = sorted(repo.rglob("*"))
    made = call("backup", built.path, "--unlock-file", wrong, "--json")
    assert (made.exit_code, made.result["code"]) == (12, "wrong-key")
    assert f"partition 1 (LUKS2 'cellar', 22 MB) of {built.path}" in made.result["message"]
    assert sorted(repo.rglob("*")) == files
    assert PASSPHRASE not in made.output
    for words in (["--unlock"], ["--unlock-file", tmp_path / "missing"], ["--unlock-file", repo / "nothing"]):
        assert call("backup", built.path, *words).exit_code == 2
    assert call("backup", built.path, "--unlock-file", built.key, "--all-sectors").exit_code == 2
    assert call("backup", built.plain[1], "--unlock-file", built.key).exit_code == 2  # nothing is encrypted there
    assert sorted(repo.rglob("*")) == files


@pytest.mark.usefixtures("repo")
def test_a_person_is_asked_for_each_and_may_keep_one_whole(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answers = list[str](), ["", "wrong", PASSPHRASE]

    def answer(question: str, _: object) -> str:
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr("stillframe.cli.screen.getpass.getpass", answer)
    made = call("backup", built.path, "--unlock", typed=[])
    assert made.exit_code == 0, made.errors
    assert asked[0].startswith("Passphrase of partition 1 (LUKS2 'cellar', 22 MB) of ")
    assert ["Once more" in question for question in asked] == [False, False, True]
    found = call("show", "latest", "--json").result["disks"][0]["partitions"]
    assert [one["map"] for one in found] == ["raw", "used", "used", "raw", "raw"]  # what opened 2 was tried for 3 and 4
    answers += ["wrong"] * 3
    assert call("backup", built.path, "--unlock", typed=[]).exit_code == 12


@pytest.mark.usefixtures("repo")
def test_files_to_exclude_are_kept_in_what_is_encrypted(built: Built) -> None:
    made = call("backup", built.path, "--unlock-file", built.key, "--exclude", "*", "--json")
    assert made.exit_code == 0
    assert len([one for one in said(made, "exclude-not-possible") if "no zeros can stand for a file" in one]) == 4
    assert all(not one["excluded"] for one in call("show", "latest", "--json").result["disks"][0]["partitions"])


def test_a_group_on_an_encrypted_and_a_plain_partition(built: Built, tmp_path: Path) -> None:
    each, places = 10 * MIB, (Extent(MIB, 19 * MIB), Extent(19 * MIB, 29 * MIB))
    halves = (tmp_path / "first", tmp_path / "second")
    for number, half in enumerate(halves):
        half.write_bytes(contents(each, seed=number))
    with lvm_on(*((half, Extent(0, each)) for half in halves)) as lvm:
        lvm.make_group()
        lvm.make_striped("root", "14m")
        files = make_ext4(tmp_path / "volume", 14 * MIB, seed=5)
        lvm.write_volume("root", tmp_path / "volume")
    encrypt2(halves[0], tmp_path / "sealed")
    table = "label: gpt\n" + "".join(f"start={one.start // 512}, size={one.size // 512}\n" for one in places)
    disk = bytearray(make_disk(30 * MIB, sfdisk=table))
    for place, volume in zip(places, (tmp_path / "sealed", halves[1]), strict=True):
        disk[place.start : place.end] = volume.read_bytes()
    (tmp_path / "disk").write_bytes(disk)
    without, kept = captured(tmp_path / "disk", None), captured(tmp_path / "disk", built.key)
    assert [without[number].size for number in (1, 2)] == [place.size for place in places]
    assert [kept[number].size < place.size - 2 * MIB for number, place in enumerate(places, 1)] == [True, True]
    for number, place in enumerate(places, 1):
        volume = extract(tmp_path / "disk", place, tmp_path / f"before{number}")
        keep_only(volume, kept[number], tmp_path / f"kept{number}")
    opened = decrypt2(tmp_path / "kept1", tmp_path / "open1", each)
    with lvm_on((opened, Extent(0, each)), (tmp_path / "kept2", Extent(0, each))) as lvm:
        require_files({0: lvm.read_volume("root", tmp_path / "root")}, {0: files})


def _leave_another_signature(plain: Path) -> None:
    """A file system that another one shows through: both are named, and neither is believed."""
    with plain.open("r+b") as file:
        file.seek(65536 + 64)
        file.write(b"_BHRfS_M")


def _make_a_disk_of_it(plain: Path) -> None:
    """The disk of a virtual machine: partitioned now, with an ext4 of earlier days showing through."""
    subprocess.run(["sfdisk", "--quiet", "--wipe", "never", plain], input=b"start=2048\n", check=True)


@pytest.mark.parametrize(
    "doubt", [_leave_another_signature, _make_a_disk_of_it], ids=lambda one: one.__name__.strip("_")
)
def test_what_is_in_doubt_inside_is_kept_whole(built: Built, tmp_path: Path, doubt: Callable[[Path], None]) -> None:
    plain, volume = tmp_path / "plain", tmp_path / "volume"
    plain.write_bytes(built.plain[1].read_bytes())
    encrypt1(plain, volume)
    assert captured(volume, built.key)[1].size < 10 * MIB
    doubt(plain)
    encrypt1(plain, volume)
    assert captured(volume, built.key)[1].size == volume.stat().st_size


def test_a_header_that_asks_for_more_is_never_looked_into(built: Built, tmp_path: Path) -> None:
    volume = extract(built.path, PLACES[1], tmp_path / "volume")
    edit_json(volume, lambda record: record["config"].update(requirements={"mandatory": ["online-reencrypt-v2"]}))
    with open_source(str(volume)) as source:
        disk = source.capture(Selection())
    assert disk.volumes[0].kept.size == PLACES[1].size
    assert "online-reencrypt-v2" in disk.volumes[0].notices[0].hint
