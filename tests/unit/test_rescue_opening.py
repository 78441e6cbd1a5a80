"""What is closed is opened by pages, or by answers; which page comes, what is tried, and what is closed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from stillframe.errors import MachineRefusal, RepositoryNotFound, WrongKey
from stillframe.host.attaching import Keeper
from stillframe.host.stacked_places import ClosedVolume
from stillframe.host.volume_places import VolumeDevice
from stillframe.rescue.answering.answers import Answers, UnlockAnswer
from stillframe.rescue.choosing import judge_rooms, propose_sources
from stillframe.rescue.flows.menu import menu
from stillframe.rescue.pages.pages import Choose
from stillframe.rescue.places import stacks
from stillframe.rescue.places.closed import Opening
from stillframe.rescue.places.found import Found, volume_words
from stillframe.rescue.places.opened import Places
from stillframe.rescue.places.stacks import Stacks
from stillframe.rescue.verbs.records import DiskSeen, PartitionSeen
from stillframe.rescue.world import World
from stillframe.testing.rescue_person import Person
from stillframe.testing.rescue_world import REPOSITORY, SECRET, VOLUME, MadeUpJobs, MadeUpPlaces

KEY = "key of the stick"
ARRAY = ClosedVolume(
    kind="raid", id="r", name="1 nas:0", members=("/dev/sda1", "/dev/sdb1"), disks=("/dev/sda", "/dev/sdb"),
    size=1 << 40,
)  # fmt: skip
LOGICAL = ClosedVolume(kind="lvm", id="v", name="house/backups", members=("/dev/md127",), disks=(), size=1 << 39)
LUKS = ClosedVolume(kind="luks", id="l", name="STICK", members=("/dev/dm-0",), disks=(), size=500_107_862_016)
OTHER = ClosedVolume(kind="luks", id="o", name="", members=("/dev/sdd2",), disks=(), size=1 << 38)
THIN = replace(LOGICAL, id="t", name="house/thin", refusal="it is a volume of the kind thin")
INSIDE = replace(VOLUME, device="/dev/dm-1", disk="/dev/dm-1", label="DEEP", disks=("/dev/sda", "/dev/sdb"))


class Layers(MadeUpPlaces):
    """An array in which a group is in which a LUKS is in which the repository is; and another LUKS."""

    def __init__(self) -> None:
        super().__init__(Found())
        self.inner = {"r": LOGICAL, "v": LUKS}
        self.outer: tuple[ClosedVolume, ...] = (ARRAY, OTHER)
        self.open = list[str]()
        self.tried = list[tuple[str, str]]()

    def search(self, say: Callable[[str], None] = lambda _: None, *, check: Callable[[], None] = lambda: None) -> Found:
        del say, check
        deep = "l" in self.open
        closed = [
            one for one in dict.fromkeys((*self.outer, LOGICAL, LUKS)) if one.id not in self.open and self._is_seen(one)
        ]
        repository = replace(REPOSITORY, where="DEEP, folder stillframe", volume=INSIDE)
        return Found(
            volumes=(INSIDE,) if deep else (), repositories=(repository,) if deep else (), closed=tuple(closed)
        )  # fmt: skip

    def _is_seen(self, one: ClosedVolume) -> bool:
        below = {inner.id: outer for outer, inner in self.inner.items()}
        return one in self.outer or below.get(one.id) in self.open

    def open_closed(
        self, closed: ClosedVolume, secret: str = "", *, say: Callable[[str], None] = lambda _: None
    ) -> Found:
        say(closed.id)
        self.tried.append((closed.id, secret))
        if closed.is_locked and (closed is OTHER or secret != KEY):
            raise WrongKey(f"that passphrase does not open {closed.id}", hint="Is it another one?")
        self.open.append(closed.id)
        found = self.search()
        inner = self.inner.get(closed.id)
        return replace(found, closed=(inner,) if inner else ())

    def close_opened(self, closed: ClosedVolume) -> None:
        self.open.remove(closed.id)


def world_of(places: Layers, **more: object) -> World:
    return World(places=places, medium="/dev/sdd", run=MadeUpJobs(), **more)  # type: ignore[arg-type]


def test_a_stack_opens_layer_by_layer_and_asks_only_for_the_passphrase() -> None:
    places = Layers()
    person = Person(lambda: menu(world_of(places)))
    page = person.answer("Stillframe", "Restore this computer")
    assert isinstance(page, Choose)
    assert "locked" in " ".join(page.lines)
    shown = {option.words: option.detail for option in page.options}
    assert shown["RAID 1 nas:0, 1.1 TB (/dev/sda1, /dev/sdb1)"] == "open it, to look inside"
    assert shown["Locked: LUKS, 275 GB (/dev/sdd2)"] == "unlock it with its passphrase, to look inside"
    page = person.answer("Where are", "RAID 1 nas:0")
    assert page.title == "Unlock the disk"
    assert page.lines[0] == "Locked: LUKS STICK, 500 GB (/dev/dm-0)"
    page = person.answer("Unlock the disk", "wrong")
    assert "does not open it" in page.lines[0]
    page = person.answer("Unlock the disk", "")
    assert "Nothing was typed" in page.lines[0]
    page = person.answer("Unlock the disk", KEY)
    assert isinstance(page, Choose)
    assert "DEEP, folder stillframe" in [option.words for option in page.options]
    assert [one for one, _ in places.tried] == ["r", "v", "l", "l"]
    assert person.answers([("Where are", "DEEP"), ("Unlock the backups", SECRET)]).title.startswith("Which state")


def test_three_wrong_passphrases_lead_back_to_the_list() -> None:
    places = Layers()
    person = Person(lambda: menu(world_of(places)))
    person.answers([("Stillframe", "Restore this computer"), ("Where are", "Locked: LUKS")])
    page = person.answers([("Unlock the disk", word) for word in ("a", "b", "c")])
    assert page.title == "It does not open"
    assert "not that of the backups" in " ".join(page.lines)
    assert person.answer("It does not open").title == "Where are the backups?"
    assert places.tried == [("o", "a"), ("o", "b"), ("o", "c")]


def test_what_cannot_be_opened_says_why_and_cannot_be_chosen() -> None:
    places = Layers()
    places.outer = (THIN,)
    person = Person(lambda: menu(world_of(places)))
    page = person.answer("Stillframe", "Restore this computer")
    assert isinstance(page, Choose)
    assert page.options[0].refusal == "it is a volume of the kind thin"


def test_another_place_for_a_backup_may_be_locked() -> None:
    places = Layers()
    places.outer, places.inner = (LUKS,), {}
    person = Person(lambda: menu(world_of(places)))
    page = person.answers([("Stillframe", "Back up this computer"), ("Back up", "another place")])
    assert isinstance(page, Choose)
    assert [option.words for option in page.options] == ["Locked: LUKS STICK, 500 GB (/dev/dm-0)"]
    page = person.answers([("Where to", "Locked"), ("Unlock the disk", KEY)])
    assert page.title == "Back up this computer"
    assert "DEEP (/dev/dm-1" in " ".join(page.lines)


def test_a_passphrase_that_was_given_beforehand_is_not_asked_for() -> None:
    places = Layers()
    settings = Answers(unlock=UnlockAnswer(password=KEY))
    person = Person(lambda: menu(world_of(places, passphrases=("another",), settings=settings)))
    page = person.answers([("Stillframe", "Restore this computer"), ("Where are", "RAID")])
    assert page.title == "Where are the backups?"
    assert places.tried == [("r", ""), ("v", ""), ("l", "another"), ("l", KEY)]


def opened(places: Layers, *secrets: str, volumes: Sequence[str] = ()) -> Opening:
    opening = Opening(places=places, secrets=secrets, volumes=volumes)
    opening.look_into(places.outer)
    return opening


def test_answers_open_all_layers_and_close_what_holds_nothing() -> None:
    places = Layers()
    opening = opened(places, KEY)
    assert [one.id for one in opening.repositories] == [REPOSITORY.id]
    assert places.open == ["r", "v", "l"]
    assert list(opening.refused) == ["o"]
    places = Layers()
    places.inner = {"r": LOGICAL}
    assert opened(places, KEY).repositories == []
    assert places.open == [], "what holds no backups is closed again"


def test_answers_name_what_is_opened() -> None:
    places = Layers()
    opened(places, KEY, volumes=["1 nas:0"])
    assert {one for one, _ in places.tried} == {"r", "v", "l"}
    places = Layers()
    opened(places, KEY, volumes=["/dev/sdd2"])
    assert places.tried == [("o", KEY)]


def test_a_wrong_passphrase_is_tried_once_and_is_the_reason_that_is_told() -> None:
    places = Layers()
    opening = opened(places, "wrong")
    opening.look_into(places.outer)
    assert [one for one in places.tried if one[0] == "o"] == [("o", "wrong")]
    error = opening.explain(RepositoryNotFound("no repository was found", hint="Plug it in."))
    assert isinstance(error, WrongKey)
    assert "that passphrase does not open l; that passphrase does not open o" in error.message
    assert "[unlock]" in error.hint
    locked = opened(Layers())
    assert "is locked" in locked.explain(RepositoryNotFound("none", hint="")).message


def test_an_array_that_lacks_a_disk_is_waited_for() -> None:
    places = Layers()
    places.outer = (replace(ARRAY, missing=1),)
    opening = Opening(places=places, secrets=[KEY])
    opening.look_into(places.outer, also_incomplete=False)
    assert places.tried == []
    opening.look_into(places.outer, also_incomplete=True)
    assert opening.repositories


@dataclass(slots=True)
class Kernel:
    """Devices that come and go with what is opened."""

    steps: list[str]
    fails: str = ""

    def open(self, keeper: Keeper, closed: ClosedVolume, *, secret: str = "", writes: bool = False) -> str:
        del keeper
        if closed.id == self.fails:
            raise MachineRefusal("no", hint="x")
        self.steps.append(f"open {closed.id} {','.join(closed.members)} {secret} {'rw' if writes else 'ro'}")
        return {"r": "/dev/md127", "v": "/dev/dm-0", "l": "/dev/dm-1"}[closed.id]

    def close(self, keeper: Keeper, closed: ClosedVolume, path: str) -> None:
        del keeper
        self.steps.append(f"close {closed.id} {path}")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel(steps=[])
    monkeypatch.setattr(stacks, "open_closed", found.open)
    monkeypatch.setattr(stacks, "close_opened", found.close)
    return found


def leaf(*below: str) -> VolumeDevice:
    return VolumeDevice(
        path=below[0], size=1, disk=below[0], partition=0, name="", mounted=(), read_write=False, external=False,
        below=frozenset(below),
    )  # fmt: skip


def test_a_stack_is_opened_anew_to_write_from_below_and_closed_from_above(kernel: Kernel) -> None:
    devices = [leaf("/dev/dm-1", "/dev/dm-0", "/dev/md127", "/dev/sda1", "/dev/sda", "/dev/sdb1", "/dev/sdb")]
    found, keeper = Stacks(lambda: tuple(devices)), Keeper()
    for closed, secret in ((ARRAY, ""), (LOGICAL, ""), (LUKS, KEY)):
        assert found.open(keeper, closed, secret) == {"/dev/dm-1"}
    found.open(keeper, LUKS, "once more")
    assert len(kernel.steps) == 3, "what is open is not opened twice"
    assert found.is_read_only("/dev/dm-1")
    assert not found.is_read_only("/dev/sdc1")
    kernel.steps.clear()
    assert found.open_to_write(keeper, "/dev/dm-1") == "/dev/dm-1"
    assert kernel.steps == [
        "close l /dev/dm-1", "close v /dev/dm-0", "close r /dev/md127", "open r /dev/sda1,/dev/sdb1  rw",
        "open v /dev/md127  rw", f"open l /dev/dm-0 {KEY} rw",
    ]  # fmt: skip
    assert not found.is_read_only("/dev/dm-1")
    kernel.steps.clear()
    found.close_but(keeper, ["/dev/dm-1"])
    found.close_gone(keeper)
    assert kernel.steps == []
    devices[:] = [leaf("/dev/dm-1", "/dev/dm-0", "/dev/md127", "/dev/sda1", "/dev/sda")]
    found.close_gone(keeper)
    assert kernel.steps == [], "one of two disks was pulled out, and the array goes on"
    devices[:] = [leaf("/dev/dm-1", "/dev/dm-0", "/dev/md127")]
    found.close_gone(keeper)
    assert kernel.steps == ["close l /dev/dm-1", "close v /dev/dm-0", "close r /dev/md127"], "both were"


def test_what_is_opened_to_write_leaves_other_stacks_and_their_mounts_as_they_are(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files out of backups on one locked stick go onto another one."""
    devices = (leaf("/dev/dm-0", "/dev/sda1"), leaf("/dev/dm-1", "/dev/sdb1"), leaf("/dev/sdc1", "/dev/sdc"))
    mounted = list[tuple[str, str]]()

    def mount(_keeper: Keeper, device: str, _filesystem: str, _place: str, *, how: str) -> None:
        mounted.append((device, how))

    monkeypatch.setattr("stillframe.rescue.places.opened.list_volume_devices", lambda **_: devices)
    monkeypatch.setattr("stillframe.rescue.places.opened.mount_volume", mount)
    monkeypatch.setattr("stillframe.rescue.places.opened.find_repositories", lambda _: ())
    with Places(folder="/nowhere/places") as places:
        monkeypatch.setattr(places, "_make_room", lambda: None)
        keeper = places._kept()
        places._stacks.open(keeper, replace(LOGICAL, members=("/dev/sda1",)), "")
        places._stacks.open(keeper, replace(LUKS, members=("/dev/sdb1",)), KEY)
        for device in ("/dev/dm-0", "/dev/sdc1"):
            places.open_volume(replace(VOLUME, device=device), "read")
        kernel.steps.clear()
        places.open_volume(replace(VOLUME, device="/dev/dm-1"), "write")
        assert kernel.steps == ["close l /dev/dm-1", f"open l /dev/sdb1 {KEY} rw"]
        assert set(places._open) == {"/dev/dm-0", "/dev/dm-1", "/dev/sdc1"}
        assert mounted == [("/dev/dm-0", "read"), ("/dev/sdc1", "read"), ("/dev/dm-1", "write")]
    assert kernel.steps


