"""Facts about disks from sysfs trees: one recorded (virtio, loop), others written by the kernel's documentation."""

import json
import os
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, UsageError
from stillframe.extents import Extent
from stillframe.host.blocks import KernelPaths, read_block_tree
from stillframe.host.disks import DiskFacts, describe, list_disks, parse_udev_properties
from stillframe.host.linux import DeviceNumber, parse_device_number

SAMPLES = Path(__file__).parent / "samples"

# Layouts of Documentation/ABI/{stable,testing}/sysfs-block, sysfs-class-nvme and the SCSI and MMC drivers' attributes.
WRITTEN = {
    "block/sda/dev": "8:0\n",
    "block/sda/size": "1953525168\n",
    "block/sda/ro": "0\n",
    "block/sda/removable": "0\n",
    "block/sda/diskseq": "3\n",
    "block/sda/queue/logical_block_size": "512\n",
    "block/sda/queue/physical_block_size": "4096\n",
    "block/sda/queue/rotational": "1\n",
    "block/sda/device/vendor": "ATA     \n",
    "block/sda/device/model": "WDC WD10EZEX-08W\n",
    "block/sda/device/wwid": "naa.50014ee2b8c1f3d4\n",
    "block/sda/device/vpd_pg80": "\0\x80\0\x14     WD-WCC6Y1234567",
    "block/sda/sda2/dev": "8:2\n",
    "block/sda/sda2/size": "1951473664\n",
    "block/sda/sda2/start": "2050048\n",
    "block/sda/sda2/partition": "2\n",
    "block/sda/sda2/ro": "0\n",
    "block/sda/sda2/holders/dm-0/x": "",
    "block/sda/sda10/dev": "8:10\n",
    "block/sda/sda10/size": "8\n",
    "block/sda/sda10/start": "64\n",
    "block/sda/sda10/partition": "10\n",
    "block/nvme0n1/dev": "259:0\n",
    "block/nvme0n1/size": "1000215216\n",
    "block/nvme0n1/removable": "0\n",
    "block/nvme0n1/wwid": "eui.0025385b21404321\n",
    "block/nvme0n1/queue/logical_block_size": "4096\n",
    "block/nvme0n1/queue/physical_block_size": "4096\n",
    "block/nvme0n1/queue/rotational": "0\n",
    "block/nvme0n1/device/model": "Samsung SSD 970 EVO Plus 500GB          \n",
    "block/nvme0n1/device/serial": "S4EVNX0N123456A     \n",
    "block/nvme0c0n1/dev": "259:9\n",
    "block/nvme0c0n1/size": "1000215216\n",
    "block/nvme0c0n1/hidden": "1\n",
    "block/sdb/dev": "8:16\n",
    "block/sdb/size": "60062500\n",
    "block/sdb/removable": "1\n",
    "block/sdb/device/vendor": "SanDisk \n",
    "block/sdb/device/model": "Ultra           \n",
    "block/sdc/dev": "8:32\n",
    "block/sdc/size": "0\n",
    "block/sdaa/dev": "65:160\n",
    "block/sdaa/size": "16\n",
    "block/mmcblk0/dev": "179:0\n",
    "block/mmcblk0/size": "62333952\n",
    "block/mmcblk0/device/name": "SC32G\n",
    "block/mmcblk0/device/serial": "0x1234abcd\n",
    "block/mmcblk0boot0/dev": "179:8\n",
    "block/mmcblk0boot0/size": "8192\n",
    "block/sr0/dev": "11:0\n",
    "block/sr0/size": "2097151\n",
    "block/dm-0/dev": "254:0\n",
    "block/dm-0/size": "1951465472\n",
    "block/dm-0/dm/name": "vg-root\n",
    "block/dm-0/dm/uuid": "LVM-abc\n",
    "block/dm-0/slaves/sda2/x": "",
    "block/cciss!c0d0/dev": "104:0\n",
    "block/cciss!c0d0/size": "2048\n",
    "block/broken/dev": "what\n",
    "block/broken/size": "2048\n",
    "block/torn/dev": "9:9\n",
}


def build_tree(folder: Path, files: dict[str, str]) -> KernelPaths:
    for name, text in files.items():
        path = folder / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    paths = KernelPaths(sys=f"{folder}/sys", proc=f"{folder}/proc", dev=f"{folder}/dev", udev=f"{folder}/udev")
    (folder / "udev").mkdir(exist_ok=True)
    return paths


def test_recorded_virtio_machine(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, json.loads((SAMPLES / "sysfs_virtio_and_loop.json").read_text()))
    (disk,) = list_disks(kernel=kernel)
    assert disk == DiskFacts(
        path=f"{tmp_path}/dev/vda",
        kind="disk",
        size=256 << 30,
        sector_size=512,
        physical_sector_size=4096,
        serial="DISK-0001",
        diskseq=9,
        rotational=True,
        is_hardware=True,
    )


def test_loops_only_when_asked_for(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, json.loads((SAMPLES / "sysfs_virtio_and_loop.json").read_text()))
    loop, _ = list_disks(loops=True, kernel=kernel)
    assert (loop.path, loop.size, loop.backing) == (f"{tmp_path}/dev/loop0", 64 << 20, "/srv/disk.img")
    assert not loop.is_hardware
    tree = read_block_tree(kernel)
    node = tree.named("loop0")
    assert node is not None
    places = [(part.number, part.partition, part.place) for part in tree.partitions_of(node)]
    mib = 1 << 20  # as sgdisk was told: 8 MiB from sector 2048, then 16 MiB
    assert places == [
        (DeviceNumber(259, 0), 1, Extent(mib, 9 * mib)),
        (DeviceNumber(259, 1), 2, Extent(9 * mib, 25 * mib)),
    ]


