"""Closed volumes: the commands that open and close them, word by word, and what rests on what. Nothing is run."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from stillframe.errors import MachineRefusal, StillframeError, WrongKey
from stillframe.extents import Extent
from stillframe.host import attaching, stacked_places, volume_places
from stillframe.host.attaching import Keeper
from stillframe.host.blocks import BlockNode, BlockTree, KernelPaths
from stillframe.host.linux import DeviceNumber
from stillframe.host.mounts import Use, Users, parse_mountinfo
from stillframe.host.places import disks_under, lies_on
from stillframe.host.run import Finished
from stillframe.host.stacked_places import ClosedVolume, Part, close_opened, find_closed, open_closed
from stillframe.host.volume_places import VolumeDevice, list_volume_devices

LUKS = ClosedVolume(kind="luks", id="u1", name="STICK", members=("/dev/sdb1",), disks=("/dev/sdb",), size=1 << 30)
BITLOCKER = ClosedVolume(kind="bitlocker", id="/dev/sdb1", name="", members=("/dev/sdb1",), disks=(), size=1 << 30)
VOLUME = ClosedVolume(
    kind="lvm", id="u2", name="my-house/back-up", members=("/dev/md127", "/dev/sdc1"), disks=(), size=1 << 30
)
ARRAY = ClosedVolume(kind="raid", id="a:b:c:d", name="1 nas:0", members=("/dev/sda1", "/dev/sdb1"), disks=(), size=1)
NOBODY = KernelPaths(sys="/nowhere/sys")


@dataclass(slots=True)
class Recorder:
    """Programs that only say what was asked of them."""

    codes: dict[str, int] = field(default_factory=dict)
    says: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)

    def __call__(self, arguments: list[str], *, given: bytes = b"", timeout_s: float = 60.0) -> Finished:
        del timeout_s
        self.asked.append(tuple(arguments))
        self.given.append(given)
        code = self.codes.get(arguments[0], 0)
        said = self.says.get(arguments[0], b"")
        return Finished(
            arguments=tuple(arguments), exit_code=code, output=said, errors=b"it will not" if code else b""
        )  # fmt: skip


class Told(Keeper):
    """A keeper without a process: what it was told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = list[tuple[str, str]]()

    def will(self, kind: str, thing: str) -> None:
        self.steps.append((kind, thing))

    def undo(self, thing: str) -> None:
        self.steps.append(("undo", thing))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(stacked_places, "run", found)
    monkeypatch.setattr(attaching, "run", found)
    monkeypatch.setattr(stacked_places, "require_root", lambda: None)
    return found


def test_luks_is_opened_read_only_and_its_passphrase_is_on_no_command_line(recorder: Recorder) -> None:
    keeper, name = Told(), f"stillframe-{os.getpid()}-sdb1"
    assert open_closed(keeper, LUKS, secret="pass phräse\n") == f"/dev/mapper/{name}"  # noqa: S106 - of a test
    command = ("cryptsetup", "open", "--type", "luks", "--readonly", "--key-file", "-", "/dev/sdb1", name)
    assert recorder.asked == [command]
    assert recorder.given == ["pass phräse\n".encode()]
    assert keeper.steps == [("mapping", name)]
    open_closed(keeper, LUKS, secret="x", writes=True)  # noqa: S106 - of a test
    assert "--readonly" not in recorder.asked[1]


def test_bitlocker_is_opened_to_read_and_never_to_write(recorder: Recorder) -> None:
    open_closed(Told(), BITLOCKER, secret="x")  # noqa: S106 - of a test
    assert recorder.asked[0][:5] == ("cryptsetup", "open", "--type", "bitlk", "--readonly")
    with pytest.raises(MachineRefusal, match="nothing is written"):
        open_closed(Told(), BITLOCKER, secret="x", writes=True)  # noqa: S106 - of a test
    assert len(recorder.asked) == 1


def test_a_volume_of_lvm_is_activated_alone_and_read_only(recorder: Recorder) -> None:
    keeper = Told()
    assert open_closed(keeper, VOLUME) == "/dev/mapper/my--house-back--up"
    config = (
        'global { metadata_read_only = 1 } activation { read_only_volume_list = [ "my-house/back-up" ] monitoring = 0 }'
    )
    devices = "/dev/md127,/dev/sdc1"
    assert recorder.asked == [
        ("lvchange", "--activate", "y", "--config", config, "--devices", devices, "my-house/back-up")
    ]
    assert keeper.steps == [("mapping", "my--house-back--up")]
    open_closed(keeper, VOLUME, writes=True)
    assert "read_only_volume_list" not in recorder.asked[1][4]
    assert "metadata_read_only = 1" in recorder.asked[1][4]


