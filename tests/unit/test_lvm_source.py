"""A logical volume in use: which way it is held still, and what becomes of an image whose snapshot is lost."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from stillframe.block import MemoryDisk, ReadFault
from stillframe.block.file import FileReader, open_file_reader
from stillframe.capture import Holding, OpenSource, Selection, lvm, open_source, open_sources, opening
from stillframe.capture.lvm import SnapshotSource, SnapshotWatch, WatchedReader, open_snapshot_source
from stillframe.errors import Disturbed, MachineRefusal, SourceInUse
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.host.blocks import BlockNode
from stillframe.host.disks import DiskFacts
from stillframe.host.linux import DeviceNumber
from stillframe.host.live.freezing import MountedFilesystem
from stillframe.host.live.volumes import UsedVolume
from stillframe.host.lvm import Filling, LogicalVolume, Snapshot, SnapshotPlan
from stillframe.host.lvm.report import parse_report
from stillframe.host.mounts import Use, Users
from stillframe.jobs.backup import BackupOptions, apply_backup, plan_backup
from stillframe.jobs.clone import CloneOptions, apply_clone, plan_clone
from stillframe.jobs.cloning.disk_image import disk_image
from stillframe.jobs.saving.hooks import Hooks
from stillframe.jobs.saving.live import require_elsewhere
from stillframe.store import MemoryStore
from stillframe.testing.clocks import FakeClock
from stillframe.testing.job_runs import ANNA, job_context, make_repository, memory_source, restore

SAMPLE = (Path(__file__).parent / "samples" / "lvs.json").read_text()
VOLUMES = {volume.name: volume for volume in parse_report(SAMPLE)}
ROOT, THIN, CLASSIC = VOLUMES["root"], VOLUMES["thin"], VOLUMES["stillframe-01234567"]
GOOD, FULL = Filling(percent=10.0), Filling(percent=100.0, fault="Invalid")
MIB = 1 << 20
THEN, NOW = b"then" * 4096, b"now." * 4096


def node(volume: LogicalVolume, path: str = "/dev/dm-0") -> BlockNode:
    return BlockNode(
        number=DeviceNumber(252, 0), name="dm-0", folder="", path=path, disk="dm-0", partition=None,
        place=Extent(0, MIB), read_only=False, slaves=(), holders=(), backing=None, backing_path="", backing_start=0,
        mapped_name="vg--a-root", mapped_uuid=volume.mapped_uuid,
    )  # fmt: skip


class MadeLvm:
    """LVM, played: a file is the volume, another is its snapshot. ``happened`` is what was done, in order."""

    def __init__(self, folder: Path) -> None:
        self.live, self.copy = folder / "live", folder / "copy"
        self.live.write_bytes(NOW * 64)
        self.copy.write_bytes(THEN * 64)
        self.happened: list[str] = []
        self.filling: Callable[[], Filling] = lambda: GOOD
        self.leftovers: tuple[tuple[LogicalVolume, str], ...] = ()
        self.failure: MachineRefusal | None = None
        self.stays: MachineRefusal | None = None

    def make(self, plan: SnapshotPlan, name: str) -> Snapshot:
        self.happened.append("make")
        if self.failure is not None:
            raise self.failure
        assert name.startswith("stillframe-")
        return Snapshot(volume=CLASSIC, origin=plan.origin, device=str(self.copy), watched=DeviceNumber(252, 10))

    def remove(self, origin: LogicalVolume, name: str) -> None:
        assert origin == ROOT
        assert name.startswith("stillframe-")
        self.happened.append("remove")
        if self.stays is not None:
            raise self.stays

    def source(self) -> SnapshotSource:
        facts = DiskFacts(path=str(self.live), kind="disk", size=MIB)
        return SnapshotSource(
            facts=facts, reader=open_file_reader(str(self.live)), consistency="snapshot", notices=(),
            node=node(ROOT), name="vg-a/root", where=str(self.live.parent), filesystem="ext4",
        )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeLvm:
    found = MadeLvm(tmp_path)

    def leftovers(_: object) -> tuple[tuple[LogicalVolume, str], ...]:
        found.happened.append("leftovers")
        return found.leftovers

    def settle(filesystems: list[MountedFilesystem]) -> None:
        assert [one.where for one in filesystems] == [str(tmp_path)]
        found.happened.append("write out")

    monkeypatch.setattr(lvm, "read_volumes", lambda: tuple(VOLUMES.values()))
    monkeypatch.setattr(lvm, "remove_leftovers", leftovers)
    monkeypatch.setattr(lvm, "settle", settle)
    monkeypatch.setattr(lvm, "make_snapshot", found.make)
    monkeypatch.setattr(lvm, "remove_own", found.remove)
    monkeypatch.setattr(lvm, "read_filling", lambda _: found.filling())
    return found


def held(made: MadeLvm, notices: list[Notice]) -> Any:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        made.happened.append("before")
        try:
            yield
        finally:
            made.happened.append("after")

    source = made.source()
    disk = source.capture(Selection())
    assert made.happened == []  # looking makes nothing
    return source.hold(disk, Holding(selection=Selection(), around=around, note=notices.append))


def test_a_snapshot_is_made_read_and_removed(made: MadeLvm) -> None:
    notices: list[Notice] = []
    with held(made, notices) as still:
        assert made.happened == ["leftovers", "write out", "before", "make", "after"]
        (volume,) = still.disk.volumes
        assert volume.consistency == "snapshot"
        assert volume.reader.read_at(0, len(THEN)) == THEN
        assert still.disk.facts.path == str(made.live)
        assert still.source.stayed_still()
        assert still.source.announcement is None
    assert made.happened[-1] == "remove"
    assert notices == []


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_a_snapshot_is_removed_whatever_happens(made: MadeLvm, error: BaseException) -> None:
    with pytest.raises(type(error)), held(made, []):
        raise error
    assert made.happened[-1] == "remove"


def test_a_snapshot_that_lvm_did_not_make_is_looked_for(made: MadeLvm) -> None:
    made.failure = MachineRefusal("lvcreate failed", hint="why")
    with pytest.raises(MachineRefusal, match="lvcreate failed"), held(made, []):
        pytest.fail("there is none")
    assert made.happened == ["leftovers", "write out", "before", "make", "after", "remove"]


def test_a_snapshot_that_stays_costs_no_image(made: MadeLvm) -> None:
    made.stays = MachineRefusal("in use", hint="Remove it: lvremove vg-a/x")
    notices: list[Notice] = []
    with held(made, notices):
        pass
    assert [(one.code, one.hint) for one in notices] == [("snapshot-left", "Remove it: lvremove vg-a/x")]


def test_leftovers_are_told(made: MadeLvm) -> None:
    made.leftovers = ((CLASSIC, ""), (CLASSIC, "it is open"))
    notices: list[Notice] = []
    with held(made, notices):
        pass
    assert [one.code for one in notices] == ["snapshot-removed", "snapshot-left"]
    assert "vg-a/stillframe-01234567" in notices[0].message
    assert "it is open" in notices[1].message


class Failing(MemoryDisk):
    """A disk that does not answer."""

    def read_into(self, offset: int, buffer: Any) -> None:
        raise ReadFault("cannot be read", extent=Extent(offset, offset + len(buffer)))


def watch(filling: Callable[[], Filling], origin: LogicalVolume = ROOT) -> SnapshotWatch:
    volume = CLASSIC if origin is ROOT else VOLUMES["stillframe-0123456a"]
    return SnapshotWatch(
        Snapshot(volume=volume, origin=origin, device="/dev/dm-9", watched=DeviceNumber(252, 10)), filling
    )


def test_an_error_of_the_disk_is_one_while_the_snapshot_is_good() -> None:
    with pytest.raises(ReadFault):
        WatchedReader(Failing(bytes(MIB)), watch(lambda: GOOD)).read_at(0, 512)
    with pytest.raises(Disturbed, match=r"vg-a/root was lost \(Invalid\): it had room for 41.9 MB") as lost:
        WatchedReader(Failing(bytes(MIB)), watch(lambda: FULL)).read_at(0, 512)
    assert "vgs vg-a" in lost.value.hint
    good = WatchedReader(MemoryDisk(b"x" * 1024), watch(lambda: FULL))
    assert good.read_at(512, 512) == b"x" * 512  # a read that succeeds is right
    assert (good.size, good.sector_size) == (1024, 512)


def test_a_lost_snapshot_stays_lost() -> None:
    answers = iter([FULL, GOOD])
    watching = watch(lambda: next(answers))
    for _ in range(2):
        with pytest.raises(Disturbed):
            watching.look()
    with pytest.raises(Disturbed):
        WatchedReader(MemoryDisk(bytes(1024)), watching).read_at(0, 512)


@pytest.mark.parametrize(
    ("filling", "good"),
    [
        (Filling(percent=94.9), True), (Filling(percent=95.0), False),
        (Filling(percent=60.0, fault="out_of_data_space"), False),
    ],
)  # fmt: skip
def test_a_pool_is_left_alone_before_it_is_full(filling: Filling, good: bool) -> None:
    if good:
        watch(lambda: filling, THIN).look()
        return
    with pytest.raises(Disturbed, match="the pool vg-a/pool became"):
        watch(lambda: filling, THIN).look()
    watch(lambda: Filling(percent=99.0)).look()  # a classic snapshot may become as full as it likes


def test_it_is_looked_at_again_and_again() -> None:
    answers: list[Filling | MachineRefusal] = [FULL, GOOD, MachineRefusal("no answer", hint=""), GOOD]

    def answer() -> Filling:
        found = answers.pop()
        if isinstance(found, MachineRefusal):
            raise found
        return found

    watching = watch(answer)
    with watching.polling(0.01):
        deadline = time.monotonic() + 30
        while answers:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with pytest.raises(Disturbed):
        watching.require_good()


@pytest.mark.parametrize("moment", ["at the end", "while reading"])
def test_a_lost_snapshot_gives_no_image(made: MadeLvm, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make_repository(MemoryStore())
    source = made.source()
    plan = plan_backup(repository, [source], BackupOptions(), ANNA)
    made.filling = lambda: FULL
    if moment == "while reading":  # as the kernel does it: every read of it fails

        def gone(_: object, offset: int, buffer: Any) -> None:
            raise ReadFault("cannot be read", extent=Extent(offset, offset + len(buffer)))

        monkeypatch.setattr(FileReader, "read_into", gone)
    with pytest.raises(Disturbed, match="was lost"):
        apply_backup(repository, [source], plan, job_context())
    assert repository.images().images == ()
    assert made.happened[-1] == "remove"


def test_an_image_is_of_the_snapshot(made: MadeLvm, tmp_path: Path) -> None:
    repository = make_repository(MemoryStore())
    source = made.source()
    made.stays = MachineRefusal("in use", hint="Remove it")
    log = tmp_path / "log"
    hooks = Hooks(before=("sh", "-c", f"echo before >> {log}"), after=("sh", "-c", f"echo after >> {log}; exit 1"))
    plan = plan_backup(repository, [source], BackupOptions(hooks=hooks), ANNA)
    assert [one.code for one in plan.notices] == ["in-use"]
    result = apply_backup(repository, [source], plan, job_context())
    (disk,) = result.manifest.disks
    assert [part.consistency for part in disk.partitions] == ["snapshot"]
    assert {"in-use", "snapshot-left", "hook-after-failed"} <= {one.code for one in result.manifest.notices}
    assert log.read_text() == "before\nafter\n"
    restore(repository, result.manifest, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == THEN * 64


WRITER = Use(kind="mounted", device="/dev/dm-0", where="/", read_write=True)


def test_a_clone_is_of_the_snapshot(made: MadeLvm, tmp_path: Path) -> None:
    source, target = made.source(), str(tmp_path / "clone")
    plan = plan_clone(source, target, CloneOptions(selection=Selection()))
    assert [one.code for one in plan.notices] == ["in-use"]
    result = apply_clone(source, plan, clock=FakeClock(), context=job_context())
    assert result.is_complete
    assert Path(target).read_bytes() == THEN * 64
    assert made.happened == ["leftovers", "write out", "make", "remove"]
    made.filling = lambda: FULL
    lost = str(tmp_path / "lost")
    plan = plan_clone(source, lost, CloneOptions(selection=Selection()))
    with pytest.raises(Disturbed, match="was lost"):
        apply_clone(source, plan, clock=FakeClock(), context=job_context())
    assert made.happened[-1] == "remove"


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each path is, and what each way of opening says."""
    told: dict[str, Any] = {"snapshot": None, "live": None, "used": {"/dev/vg/root"}, "nodes": {}}

    def way(name: str) -> Callable[..., OpenSource]:
        def open_it(facts: DiskFacts, *_: object) -> OpenSource:
            if told[name] is not None:
                raise told[name]
            source = memory_source(MemoryDisk(bytes(4096)), path=facts.path)
            kind = type(name, (type(source),), {"announcement": Notice(code="in-use", message=name)})
            return cast("OpenSource", kind(facts=facts, reader=source.reader, consistency="frozen", notices=()))

        return open_it

    tree = type("Tree", (), {"nodes": {DeviceNumber(252, 0): node(ROOT)}})()
    users = type("Made", (), {"tree": tree})()
    monkeypatch.setattr(opening, "describe", lambda path: DiskFacts(path=path, kind="disk", size=4096))
    monkeypatch.setattr(opening, "writers_of", lambda path: (WRITER,) if path in told["used"] else ())
    monkeypatch.setattr(opening, "thing_at", lambda _: DeviceNumber(252, 0))
    monkeypatch.setattr(opening, "read_users", lambda: users)
    monkeypatch.setattr(opening, "open_snapshot_source", way("snapshot"))
    monkeypatch.setattr(opening, "open_live_source", way("live"))
    monkeypatch.setattr(opening, "change_stamp", lambda _: None)
    monkeypatch.setattr(opening, "hold_exclusively", lambda _: None)
    monkeypatch.setattr(opening, "open_file_reader", lambda _: io.BytesIO(bytes(4096)))
    return told


