"""Tables of the device mapper and of MD, as their documentation writes them, lead to the right bytes."""

from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.extents import Extent, ExtentSet
from stillframe.host import run as running
from stillframe.host.blocks import KernelPaths, read_block_tree
from stillframe.host.linux import DeviceNumber
from stillframe.host.live import tables
from stillframe.host.live.leaves import find_leaves, find_pieces
from stillframe.host.live.tables import parse_table

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512


def test_linear_and_crypt_tables() -> None:
    # Documentation/admin-guide/device-mapper: linear.rst, dm-crypt.rst; the key as 'dmsetup table' hides it
    (first, second) = parse_table("0 2048 linear 8:3 384\n2048 4096 linear 8:19 2048\n", name="vg-root")
    assert (first.device, first.start, first.lower, first.size) == ("8:3", 0, 384 * SECTOR, MIB)
    assert (second.device, second.start, second.lower, second.size) == ("8:19", MIB, MIB, 2 * MIB)
    line = "0 417792 crypt aes-xts-plain64 :64:logon:cryptsetup:1234-0 0 254:3 32768 2 allow_discards sector_size:4096"
    (crypt,) = parse_table(line, name="root_crypt")
    assert (crypt.device, crypt.start, crypt.lower, crypt.size) == ("254:3", 0, 16 * MIB, 417792 * SECTOR)


@pytest.mark.parametrize(
    "line",
    [
        "0 2048 thin 254:2 1",
        "0 2048 snapshot 254:3 254:4 P 8",
        "0 2048 raid raid5_ls 3 128 region_size 1024 3 254:1 254:2 254:3 254:4 254:5 254:6",
        "0 2048 crypt aes-xts-plain64 key 0 254:3 32768 1 integrity:28:aead",
        "0 2048 striped 2 128 8:1 0",
        "0 2048 striped 3 128 8:1 0 8:2 0 8:3 0",
        "0 2048 linear",
        "what is this",
    ],
)
def test_what_has_no_fixed_places_is_refused(line: str) -> None:
    with pytest.raises(MachineRefusal, match="vg-x"):
        parse_table(line, name="vg-x")


class MadeMachine:
    """A sysfs with disks, written by hand."""

    def __init__(self, root: Path) -> None:
        self.sys = root / "sys"
        self.kernel = KernelPaths(sys=str(self.sys), proc=str(root), dev=str(root / "dev"), udev=str(root))

    def write(self, path: str, text: str) -> None:
        file = self.sys / "block" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def disk(self, name: str, number: str, *, sectors: int, leaf: bool = True) -> None:
        self.write(f"{name}/dev", number)
        self.write(f"{name}/size", str(sectors))
        if leaf:
            (self.sys / "block" / name / "mq").mkdir(exist_ok=True)
            self.write(f"{name}/queue/iostats", "1")

    def partition(self, disk: str, number: int, device: str, *, start: int, sectors: int) -> None:
        folder = f"{disk}/{disk}{number}"
        for key, value in {"dev": device, "partition": number, "start": start, "size": sectors}.items():
            self.write(f"{folder}/{key}", str(value))

    def array(self, level: str, members: dict[str, tuple[str, int, int]], *, sectors: int, chunk: int = 0) -> None:
        self.disk("md0", "9:0", sectors=sectors, leaf=False)
        self.write("md0/md/level", level)
        self.write("md0/md/chunk_size", str(chunk))
        self.write("md0/md/raid_disks", str(len(members)))
        for slot, (name, (device, offset, kib)) in enumerate(members.items()):
            for key, value in {"offset": offset, "size": kib, "slot": slot, "state": "in_sync"}.items():
                self.write(f"md0/md/dev-{name}/{key}", str(value))
            self.write(f"md0/md/dev-{name}/block/dev", device)


@pytest.fixture
def machine(tmp_path: Path) -> MadeMachine:
    made = MadeMachine(tmp_path)
    for letter, number in (("a", 0), ("b", 16)):
        made.disk(f"sd{letter}", f"8:{number}", sectors=1 << 20)
        made.partition(f"sd{letter}", 1, f"8:{number + 1}", start=2048, sectors=(1 << 20) - 4096)
    return made