def test_an_array_is_assembled_read_only_from_its_members_alone(recorder: Recorder) -> None:
    keeper = Told()
    assert open_closed(keeper, ARRAY, kernel=NOBODY) == "/dev/md127"
    assert recorder.asked == [
        ("mdadm", "--assemble", "--readonly", "--run", "--config=none", "/dev/md127", "/dev/sda1", "/dev/sdb1")
    ]
    assert keeper.steps == [("array", "/dev/md127 a:b:c:d")]
    open_closed(keeper, ARRAY, writes=True, kernel=NOBODY)
    assert "--readonly" not in recorder.asked[1]
    assert recorder.asked[2] == ("mdadm", "--readwrite", "/dev/md127")
    close_opened(keeper, ARRAY, "/dev/md127")
    assert keeper.steps[-1] == ("undo", "/dev/md127 a:b:c:d")


@pytest.mark.parametrize(
    ("closed", "code", "kind", "words"),
    [
        (LUKS, 2, WrongKey, "does not open LUKS STICK \\(/dev/sdb1\\)"),
        (LUKS, 3, MachineRefusal, "it will not"),
        (VOLUME, 5, MachineRefusal, "LVM my-house/back-up .* it will not"),
        (ARRAY, 1, MachineRefusal, "RAID 1 nas:0 .* it will not"),
    ],
)
def test_what_does_not_open_is_named(
    recorder: Recorder, closed: ClosedVolume, code: int, kind: type[StillframeError], words: str
) -> None:
    recorder.codes = dict.fromkeys(("cryptsetup", "lvchange", "mdadm"), code)
    with pytest.raises(kind, match=words) as refused:
        open_closed(Told(), closed, secret="x", kernel=NOBODY)  # noqa: S106 - of a test
    assert refused.value.hint


def test_an_array_of_another_is_not_stopped(recorder: Recorder) -> None:
    recorder.says["mdadm"] = b"MD_LEVEL=raid1\nMD_UUID=x:y:z:w\n"
    attaching._stop_array("/dev/md127 a:b:c:d")
    assert recorder.asked == [("mdadm", "--detail", "--export", "/dev/md127")]
    said = iter([b"MD_UUID=a:b:c:d\n", b"", b""])

    def run(arguments: list[str]) -> Finished:
        recorder.asked.append(tuple(arguments))
        return Finished(arguments=tuple(arguments), exit_code=0, output=next(said), errors=b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attaching, "run", run)
        attaching._stop_array("/dev/md127 a:b:c:d")
    assert recorder.asked[2] == ("mdadm", "--stop", "/dev/md127")


def device(path: str, *disks: str, size: int = 1 << 30) -> VolumeDevice:
    return VolumeDevice(
        path=path, size=size, disk=path, partition=0, name="", mounted=(), read_write=False, external=True,
        disks=disks or (path,), below=frozenset({path, *disks}),
    )  # fmt: skip


def report(kind: str, *rows: dict[str, str]) -> bytes:
    return json.dumps({"report": [{kind: rows}], "log": []}).encode()


def row(name: str, **more: str) -> dict[str, str]:
    return {
        "vg_name": "house", "vg_uuid": "g", "vg_missing_pv_count": "0", "lv_name": name, "lv_uuid": f"l-{name}",
        "lv_size": "4194304", "lv_attr": "-wi-------", "segtype": "linear", **more,
    }  # fmt: skip


def test_volumes_of_lvm_that_would_write_or_lack_a_disk_are_refused(recorder: Recorder) -> None:
    recorder.says["pvs"] = report(
        "pv", {"pv_name": "/dev/sda3", "vg_name": "house", "vg_uuid": "g"},
        {"pv_name": "/dev/sdb", "vg_name": "other", "vg_uuid": "h"},
    )  # fmt: skip
    recorder.says["lvs"] = report(
        "lv", row("root"), row("root", segtype="striped"), row("pool", segtype="thin-pool"),
        row("gone", lv_attr="-wi-----p-", vg_missing_pv_count="1"),
    )  # fmt: skip
    parts = [Part(device=device(path, "/dev/sda"), filesystem="LVM2_member") for path in ("/dev/sda3", "/dev/sdb")]
    found = {one.name: one for one in find_closed(parts)}
    assert (found["house/root"].members, found["house/root"].refusal) == (("/dev/sda3",), "")
    assert "thin-pool" in found["house/pool"].refusal
    assert "missing" in found["house/gone"].refusal
    assert all("--readonly" in command for command in recorder.asked)
    with pytest.raises(MachineRefusal, match="thin-pool"):
        open_closed(Told(), found["house/pool"])
    assert len(recorder.asked) == 2


