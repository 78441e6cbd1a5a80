"""Whether a medium fits a machine: machines as trees of files, media made by mksquashfs and xorriso."""

from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.block.file import open_file_reader
from stillframe.errors import DiskFormatError, UsageError
from stillframe.host.hardware import find_hardware
from stillframe.host.start_up import read_start_up
from stillframe.rescue.trying.asking import find_place
from stillframe.rescue.trying.checking import Answer, Asked, Place, check_medium, is_fit
from stillframe.rescue.trying.contents import MediumContents, open_medium
from stillframe.rescue.trying.iso import find_file
from stillframe.testing import machine_trees as trees
from stillframe.testing.command_line import call
from stillframe.testing.machine_trees import MachineTree, plain_machine
from stillframe.testing.small_media import RELEASE, WIFI_FIRMWARE, make_small_medium
from stillframe.testing.tools import run_tool


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> MediumContents:
    return open_medium(str(make_small_medium(tmp_path_factory.mktemp("medium"))))


def asked(tree: MachineTree, *, place: Place | None = None, locked: tuple[str, ...] = ()) -> Asked:
    start_up = read_start_up(tree.kernel, processor="x86_64")
    return Asked(hardware=find_hardware(tree.kernel), start_up=start_up, place=place, locked=locked)


def answers(medium: MediumContents, tree: MachineTree, place: Place | None = None) -> dict[str, Answer]:
    return {one.about: one for one in check_medium(medium, asked(tree, place=place))}


def bad(medium: MediumContents, tree: MachineTree) -> list[str]:
    return [f"{one.code}: {one.words}" for one in check_medium(medium, asked(tree)) if one.verdict == "no"]


def test_a_plain_machine_is_seen_whole(medium: MediumContents, tmp_path: Path) -> None:
    tree = plain_machine(tmp_path)
    assert bad(medium, tree) == []
    found = answers(medium, tree)
    assert found["Disk /dev/sda (WDC WD40EZRZ)"].words == "the medium has the drivers for it: sd_mod, ahci"
    assert (
        found["Disk /dev/nvme0n1 (Samsung SSD 970)"].words == "the medium has the driver for it: nvme"
    )  # the bridge above needs no driver of its own
    assert found["Network card eno1"].words == "the medium has the driver for it: e1000e"
    assert found["USB"].verdict == "yes"
    assert is_fit(found.values())


@pytest.mark.parametrize(
    ("driver", "codes"),
    [("nvme", ["controller", "disk"]), ("sd_mod", ["disk"]), ("e1000e", ["network"]), ("xhci_pci", ["usb"])],
)
def test_a_driver_that_is_not_there_is_missed_where_it_matters(tmp_path: Path, driver: str, codes: list[str]) -> None:
    (tmp_path / "medium").mkdir()
    small = open_medium(str(make_small_medium(tmp_path / "medium", without=(driver,))))
    found = check_medium(small, asked(plain_machine(tmp_path / "machine")))
    assert [one.code for one in found if one.verdict == "no"] == codes
    assert all(one.hint for one in found if one.verdict == "no")