def test_a_volume_in_two_pieces_through_encryption(machine: MadeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {
        "crypt": "0 1011712 crypt aes-xts-plain64 :64:logon:x 0 8:1 32768",
        "vg-root": "0 8192 linear 254:0 2048\n8192 8192 linear 8:17 4096",
    }

    def run(arguments: list[str]) -> running.Finished:
        text = printed[arguments[-1]].encode()
        return running.Finished(arguments=tuple(arguments), exit_code=0, output=text, errors=b"")

    monkeypatch.setattr(tables, "run", run)
    for name, number, sectors, mapped in (("dm-0", "254:0", 1011712, "crypt"), ("dm-1", "254:1", 16384, "vg-root")):
        machine.disk(name, number, sectors=sectors, leaf=False)
        machine.write(f"{name}/dm/name", mapped)
    tree = read_block_tree(machine.kernel)
    on_a, on_b = find_leaves(tree, DeviceNumber(254, 1))
    assert (on_a.disk.number, on_b.disk.number) == (DeviceNumber(8, 0), DeviceNumber(8, 16))
    assert on_a.pieces.down(ExtentSet.of(Extent(0, KIB))) == ExtentSet.of(Extent(18 * MIB, 18 * MIB + KIB))
    # partition at 1 MiB, encrypted data 16 MiB into it, volume 1 MiB into that
    assert on_b.pieces.up(ExtentSet.of(Extent(3 * MIB, 4 * MIB))) == ExtentSet.of(Extent(4 * MIB, 5 * MIB))
    assert on_a.pieces.covered | on_b.pieces.covered == ExtentSet.of(Extent(0, 8 * MIB))
    (whole,) = find_pieces(tree, tree.nodes[DeviceNumber(254, 1)], tree.nodes[DeviceNumber(8, 0)])
    assert whole.token == on_a.pieces.token
    assert find_pieces(tree, tree.nodes[DeviceNumber(8, 1)], tree.nodes[DeviceNumber(8, 16)]) == ()


def test_a_mirror_lies_on_both_disks(machine: MadeMachine) -> None:
    machine.array("raid1", {"sda1": ("8:1", 2048, 4096), "sdb1": ("8:17", 4096, 4096)}, sectors=8192)
    on_a, on_b = find_leaves(read_block_tree(machine.kernel), DeviceNumber(9, 0))
    written = ExtentSet.of(Extent(KIB, 2 * KIB))
    assert on_a.pieces.down(written) == written.shifted(2 * MIB)
    assert on_b.pieces.down(written) == written.shifted(3 * MIB)


def test_stripes_alternate(machine: MadeMachine) -> None:
    machine.array("raid0", {"sda1": ("8:1", 2048, 4096), "sdb1": ("8:17", 2048, 4096)}, sectors=16384, chunk=64 * KIB)
    tree = read_block_tree(machine.kernel)
    on_a, on_b = find_leaves(tree, DeviceNumber(9, 0))
    stripe = Extent(128 * KIB, 192 * KIB)  # the second on the first disk
    assert on_a.pieces.down(ExtentSet.of(stripe)) == ExtentSet.of(Extent(2 * MIB + 64 * KIB, 2 * MIB + 128 * KIB))
    assert not len(on_b.pieces.down(ExtentSet.of(stripe)))
    assert on_a.pieces.covered | on_b.pieces.covered == ExtentSet.of(Extent(0, 8 * MIB))
    assert not len(on_a.pieces.covered & on_b.pieces.covered)


@pytest.mark.parametrize(
    ("level", "chunk", "kib"), [("raid5", 65536, 4096), ("raid10", 65536, 4096), ("raid0", 65536, 4000)]
)
def test_arrays_without_fixed_places_are_refused(machine: MadeMachine, level: str, chunk: int, kib: int) -> None:
    machine.array(level, {"sda1": ("8:1", 2048, 4096), "sdb1": ("8:17", 2048, kib)}, sectors=16384, chunk=chunk)
    with pytest.raises(MachineRefusal, match="md0"):
        find_leaves(read_block_tree(machine.kernel), DeviceNumber(9, 0))


def test_a_disk_without_counters_is_refused(machine: MadeMachine) -> None:
    machine.write("sda/queue/iostats", "0")
    with pytest.raises(MachineRefusal, match="sda1") as refused:
        find_leaves(read_block_tree(machine.kernel), DeviceNumber(8, 1))
    assert "iostats" in refused.value.hint