@pytest.mark.parametrize("filesystem", ["LVM2_member", "linux_raid_member"])
def test_where_the_tools_fail_it_is_listed_with_the_reason(recorder: Recorder, filesystem: str) -> None:
    recorder.codes |= {"pvs": 5, "mdadm": 1}
    (found,) = find_closed([Part(device=device("/dev/sda3"), filesystem=filesystem, label="x")])
    assert "it will not" in found.refusal


def node(name: str, number: str, **more: object) -> BlockNode:
    major, minor = (int(word) for word in number.split(":"))
    fields: dict[str, Any] = {
        "disk": name, "partition": None, "read_only": True, "slaves": (), "holders": (), "backing": None,
        "backing_path": "", "backing_start": 0, "mapped_name": "", "mapped_uuid": "",
    }  # fmt: skip
    fields |= more
    return BlockNode(
        number=DeviceNumber(major, minor), name=name, folder="", path=f"/dev/{name}", place=Extent(0, 1 << 30), **fields
    )


# LUKS in a logical volume in a RAID 1 of a whole disk and a partition; and a disk that has nothing to do with it.
STACK = (
    node("sda", "8:0"),
    node("sda1", "8:1", disk="sda", partition=1, holders=("md127",)),
    node("sdb", "8:16", holders=("md127",)),
    node("sdc", "8:32"),
    node("md127", "9:127", slaves=("sda1", "sdb"), holders=("dm-0",)),
    node("dm-0", "254:0", slaves=("md127",), holders=("dm-1",), mapped_uuid="LVM-x", mapped_name="house-backups"),
    node("dm-1", "254:1", slaves=("dm-0",), mapped_uuid="CRYPT-LUKS2-x", mapped_name="stillframe-1-dm-0"),
)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Users:
    mounts = parse_mountinfo("20 1 254:1 / /run/places/1 ro - ext4 /dev/dm-1 ro\n")
    users = Users(BlockTree({one.number: one for one in STACK}), mounts, (), ())
    monkeypatch.setattr(volume_places, "read_users", lambda _: users)
    monkeypatch.setattr("stillframe.host.places.read_users", lambda _: users)
    monkeypatch.setattr("stillframe.host.places._existing", lambda path: path)
    monkeypatch.setattr("stillframe.host.places.filesystem_number", lambda _: DeviceNumber(254, 1))
    return users


def test_a_volume_in_a_stack_names_all_its_disks(stack: Users) -> None:
    del stack
    found = {one.path: one for one in list_volume_devices()}
    assert set(found) == {"/dev/sdc", "/dev/dm-1"}, "what is open is a part of something"
    assert found["/dev/dm-1"].disks == ("/dev/sda", "/dev/sdb")
    assert found["/dev/dm-1"].below == {f"/dev/{one.name}" for one in STACK if one.name != "sdc"}


def test_the_disks_below_a_repository_in_a_stack_are_no_targets(
    stack: Users, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert disks_under("/run/places/1/stillframe") == {"/dev/sda", "/dev/sdb"}
    numbers = {one.path: one.number for one in STACK}
    monkeypatch.setattr("stillframe.host.places.thing_at", numbers.get)
    for path in ("/dev/sda", "/dev/sda1", "/dev/sdb"):
        assert lies_on("/run/places/1/stillframe", path) is True, path
    assert lies_on("/run/places/1/stillframe", "/dev/sdc") is False
    for name in ("sda", "sdb"):
        uses = stack.of(numbers[f"/dev/{name}"], f"/dev/{name}")
        assert Use(kind="mounted", device="/dev/dm-1", where="/run/places/1", read_write=False) in uses
        assert any(use.kind == "holder" for use in uses)
    assert stack.of(numbers["/dev/sdc"], "/dev/sdc") == ()
