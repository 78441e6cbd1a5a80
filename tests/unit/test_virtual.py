"""Which machine an image gets."""

from dataclasses import replace

import pytest

from stillframe.block.memory import MemoryDisk
from stillframe.host.qemu import Bus
from stillframe.jobs.exposing import expose
from stillframe.jobs.proving import _decide
from stillframe.jobs.virtual import MachineOptions, MachinePlan, choose_bus, overlays_of
from stillframe.store.memory import MemoryStore
from stillframe.systems.boot_evidence import Sighting
from stillframe.systems.boot_way import BootWays
from stillframe.testing.job_runs import backup, make_repository

FAILED = Sighting(outcome="failed", meaning="the firmware found nothing to start", line="No bootable option")
NO_WAY = BootWays(bios=False, uefi=False, loaders=(), windows=False)


@pytest.mark.parametrize(
    ("path", "windows", "sector_size", "bus"),
    [
        ("/dev/vda", False, 512, "virtio"), ("/dev/sda", False, 512, "sata"), ("/dev/nvme0n1", False, 512, "nvme"),
        ("/home/me/disk.raw", False, 512, "virtio"), ("/home/me/disk.raw", True, 512, "sata"),
        ("/dev/vda", True, 512, "sata"), ("/dev/sda", False, 4096, "nvme"), ("/dev/nvme0n1", True, 512, "nvme"),
    ],
)  # fmt: skip
def test_a_disk_is_of_the_kind_that_the_system_knows(path: str, windows: bool, sector_size: int, bus: Bus) -> None:
    stored = backup(make_repository(MemoryStore()), MemoryDisk(bytes(1 << 20))).manifest.disks[0]
    assert choose_bus(replace(stored, path=path, sector_size=sector_size), windows=windows) == bus


def test_what_only_the_computer_knew_makes_a_failure_unclear() -> None:
    repository = make_repository(MemoryStore())
    image = expose(repository, backup(repository, MemoryDisk(bytes(1 << 20))).manifest)
    ways = replace(NO_WAY, loaders=("efi/debian/shimx64.efi",))
    with overlays_of(image) as overlays:
        for plan_ways, firmware, expected in (
            (ways, "uefi", "unclear"), (replace(ways, bios=True), "bios", "failed"),
            (replace(ways, uefi=True), "uefi", "failed"), (NO_WAY, "uefi", "failed"),
        ):  # fmt: skip
            plan = MachinePlan(
                firmware=firmware,  # type: ignore[arg-type]
                boot_index=0,
                buses=("virtio",),
                ways=(plan_ways,),
                options=MachineOptions(),
            )
            outcome, reason = _decide(FAILED, plan, overlays, image, switched_off=False)
            assert outcome == expected
            assert "No bootable option" in reason
        nothing = MachinePlan(
            firmware="bios", boot_index=0, buses=("virtio",), ways=(NO_WAY,), options=MachineOptions()
        )
        assert _decide(None, nothing, overlays, image, switched_off=False)[0] == "unclear"
        assert _decide(None, nothing, overlays, image, switched_off=True)[0] == "booted"
        windows = replace(nothing, ways=(replace(NO_WAY, windows=True),))
        assert _decide(None, windows, overlays, image, switched_off=True)[0] == "unclear"
