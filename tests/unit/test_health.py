"""How disks feel: what smartctl says, and what that means."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from stillframe.errors import DiskFormatError, MachineRefusal
from stillframe.host.blocks import KernelPaths
from stillframe.host.disks import DiskFacts
from stillframe.host.health import Health, ask_disk, judge_health
from stillframe.host.health_report import parse_health
from stillframe.host.run import Finished

SAMPLES = Path(__file__).parent / "samples" / "smartctl"
DISK = DiskFacts(path="/dev/sda", kind="disk", size=4_000_787_030_016, is_hardware=True)


def sample(name: str) -> tuple[bytes, int]:
    raw = (SAMPLES / f"{name}.json").read_bytes()
    return raw, json.loads(raw)["smartctl"]["exit_status"]


def judged(name: str) -> Health:
    raw, bits = sample(name)
    return judge_health(DISK, parse_health(raw, bits=bits))


@pytest.mark.parametrize(
    ("name", "condition", "words"),
    [
        ("ata-good", "good", "counts nothing that foretells failing"),
        ("nvme-good", "good", "counts nothing"),
        ("scsi-good", "good", "counts nothing"),
        ("ata-packed-counts", "good", "counts nothing"),
        ("ata-failing", "failing", "says itself that it is failing: save what is on it now, then replace it"),
        ("nvme-media-errors", "failing", "could not keep or read its data 5 times: save"),
        ("nvme-read-only", "failing", "says itself that it is failing"),
        ("scsi-uncorrected", "failing", "3 errors that it could not correct"),
        ("ata-moved", "watch", "spare sectors in the place of 8 bad ones"),
        ("scsi-grown", "watch", "spare sectors in the place of 4 bad ones"),
        ("ata-cable", "watch", "damaged 57 times on the way to this disk: change its cable"),
        ("ata-test-failed", "watch", "failed 2 self-tests"),
        ("nvme-worn", "watch", "104 % of its life"),
        ("nvme-hot", "watch", "78 °C"),
        ("no-smart", "unknown", "keeps no counts of its health"),
        ("usb-unknown-bridge", "unknown", "Unknown USB bridge"),
        ("virtual-disk", "unknown", "most virtual disks"),
        ("qemu-nvme", "good", "counts nothing"),
        ("qemu-scsi", "unknown", "keeps no counts"),
        ("gone", "unknown", "No such device"),
    ],
)
def test_a_verdict_is_a_sentence(name: str, condition: str, words: str) -> None:
    health = judged(name)
    assert health.condition == condition
    assert words in health.verdict
    assert health.verdict.startswith(("This disk ", "Data arrived"))
    assert health.verdict.endswith(".")


def test_sectors_that_wait_are_the_sentence_of_the_guide_and_the_numbers_are_named() -> None:
    health = judged("ata-pending")
    assert health.verdict == (
        "This disk reports 12 sectors it could not read: save what is on it now, then replace it."
    )
    assert [(m.name, m.value, m.means) for m in health.measures] == [
        ("sectors waiting to be read again", 12, "failing"),
        ("unreadable sectors", 3, "failing"),
    ]
    assert (health.hours, health.temperature, health.model) == (21034, 34, "WDC WD40EZRZ-00GXCB0")


def test_all_signs_are_kept_and_the_gravest_speaks() -> None:
    health = judged("nvme-read-only")
    assert [m.name for m in health.measures] == ["own verdict", "critical warning", "critical warning"]


def tree(folder: Path, *, usb: bool) -> KernelPaths:
    above = folder / "sys/devices/pci/usb1" if usb else folder / "sys/devices/pci/ata1"
    device = above / "host0/target0"
    device.mkdir(parents=True)
    if usb:
        (above / "idVendor").write_text("152d\n")
    (folder / "sys/block/sda").mkdir(parents=True)
    (folder / "sys/block/sda/device").symlink_to(device)
    return KernelPaths(sys=str(folder / "sys"))


class Smartctl:
    """Answers by the kind that it is told."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, arguments: Sequence[str]) -> Finished:
        way = arguments[arguments.index("-d") + 1] if "-d" in arguments else "plain"
        self.asked.append(way)
        raw, bits = sample(self.answers[way])
        return Finished(arguments=tuple(arguments), exit_code=bits, output=raw, errors=b"")


def test_a_bridge_on_usb_is_asked_in_each_way_until_one_answers(tmp_path: Path) -> None:
    asked = Smartctl(plain="usb-unknown-bridge", sat="usb-unknown-bridge", sntasmedia="nvme-good")
    health = ask_disk(DISK, kernel=tree(tmp_path, usb=True), call=asked)
    assert (health.condition, health.way) == ("good", "sntasmedia")
    assert asked.asked == ["plain", "sat", "sntasmedia"]


def test_a_disk_that_is_not_on_usb_is_asked_once(tmp_path: Path) -> None:
    asked = Smartctl(plain="virtual-disk")
    assert ask_disk(DISK, kernel=tree(tmp_path, usb=False), call=asked).condition == "unknown"
    assert asked.asked == ["plain"]


def test_whoever_may_not_ask_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(MachineRefusal) as raised:
        ask_disk(DISK, kernel=tree(tmp_path, usb=False), call=Smartctl(plain="permission-denied"))
    assert raised.value.hint == "Use sudo."


def test_a_loop_device_has_no_health() -> None:
    facts = DiskFacts(path="/dev/loop0", kind="disk", size=1 << 20)
    assert ask_disk(facts, call=Smartctl()).condition == "unknown"


@pytest.mark.parametrize("raw", [b"", b"[]", b"smartctl 7.3\n", b"\xff", b"[" * 100_000])
def test_what_is_no_report_is_refused(raw: bytes) -> None:
    with pytest.raises(DiskFormatError):
        parse_health(raw, bits=0)