def test_which_disks_are_listed_and_in_which_order(tmp_path: Path) -> None:
    disks = list_disks(kernel=build_tree(tmp_path, WRITTEN))
    names = [disk.path.removeprefix(f"{tmp_path}/dev/") for disk in disks]
    assert names == ["cciss/c0d0", "mmcblk0", "nvme0n1", "sda", "sdb", "sdaa"]


def test_facts_by_kind_of_bus(tmp_path: Path) -> None:
    disks = {os.path.basename(d.path): d for d in list_disks(kernel=build_tree(tmp_path, WRITTEN))}
    sata, nvme, usb, card = disks["sda"], disks["nvme0n1"], disks["sdb"], disks["mmcblk0"]
    assert (sata.model, sata.serial, sata.wwn) == ("WDC WD10EZEX-08W", "WD-WCC6Y1234567", "naa.50014ee2b8c1f3d4")
    assert (sata.size, sata.sector_size, sata.physical_sector_size) == (1000204886016, 512, 4096)
    assert (sata.rotational, sata.removable, sata.diskseq) == (True, False, 3)
    assert (nvme.model, nvme.serial, nvme.sector_size) == ("Samsung SSD 970 EVO Plus 500GB", "S4EVNX0N123456A", 4096)
    assert (nvme.wwn, nvme.diskseq) == ("eui.0025385b21404321", None)
    assert (usb.model, usb.removable) == ("SanDisk Ultra", True)
    assert (card.model, card.serial) == ("SC32G", "0x1234abcd")


def test_usb_serial_is_at_the_plug(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, {"block/sdb/dev": "8:16", "block/sdb/size": "8"})
    plug = tmp_path / "sys/devices/usb1/1-1"
    (plug / "1-1:1.0/host6").mkdir(parents=True)
    (plug / "idVendor").write_text("0781\n")
    (plug / "serial").write_text("4C530001\n")
    (tmp_path / "sys/block/sdb/device").symlink_to(plug / "1-1:1.0/host6")
    assert list_disks(kernel=kernel)[0].serial == "4C530001"


def test_udev_fills_what_the_kernel_does_not_say(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, {"block/sdb/dev": "8:16", "block/sdb/size": "8"})
    (tmp_path / "udev/b8:16").write_text(
        "S:disk/by-id/x\nE:ID_MODEL=Old_Disk\nE:ID_SERIAL_SHORT=77\nE:ID_WWN=0x5\nE:bad\n"
    )
    (disk,) = list_disks(kernel=kernel)
    assert (disk.model, disk.serial, disk.wwn) == ("Old Disk", "77", "0x5")
    assert parse_udev_properties("E:A=b=c\nE:bad\nX:D=e") == {"A": "b=c"}


@pytest.mark.parametrize("page", ["", "\0", "\0\x80\0", "\0\x83\0\x04abcd", "\0\x80\xff\xffshort"])
def test_bad_serial_page_is_no_failure(tmp_path: Path, page: str) -> None:
    kernel = build_tree(tmp_path, {"block/sdb/dev": "8:16", "block/sdb/size": "8", "block/sdb/device/vpd_pg80": page})
    assert list_disks(kernel=kernel)[0].serial == ("short" if "short" in page else "")


def test_describe_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to(path)
    assert describe(str(tmp_path / "link")) == DiskFacts(path=str(path), kind="file", size=1000)


def test_describe_refuses_what_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a disk nor a disk file") as caught:
        describe(str(tmp_path))
    assert "stillframe disks" in caught.value.hint
    with pytest.raises(UsageError, match="there is no"):
        describe(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="neither"):
        describe("/dev/null")


@pytest.mark.root
def test_describe_refuses_a_left_over_node(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, WRITTEN)
    os.mknod(tmp_path / "gone", 0o60600, os.makedev(8, 250))
    with pytest.raises(MachineRefusal, match="the kernel does not know"):
        describe(str(tmp_path / "gone"), kernel=kernel)


@pytest.mark.root
def test_describe_partition_names_its_disk(tmp_path: Path) -> None:
    kernel = build_tree(tmp_path, WRITTEN)
    os.mknod(tmp_path / "some-name", 0o60600, os.makedev(8, 2))
    facts = describe(str(tmp_path / "some-name"), kernel=kernel)
    assert (facts.kind, facts.parent, facts.size) == ("partition", f"{tmp_path}/dev/sda", 1951473664 * 512)
    assert (facts.model, facts.serial, facts.diskseq) == ("WDC WD10EZEX-08W", "WD-WCC6Y1234567", 3)


def test_partitions_come_by_number(tmp_path: Path) -> None:
    tree = read_block_tree(build_tree(tmp_path, WRITTEN))
    disk = tree.named("sda")
    assert disk is not None
    assert [node.name for node in tree.partitions_of(disk)] == ["sda2", "sda10"]
    assert tree.named("torn") is None


@pytest.mark.parametrize("text", ["", ":", "8", "8:", ":1", "a:b", "8:-1", "8:1:2"])
def test_no_device_number(text: str) -> None:
    assert parse_device_number(text) is None