def test_a_journal_in_a_stack_is_replayed_only_for_what_was_chosen(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The kernel replays no journal on a device that is read-only: it refuses the mount."""
    devices = (leaf("/dev/dm-1", "/dev/sdb1"), leaf("/dev/sdc1", "/dev/sdc"))

    def mount(_keeper: Keeper, device: str, _filesystem: str, _place: str, *, how: str) -> None:
        if how != "look" and (device == "/dev/sdc1" or not kernel.steps[-1].endswith("rw")):
            raise MachineRefusal(f"{device} cannot be mounted: its journal must be replayed", hint="x")

    monkeypatch.setattr("stillframe.rescue.places.opened.list_volume_devices", lambda **_: devices)
    monkeypatch.setattr("stillframe.rescue.places.opened.mount_volume", mount)
    with Places(folder="/nowhere/places") as places:
        monkeypatch.setattr(places, "_make_room", lambda: None)
        places._stacks.open(places._kept(), replace(LUKS, members=("/dev/sdb1",)), KEY)
        volume = replace(VOLUME, device="/dev/dm-1")
        places.open_volume(volume, "look")
        assert len(kernel.steps) == 1, "to look nothing is opened anew"
        places.open_volume(volume, "read")
        assert kernel.steps[1:] == ["close l /dev/dm-1", f"open l /dev/sdb1 {KEY} rw"]
        with pytest.raises(MachineRefusal, match="journal"):
            places.open_volume(replace(VOLUME, device="/dev/sdc1"), "read")


def test_closing_a_layer_closes_all_that_was_opened_in_it(kernel: Kernel) -> None:
    devices = (leaf("/dev/dm-1", "/dev/dm-0", "/dev/md127", "/dev/sda1"), leaf("/dev/sdz", "/dev/sdz"))
    found, keeper = Stacks(lambda: devices), Keeper()
    for closed in (ARRAY, LOGICAL, LUKS):
        found.open(keeper, closed, "")
    kernel.steps.clear()
    found.close(keeper, LOGICAL)
    assert kernel.steps == ["close l /dev/dm-1", "close v /dev/dm-0"]
    found.close(keeper, ARRAY)
    assert kernel.steps[2:] == ["close r /dev/md127"]


def test_what_holds_the_chosen_backups_stays_open_and_all_else_is_closed(kernel: Kernel) -> None:
    devices = (leaf("/dev/dm-0", "/dev/sda1"), leaf("/dev/dm-1", "/dev/sdb1"))
    found, keeper = Stacks(lambda: devices), Keeper()
    found.open(keeper, replace(LOGICAL, members=("/dev/sda1",)), "")
    found.open(keeper, replace(LUKS, members=("/dev/sdb1",)), KEY)
    found.close_but(keeper, ["/dev/dm-1"])
    assert kernel.steps[2:] == ["close v /dev/dm-0"]
    found.close_but(keeper, [])
    assert kernel.steps[3:] == ["close l /dev/dm-1"]


def test_all_disks_below_a_stack_are_no_sources_no_rooms_and_named() -> None:
    disks = [DiskSeen(path=f"/dev/sd{letter}", size=1) for letter in "abc"]
    (room,) = judge_rooms([INSIDE], [], [disks[1]])
    assert "it is on a disk that is saved" in room.refusal
    repository = replace(REPOSITORY, volume=INSIDE)
    with_parts = [
        DiskSeen(path=disk.path, size=1, partitions=(PartitionSeen(number=1, size=1, system="Windows"),))
        for disk in disks
    ]
    assert [disk.path for disk in propose_sources(with_parts, [repository], medium="")] == ["/dev/sdc"]
    assert volume_words(INSIDE, "/x", "/x/y") == "DEEP (/dev/dm-1 on /dev/sda, /dev/sdb), folder y"


def test_closing_everything_needs_nothing_open() -> None:
    places = Places()
    places.close_all()
    with places:
        places.close_all()
