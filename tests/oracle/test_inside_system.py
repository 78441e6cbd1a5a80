"""A program of another system, run apart: what it sees, and what it holds. The system is this machine's own /usr."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stillframe.host.inside_system import run_inside
from stillframe.host.root_files import RootFiles
from stillframe.testing.volumes_windows import run_tool

pytestmark = pytest.mark.root


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RootFiles]:
    """A root whose programs are those of this machine."""
    root = tmp_path / "root"
    for name in ("usr", "proc", "sys", "dev", "run", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(f"usr/{name}")
    run_tool("mount", "--bind", "-o", "ro", "/usr", str(root / "usr"))
    try:
        yield RootFiles(str(root))
    finally:
        run_tool("umount", str(root / "usr"))


def test_it_sees_its_own_root_and_no_mount_stays(system: RootFiles) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    done = run_inside(system, ["/bin/sh", "-c", "ls /; cat"], given=b"given")
    assert done.text.split() == ["bin", "dev", "etc", *sorted(set(os.listdir(system.root)) & {"lib", "lib64"}), "proc",
                                 "run", "sbin", "sys", "usr", "given"]  # fmt: skip
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.listdir(f"{system.root}/dev") == []


def test_a_volume_unmounted_meanwhile_is_free(system: RootFiles, tmp_path: Path) -> None:
    """As where systemd started the machine, and mounts are told to other namespaces: a stick can be taken out."""
    shared, image, fifo = tmp_path / "shared", tmp_path / "stick", Path(system.root) / "fifo"
    shared.mkdir()
    run_tool("truncate", "-s", "16M", str(image))
    run_tool("mkfs.ext4", "-q", str(image))
    os.mkfifo(fifo)
    with ExitStack() as stack:
        run_tool("mount", "--bind", str(shared), str(shared))
        stack.callback(run_tool, "umount", str(shared))
        run_tool("mount", "--make-shared", str(shared))
        (shared / "stick").mkdir()
        run_tool("mount", "-o", "loop", str(image), str(shared / "stick"))
        is_read = ["/bin/sh", "-c", "read -r line < /fifo; read -r line < /fifo"]
        worker = threading.Thread(target=run_inside, args=(system, is_read))
        worker.start()
        try:
            fifo.write_text("it runs\n")
            run_tool("umount", str(shared / "stick"))
            devices = subprocess.run(["losetup", "-j", image], check=True, capture_output=True).stdout
        finally:
            fifo.write_text("it may end\n")
            worker.join()
    assert devices == b""
