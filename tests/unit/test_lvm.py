"""What LVM says, which snapshots can be made, and whose snapshots are removed.

``samples/lvs.json`` and the status lines were recorded from LVM 2.03.16 under Linux 6.1; ids of devices in the tests
are what ``dmsetup info`` said beside it.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode, KernelPaths
from stillframe.host.linux import DeviceNumber
from stillframe.host.lvm import (
    find_leftovers,
    is_logical_volume,
    make_snapshot,
    plan_snapshot,
    remove_own,
    require_makeable,
    snapshots,
)
from stillframe.host.lvm.report import LogicalVolume, owner_tag, parse_filling, parse_report
from stillframe.host.machine import ProcessIdentity, this_process
from stillframe.host.run import Finished, run_to_the_end

SAMPLE = (Path(__file__).parent / "samples" / "lvs.json").read_text()
MIB, GIB = 1 << 20, 1 << 30
VOLUMES = {volume.name: volume for volume in parse_report(SAMPLE)}
ROOT, THIN, POOL = VOLUMES["root"], VOLUMES["thin"], VOLUMES["pool"]
CLASSIC, THIN_SNAPSHOT = VOLUMES["stillframe-01234567"], VOLUMES["stillframe-0123456a"]
ROOT_UUID = "LVM-mYydVohj2iHgSAJi2pRNmsyLmsK8jXjZVegjE1C2RXmaHJmtodryNlZIOSdbpQET"
CALLER = "import sys; from stillframe.host.run import run_to_the_end; run_to_the_end(['sh', '-c', sys.argv[1]])"
BOOT = "0123456789abcdef" * 2


def node(mapped_uuid: str) -> BlockNode:
    return BlockNode(
        number=DeviceNumber(252, 0), name="dm-0", folder="", path="/dev/dm-0", disk="dm-0", partition=None,
        place=Extent(0, GIB), read_only=False, slaves=(), holders=(), backing=None, backing_path="", backing_start=0,
        mapped_name="vg--a-root", mapped_uuid=mapped_uuid,
    )  # fmt: skip


def of(volume: LogicalVolume) -> BlockNode:
    return node(volume.mapped_uuid)


def test_the_report_of_lvm() -> None:
    assert ROOT.mapped_uuid == ROOT_UUID
    assert (ROOT.full_name, ROOT.size, ROOT.number) == ("vg-a/root", 300 * MIB, DeviceNumber(252, 0))
    assert (ROOT.group_free, ROOT.extent_size, ROOT.is_shared, ROOT.is_merging) == (848 * MIB, 4 * MIB, False, False)
    assert (CLASSIC.origin, CLASSIC.size, CLASSIC.data_percent) == ("root", 40 * MIB, 0.03)
    assert (POOL.data_percent, POOL.metadata_percent, POOL.number) == (3.55, 11.04, DeviceNumber(252, 5))
    assert (THIN.pool, THIN.layout) == ("pool", frozenset({"thin", "sparse"}))
    assert ROOT.owner is None
    assert CLASSIC.owner is None  # its boot is too short
    assert THIN_SNAPSHOT.owner is None  # no owner
    assert is_logical_volume(node(ROOT_UUID))
    assert not is_logical_volume(node("CRYPT-LUKS2-0123-root"))


def test_yes_and_no_in_numbers() -> None:
    """As ``report/binary_values_as_numeric`` makes them."""
    fields = ("vg_shared", "vg_clustered", "lv_merging")
    sample = SAMPLE.replace('"lv_merging":"unknown"', '"lv_merging":"-1"')
    for field in fields:
        sample = sample.replace(f'"{field}":""', f'"{field}":"0"')
    assert parse_report(sample) == parse_report(SAMPLE)
    for field in fields:
        is_set = {one.name: one for one in parse_report(sample.replace(f'"{field}":"0"', f'"{field}":"1"'))}
        root = is_set["root"]
        assert (root.is_shared, root.is_merging) == (field != "lv_merging", field == "lv_merging")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"report": [{"lv": [{"lv_uuid": "x"}]}]}', '{"report": 3}', '{"report": [{"lv": ["x"]}]}',
     SAMPLE.replace('"41943040"', '"40.00m"'), SAMPLE.replace('"0.03"', '"full"')],
)  # fmt: skip
def test_another_report_is_not_guessed_at(text: str) -> None:
    with pytest.raises(MachineRefusal, match="lvs"):
        parse_report(text)


@pytest.mark.parametrize(
    ("line", "percent", "fault"),
    [
        ("0 614400 snapshot 24/81920 16", 100 * 24 / 81920, ""),
        ("0 614400 snapshot Invalid", 100, "Invalid"),
        ("0 614400 snapshot Overflow", 100, "Overflow"),
        ("0 614400 snapshot Merge failed", 100, "Merge"),
        ("0 819200 thin-pool 2 113/1024 235/6400 - rw discard_passdown queue_if_no_space - 256",
         100 * 113 / 1024, ""),
        ("0 819200 thin-pool 2 113/1024 6400/6400 - out_of_data_space discard_passdown queue_if_no_space - 256",
         100, "out_of_data_space"),
        ("0 819200 thin-pool 2 113/1024 640/6400 - ro discard_passdown queue_if_no_space needs_check 256",
         100 * 113 / 1024, "ro"),
        ("0 819200 thin-pool Fail", 100, "Fail"),
    ],
)  # fmt: skip
def test_how_full_it_is(line: str, percent: float, fault: str) -> None:
    filling = parse_filling(f"{line}\n")
    assert filling.percent == pytest.approx(percent)
    assert filling.fault == fault


@pytest.mark.parametrize("line", ["", "0 614400 linear", "0 614400 linear 252:0 3", "Device does not exist."])
def test_another_status_is_not_guessed_at(line: str) -> None:
    with pytest.raises(MachineRefusal, match="dmsetup"):
        parse_filling(line)


@pytest.mark.parametrize(
    ("size", "free", "room"),
    [
        (300 * MIB, 848 * MIB, 320 * MIB),  # all that can change: 300 + 2.3 + 16, in extents of 4 MiB
        (300 * MIB, 200 * MIB, 200 * MIB),
        (20 * GIB, 900 * MIB, 900 * MIB),  # what there is
        (20 * GIB, 100 * GIB, 3 * GIB),  # 15 %
        (4 * GIB, 100 * GIB, GIB),
        (100 * MIB, 120 * MIB, 120 * MIB),
    ],
)
def test_room_of_a_classic_snapshot(size: int, free: int, room: int) -> None:
    origin = replace(ROOT, size=size, group_free=free)
    assert plan_snapshot([origin], of(origin), ()).size == room


@pytest.mark.parametrize(("size", "free"), [(300 * MIB, 124 * MIB), (100 * GIB, 2000 * MIB), (40 * MIB, 56 * MIB)])
def test_too_little_room_for_a_classic_snapshot(size: int, free: int) -> None:
    origin = replace(ROOT, size=size, group_free=free)
    with pytest.raises(MachineRefusal, match=r"vg-a has .* free"):
        plan_snapshot([origin], of(origin), ())
    leftover = replace(CLASSIC, size=2 * GIB)  # will be removed first
    assert plan_snapshot([origin], of(origin), [leftover]).size > free
    elsewhere = replace(leftover, group_uuid="another")
    with pytest.raises(MachineRefusal, match=r"vg-a has .* free"):
        plan_snapshot([origin], of(origin), [elsewhere])


def test_a_thin_volume_gets_a_thin_snapshot_while_its_pool_has_room() -> None:
    plan = plan_snapshot(list(VOLUMES.values()), of(THIN), ())
    assert (plan.size, plan.pool) == (0, POOL)
    for fuller in (replace(POOL, data_percent=90.0), replace(POOL, metadata_percent=97.5)):
        with pytest.raises(MachineRefusal, match=r"vg-a/pool is 9. % full"):
            plan_snapshot([THIN, fuller], of(THIN), ())
        assert plan_snapshot([THIN, fuller], of(THIN), [THIN_SNAPSHOT]).pool == fuller  # looked at again afterwards
    for unknown in ([THIN], [THIN, replace(POOL, data_percent=None)]):
        with pytest.raises(MachineRefusal, match="does not say how full"):
            plan_snapshot(unknown, of(THIN), ())


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (CLASSIC, "is a snapshot itself"),
        (POOL, "is a pool"),
        (replace(ROOT, role=frozenset({"private", "thin", "pool", "data"})), "is a part of another"),
        (replace(ROOT, is_merging=True), "merged"),
        (replace(ROOT, is_shared=True), "other machines"),
        (replace(ROOT, layout=frozenset({"cache"})), "kind cache"),
        (replace(ROOT, layout=frozenset({"vdo"})), "kind vdo"),
    ],
)
def test_volumes_that_are_not_snapshot(volume: LogicalVolume, reason: str) -> None:
    with pytest.raises(MachineRefusal, match=reason):
        plan_snapshot([*VOLUMES.values(), volume][::-1], of(volume), ())


@pytest.mark.parametrize("suffix", ["-real", "-cow", "-tpool", "x"])
def test_a_part_of_a_volume_is_no_volume(suffix: str) -> None:
    with pytest.raises(MachineRefusal, match="part of a logical volume"):
        plan_snapshot(list(VOLUMES.values()), node(ROOT_UUID + suffix), ())


def owned(process: ProcessIdentity, **changes: Any) -> LogicalVolume:
    return replace(CLASSIC, **{"tags": frozenset({"stillframe", owner_tag(process)}), **changes})


def test_leftovers_are_ours_and_of_processes_that_are_gone(tmp_path: Path) -> None:
    boot = tmp_path / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    (tmp_path / "77").mkdir()
    (tmp_path / "77/stat").write_text(f"77 (a) b) S {' '.join(['0'] * 18)} 4242 0 0\n")
    kernel = KernelPaths(proc=str(tmp_path))
    alive = ProcessIdentity(boot_id=BOOT, pid=77, start_time=4242)
    gone = [
        replace(alive, boot_id="0e" * 16), replace(alive, pid=78), replace(alive, start_time=7),
    ]  # fmt: skip
    tag = owner_tag(gone[0])
    foreign = [
        owned(alive),
        owned(gone[0], name="backup-01234567"),
        owned(gone[0], name="stillframe-0123456"),
        owned(gone[0], name="stillframe-012345678"),
        owned(gone[0], tags=frozenset({tag})),
        owned(gone[0], tags=frozenset({"stillframe"})),
        owned(gone[0], tags=frozenset({"stillframe", tag, owner_tag(gone[1])})),
        owned(gone[0], tags=frozenset({"stillframe", f"{tag}x"})),
        owned(gone[0], role=frozenset({"public"})),
        owned(gone[0], is_shared=True),
        owned(replace(gone[0], start_time=0)),  # nobody can tell
        *VOLUMES.values(),
    ]
    leftovers = [owned(one) for one in gone]
    assert find_leftovers([*foreign, *leftovers], kernel=kernel) == tuple(leftovers)
    boot.write_text("")  # not known which boot this is: nothing is certain
    assert find_leftovers([*foreign, *leftovers], kernel=kernel) == ()


class MadeLvm:
    """LVM that has the volumes it is told, and notes what it is asked to do."""

    def __init__(self, volumes: Sequence[LogicalVolume]) -> None:
        self.volumes = list(volumes)
        self.asked: list[list[str]] = []
        self.tried: list[list[str]] = []
        self.errors = b"  It did not work.\n"
        self.exit_code = 0
        self.removes = True
        self.makes: LogicalVolume | None = None

    def run_to_the_end(self, command: Sequence[str]) -> Finished:
        self.asked.append(list(command))
        if self.exit_code == 0 and command[0] == "lvremove" and self.removes:
            uuid = command[3].split("=")[1].split(" ")[0].replace("-", "")
            self.volumes = [one for one in self.volumes if one.uuid != uuid]
        if command[0] == "lvcreate" and self.makes is not None:
            tags = {command[at + 1] for at, word in enumerate(command) if word == "--addtag"}
            name = command[command.index("-n") + 1]
            self.volumes.append(replace(self.makes, name=name, tags=frozenset(tags)))
        return Finished(arguments=tuple(command), exit_code=self.exit_code, output=b"", errors=self.errors)

    def run(self, command: Sequence[str], *, timeout_s: float) -> Finished:
        assert timeout_s > 0
        self.tried.append(list(command))
        return Finished(arguments=tuple(command), exit_code=self.exit_code, output=b"", errors=self.errors)


@pytest.fixture
def lvm(monkeypatch: pytest.MonkeyPatch) -> MadeLvm:
    made = MadeLvm(list(VOLUMES.values()))
    monkeypatch.setattr(snapshots, "run_to_the_end", made.run_to_the_end)
    monkeypatch.setattr(snapshots, "run", made.run)
    monkeypatch.setattr(snapshots, "read_volumes", lambda: tuple(made.volumes))
    return made


def test_exactly_one_volume_is_removed(lvm: MadeLvm) -> None:
    mine = owned(this_process())
    lvm.volumes += [mine, replace(mine, uuid="0" * 32, name="stillframe-aaaaaaaa")]
    remove_own(ROOT, mine.name)
    (command,) = lvm.asked
    assert command == [
        "lvremove", "-f", "-S",
        "lv_uuid=V8p7XH-6dgc-PKs4-C1tM-7hxi-A4lC-gOz3MR && lv_name=stillframe-01234567 && lv_tags={stillframe}", "vg-a",
    ]  # fmt: skip
    remove_own(ROOT, mine.name)  # it has gone: nothing is asked
    remove_own(ROOT, "stillframe-0123456a")
    remove_own(replace(ROOT, name="home"), "stillframe-aaaaaaaa")  # of another volume
    assert len(lvm.asked) == 1


def test_what_is_not_removed_is_told(lvm: MadeLvm) -> None:
    lvm.volumes.append(owned(this_process()))
    lvm.removes = False
    with pytest.raises(MachineRefusal, match="still there") as refused:
        remove_own(ROOT, CLASSIC.name)
    assert refused.value.hint == "Remove it: lvremove vg-a/stillframe-01234567"
    lvm.exit_code = 5
    with pytest.raises(MachineRefusal, match="It did not work"):
        remove_own(ROOT, CLASSIC.name)


def test_leftovers_are_removed_and_told(lvm: MadeLvm) -> None:
    dead = owned(ProcessIdentity(boot_id="0e" * 16, pid=1, start_time=1))
    lvm.volumes = [dead]
    assert snapshots.remove_leftovers([*VOLUMES.values(), dead]) == ((dead, ""),)
    lvm.exit_code = 5
    ((volume, reason),) = snapshots.remove_leftovers([dead])
    assert volume == dead
    assert "It did not work" in reason


@pytest.mark.parametrize("kind", ["classic", "thin"])
def test_making_a_snapshot(lvm: MadeLvm, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    origin, made = (ROOT, CLASSIC) if kind == "classic" else (THIN, THIN_SNAPSHOT)
    lvm.volumes = [ROOT, THIN, POOL]
    lvm.makes = made
    folder = tmp_path / "block/dm-9"
    (folder / "dm").mkdir(parents=True)
    (folder / "dev").write_text(f"{made.number}\n")
    (folder / "size").write_text("614400\n")
    (folder / "dm/uuid").write_text(f"{made.mapped_uuid}\n")
    kernel = KernelPaths(sys=str(tmp_path))
    monkeypatch.setattr(snapshots, "this_process", lambda *_: ProcessIdentity(boot_id=BOOT, pid=7, start_time=9))
    plan = plan_snapshot(lvm.volumes, of(origin), ())
    snapshot = make_snapshot(plan, "stillframe-00000001", kernel=kernel)
    how = ["-L", f"{320 * MIB}b"] if kind == "classic" else ["-ky", "-K", "-ay"]
    assert lvm.asked == [[
        "lvcreate", "-s", "-pr", "-n", "stillframe-00000001", "--addtag", "stillframe", "--addtag",
        f"stillframe-owner={BOOT}.7.9", *how, origin.full_name,
    ]]  # fmt: skip
    assert (snapshot.device, snapshot.is_thin) == ("/dev/dm-9", kind == "thin")
    assert snapshot.watched == (made.number if kind == "classic" else POOL.number)
    (folder / "dm/uuid").write_text("LVM-another\n")
    with pytest.raises(MachineRefusal, match="is not there"):
        make_snapshot(plan, "stillframe-00000002", kernel=kernel)
    lvm.exit_code = 5
    with pytest.raises(MachineRefusal, match="It did not work"):
        make_snapshot(plan, "stillframe-00000003", kernel=kernel)


# Said by LVM 2.03.16 to ``lvcreate --test``.
LOCKED = b"""  TEST MODE: Metadata will NOT be updated and volumes will not be (de)activated.
  Snapshots of locked volumes are not supported.