def test_what_is_part_of_the_kernel_is_known_by_its_name(medium: MediumContents, tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    tree.start_by()
    virtio = tree.add_pci("0000:00:02.0", "pci:v00001AF4d00001042sv00001AF4sd00001042bc01sc80i00", driver="virtio-pci")
    disk = tree.add_device("virtio1", "virtio:d00000002v00001AF4", driver="virtio_blk", below=virtio)
    tree.add_disk("vda", disk)
    assert bad(medium, tree) == ["disk: the medium has no driver for virtio:d00000002v00001AF4 (here: virtio_blk)"]


def test_disks_that_raid_on_hides_are_named_with_the_way_out(medium: MediumContents, tmp_path: Path) -> None:
    tree = plain_machine(tmp_path)
    rst = tree.add_pci("0000:00:18.0", trees.RST, driver="ahci")
    assert answers(medium, tree)["Disk controller 8086:282a"].verdict == "note"
    (rst / "remapped_nvme").write_text("1\n")
    answer = answers(medium, tree)["Disk controller 8086:282a"]
    assert (answer.code, answer.verdict) == ("raid-mode", "no")
    assert "'RAID On'" in answer.words
    assert "'AHCI'" in answer.hint
    assert "safeboot" in answer.hint


def test_vmd_is_named_with_and_without_its_driver(medium: MediumContents, tmp_path: Path) -> None:
    tree = plain_machine(tmp_path / "machine")
    tree.add_pci("0000:00:0e.0", trees.VMD, driver="vmd")
    assert answers(medium, tree)["Disk controller 8086:9a0b"].verdict == "note"
    (tmp_path / "medium").mkdir()
    small = open_medium(str(make_small_medium(tmp_path / "medium", without=("vmd",))))
    answer = answers(small, tree)["Disk controller 8086:9a0b"]
    assert (answer.code, answer.verdict) == ("vmd", "no")
    assert "VMD" in answer.hint


def test_a_controller_without_a_driver_here_is_asked_about_too(medium: MediumContents, tmp_path: Path) -> None:
    tree = plain_machine(tmp_path)
    tree.add_pci("0000:02:00.0", trees.UNKNOWN_SAS)
    assert bad(medium, tree) == ["controller: the medium has no driver for 1b4b:9999"]


def laptop(folder: Path) -> MachineTree:
    tree = MachineTree(folder)
    tree.start_by(secure_boot=True)
    nvme = tree.add_pci("0000:01:00.0", trees.NVME, driver="nvme")
    (nvme / "nvme/nvme0").mkdir(parents=True)
    tree.add_disk("nvme0n1", nvme / "nvme/nvme0")
    tree.add_network("wlp2s0", tree.add_pci("0000:02:00.0", trees.WIFI, driver="iwlwifi"), wireless=True)
    return tree


def test_a_laptop_with_wifi_alone_needs_firmware(medium: MediumContents, tmp_path: Path) -> None:
    tree = laptop(tmp_path / "machine")
    found = answers(medium, tree)
    assert found["Wi-Fi wlp2s0"].code == "wifi-firmware"
    assert found["Wi-Fi wlp2s0"].verdict == "no"
    assert WIFI_FIRMWARE[0] in found["Wi-Fi wlp2s0"].words
    assert "non-free-firmware" in found["Wi-Fi wlp2s0"].hint
    assert found["Network"].code == "wifi-only"
    assert found["Secure Boot"].verdict == "note"
    (tmp_path / "medium").mkdir()
    made = make_small_medium(tmp_path / "medium", firmware=(WIFI_FIRMWARE[1],))
    assert answers(open_medium(str(made)), tree)["Wi-Fi wlp2s0"].verdict == "yes"
    (tmp_path / "without").mkdir()
    made = make_small_medium(tmp_path / "without", firmware=(WIFI_FIRMWARE[1],), without=("iwd",))
    answer = answers(open_medium(str(made)), tree)["Wi-Fi wlp2s0"]
    assert (answer.code, answer.verdict) == ("wifi-program", "no")
    assert "--wifi" in answer.hint


@pytest.mark.parametrize(
    ("processor", "efi_bits", "memory", "code"),
    [("aarch64", 64, 16_000_000, "processor"), ("x86_64", 32, 16_000_000, "efi-32"), ("x86_64", 64, 500_000, "memory")],
)
def test_a_machine_that_cannot_start_it(
    medium: MediumContents, tmp_path: Path, *, processor: str, efi_bits: int, memory: int, code: str
) -> None:
    tree = MachineTree(tmp_path)
    tree.start_by(efi_bits=efi_bits, memory_kib=memory)
    start_up = read_start_up(tree.kernel, processor=processor)
    found = check_medium(medium, replace(asked(plain_machine(tmp_path / "plain")), start_up=start_up))
    assert [one.code for one in found if one.verdict == "no"] == [code]


@pytest.mark.parametrize(
    ("filesystem", "disks", "verdict", "words"),
    [
        ("ext4", {"/dev/sda"}, "note", "ext4 on /dev/sda, which the medium sees; but that disk is built in"),
        ("exfat", {"/dev/sda"}, "note", "exfat on /dev/sda"),
        ("fuseblk", {"/dev/sda"}, "note", "fuseblk on /dev/sda"),
        ("zfs", {"/dev/sda"}, "no", "does not know the file system zfs"),
        ("cifs", set(), "yes", "on the network (cifs), which the medium knows"),
        ("ext4", set(), "note", "on which disk is not known"),
    ],
)
def test_the_place_of_the_repository(
    medium: MediumContents, tmp_path: Path, *, filesystem: str, disks: set[str], verdict: str, words: str
) -> None:
    place = Place(folder="/mnt/backup", filesystem=filesystem, disks=frozenset(disks))
    answer = answers(medium, plain_machine(tmp_path), place)["Repository /mnt/backup"]
    assert answer.verdict == verdict
    assert words in answer.words


def test_a_folder_that_is_none_is_no_place(medium: MediumContents, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "stillframe.json").touch()
    for name, words in (("none", "no such folder"), ("empty", "no backups are in it"), ("full", "")):
        place = find_place(str(tmp_path / name))
        assert words in place.refusal
        assert bool(words) == bool(place.refusal)
        if words:
            answer = answers(medium, plain_machine(tmp_path / f"m-{name}"), place)[f"Repository {tmp_path / name}"]
            assert (answer.verdict, answer.words) == ("no", place.refusal)


@pytest.mark.parametrize(
    ("address", "filesystem"),
    [("smb://kim@nas/backups", "cifs"), ("nfs://nas/backups", "nfs"), ("sftp://kim@nas/srv", "fuse.sshfs")],
)
def test_a_share_that_only_the_medium_opens(
    medium: MediumContents, tmp_path: Path, address: str, filesystem: str
) -> None:
    place = find_place(address)
    assert (place.folder, place.filesystem, place.refusal) == (address, filesystem, "")
    assert answers(medium, plain_machine(tmp_path), place)[f"Repository {address}"].verdict == "yes"


def test_keys_are_brought_to_mind(medium: MediumContents, tmp_path: Path) -> None:
    found = check_medium(medium, asked(plain_machine(tmp_path), locked=("BitLocker", "crypto_LUKS")))
    assert [one.code for one in found][-2:] == ["bitlocker", "luks"]


def test_a_file_in_an_iso_lies_where_xorriso_put_it(tmp_path: Path) -> None:
    iso = make_small_medium(tmp_path)
    with open_file_reader(str(iso)) as disk:
        for name in ("vmlinuz", "filesystem.squashfs"):
            extent = find_file(disk, f"live/{name}")
            assert extent is not None
            assert disk.read_at(extent.start, extent.size) == (tmp_path / "iso/live" / name).read_bytes()
        assert find_file(disk, "live/none") is None
        assert find_file(disk, "live") is None


def test_an_iso_without_rock_ridge_is_read_by_its_short_names(tmp_path: Path) -> None:
    (tmp_path / "iso/live").mkdir(parents=True)
    (tmp_path / "iso/live/vmlinuz").write_bytes(b"kernel")
    iso = tmp_path / "plain.iso"
    run_tool("xorriso", "-as", "mkisofs", "-quiet", "--norock", "-o", str(iso), str(tmp_path / "iso"))
    with open_file_reader(str(iso)) as disk:
        extent = find_file(disk, "live/vmlinuz")
        assert extent is not None
        assert disk.read_at(extent.start, extent.size) == b"kernel"


def test_a_medium_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    iso = make_small_medium(tmp_path)
    cut = tmp_path / "cut.iso"
    with open_file_reader(str(iso)) as disk:
        extent = find_file(disk, "live/filesystem.squashfs")
    assert extent is not None
    cut.write_bytes(iso.read_bytes()[: extent.start + 100])
    with pytest.raises(DiskFormatError, match="cut off"):
        open_medium(str(cut))
    broken = tmp_path / "broken.iso"
    raw = bytearray(iso.read_bytes())
    raw[extent.start : extent.start + 96] = bytes(96)
    broken.write_bytes(raw)
    with pytest.raises(DiskFormatError, match="cannot be read"):
        open_medium(str(broken))
    other = tmp_path / "other.iso"
    other.write_bytes(bytes(1 << 20))
    with pytest.raises(UsageError, match="no rescue medium"):
        open_medium(str(other))
    with pytest.raises(UsageError):
        open_medium(str(tmp_path))


def test_the_pieces_of_a_medium_do_as_well(tmp_path: Path) -> None:
    make_small_medium(tmp_path)
    for folder in (tmp_path / "iso", tmp_path / "iso/live"):
        assert open_medium(str(folder)).modules.release == RELEASE


def test_the_verb_says_yes_or_no_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "state"))
    iso = make_small_medium(tmp_path)
    done = call("rescue", "check", "--medium", iso, "--json")
    assert done.exit_code in (0, 3)
    assert (done.result["kernel"], done.result["ok"]) == (RELEASE, done.exit_code == 0)
    assert {"firmware", "memory", "repository"} <= {one["code"] for one in done.result["answers"]}
    assert "Memory: " in call("rescue", "check", "--medium", iso).output
    assert call("rescue", "check").exit_code == 2
    assert call("rescue", "check", "--medium", tmp_path / "none").exit_code == 2
