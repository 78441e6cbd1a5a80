"""Whether this machine has a medium, and that its person is told once."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.capture import OpenSource
from stillframe.cli import rescue_trying
from stillframe.cli.saving import _tell_of_medium
from stillframe.events import Notice, RecordedEvents
from stillframe.host.blocks import KernelPaths
from stillframe.host.disks import DiskFacts
from stillframe.jobs.backup import BackupResult
from stillframe.rescue.noting import RescueNote, note_rescue, rescue_noted, should_tell
from stillframe.testing.clocks import FakeClock
from stillframe.testing.command_line import call
from stillframe.testing.machine_trees import MachineTree

DISK = DiskFacts(path="/dev/sda", kind="disk", size=1 << 30, is_hardware=True)


@pytest.fixture
def kernel(tmp_path: Path) -> KernelPaths:
    tree = MachineTree(tmp_path / "machine")
    tree.start_by()
    (tree.folder / "proc/cmdline").write_text("root=/dev/sda2 ro quiet\n")
    return tree.kernel


def test_it_is_said_once(tmp_path: Path, kernel: KernelPaths) -> None:
    folder = str(tmp_path / "state")
    assert should_tell(clock=FakeClock(), folder=folder, kernel=kernel)
    assert not should_tell(clock=FakeClock(), folder=folder, kernel=kernel)


def test_it_is_not_said_where_a_medium_was_made(tmp_path: Path, kernel: KernelPaths) -> None:
    folder = str(tmp_path / "state")
    note_rescue("/home/anna/rescue.iso", clock=FakeClock(), folder=folder)
    assert not should_tell(clock=FakeClock(), folder=folder, kernel=kernel)
    assert rescue_noted(folder).medium == "/home/anna/rescue.iso"
    assert rescue_noted(folder).made


def test_a_medium_that_is_made_later_keeps_what_was_told(tmp_path: Path, kernel: KernelPaths) -> None:
    folder = str(tmp_path / "state")
    assert should_tell(clock=FakeClock(), folder=folder, kernel=kernel)
    told = rescue_noted(folder).told
    note_rescue("/dev/sdb", clock=FakeClock(), folder=folder)
    assert rescue_noted(folder).told == told


def test_it_is_not_said_on_the_medium_itself(tmp_path: Path, kernel: KernelPaths) -> None:
    (Path(kernel.proc) / "cmdline").write_text("BOOT_IMAGE=/live/vmlinuz boot=live nopersistence\n")
    assert not should_tell(clock=FakeClock(), folder=str(tmp_path / "state"), kernel=kernel)


def test_it_is_not_said_each_time_where_nothing_can_be_kept(tmp_path: Path, kernel: KernelPaths) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    assert not should_tell(clock=FakeClock(), folder=str(tmp_path / "state"), kernel=kernel)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"medium": 3}', b"\xff"])
def test_a_damaged_note_says_nothing(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "rescue.json").write_bytes(raw)
    assert rescue_noted(str(tmp_path)) == RescueNote()


@pytest.mark.parametrize(
    ("facts", "findings", "told"),
    [(DISK, (), True), (replace(DISK, is_hardware=False), (), False), (DISK, ("bad",), False), (DISK, None, False)],
)
def test_backup_tells_after_a_good_image_of_a_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: DiskFacts, findings: tuple[str, ...] | None, told: bool
) -> None:
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path))
    checked = None if findings is None else SimpleNamespace(findings=findings)
    result = cast("BackupResult", SimpleNamespace(read_back=checked))
    source = cast("OpenSource", SimpleNamespace(facts=facts))
    events = RecordedEvents()
    for _ in range(2):
        _tell_of_medium([source], result, events)
    codes = [event.code for event in events.events if isinstance(event, Notice)]
    assert codes == (["no-rescue-medium"] if told else [])


def test_a_stick_that_was_made_last_is_named_and_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue_trying, "rescue_noted", lambda: RescueNote(medium="/dev/sdc"))
    outcome = call("rescue", "check")
    assert outcome.exit_code == 2
    assert "is a stick (/dev/sdc)" in outcome.errors
    assert "--medium FILE.iso" in outcome.errors