"""
MISSING = b"""  TEST MODE: Metadata will NOT be updated and volumes will not be (de)activated.
  WARNING: Couldn't find device with uuid pDMKzB-Up41-i59W-z12k-wlqm-jePD-6UjjjZ.
  WARNING: VG vga is missing PV pDMKzB-Up41-i59W-z12k-wlqm-jePD-6UjjjZ (last written to /dev/loop0).
  Cannot change VG vga while PVs are missing.
  See vgreduce --removemissing and vgextend --restoremissing.
  Cannot process volume group vga
"""


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (LOCKED, "Snapshots of locked volumes are not supported."),
        (MISSING, "Cannot change VG vga while PVs are missing."),
        (b"", "it gave no reason"),
    ],
)
def test_lvm_is_asked_before_anything_is_made(lvm: MadeLvm, errors: bytes, reason: str) -> None:
    plan = plan_snapshot([ROOT], of(ROOT), ())
    lvm.errors = errors
    require_makeable(plan)
    (tried,) = lvm.tried
    assert tried[:6] == ["lvcreate", "--test", "-s", "-pr", "-n", tried[5]]
    assert tried[-3:] == ["-L", f"{320 * MIB}b", "vg-a/root"]
    lvm.exit_code = 5
    with pytest.raises(MachineRefusal) as refused:
        require_makeable(plan)
    assert refused.value.message.startswith(f"LVM would not make one of vg-a/root: {reason}")
    assert "WARNING" not in refused.value.message
    assert lvm.asked == []


def test_a_program_that_must_not_be_stopped(tmp_path: Path) -> None:
    done = run_to_the_end(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.exit_code, done.output, done.errors) == (3, b"out\n", b"err\n")
    with pytest.raises(MissingProgram):
        run_to_the_end(["no-such-program-anywhere"])
    ended = tmp_path / "ended"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may be told to ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_the_end(["sh", "-c", f"sleep 1; kill -INT $PPID; sleep 1; echo more; touch {ended}"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.exists()


def test_a_program_goes_on_when_its_caller_is_killed(tmp_path: Path) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"
    script = f"touch {began}; sleep 1; echo more; echo more >&2; touch {ended}"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, script],
    )  # fmt: skip
    _wait_for(began)
    caller.kill()
    caller.wait()
    assert not ended.exists()
    _wait_for(ended)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
