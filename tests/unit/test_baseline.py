"""Which earlier image a backup is compared with, and whose chunks it shares."""

from dataclasses import replace

from stillframe.block import MemoryDisk
from stillframe.capture import CapturedDisk, Selection, capture_disk
from stillframe.host.disks import DiskFacts
from stillframe.jobs.saving.baseline import choose_baseline
from stillframe.repo.records import MachineName, Manifest
from stillframe.testing.sample_repository import sample_disk, sample_manifest

HERE = "aa" * 16
ELSEWHERE = "bb" * 16


def disk(*, path: str = "/dev/sda", serial: str = "") -> CapturedDisk:
    facts = DiskFacts(path=path, kind="disk", size=1 << 20, serial=serial)
    return capture_disk(MemoryDisk(bytes(1 << 20)), facts, Selection())


def image(number: int, *, machine: str = HERE, path: str = "/dev/sda", serial: str = "", name: str = "") -> Manifest:
    return sample_manifest(
        image=f"{number:032x}", sequence=number, created=f"2026-03-{number:02d}T00:00:00Z", name=name, kind="full",
        machine=MachineName(id=machine, name="m"), domain=machine,
        disks=(sample_disk(path=path, serial=serial),),
    )  # fmt: skip


def test_the_first_image_is_full_and_has_this_machines_domain() -> None:
    chosen = choose_baseline([], wanted="auto", name="", machine_id=HERE, disks=[disk()])
    assert (chosen.kind, chosen.image, chosen.domain) == ("full", "", HERE)


def test_the_newest_image_of_the_same_disk_is_the_baseline() -> None:
    images = [image(1), image(3), image(2), image(4, path="/dev/sdb")]
    chosen = choose_baseline(images, wanted="auto", name="", machine_id=HERE, disks=[disk()])
    assert (chosen.kind, chosen.image) == ("incremental", f"{3:032x}")


def test_a_disk_is_known_again_by_its_serial_number_on_another_machine() -> None:
    images = [image(1, machine=ELSEWHERE, path="/dev/nvme0n1", serial="S1")]
    chosen = choose_baseline(images, wanted="auto", name="", machine_id=HERE, disks=[disk(serial="S1")])
    assert (chosen.kind, chosen.image, chosen.domain) == ("incremental", f"{1:032x}", ELSEWHERE)


def test_the_same_path_on_another_machine_is_another_disk() -> None:
    images = [image(1, machine=ELSEWHERE)]
    chosen = choose_baseline(images, wanted="auto", name="", machine_id=HERE, disks=[disk()])
    assert (chosen.kind, chosen.domain) == ("full", HERE)


def test_torn_images_and_other_names_are_not_compared_with() -> None:
    torn = image(2)
    part = replace(torn.disks[0].partitions[0], consistency="torn")
    torn = replace(torn, disks=(replace(torn.disks[0], partitions=(part,)),))
    images = [image(1, name="other"), torn]
    chosen = choose_baseline(images, wanted="incremental", name="", machine_id=HERE, disks=[disk()])
    assert chosen.kind == "full"
    assert [notice.code for notice in chosen.notices] == ["no-baseline"]


def test_a_differential_goes_back_to_the_last_full() -> None:
    images = [image(1), replace(image(2), kind="incremental")]
    chosen = choose_baseline(images, wanted="differential", name="", machine_id=HERE, disks=[disk()])
    assert (chosen.kind, chosen.image) == ("differential", f"{1:032x}")