def way_of(source: OpenSource) -> str:
    return source.announcement.message if source.announcement is not None else source.consistency


@pytest.mark.usefixtures("ways")
def test_a_volume_in_use_is_saved_from_a_snapshot() -> None:
    with open_sources(["/dev/vg/root"]) as (source,):
        assert way_of(source) == "snapshot"
    assert way_of(open_source("/dev/vg/root", may_snapshot=True)) == "snapshot"
    assert way_of(open_source("/dev/vg/root")) == "live"  # whoever does not hold it


def test_the_tracked_freeze_is_next(ways: dict[str, Any]) -> None:
    ways["snapshot"] = MachineRefusal("vg has 12 MB free", hint="Add a disk.")
    with open_sources(["/dev/vg/root"]) as (source,):
        assert way_of(source) == "live"
        assert source.notices == (
            Notice(code="no-snapshot", message="no LVM snapshot: vg has 12 MB free", hint="Add a disk."),
        )
    ways["live"] = MachineRefusal("a part of the kind thin", hint="Use an LVM snapshot.")
    told = r"kind thin.*no LVM snapshot: vg has 12 MB free"
    with pytest.raises(SourceInUse, match=told) as refused, open_sources(["/dev/vg/root"]):
        pytest.fail("nothing is left")
    assert "Add a disk." in refused.value.hint
    assert "--allow-torn" in refused.value.hint
    ways["snapshot"] = ways["live"] = SourceInUse("/dev/dm-0 is used by /dev/loop3", hint="Detach it.")
    with pytest.raises(SourceInUse) as refused, open_sources(["/dev/vg/root"]):
        pytest.fail("nothing is left")
    assert refused.value.message.count("is used by /dev/loop3") == 1


