"""Which disk, image, repository or place is meant; what could be two things is refused, with the choices."""

import dataclasses

import pytest

from stillframe.errors import RepositoryNotFound, TargetError, UsageError
from stillframe.rescue.answering.answers import DiskAnswer, RepositoryAnswer
from stillframe.rescue.choosing import (
    Judged,
    choose_disk,
    choose_image,
    choose_repository,
    judge_rooms,
    judge_targets,
    propose_sources,
)
from stillframe.rescue.places.found import FoundRepository, FoundVolume
from stillframe.rescue.places.shares import parse_address
from stillframe.rescue.verbs.records import DiskSeen, ImageSeen, PartitionSeen

GB = 1_000_000_000
SYSTEM = PartitionSeen(number=1, size=40 * GB, filesystem="ntfs", system="Windows 11", bytes_used=30 * GB)
FIRST = DiskSeen(path="/dev/sda", size=100 * GB, model="Samsung SSD", serial="S1", partitions=(SYSTEM,))
SECOND = DiskSeen(path="/dev/sdb", size=100 * GB, model="Samsung SSD", serial="S2")
STICK = DiskSeen(path="/dev/sdc", size=500 * GB, model="USB", serial="U1", removable=True)
HELD = "the repository with the backups is on it"
DISKS = [Judged(disk=FIRST), Judged(disk=SECOND), Judged(disk=STICK, refusal=HELD)]
STICK_VOLUME = FoundVolume(
    device="/dev/sdc1", disk="/dev/sdc", partition=1, filesystem="exfat", label="BACKUP", size=500 * GB,
    free=400 * GB, writable=True, external=True,
)  # fmt: skip
INSIDE_VOLUME = dataclasses.replace(STICK_VOLUME, device="/dev/sda2", disk="/dev/sda", external=False, free=900 * GB)
OTHER_VOLUME = dataclasses.replace(STICK_VOLUME, device="/dev/sdb1", disk="/dev/sdb", external=False, free=900 * GB)
REPOSITORY = FoundRepository(id="ab" * 16, folder="/x", where="BACKUP (/dev/sdc1)", volume=STICK_VOLUME)


def image(letter: str, created: str, machine: str = "anna", name: str = "") -> ImageSeen:
    return ImageSeen(id=letter * 32, created=created, machine=machine, machine_id=machine * 2, name=name)


IMAGES = [image("a", "2026-03-03"), image("b", "2026-02-02", name="office"), image("c", "2026-01-01", machine="bert")]


