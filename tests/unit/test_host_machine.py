"""This machine, its processes and folders, and the programs it runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillframe.block import syscalls
from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.host import machine as m
from stillframe.host.blocks import KernelPaths, read_block_tree
from stillframe.host.disks import describe, list_disks
from stillframe.host.machine import ProcessIdentity, process_alive, this_process
from stillframe.host.run import find_program, run


def test_machine_id_is_stable_and_does_not_show_the_system_s(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("0123456789abcdef0123456789abcdef\n")
    first, second = (m.machine(id_file=str(tmp_path / "id")) for _ in range(2))
    assert first == second
    assert len(bytes.fromhex(first.id)) == 16
    assert first.id != "0123456789abcdef0123456789abcdef"
    (tmp_path / "id").write_text("0123456789abcdef0123456789abcdee\n")
    assert m.machine(id_file=str(tmp_path / "id")).id != first.id


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, "f" * 32, "0123"])
def test_without_a_machine_id_the_board_counts_then_the_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "id").write_text(text)
    kernel = KernelPaths(sys=str(tmp_path), proc=str(tmp_path))
    by_name = m.machine(kernel=kernel, id_file=str(tmp_path / "id"))
    board = tmp_path / "class/dmi/id"
    board.mkdir(parents=True)
    (board / "product_uuid").write_text("4C4C4544-0042-3510-8052-B4C04F4A3232\n")
    by_board = m.machine(kernel=kernel, id_file=str(tmp_path / "id"))
    assert len({by_name.id, by_board.id}) == 2
    assert (by_name.boot_id, by_name.name) == ("", by_board.name)


def test_a_live_system_is_known_by_its_board_though_its_machine_id_is_new_at_every_start(tmp_path: Path) -> None:
    board = tmp_path / "class/dmi/id"
    board.mkdir(parents=True)
    (board / "product_uuid").write_text("4C4C4544-0042-3510-8052-B4C04F4A3232\n")
    kernel = KernelPaths(sys=str(tmp_path), proc=str(tmp_path))
    found = []
    for command_line in ("BOOT_IMAGE=/live/vmlinuz boot=live quiet", "root=/dev/sda2 ro quiet"):
        (tmp_path / "cmdline").write_text(command_line)
        for digit in "12":
            (tmp_path / "id").write_text("0123456789abcdef0123456789abcde" + digit)
            found.append(m.machine(kernel=kernel, id_file=str(tmp_path / "id")).id)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_this_process_lives_and_others_do_not() -> None:
    here = this_process()
    assert process_alive(here)
    assert not process_alive(ProcessIdentity(boot_id=here.boot_id, pid=here.pid, start_time=here.start_time - 1))
    assert not process_alive(ProcessIdentity(boot_id="0" * 31 + "1", pid=here.pid, start_time=here.start_time))
    assert process_alive(ProcessIdentity(boot_id="", pid=here.pid, start_time=1)), "not known counts as alive"
    assert process_alive(here, kernel=KernelPaths(proc="/nowhere"))


def test_ended_process_and_zombie_are_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        start = m.parse_start_time(stat)
        assert start is not None
        identity = ProcessIdentity(boot_id=this_process().boot_id, pid=child.pid, start_time=start)
        assert process_alive(identity)
        child.kill()
        deadline = time.monotonic() + 5
        while process_alive(identity) and time.monotonic() < deadline:  # a zombie until it is waited for
            time.sleep(0.01)
        assert not process_alive(identity)
    assert not process_alive(identity)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 (a) b) (c) S 1 7 7 0 -1 4 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 2", 98765),
        ("7 (x) Z 1 7 7 0 -1 4 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 2", None),
        ("", None),
        ("7 (x) S 1", None),
    ],
)
def test_start_time(text: str, expected: int | None) -> None:
    assert m.parse_start_time(text) == expected


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STILLFRAME_CACHE_DIR", "STILLFRAME_STATE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (m.cache_dir(), m.state_dir()) == ("/var/cache/stillframe", "/var/lib/stillframe")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/kim")
    assert (m.cache_dir(), m.state_dir()) == ("/home/kim/.cache/stillframe", "/home/kim/.local/state/stillframe")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("XDG_STATE_HOME", "relative is to be ignored")
    assert (m.cache_dir(), m.state_dir()) == ("/x/stillframe", "/home/kim/.local/state/stillframe")
    monkeypatch.setenv("STILLFRAME_CACHE_DIR", str(tmp_path / "c"))
    monkeypatch.setenv("STILLFRAME_STATE_DIR", str(tmp_path / "s"))
    assert (m.cache_dir(), m.state_dir()) == (str(tmp_path / "c"), str(tmp_path / "s"))
    assert not (tmp_path / "c").exists()


def test_program_runs_in_the_c_locale_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LC_NUMERIC", "de_DE.UTF-8")
    finished = run(["sh", "-c", "cat; echo $LC_ALL,$LC_NUMERIC,$LANGUAGE; echo oops >&2; exit 3"], given=b"in ")
    assert (finished.exit_code, finished.text, finished.errors) == (3, "in C.UTF-8,,C\n", b"oops\n")
    with pytest.raises(MachineRefusal, match="sh failed with exit code 3: oops") as caught:
        finished.require_success(hint="next")
    assert caught.value.hint == "next"
    assert run(["true"]).require_success(hint="").exit_code == 0


def test_programs_for_administrators_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert os.path.basename(find_program("blockdev")) == "blockdev"


def test_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.host.run._SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgram, match="ntfsresize") as caught:
        run(["ntfsresize", "--info"])
    assert caught.value.hint.endswith("apt install ntfs-3g")
    with pytest.raises(MissingProgram):
        find_program("no-such-program")


def test_program_that_does_not_end_is_stopped_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    before = time.monotonic()
    with pytest.raises(MachineRefusal, match=r"did not end within 0\.3 seconds"):
        run(["sh", "-c", f"sleep 77 & echo $! > {note}; wait"], timeout_s=0.3)
    assert time.monotonic() - before < 10
    child = int(note.read_text())
    deadline = time.monotonic() + 5
    while m._start_time(child, KernelPaths()) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert m._start_time(child, KernelPaths()) is None


def test_program_that_cannot_be_started(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF not really")
    broken.chmod(0o755)
    with pytest.raises(MachineRefusal, match="could not be started"):
        run([str(broken)])


def test_other_systems_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    for call in (
        list_disks,
        read_block_tree,
        lambda: describe(str(disk)),
        lambda: syscalls.read_some(0, memoryview(bytearray(1)), 0),
        lambda: syscalls.open_flags(write=False, direct=False, exclusive=False),
    ):
        with pytest.raises(MachineRefusal, match="not possible on this system yet") as caught:
            call()
        assert "rescue system" in caught.value.hint
