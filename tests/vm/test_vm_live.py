"""A whole Debian is saved while it is in use, restored onto other disks, and boots from them with every synced file."""

import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stillframe.testing.debian_guest import GUEST, cache, finish_job, make_disk, make_job, recipe_digest, run_job
from stillframe.testing.virtual_machine import Drive, Machine

pytestmark = [pytest.mark.root, pytest.mark.vm]
SIZE = 3 << 30
LAYOUTS = ("plain", "lvm", "luks", "mirror")
MEMBER = 2 << 20  # where guest/install.sh lets the members of the mirror begin
MD_MAGIC = 0xA92B4EFC  # Linux include/uapi/linux/raid/md_p.h, as are the places in the superblock of version 1.2
BLOCK = 4096


def installed(layout: str, folder: Path) -> list[Path]:
    """Disks with a Debian of this layout that boots by itself; made once, then kept."""
    script = GUEST / "install.sh"
    key = hashlib.sha256(recipe_digest().encode() + script.read_bytes()).hexdigest()[:16]
    kept = cache() / f"{layout}-{key}"
    count = 2 if layout == "mirror" else 1
    disks = [kept / f"disk{number}.qcow2" for number in range(1, count + 1)]
    if not all(disk.exists() for disk in disks):
        raw = [make_disk(folder / f"install{number}.img", SIZE) for number in range(1, count + 1)]
        names = " ".join(f"/dev/vd{letter}" for letter in "cd"[:count])
        work = folder / "install"
        work.mkdir()
        done = run_job(
            work, f"sh /job/install.sh {layout} {names}", [Drive(file=disk) for disk in raw], limit_s=1800, files=GUEST
        )
        assert done.code == 0, done.output
        kept.mkdir(exist_ok=True)
        for made, disk in zip(raw, disks, strict=True):
            part = disk.with_suffix(".part")
            subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", made, part], check=True)
            part.rename(disk)
            made.unlink()
    return disks


def differing_blocks(halves: list[Path]) -> list[int]:
    """Numbers of the blocks that are not equal on both halves of a restored mirror, after what md keeps for itself."""
    with halves[0].open("rb") as file:
        file.seek(MEMBER + 4096)
        superblock = file.read(256)
    (magic,), (size_sectors,), (start_sectors,) = (
        struct.unpack_from(form, superblock, at) for form, at in (("<I", 0), ("<Q", 80), ("<Q", 128))
    )
    assert magic == MD_MAGIC
    count = size_sectors * 512 // BLOCK
    one, other = (np.memmap(half, np.uint64, "r", MEMBER + start_sectors * 512, (count, BLOCK // 8)) for half in halves)
    return [
        block + int(number)
        for block in range(0, count, 1 << 14)
        for number in np.flatnonzero((one[block : block + (1 << 14)] != other[block : block + (1 << 14)]).any(axis=1))
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_system_in_use_is_saved_restored_and_boots(layout: str, tmp_path: Path) -> None:
    disks = installed(layout, tmp_path)
    files = tmp_path / "files"
    shutil.copytree(GUEST, files, ignore=shutil.ignore_patterns("base"))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    repository = make_disk(tmp_path / "repository.img", 4 << 30)
    targets = [make_disk(tmp_path / f"target{number}.img", SIZE) for number in range(len(disks))]
    sources = " ".join(f"/dev/vd{'ab'[number]}" for number in range(len(disks)))
    onto = " ".join(f"/dev/disk/by-id/virtio-target{number}" for number in range(len(disks)))
    job = make_job(first, f'sh /job/save.sh "{sources}" /dev/disk/by-id/virtio-repository "{onto}"', files)
    machine = Machine(
        folder=first, uefi=layout == "plain",
        drives=[
            *(Drive(file=disk, form="qcow2", throw_away=True) for disk in disks), Drive(file=job, serial="job"),
            Drive(file=repository, serial="repository"),
            *(Drive(file=target, serial=f"target{number}") for number, target in enumerate(targets)),
        ],
    )  # fmt: skip
    saved = finish_job(machine, job, limit_s=2400)
    assert saved.code == 0, saved.output
    result = json.loads((saved.folder / "result.json").read_text())
    assert result["complete"]
    assert result["held"]["seconds"] < 10
    # the small partition for GRUB is in no use; everything else is
    assert {volume["consistency"] for volume in result["volumes"]} <= {"frozen", "offline"}
    assert any((volume["consistency"], volume["map"]) == ("frozen", "used") for volume in result["volumes"])
    promised, written = (len((saved.folder / name).read_text().splitlines()) for name in ("promised", "ledger"))
    assert 20 <= promised < written, "the writer did not write while the image was made"
    if layout == "mirror":
        assert differing_blocks(targets) == []
    shutil.copy(saved.folder / "promised", files)
    job = make_job(second, "sh /job/check.sh", files)
    machine = Machine(
        folder=second, uefi=layout == "plain",
        drives=[*(Drive(file=target) for target in targets), Drive(file=job, serial="job")],
    )  # fmt: skip
    booted = finish_job(machine, job, limit_s=900)
    print(result["held"], result["volumes"], booted.output)  # noqa: T201 - pytest -s shows it
    assert booted.code == 0, booted.output
    assert f"RIGHT {promised}\n" in booted.output


def test_the_root_volume_is_saved_from_a_snapshot(tmp_path: Path) -> None:
    (disk,) = installed("lvm", tmp_path)
    files, work = tmp_path / "files", tmp_path / "work"
    shutil.copytree(GUEST, files, ignore=shutil.ignore_patterns("base"))
    work.mkdir()
    places = [make_disk(tmp_path / f"{name}.img", 3 << 30) for name in ("repository", "target")]
    script = "sh /job/save_root.sh /dev/vg0/root /dev/disk/by-id/virtio-repository /dev/disk/by-id/virtio-target"
    job = make_job(work, script, files)
    machine = Machine(
        folder=work, uefi=False,
        drives=[
            Drive(file=disk, form="qcow2", throw_away=True), Drive(file=job, serial="job"),
            *(Drive(file=place, serial=place.stem) for place in places),
        ],
    )  # fmt: skip
    done = finish_job(machine, job, limit_s=2400)
    assert done.code == 0, done.output
    result = json.loads((done.folder / "result.json").read_text())
    assert [(part["consistency"], part["map"]) for part in result["volumes"]] == [("snapshot", "used")]
    assert result["complete"]
    assert "killed: 137" in done.output
    assert "snapshot-removed" in {notice["code"] for notice in result["notices"]}
    assert (done.folder / "left").read_text().split()[0].startswith("stillframe-")
    promised = len((done.folder / "promised").read_text().splitlines())
    assert promised >= 20
    assert f"RIGHT {promised}\n" in done.output