def test_several_in_use_are_held_still_together(ways: dict[str, Any]) -> None:
    ways["used"] = {"/dev/vg/root", "/dev/vg/home"}
    with open_sources(["/dev/vg/root", "/dev/vg/home", "/dev/sdc"]) as sources:
        assert [way_of(source) for source in sources] == ["live", "live", "offline"]
    ways["used"] = {"/dev/vg/home"}
    with open_sources(["/dev/sdc", "/dev/vg/home"]) as sources:
        assert [way_of(source) for source in sources] == ["offline", "snapshot"]


def test_a_repository_on_the_volume_itself_is_refused(made: MadeLvm, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillframe.jobs.saving import live as live_job

    monkeypatch.setattr(live_job, "lies_on", lambda _folder, _target: True)
    with pytest.raises(SourceInUse, match="lies on it"):
        require_elsewhere("/mnt/repo", [made.source()])
    require_elsewhere("/mnt/repo", [memory_source(MemoryDisk(bytes(4096)))])


def used(device: str = "/dev/dm-0", **changes: Any) -> UsedVolume:
    fields: dict[str, Any] = {"size": MIB, "where": "/", "filesystem": "ext4", "way": "frozen", **changes}
    return UsedVolume(device=device, **fields)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ((used(), used("/dev/loop3", where="/srv/a", depth=1)), "/srv/a, which lies on it"),
        ((used("/dev/dm-7", where="/home"),), "/home, which lies on it"),
        ((used(way="swap", where="swap", filesystem="swap"),), "swapped to"),
    ],
)
def test_what_lvm_would_not_hold_still(
    made: MadeLvm, monkeypatch: pytest.MonkeyPatch, found: tuple[UsedVolume, ...], reason: str
) -> None:
    facts = DiskFacts(path=str(made.live), kind="disk", size=MIB)
    users = cast("Users", None)
    monkeypatch.setattr(lvm, "find_used_volumes", lambda *_: found)
    with pytest.raises(MachineRefusal, match=reason):
        open_snapshot_source(facts, users, node(ROOT))
    monkeypatch.setattr(lvm, "find_used_volumes", lambda *_: (used(),))
    monkeypatch.setattr(lvm, "require_makeable", lambda plan: made.happened.append(f"ask for {plan.origin.name}"))
    with open_snapshot_source(facts, users, node(ROOT)) as source:
        assert (source.name, source.where, source.filesystem) == ("vg-a/root", "/", "ext4")
    with pytest.raises(MachineRefusal, match="is a snapshot itself"):
        open_snapshot_source(facts, users, node(CLASSIC))
    assert made.happened == ["ask for root"]