def test_a_disk_is_chosen_by_all_that_is_said() -> None:
    assert choose_disk(DISKS, DiskAnswer(serial="S2"), what="target") == SECOND
    assert choose_disk(DISKS, DiskAnswer(path="/dev/sda"), what="target") == FIRST
    assert choose_disk(DISKS, DiskAnswer(model="samsung", size="100GB", serial="S1"), what="target") == FIRST
    assert choose_disk(DISKS[1:], DiskAnswer(), what="target") == SECOND


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (DiskAnswer(), "several disks can be the target"),
        (DiskAnswer(size="100GB"), "several disks can be the target: size 100GB"),
        (DiskAnswer(serial="none"), "no disk of this computer can be the target: serial none"),
        (DiskAnswer(serial="U1"), "the repository with the backups is on it"),
        (DiskAnswer(serial="S1", size="50GB"), "no disk"),
    ],
)
def test_a_target_that_is_not_one_disk_is_refused_with_the_choices(wanted: DiskAnswer, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        choose_disk(DISKS, wanted, what="target")
    assert "serial S1, /dev/sda" in caught.value.hint


def test_the_repositorys_disk_the_medium_and_disks_in_use_are_no_targets() -> None:
    used = DiskSeen(path="/dev/sdd", size=GB, partitions=(PartitionSeen(number=1, size=GB, in_use_at=("/",)),))
    shut = DiskSeen(path="/dev/sde", size=GB, read_only=True)
    said = judge_targets(
        [FIRST, SECOND, STICK, used, shut], repository_disks=["/dev/sdc"], medium="/dev/sdb", is_installed=True
    )
    assert [one.refusal[:19] for one in said] == [
        "", "this rescue system ", "the repository with", "this system runs fr", "it is write-protect"
    ]  # fmt: skip
    assert "start the rescue medium" in said[3].refusal
    in_rescue = judge_targets([used], repository_disks=[], medium="", is_installed=False)
    assert in_rescue[0].refusal == "it is in use (/)"


def test_an_image_is_the_newest_of_one_machine_or_is_named() -> None:
    assert choose_image(IMAGES, "latest", "anna").id[0] == "a"
    assert choose_image(IMAGES, "latest:office", "").id[0] == "b"
    assert choose_image(IMAGES, "cccc", "").machine == "bert"
    assert choose_image(IMAGES, "latest", "bertbert").id[0] == "c"


@pytest.mark.parametrize(
    ("wanted", "machine", "words"),
    [("latest", "", "anna .*; bert"), ("", "anna", "aaaaaaaa of anna.*bbbbbbbb of anna")],
)
def test_an_image_that_could_be_of_several_is_refused_with_the_choices(wanted: str, machine: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_image(IMAGES, wanted, machine)


def test_an_image_that_is_not_there_is_said() -> None:
    with pytest.raises(RepositoryNotFound, match="no image 'dddd'"):
        choose_image(IMAGES, "dddd", "")
    with pytest.raises(RepositoryNotFound) as caught:
        choose_image(IMAGES, "latest", "carl")
    assert "anna, bert" in caught.value.hint


def test_a_repository_is_known_by_its_id() -> None:
    other = dataclasses.replace(REPOSITORY, id="cd" * 16, where="elsewhere")
    broken = dataclasses.replace(REPOSITORY, id="", refusal="its identity file is damaged")
    assert choose_repository([REPOSITORY, other], RepositoryAnswer(id="cd")) == other
    assert choose_repository([REPOSITORY, REPOSITORY, broken], RepositoryAnswer()) == REPOSITORY
    with pytest.raises(UsageError, match="several repositories"):
        choose_repository([REPOSITORY, other], RepositoryAnswer())
    with pytest.raises(RepositoryNotFound, match="no repository was found"):
        choose_repository([], RepositoryAnswer())
    with pytest.raises(RepositoryNotFound, match="no repository with the id 99"):
        choose_repository([REPOSITORY], RepositoryAnswer(id="99"))
    with pytest.raises(RepositoryNotFound) as caught:
        choose_repository([broken], RepositoryAnswer())
    assert caught.value.hint == "its identity file is damaged"


def test_the_best_place_is_external_not_a_source_and_holds_backups_already() -> None:
    disks = [FIRST, SECOND, STICK]
    sources = propose_sources(disks, [], medium="")
    assert sources == (FIRST,)
    rooms = judge_rooms([INSIDE_VOLUME, OTHER_VOLUME, STICK_VOLUME], [], sources)
    assert [room.volume.device for room in rooms] == ["/dev/sdc1", "/dev/sdb1", "/dev/sda2"]
    assert "external" in rooms[0].reason
    assert "on a disk that is saved" in rooms[2].refusal
    held = dataclasses.replace(REPOSITORY, volume=OTHER_VOLUME)
    assert judge_rooms([STICK_VOLUME, OTHER_VOLUME], [held], sources)[0].volume == OTHER_VOLUME
    full = dataclasses.replace(STICK_VOLUME, free=GB)
    assert judge_rooms([full, OTHER_VOLUME], [], sources)[0].volume == OTHER_VOLUME


def test_a_source_is_neither_the_medium_nor_the_disk_with_the_backups() -> None:
    assert propose_sources([FIRST, STICK], [REPOSITORY], medium="/dev/sda") == ()
    data = DiskSeen(path="/dev/sdd", size=GB, partitions=(PartitionSeen(number=1, size=GB, filesystem="ext4"),))
    assert propose_sources([SECOND, data, STICK], [REPOSITORY], medium="") == (data,)


@pytest.mark.parametrize(
    ("text", "kind", "source", "folder", "user"),
    [
        ("smb://kim@nas.local/backups/a%20b/c", "cifs", "//nas.local/backups", "a b/c", "kim"),
        ("cifs://nas/share", "cifs", "//nas/share", "", ""),
        ("nfs://nas/export/kim", "nfs", "nas:/export/kim", "", ""),
        ("sftp://kim@host:2222/srv/x", "sshfs", "host:/srv/x", "", "kim"),
        ("nfs://[fd00::1]/x", "nfs", "[fd00::1]:/x", "", ""),
        ("smb://OFFICE\\kim@nas/backups", "cifs", "//nas/backups", "", "OFFICE\\kim"),
        ("smb://OFFICE;kim@nas/backups", "cifs", "//nas/backups", "", "OFFICE\\kim"),
        ("smb://kim@office.example@nas/backups", "cifs", "//nas/backups", "", "kim@office.example"),
        (r"\\nas\backups\office pc", "cifs", "//nas/backups", "office pc", ""),
        ("//nas/backups", "cifs", "//nas/backups", "", ""),
        ("smb://nas/backups/old #1? yes", "cifs", "//nas/backups", "old #1? yes", ""),
    ],
)
def test_addresses(text: str, kind: str, source: str, folder: str, user: str) -> None:
    address = parse_address(text)
    assert address.share is not None
    assert (address.share.kind, address.share.source, address.share.user) == (kind, source, user)
    assert address.folder == folder
    assert address.share.port == (2222 if "2222" in text else 0)


def test_the_same_address_for_another_name() -> None:
    address = parse_address("smb://kim@nas:4455/backups/a").as_user("OFFICE\\anna b")
    assert address == parse_address(address.words)
    assert address.share is not None
    assert (address.share.user, address.share.port, address.folder) == ("OFFICE\\anna b", 4455, "a")
    assert parse_address(r"\\nas\backups").as_user("anna").words == "smb://anna@nas/backups"
    assert parse_address("nfs://nas/x").as_user("anna") == parse_address("nfs://nas/x")
    assert parse_address("/mnt").as_user("anna") == parse_address("/mnt")


@pytest.mark.parametrize(
    "text", ["nas", "smb://nas", "ftp://x/y", "smb://a:secret@nas/x", "nfs://nas:port/x", "smb://nas/x,y", ""]
)
def test_what_is_no_address_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert "secret" not in caught.value.message
    assert caught.value.hint
