"""A program of another system, run apart: what it sees, and what it holds. The system is this machine's own /usr."""

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from stillframe.host.inside_system import run_inside
from stillframe.host.root_files import RootFiles
from stillframe.testing.tools import run_tool

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
    shared, image, root = tmp_path / "shared", tmp_path / "stick", Path(system.root)
    shared.mkdir()
    run_tool("truncate", "-s", "16M", str(image))
    run_tool("mkfs.ext4", "-q", str(image))
    waits = "echo > /it-runs; until [ -e /it-may-end ]; do sleep 0.1; done"
    with ExitStack() as stack:
        run_tool("mount", "--bind", str(shared), str(shared))
        stack.callback(run_tool, "umount", str(shared))
        run_tool("mount", "--make-shared", str(shared))
        (shared / "stick").mkdir()
        run_tool("mount", "-o", "loop", str(image), str(shared / "stick"))
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(run_inside, system, ["/bin/sh", "-c", waits])
            try:
                while not (root / "it-runs").exists():
                    assert not done.done(), done.result()
                    time.sleep(0.05)
                run_tool("umount", str(shared / "stick"))
                devices = subprocess.run(["losetup", "-j", image], check=True, capture_output=True).stdout
            finally:
                (root / "it-may-end").touch()
        assert done.result().exit_code == 0
    assert devices == b""