def test_what_lvm_itself_refuses(made: MadeLvm, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: SnapshotPlan) -> None:
        raise MachineRefusal("LVM would not make one", hint="")

    facts, users = DiskFacts(path=str(made.live), kind="disk", size=MIB), cast("Users", None)
    monkeypatch.setattr(lvm, "find_used_volumes", lambda *_: (used(),))
    monkeypatch.setattr(lvm, "require_makeable", refuse)
    with pytest.raises(MachineRefusal, match="would not make one"):
        open_snapshot_source(facts, users, node(ROOT))
    full = [replace(one, group_free=8 * MIB) for one in VOLUMES.values()]
    monkeypatch.setattr(lvm, "read_volumes", lambda: tuple(full))
    monkeypatch.setattr(lvm, "find_leftovers", lambda _: (replace(CLASSIC, size=400 * MIB),))
    with open_snapshot_source(facts, users, node(ROOT)) as source:  # there is room when that is gone
        assert source.name == "vg-a/root"


def test_a_clone_that_is_made_to_fit_asks_for_a_snapshot_of_ones_own(made: MadeLvm) -> None:
    with pytest.raises(SourceInUse, match="read more than once") as refused:
        disk_image(made.source(), Selection(), FakeClock())
    assert "lvcreate --snapshot" in refused.value.hint
