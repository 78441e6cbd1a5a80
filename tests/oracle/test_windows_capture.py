"""A made-up Windows in use is saved and put back: real NTFS and FAT volumes, shadows from a transcript.

Nothing of this runs on Windows. What is shown is that, if Windows does what its documentation says, the image holds the
shadow's bytes of C:, agreed bytes of the boot files partition, and the disk's bytes of all else.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from stillframe.block import MemoryDisk
from stillframe.capture import Selection, open_source
from stillframe.capture.windows import HeldDisks, WindowsSource, hold, open_windows_source
from stillframe.capture.windows.holding import PAUSE_S
from stillframe.errors import (
    Cancelled,
    DeviceError,
    DiskFormatError,
    Disturbed,
    HookFailed,
    MachineRefusal,
    SourceInUse,
    StillframeError,
    UsageError,
)
from stillframe.events import EventSink, NoEvents, RecordedEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.files import parse_pattern
from stillframe.fs.ntfs import NtfsFilesystem, read_shadow_map
from stillframe.fs.ntfs.mft import BITMAP_INDEX, LOG_INDEX
from stillframe.fs.ntfs.scan import scan_clusters
from stillframe.host.windows import codes
from stillframe.host.windows.vss_session import SnapshotFailed
from stillframe.jobs.backup import BackupOptions, BackupPlan, BackupResult, apply_backup, plan_backup
from stillframe.jobs.clone import CloneOptions, plan_clone
from stillframe.jobs.context import JobContext
from stillframe.jobs.saving.hooks import Hooks
from stillframe.jobs.saving.live import require_elsewhere
from stillframe.repo.records import StoredPartition
from stillframe.repo.repository import Repository
from stillframe.store import MemoryStore
from stillframe.testing import volumes_windows as volumes
from stillframe.testing import windows_documented as documented
from stillframe.testing.clocks import FakeClock
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.job_runs import ANNA, job_context, make_repository, restore, verify
from stillframe.testing.tools import run_tool
from stillframe.testing.windows_documented import (
    ABORT,
    COMPLETE,
    DELETE,
    ESP,
    RELEASE,
    START,
    C,
    D,
    made,
    method,
    opening,
    prepared,
)
from stillframe.testing.windows_machine import DISK, MachineVolume, WindowsMachine
from stillframe.testing.windows_transcript import Line

pytestmark = pytest.mark.root
MIB = 1 << 20
RECOVERY = D
"""The volume of the Recovery partition: it has no letter."""
PLACES = {
    1: Extent(1 * MIB, 5 * MIB),
    2: Extent(5 * MIB, 6 * MIB),
    3: Extent(6 * MIB, 30 * MIB),
    4: Extent(30 * MIB, 42 * MIB),
}
SIZE = 44 * MIB
TYPES = {
    1: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    2: "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    3: documented.BASIC,
    4: "de94bba4-06d1-4d40-a16a-bfd50179d6ac",
}
CLUSTER = 4096
BOTH = (C, RECOVERY)
GOOD = [*START, *opening(BOTH), *prepared(BOTH), *made(BOTH), *COMPLETE, *DELETE, *RELEASE]
GIVEN_UP = [*START, *opening(BOTH), *prepared(BOTH), *made(BOTH), *ABORT, *DELETE, *RELEASE]


@dataclass(frozen=True, kw_only=True)
class Built:
    """Volumes as their own tools made them, and what those say is in use."""

    disk: bytes
    windows: Path
    hashes: dict[str, str]
    used: ExtentSet
    boot_used: ExtentSet
    log: Extent


def bits_of(used: ExtentSet, count: int) -> bytes:
    """A map as Windows gives it, of what another tool calls used."""
    bits = bytearray((count + 7) // 8)
    for extent in used:
        for cluster in range(extent.start // CLUSTER, min(-(-extent.end // CLUSTER), count)):
            bits[cluster // 8] |= 1 << cluster % 8
    return bytes(bits)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("windows")
    windows, recovery, boot = folder / "c.img", folder / "recovery.img", folder / "efi.img"
    volumes.make_ntfs(windows, size=PLACES[3].size, label="Windows")
    with volumes.mounted_ntfs(windows, folder / "mount") as root:
        volumes.fill_tree(root, seed=3, size=5 * MIB)
        (root / "pagefile.sys").write_bytes(b"paged out" * 100_000)
        hashes = volumes.hash_tree(root)
    volumes.make_ntfs(recovery, size=PLACES[4].size, label="Recovery")
    volumes.make_fat(boot, size=PLACES[1].size, bits=16, cluster_size=512)
    (folder / "bootmgfw.efi").write_bytes(random.Random(5).randbytes(200_000))
    run_tool("mcopy", "-i", str(boot), str(folder / "bootmgfw.efi"), "::")
    boot_used = volumes.map_fat_with_sleuthkit(boot, sector_size=512)
    used = volumes.map_with_partclone("ntfs", windows)
    arguments = [part for n, p in PLACES.items() for part in (f"-n{n}:{p.start // 512}:{p.end // 512 - 1}",)]
    types = [f"-t{number}:{kind}" for number, kind in TYPES.items()]
    disk = bytearray(make_disk(SIZE, sgdisk=["-a1", *arguments, *types]))
    for number, image in ((1, boot), (3, windows), (4, recovery)):
        disk[PLACES[number].start : PLACES[number].end] = image.read_bytes()
    disk[PLACES[2].start : PLACES[2].start + 9] = b"reserved!"
    disk[600_000:600_008] = b"boot gap"
    log = volumes.place_of(MemoryDisk(windows.read_bytes()), LOG_INDEX)
    return Built(disk=bytes(disk), windows=windows, hashes=hashes, used=used, boot_used=boot_used, log=log)


def use_log(volume: memoryview, log: Extent) -> None:
    """The journal as a Windows that has the volume mounted leaves it."""
    page = volumes.restart_page(in_use=0, flags=0, version=(2, 0), log_size=log.size)
    for number in range(2):
        volume[log.start + number * 4096 : log.start + (number + 1) * 4096] = page


def machine(built: Built, lines: Sequence[Line] = GOOD) -> WindowsMachine:
    """Disk 0 of a running Windows: C: and Recovery are NTFS in use, the boot files partition has no letter."""
    disk = bytearray(built.disk)
    entries = [documented.gpt_entry(n, p.start, p.size, TYPES[n], "") for n, p in PLACES.items()]
    counts = {number: PLACES[number].size // CLUSTER - 1 for number in (3, 4)}
    recovery = MemoryDisk(disk[PLACES[4].start : PLACES[4].end])
    found = [
        MachineVolume(name=ESP, number=1),
        MachineVolume(
            name=C, number=3, paths=("C:\\",), cluster_size=CLUSTER, cluster_count=counts[3],
            bits=bits_of(built.used, counts[3]),
        ),
        MachineVolume(
            name=RECOVERY, number=4, cluster_size=CLUSTER, cluster_count=counts[4],
            bits=bits_of(NtfsFilesystem().used_map(recovery).extents, counts[4]),
        ),
    ]  # fmt: skip
    it = WindowsMachine(disk, entries, PLACES, found, lines)
    use_log(it.view_of(found[1]), built.log)
    return it


def live(it: WindowsMachine, name: str) -> memoryview:
    return it.view_of(next(volume for volume in it.volumes if volume.name == name))


def open_it(it: WindowsMachine, name: str = "0") -> WindowsSource:
    return open_windows_source(it, name, clock=FakeClock())


def holding(
    source: WindowsSource, *, sink: EventSink | None = None, all_sectors: bool = False
) -> AbstractContextManager[HeldDisks]:
    selection = Selection(all_sectors=all_sectors)
    return hold([source], selection, sink=sink or NoEvents(), check=lambda: None)


def save(
    it: WindowsMachine, repository: Repository, *names: str, context: JobContext | None = None,
    selection: Selection | None = None,
) -> tuple[BackupPlan, BackupResult]:  # fmt: skip
    """``backup`` without the command line."""
    sources = [open_it(it, name) for name in names or ("0",)]
    try:
        options = BackupOptions(selection=selection or Selection())
        plan = plan_backup(repository, sources, options, ANNA)
        return plan, apply_backup(repository, sources, plan, context or job_context())
    finally:
        for source in sources:
            source.__exit__(None, None, None)
        assert it.open_paths == []


def put_back(repository: Repository, result: BackupResult, folder: Path) -> bytes:
    target = folder / "target"
    target.write_bytes(b"\xee" * result.manifest.disks[0].size)
    restore(repository, result.manifest, target)
    return target.read_bytes()


def parts_of(result: BackupResult) -> dict[int, StoredPartition]:
    return {part.number: part for part in result.manifest.disks[0].partitions}


def all_notices(result: BackupResult) -> list[str]:
    manifest = result.manifest
    inner = [notice.code for disk in manifest.disks for part in disk.partitions for notice in part.notices]
    return [*(notice.code for notice in manifest.notices), *inner]


def nothing_made(repository: Repository) -> bool:
    return repository.images().images == ()


def same(found: bytes, expected: bytes, extents: ExtentSet) -> bool:
    return all(found[e.start : e.end] == expected[e.start : e.end] for e in extents)


@pytest.fixture
def repository() -> Repository:
    return make_repository(MemoryStore())


def test_a_windows_in_use_comes_back_as_its_shadow(built: Built, repository: Repository, tmp_path: Path) -> None:
    it = machine(built)
    free = built.used.complement(Extent(0, PLACES[3].size - 512)).clipped(Extent(CLUSTER, PLACES[3].size - CLUSTER))
    new, other = (Extent(e.start, e.start + CLUSTER) for e in list(free)[:2])
    live(it, C)[new.start : new.end] = b"N" * CLUSTER  # allocated in the journal only: NTFS knows, the disk does not
    live(it, C)[other.start : other.end] = b"F" * CLUSTER  # free by what everybody says
    volume = it.volumes[1]
    volume.bits = bits_of(built.used | ExtentSet.of(new), volume.cluster_count)
    shadow = bytes(live(it, C))

    def go_on() -> None:
        """Windows writes where it likes: into the file table, and into files."""
        table = volumes.place_of(MemoryDisk(built.windows.read_bytes()), 0)
        live(it, C)[table.start : table.start + 64 * CLUSTER] = b"\x77" * (64 * CLUSTER)
        live(it, C)[20 * MIB : 21 * MIB] = b"\x78" * MIB
        live(it, C)[:512] = b"\x79" * 512

    it.on_shadow = go_on
    with it.transcript:
        plan, result = save(it, repository)
    assert result.is_complete
    assert verify(repository, result.manifest).findings == ()
    found = parts_of(result)
    ways = {number: (part.consistency, part.map) for number, part in found.items()}
    assert ways == {
        1: ("frozen", "used"), 2: ("offline", "raw"), 3: ("snapshot", "used"), 4: ("snapshot", "used"),
    }  # fmt: skip
    back = put_back(repository, result, tmp_path)
    windows = back[PLACES[3].start : PLACES[3].end]
    paged = ExtentSet.from_extents(Extent(*pair) for pair in found[3].excluded)
    assert [(file.path, file.kind) for file in found[3].left_out] == [("/pagefile.sys", "paging")]
    assert paged.size >= 900_000
    assert same(windows, shadow, (built.used | ExtentSet.of(new)) - paged)
    assert windows[new.start : new.end] == b"N" * CLUSTER
    assert windows[other.start : other.end] != b"F" * CLUSTER
    assert windows[-512:] == shadow[:512]  # the copy of the boot sector, outside of the file system
    assert not same(windows, bytes(live(it, C)), built.used)
    assert built.boot_used.size > 200_000
    assert same(back, bytes(it.disk), built.boot_used.shifted(PLACES[1].start))
    for place in (PLACES[2], Extent(0, MIB), Extent(42 * MIB, SIZE)):
        assert back[place.start : place.end] == it.disk[place.start : place.end], place
    assert "in-use" in {notice.code for notice in plan.notices}
    assert {"shadow", "agreed-copy"} <= set(all_notices(result))
    assert_files(windows, built, tmp_path)


def assert_files(windows: bytes, built: Built, folder: Path) -> None:
    """Every file is there, as ntfs-3g reads it; it wants the journal of a volume that was closed."""
    image = folder / "back.img"
    closed = bytearray(windows)
    closed[built.log.start : built.log.start + 8192] = b"\xff" * 8192
    image.write_bytes(closed)
    with volumes.mounted_ntfs(image, folder / "back") as root:
        found = volumes.hash_tree(root)
    assert {name: value for name, value in found.items() if name != "pagefile.sys"} == {
        name: value for name, value in built.hashes.items() if name != "pagefile.sys"
    }
    assert len(found) == len(built.hashes) > 10


def test_an_mbr_disk_with_a_logical_drive_comes_back(built: Built, repository: Repository, tmp_path: Path) -> None:
    """Windows counts logical drives from 1, Linux from 5: they are the same by where they lie."""
    ntfs, sectors = built.disk[PLACES[4].start : PLACES[4].end], PLACES[4].size // 512
    script = f"label: dos\n2048,{sectors},7\n26624,30720,5\n28672,{sectors},7\n"
    disk = bytearray(make_disk(30 * MIB, sfdisk=script))
    places = {number: Extent(start * 512, (start + sectors) * 512) for number, start in ((1, 2048), (2, 28672))}
    for place in places.values():
        disk[place.start : place.end] = ntfs
    entries = [
        documented.mbr_entry(1, places[1].start, places[1].size, 7, active=True),
        documented.mbr_entry(0, 26624 * 512, 30720 * 512, 5),
        *[documented.mbr_entry(0, 0, 0, 0)] * 2,
        documented.mbr_entry(2, places[2].start, places[2].size, 7),
        *[documented.mbr_entry(0, 0, 0, 0)] * 3,
    ]
    count = PLACES[4].size // CLUSTER - 1
    bits = bits_of(NtfsFilesystem().used_map(MemoryDisk(ntfs)).extents, count)
    found = [
        MachineVolume(name=name, number=number, paths=(path,), cluster_size=CLUSTER, cluster_count=count, bits=bits)
        for number, (name, path) in enumerate(((C, "C:\\"), (D, "D:\\")), 1)
    ]
    it = WindowsMachine(disk, entries, places, found, GOOD)
    it.is_mbr = True
    before = bytes(disk)
    it.on_shadow = lambda: live(it, D).__setitem__(slice(0, MIB), b"\x70" * MIB)
    with it.transcript:
        _, result = save(it, repository)
    numbers = {number: part.consistency for number, part in parts_of(result).items()}
    assert numbers == {1: "snapshot", 5: "snapshot"}
    back = put_back(repository, result, tmp_path)
    used = NtfsFilesystem().used_map(MemoryDisk(ntfs)).extents
    assert same(back, before, used.shifted(places[1].start) | used.shifted(places[2].start))
    assert back[:MIB] == before[:MIB]


@pytest.mark.parametrize("name", ["C:", "c:\\", r"\\.\C:", C, C.removesuffix("\\").upper()])
def test_a_drive_is_a_source_by_itself(built: Built, repository: Repository, tmp_path: Path, name: str) -> None:
    it = machine(built, [*START, *opening((C,)), *prepared((C,)), *made((C,)), *COMPLETE, *DELETE, *RELEASE])
    shadow = bytes(live(it, C))
    it.on_shadow = lambda: live(it, C).__setitem__(slice(0, MIB), b"\x70" * MIB)
    with it.transcript:
        _, result = save(it, repository, name)
    disk = result.manifest.disks[0]
    assert (disk.path, disk.serial, disk.size, disk.scheme) == ("C:", "SN 1", PLACES[3].size, "none")
    assert [(part.consistency, part.map) for part in disk.partitions] == [("snapshot", "used")]
    back = put_back(repository, result, tmp_path)
    paged = ExtentSet.from_extents(Extent(*pair) for pair in disk.partitions[0].excluded)
    assert same(back, shadow, built.used - paged)


def test_looking_makes_no_shadow(built: Built, repository: Repository) -> None:
    it = machine(built, [])
    with open_it(it) as source:
        plan = plan_backup(repository, [source], BackupOptions(), ANNA)
        assert not source.stayed_still()  # whoever saves it as it lies there has saved it torn
    assert (it.pauses, it.open_paths) == ([], [])
    assert plan.disks[0].facts.model == "Made-up SSD"
    expected = sum(volume.kept.size for volume in plan.disks[0].volumes)
    assert expected < SIZE // 2  # the estimate uses what NTFS says of the volume, whose journal is in use
    assert [notice.code for notice in plan.notices] == ["in-use"]
    assert "C:, partition 4" in plan.notices[0].message


@pytest.mark.parametrize("failure", [None, "stop", "continue"])
def test_programs_run_around_the_making_of_the_shadow(
    built: Built, repository: Repository, tmp_path: Path, failure: Literal["stop", "continue"] | None
) -> None:
    log = tmp_path / "log"
    lines = [*START, *opening((C,)), *prepared((C,)), *made((C,)), *COMPLETE, *DELETE, *RELEASE]
    it = machine(built, lines if failure != "stop" else [])

    def note() -> None:
        log.write_text(log.read_text() + "shadow\n")

    it.on_shadow = note
    before = ("sh", "-c", f"echo before >> {log}; exit {int(failure is not None)}")
    hooks = Hooks(before=before, after=("sh", "-c", f"echo after >> {log}"), on_failure=failure or "stop")
    with open_it(it, "C:") as source, it.transcript:
        plan = plan_backup(repository, [source], BackupOptions(hooks=hooks), ANNA)
        error = raised_by(lambda: apply_backup(repository, [source], plan, job_context()))
        assert source.stayed_still() == (failure != "stop")
    assert log.read_text().split() == ["before", *(["shadow"] if failure != "stop" else []), "after"]
    assert nothing_made(repository) == isinstance(error, HookFailed) == (failure == "stop")
    codes_told = [notice.code for image in repository.images().images for notice in image.manifest.notices]
    assert ("hook-before-failed" in codes_told) == (failure == "continue")


def test_a_disk_of_a_running_windows_is_not_cloned(built: Built, tmp_path: Path) -> None:
    with open_it(machine(built, [])) as source, pytest.raises(SourceInUse, match="not be cloned"):
        plan_clone(source, str(tmp_path / "clone"), CloneOptions(selection=Selection()))


def test_all_sources_of_a_run_are_in_one_set(built: Built, repository: Repository) -> None:
    it = machine(built)
    with it.transcript:
        _, result = save(it, repository, "C:", "0")
    assert [disk.path for disk in result.manifest.disks] == ["C:", DISK]


def test_boot_files_that_change_are_read_until_they_settle(
    built: Built, repository: Repository, tmp_path: Path
) -> None:
    it = machine(built)
    written: list[int] = []

    def write() -> None:
        if len(written) < 2:
            written.append(1)
            live(it, ESP)[100:102] = b"%02d" % len(written)  # the boot code: it is always kept

    it.on_pause = write
    with it.transcript:
        _, result = save(it, repository)
    assert len(it.pauses) == 3
    back = put_back(repository, result, tmp_path)
    assert back[PLACES[1].start + 100 : PLACES[1].start + 102] == b"02"


def test_boot_files_that_never_settle_are_refused(built: Built, repository: Repository) -> None:
    it = machine(built, GIVEN_UP)
    it.on_pause = lambda: live(it, ESP).__setitem__(100, len(it.pauses))
    with it.transcript, pytest.raises(SourceInUse, match=r"partition 1 of .*no shadow.*changed in each of 6 passes"):
        save(it, repository)
    assert nothing_made(repository)
    assert it.shadows == {}


def test_boot_files_that_change_after_they_were_agreed_on_are_as_agreed(
    built: Built, repository: Repository, tmp_path: Path
) -> None:
    it = machine(built)
    before = bytes(live(it, ESP))

    def write(path: str) -> None:
        if it.pauses and path == documented.shadow_device(C):
            live(it, ESP)[:2048] = b"\x66" * 2048

    it.on_read = write
    with it.transcript:
        _, result = save(it, repository)
    assert bytes(live(it, ESP)) != before
    back = put_back(repository, result, tmp_path)
    assert back[PLACES[1].start : PLACES[1].start + 2048] == before[:2048]


@pytest.mark.parametrize("at", ["IsVolumeSupported", "DoSnapshotSet"])
def test_a_set_that_fails_leaves_no_image(built: Built, repository: Repository, at: str) -> None:
    if at == "DoSnapshotSet":
        failing = [*prepared(BOTH), method(at, hresult=0x80042314, numbers=[0]), *ABORT, *RELEASE]
        lines = [*START, *opening(BOTH), *failing]
    else:
        lines = [*START, *opening(()), method(at, documented.NOBODY, C, hresult=0x80042302, numbers=[0]), *RELEASE]
    it = machine(built, lines)
    with it.transcript, pytest.raises(SnapshotFailed) as caught:
        save(it, repository)
    assert caught.value.hint
    assert nothing_made(repository)


def without_room() -> list[Line]:
    """The set of both fails for want of room; that of C: alone does not."""
    first = [*opening(BOTH), *prepared(BOTH), method("DoSnapshotSet", numbers=[0x2004])]
    first.append(method("IVssAsync::Wait", 500, pointer=0x2004, hresult=codes.VSS_E_INSUFFICIENT_STORAGE))
    first.append(method("IVssAsync::Release", pointer=0x2004))
    second = [*opening((C,)), *prepared((C,)), *made((C,)), *COMPLETE, *DELETE, *RELEASE]
    return [*START, *first, *ABORT, *RELEASE, *START, *second]


def test_a_recovery_partition_without_room_for_a_shadow_is_agreed_on(
    built: Built, repository: Repository, tmp_path: Path
) -> None:
    it = machine(built, without_room())
    log = volumes.place_of(MemoryDisk(bytes(live(it, RECOVERY))), LOG_INDEX)
    use_log(live(it, RECOVERY), log)
    with it.transcript:
        _, result = save(it, repository)
    found = parts_of(result)
    assert (found[3].consistency, found[4].consistency, found[4].map) == ("snapshot", "frozen", "raw")
    assert "no-room-for-shadow" in all_notices(result)
    back = put_back(repository, result, tmp_path)
    assert back[PLACES[4].start : PLACES[4].end] == it.disk[PLACES[4].start : PLACES[4].end]


def test_a_drive_without_room_for_a_shadow_is_refused(built: Built, repository: Repository) -> None:
    failing = [method("DoSnapshotSet", hresult=codes.VSS_E_INSUFFICIENT_STORAGE, numbers=[0]), *ABORT, *RELEASE]
    it = machine(built, [*START, *opening((C,)), *prepared((C,)), *failing])
    with it.transcript, pytest.raises(SnapshotFailed, match="no room"):
        save(it, repository, "C:")
    assert nothing_made(repository)


def test_a_volume_that_vss_does_not_know_is_agreed_on(built: Built, repository: Repository) -> None:
    lines = [*START, *opening(BOTH, unsupported=(RECOVERY,)), *prepared((C,)), *made((C,)), *COMPLETE, *DELETE]
    it = machine(built, [*lines, *RELEASE])
    with it.transcript:
        _, result = save(it, repository)
    assert parts_of(result)[4].consistency == "frozen"
    assert "volume-not-shadowed" in all_notices(result)


@pytest.mark.parametrize("reads", [0, 1, 12])
def test_a_shadow_that_vanishes_leaves_no_image(built: Built, repository: Repository, reads: int) -> None:
    it = machine(built, GIVEN_UP)
    left = [reads]

    def vanish(path: str) -> None:
        if it.pauses and path == documented.shadow_device(C):
            left[0] -= 1
            if left[0] < 0:
                it.shadows.pop(path, None)

    it.on_read = vanish
    with it.transcript, pytest.raises((DeviceError, ExceptionGroup)) as caught:
        save(it, repository)
    assert "went away" in str(leaf(caught.value))
    assert nothing_made(repository)


def leaf(error: BaseException) -> BaseException:
    return leaf(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def test_a_shadow_that_has_vanished_at_the_end_leaves_no_image(built: Built) -> None:
    it = machine(built, GIVEN_UP)
    with it.transcript, open_it(it) as source:
        held = holding(source)
        assert held.__enter__().disks[0].volumes[2].consistency == "snapshot"
        it.shadows.clear()
        with pytest.raises(DeviceError, match="went away"):
            held.__exit__(None, None, None)
    assert it.open_paths == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("stopped"), MemoryError()], ids=repr)
def test_a_copy_that_is_interrupted_deletes_the_shadows(built: Built, error: BaseException) -> None:
    it = machine(built, GIVEN_UP)
    with it.transcript, open_it(it) as source:
        held = holding(source)
        held.__enter__()
        assert len(it.shadows) == 2
        assert not held.__exit__(type(error), error, None)  # it goes on
    assert it.shadows == {}


def test_ctrl_c_is_heard_while_it_is_waited(built: Built, repository: Repository) -> None:
    it = machine(built, GIVEN_UP)
    context = job_context()
    it.on_shadow = context.cancel.cancel
    with it.transcript, pytest.raises(Cancelled):
        save(it, repository, context=context)
    assert nothing_made(repository)
    assert it.pauses == []


def test_ctrl_c_is_heard_between_two_passes(built: Built, repository: Repository) -> None:
    it = machine(built, GIVEN_UP)
    context = job_context()

    def write() -> None:
        context.cancel.cancel()
        live(it, ESP)[100] = len(it.pauses)

    it.on_pause = write
    with it.transcript, pytest.raises(Cancelled):
        save(it, repository, context=context)
    assert it.pauses == [PAUSE_S]


def test_files_that_a_person_excludes_are_looked_for_in_the_shadow(built: Built, repository: Repository) -> None:
    it = machine(built)
    wanted = Selection(exclude=(parse_pattern("/folder 1/"),))
    with it.transcript:
        plan, result = save(it, repository, selection=wanted)
    assert (plan.temporary, [file.kind for v in plan.disks[0].volumes for file in v.left_out]) == ((), ["paging"])
    excluded = [file.path for file in parts_of(result)[3].left_out if file.kind == "excluded"]
    assert {path.split("/")[1] for path in excluded} == {"folder 1"}
    assert len(excluded) > 5


def test_a_table_that_is_written_meanwhile_leaves_no_image(built: Built, repository: Repository) -> None:
    it = machine(built, GIVEN_UP)
    it.on_read = lambda path: it.disk.__setitem__(446, 0x5A) if it.pauses and "ShadowCopy" in path else None
    with it.transcript, pytest.raises(Disturbed, match="partition table"):
        save(it, repository)
    assert nothing_made(repository)


def test_partitions_that_changed_since_the_plan_are_refused(built: Built) -> None:
    it = machine(built, [])
    with open_it(it) as source:
        it.volumes.pop()
        with pytest.raises(Disturbed, match="not what they were"):
            holding(source).__enter__()


def test_a_partition_that_only_windows_knows_is_refused(built: Built) -> None:
    it = machine(built, GIVEN_UP)
    broken = bytearray(it.disk)
    broken[512:520] = broken[-512:-504] = b"NO TABLE"
    it.disk[:] = broken
    with it.transcript, open_it(it) as source, pytest.raises(MachineRefusal, match="a partition for Windows, and none"):
        holding(source).__enter__()


def test_a_partition_that_windows_does_not_know_is_refused(built: Built) -> None:
    alone = (C,)
    it = machine(built, [*START, *opening(alone), *prepared(alone), *made(alone), *ABORT, *DELETE, *RELEASE])
    it.volumes.pop()
    it.entries.pop()
    with it.transcript, open_it(it) as source, pytest.raises(MachineRefusal, match="and none for Windows"):
        holding(source).__enter__()


def test_a_disk_without_a_table_is_one_volume_of_nobody(built: Built, repository: Repository) -> None:
    it = machine(built, [])
    it.disk[:] = random.Random(4).randbytes(SIZE)
    it.volumes.clear()
    it.entries.clear()
    _, result = save(it, repository)
    assert [(part.size, part.consistency) for part in parts_of(result).values()] == [(SIZE, "offline")]


def test_an_open_bitlocker_drive_is_kept_as_clear_text(built: Built, repository: Repository, tmp_path: Path) -> None:
    it = machine(built)
    clear = bytearray(live(it, C))
    it.volumes[1].clear_text = clear
    place = PLACES[3]
    it.disk[place.start : place.end] = (
        b"\xeb\x58\x90-FVE-FS-".ljust(510, b"\x11") + b"\x55\xaa" + b"\x13" * (place.size - 512)
    )
    with it.transcript:
        _, result = save(it, repository)
    assert "bitlocker-clear-text" in all_notices(result)
    assert parts_of(result)[3].filesystem == "ntfs"
    back = put_back(repository, result, tmp_path)
    paged = ExtentSet.from_extents(Extent(*pair) for pair in parts_of(result)[3].excluded)
    assert same(back[place.start : place.end], bytes(clear), built.used - paged)


@pytest.mark.parametrize("error", [0, codes.ERROR_CRC, 0x80310000])
def test_a_locked_bitlocker_drive_is_kept_as_it_lies_there(
    built: Built, repository: Repository, tmp_path: Path, error: int
) -> None:
    alone = (RECOVERY,)
    it = machine(built, [*START, *opening(alone), *prepared(alone), *made(alone), *COMPLETE, *DELETE, *RELEASE])
    place = PLACES[3]
    it.disk[place.start : place.start + 512] = b"\xeb\x58\x90-FVE-FS-".ljust(510, b"\x11") + b"\x55\xaa"
    it.volumes[1].read_error = error
    with it.transcript:
        _, result = save(it, repository)
    assert "bitlocker-locked" in all_notices(result)
    assert (parts_of(result)[3].consistency, parts_of(result)[3].map) == ("offline", "raw")
    back = put_back(repository, result, tmp_path)
    assert back[place.start : place.end] == it.disk[place.start : place.end]


def test_a_volume_that_cannot_be_read_is_refused(built: Built) -> None:
    it = machine(built, [])
    it.volumes[1].read_error = codes.ERROR_CRC
    with pytest.raises(SourceInUse, match="C: has a volume that cannot be read"):
        open_it(it)
    assert it.open_paths == []


def test_without_what_ntfs_says_a_shadow_is_kept_whole(built: Built, repository: Repository, tmp_path: Path) -> None:
    it = machine(built)
    it.volumes[1].bits = None
    shadow = bytes(live(it, C))
    with it.transcript:
        _, result = save(it, repository)
    assert parts_of(result)[3].map == "raw"
    assert {"shadow-map-unknown", "ntfs-log-not-clean"} <= set(all_notices(result))
    assert put_back(repository, result, tmp_path)[PLACES[3].start : PLACES[3].end] == shadow


def test_what_programs_keep_out_of_shadows_is_told(built: Built, repository: Repository) -> None:
    it = machine(built)
    it.registry = {"OutlookOST": (r"$UserProfile$\Outlook\*.ost",), "Many": tuple(f"\\{n}" for n in range(9))}
    with it.transcript:
        _, result = save(it, repository)
    told = next(notice for notice in result.manifest.notices if notice.code == "not-in-shadow")
    assert "OutlookOST" in told.message
    assert told.message.endswith(", and 2 more")


def test_a_second_backup_reads_on_from_the_first(built: Built, repository: Repository) -> None:
    first = save(machine(built), repository)[1]
    second = save(machine(built), repository)[1]
    assert (second.manifest.kind, second.manifest.baseline) == ("incremental", first.manifest.image)
    assert second.manifest.bytes_added < first.manifest.bytes_added // 10


def elsewhere(it: WindowsMachine, answer: object, kind: tuple[int, int] | None = None) -> None:
    it.elsewhere[documented.OPTICAL] = answer
    if kind is not None:
        it.device_numbers[documented.OPTICAL] = kind


@pytest.mark.parametrize("kind", [(2, 0), (codes.FILE_DEVICE_DISK, 5)])
def test_optical_drives_and_other_disks_do_no_harm(built: Built, kind: tuple[int, int]) -> None:
    it = machine(built, [])
    it.volumes.pop()
    elsewhere(it, None, kind)
    with open_it(it) as source:
        assert len(source.parts) == 4


@pytest.mark.parametrize("kind", [None, (codes.FILE_DEVICE_DISK, 0)])
def test_a_volume_that_does_not_say_where_it_lies_is_refused(built: Built, kind: tuple[int, int] | None) -> None:
    it = machine(built, [])
    elsewhere(it, None, kind)
    with open_it(it), open_it(it, "C:"):  # every partition is accounted for; the reserved one is never a volume
        it.volumes.pop()
    with open_it(it, "C:"), pytest.raises(SourceInUse, match="does not say where it lies"):
        open_it(it)


def test_a_spanned_volume_is_refused(built: Built) -> None:
    it = machine(built, [])
    elsewhere(it, documented.extents((0, 7 * MIB, MIB), (1, 0, MIB)))
    with pytest.raises(SourceInUse, match="no single partition"):
        open_it(it)
    with pytest.raises(SourceInUse, match="spanned or mirrored"):
        open_it(it, documented.OPTICAL)


@pytest.mark.parametrize("kind", ["e75caf8f-f680-4cee-afa3-b001e56efc2d", "af9b60a0-1431-4f62-bc68-3311714a69ad"])
def test_storage_pools_and_dynamic_disks_are_refused(built: Built, kind: str) -> None:
    it = machine(built, [])
    it.entries[1] = documented.gpt_entry(2, PLACES[2].start, PLACES[2].size, kind, "")
    with pytest.raises(SourceInUse, match="lie across disks"):
        open_it(it)


def test_a_large_volume_without_shadows_is_refused(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.capture.windows.holding.AGREED_SIZE_MAX", 3 * MIB)
    it = machine(built, GIVEN_UP)
    with it.transcript, open_it(it) as source, pytest.raises(SourceInUse, match="cannot be read twice in memory"):
        holding(source).__enter__()


def test_a_file_system_that_is_not_of_windows_is_nobodys(built: Built, tmp_path: Path, repository: Repository) -> None:
    alone = (C,)
    it = machine(built, [*START, *opening(alone), *prepared(alone), *made(alone), *COMPLETE, *DELETE, *RELEASE])
    image = tmp_path / "ext.img"
    image.write_bytes(bytes(PLACES[4].size))
    run_tool("mkfs.ext4", "-q", str(image))
    it.disk[PLACES[4].start : PLACES[4].end] = image.read_bytes()
    it.volumes[2].cluster_size = 0
    with it.transcript:
        _, result = save(it, repository)
    assert (parts_of(result)[4].filesystem, parts_of(result)[4].consistency) == ("ext4", "offline")


def test_a_volume_that_nobody_knows_may_be_in_use(built: Built, repository: Repository) -> None:
    alone = (C,)
    it = machine(built, [*START, *opening(alone), *prepared(alone), *made(alone), *COMPLETE, *DELETE, *RELEASE])
    it.disk[PLACES[4].start : PLACES[4].end] = random.Random(9).randbytes(PLACES[4].size)
    it.volumes[2].cluster_size = 0
    with it.transcript:
        _, result = save(it, repository)
    assert (parts_of(result)[4].consistency, parts_of(result)[4].map) == ("frozen", "raw")


def test_boot_files_without_a_volume_are_agreed_on_too(built: Built, repository: Repository) -> None:
    it = machine(built)
    del it.volumes[0]
    with it.transcript:
        _, result = save(it, repository)
    assert parts_of(result)[1].consistency == "frozen"


def test_names_that_mean_nothing_are_refused(built: Built) -> None:
    it = machine(built, [])
    for name in ("1", "D:", "disk.img", "", r"\\.\PhysicalDrive7", "\\"):
        with pytest.raises(UsageError, match="there is no") as caught:
            open_it(it, name)
        assert "PhysicalDrive0" in caught.value.hint
    for name in (DISK, DISK.upper(), "0", r"\\?\PhysicalDrive0"):
        with open_it(it, name) as source:
            assert source.facts.path == DISK


def test_what_is_not_possible_on_windows_is_said(built: Built) -> None:
    it = machine(built, [])
    with pytest.raises(UsageError, match="allow-torn"):
        open_windows_source(it, "0", allow_torn=True)
    with pytest.raises(SourceInUse, match="cannot be held still for this"):
        open_windows_source(it, "0", may_be_live=False)


@pytest.mark.parametrize(
    ("folder", "refused"),
    [("C:\\backup", True), ("c:\\", True), ("E:\\backup", False), ("\\\\nas\\share", False), ("C:\\usb\\b", False)],
)
def test_a_repository_on_what_is_saved_is_refused(
    built: Built, monkeypatch: pytest.MonkeyPatch, folder: str, *, refused: bool
) -> None:
    monkeypatch.setattr("os.path.realpath", lambda path: path)
    it = machine(built, [])
    it.volumes[2].paths = ("C:\\usb\\",)
    with open_it(it, "C:") as source:
        if refused:
            with pytest.raises(SourceInUse, match="which is to be saved"):
                require_elsewhere(folder, [source])
        else:
            require_elsewhere(folder, [source])


def test_open_source_asks_windows_where_that_is_what_it_runs_on(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    it = machine(built, [])
    monkeypatch.setattr("stillframe.capture.opening.is_windows", lambda: True)
    monkeypatch.setattr("stillframe.capture.opening.system_calls", lambda: it)
    with open_source("C:") as source:
        assert source.facts.path == "C:"
        assert source.facts.parent == DISK


def test_phases_are_told(built: Built) -> None:
    it, events = machine(built), RecordedEvents()
    with it.transcript, open_it(it) as source, holding(source, sink=events, all_sectors=True) as held:
        assert held.disks[0].bytes_used == SIZE
    assert [str(event) for event in events.events] == ["PhaseStarted(name='holding still', bytes_total=0)"]


def shadow_of(built: Built) -> bytearray:
    shadow = bytearray(built.windows.read_bytes())
    use_log(memoryview(shadow), built.log)
    return shadow


def test_the_map_of_a_shadow_is_never_less_than_any_of_its_three_sources(built: Built) -> None:
    reader = MemoryDisk(shadow_of(built))
    assert NtfsFilesystem().used_map(reader).kind == "raw"
    known = NtfsFilesystem().used_map(MemoryDisk(built.windows.read_bytes())).extents
    free = next(iter(known.complement(Extent(0, PLACES[3].size))))
    extra = ExtentSet.of(Extent(free.start, free.start + CLUSTER))
    for said in (built.used, extra, ExtentSet.of(Extent(0, CLUSTER))):
        clusters = said.clipped(Extent(0, PLACES[3].size - CLUSTER))
        found = read_shadow_map(reader, clusters)
        assert found.kind == "used"
        assert found.extents == known | clusters


def test_a_file_that_the_bitmap_of_a_shadow_calls_free_is_kept(built: Built) -> None:
    shadow = shadow_of(built)
    table = volumes.open_table(MemoryDisk(bytes(shadow)))
    files = scan_clusters(MemoryDisk(bytes(shadow)), table)
    bitmap = volumes.place_of(MemoryDisk(bytes(shadow)), BITMAP_INDEX)
    last = max(extent.end for extent in files)
    shadow[bitmap.start + (last // CLUSTER - 1) // 8] = 0
    found = read_shadow_map(MemoryDisk(shadow), ExtentSet.of(Extent(0, CLUSTER)))
    assert (files - found.extents).size == 0


def test_what_the_bitmap_of_a_shadow_calls_used_is_kept_though_no_file_has_it(built: Built) -> None:
    shadow = shadow_of(built)
    bitmap = volumes.place_of(MemoryDisk(bytes(shadow)), BITMAP_INDEX)
    free = next(iter(built.used.complement(Extent(0, PLACES[3].size - MIB)))).start // CLUSTER
    shadow[bitmap.start + free // 8] |= 1 << free % 8
    found = read_shadow_map(MemoryDisk(shadow), ExtentSet.of(Extent(0, CLUSTER)))
    assert found.extents.contains(Extent(free * CLUSTER, (free + 1) * CLUSTER))


@pytest.mark.parametrize("said", [ExtentSet.empty(), ExtentSet.of(Extent(0, PLACES[3].size))])
def test_a_map_of_another_volume_is_refused(built: Built, said: ExtentSet) -> None:
    with pytest.raises(DiskFormatError, match="not of this volume"):
        read_shadow_map(MemoryDisk(shadow_of(built)), said)


def test_a_dirty_shadow_is_kept_whole(built: Built, tmp_path: Path) -> None:
    image = tmp_path / "dirty.img"
    shutil.copy(built.windows, image)
    run_tool("ntfsfix", str(image), accept=(0, 1))  # it sets the flag that Windows shall look at the volume
    found = read_shadow_map(MemoryDisk(image.read_bytes()), ExtentSet.of(Extent(0, CLUSTER)))
    assert (found.kind, [notice.code for notice in found.notices]) == ("raw", ["ntfs-dirty"])


def raised_by(action: Callable[[], object]) -> StillframeError | None:
    try:
        action()
    except StillframeError as error:
        return error
    return None


def test_a_shadow_that_is_larger_than_its_partition_is_refused(built: Built) -> None:
    it = machine(built, GIVEN_UP)
    it.on_shadow = lambda: it.shadows.update({documented.shadow_device(C): bytes(PLACES[3].size + 512)})
    with it.transcript, open_it(it) as source:
        error = raised_by(holding(source).__enter__)
    assert isinstance(error, DeviceError)
    assert "its partition only" in error.message


def test_a_shadow_that_ends_before_its_partition_is_filled_from_the_disk(
    built: Built, repository: Repository, tmp_path: Path
) -> None:
    it = machine(built)
    shadow = bytes(live(it, C))
    it.on_shadow = lambda: it.shadows.update({documented.shadow_device(C): shadow[:-512]})
    with it.transcript:
        _, result = save(it, repository)
    assert put_back(repository, result, tmp_path)[PLACES[3].end - 512 : PLACES[3].end] == shadow[:512]
