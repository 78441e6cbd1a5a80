"""Debian guests for tests: a root file system made once, jobs that run in it, disks that boot.

Answers: "run this script as root on a Debian with these empty disks." The root file system is kept in
``/var/tmp/stillframe-vm`` (or ``STILLFRAME_VM_CACHE``) by the digest of its recipe. A job is a folder: it becomes an
ext4 disk that the guest mounts at ``/job``, and its file ``run`` is started; what that writes goes to ``/job/output``,
its exit code to ``/job/code``, and the guest switches itself off. The product's source is in ``/job/src``; the command
``stillframe`` runs it from there.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.virtual_machine import Drive, Machine

PROJECT: Final = Path(__file__).parents[3]
GUEST: Final = PROJECT / "tests" / "vm" / "guest"
PACKAGES: Final = (
    "systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "initramfs-tools", "zstd", "linux-image-cloud-amd64", "lvm2",
    "thin-provisioning-tools", "mdadm", "cryptsetup", "cryptsetup-initramfs", "xfsprogs", "btrfs-progs", "dosfstools",
    "gdisk", "fio", "python3", "grub-pc-bin", "grub-efi-amd64-bin", "grub2-common", "util-linux-extra", "procps",
    "efibootmgr", "fuse3", "mtools",
)  # fmt: skip
_ROOT_SIZE: Final = 3 << 30
_LIMIT_S: Final = 1800
_MIRROR: Final = "$(REPO_URI) $(CODENAME) $(COMPONENT)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The root file system that all guests come from: a disk without partitions, its kernel and its initrd."""

    disk: Path
    kernel: Path
    initrd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job that ended: its exit code, what it wrote, its folder as it is now, and how many seconds the guest ran."""

    code: int
    output: str
    folder: Path
    seconds: float


def base() -> Base:
    """The root file system, made when it is not there yet (some minutes)."""
    found = cache() / recipe_digest()
    if not (found / "done").exists():
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir(parents=True)
        _make_base(found)
        (found / "done").touch()
    return Base(disk=found / "root.img", kernel=found / "vmlinuz", initrd=found / "initrd.img")


def cache() -> Path:
    """Where what takes minutes to make is kept."""
    return Path(os.environ.get("STILLFRAME_VM_CACHE", "/var/tmp/stillframe-vm"))  # noqa: S108 - a cache, of our own


def run_job(
    folder: Path, script: str, drives: Sequence[Drive], *, limit_s: float, files: Path | None = None, uefi: bool = False
) -> Finished:
    """Boot the base and run a script in it.

    Args:
        folder: An empty folder for the disk of the job and the logs.
        script: Text of a shell script; it runs as root with ``set -eu``.
        drives: Further disks: ``/dev/vdc`` and on, or by their serials.
        limit_s: Longest time.
        files: A folder whose contents are added to the job's.
        uefi: The guest's firmware is UEFI, and remembers nothing of earlier guests.

    Raises:
        AssertionError: The guest did not end in time.
    """
    made = base()
    job = make_job(folder, script, files)
    line = "root=/dev/vda rw console=ttyS0,115200 quiet systemd.show_status=0"
    root = Drive(file=made.disk, throw_away=True)
    machine = Machine(
        folder=folder, drives=[root, Drive(file=job, serial="job"), *drives], kernel=(made.kernel, made.initrd, line),
        uefi=uefi,
    )  # fmt: skip
    return finish_job(machine, job, limit_s=limit_s)


def finish_job(machine: Machine, job: Path, *, limit_s: float) -> Finished:
    """Run a machine with a job's disk to its end, and read what the job left there."""
    seconds = machine.run(limit_s=limit_s)
    left = machine.folder / "left"
    left.mkdir()
    with mounted(job) as place:
        shutil.copytree(place, left, dirs_exist_ok=True, ignore=shutil.ignore_patterns("src", "lost+found"))
    output = (left / "output").read_text(errors="replace") if (left / "output").exists() else ""
    code = (left / "code").read_text().strip() if (left / "code").exists() else ""
    assert code, f"the guest ended without running its job\n{machine.tail()}\n{output}"
    return Finished(code=int(code), output=output, folder=left, seconds=seconds)


def make_job(folder: Path, script: str, files: Path | None = None) -> Path:
    """The disk of a job."""
    tree = folder / "job"
    shutil.copytree(PROJECT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    if files is not None:
        shutil.copytree(files, tree, dirs_exist_ok=True)
    (tree / "run").write_text(f"set -eu\n{script}\n")
    disk = folder / "job.img"
    make_disk(disk, 512 << 20)
    run_tool("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk))
    shutil.rmtree(tree)
    return disk


def make_disk(path: Path, size: int) -> Path:
    """An empty disk file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextmanager
def mounted(disk: Path, *options: str) -> Iterator[Path]:
    """A disk without partitions, mounted on this machine."""
    place = disk.parent / f"{disk.name}.mounted"
    place.mkdir()
    run_tool("mount", "-o", ",".join(("loop", *options)), str(disk), str(place))
    try:
        yield place
    finally:
        unmount(place)
        place.rmdir()


def _recipe() -> list[str]:
    """What decides what the root file system is, beside the packages' versions."""
    pins = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [*PACKAGES, *pins, *((file.name + file.read_text()) for file in sorted((GUEST / "base").iterdir()))]


def recipe_digest() -> str:
    """Names the root file system by what it is made of."""
    return hashlib.sha256(json.dumps(_recipe()).encode()).hexdigest()[:16]


def _make_base(folder: Path) -> None:
    tar = folder / "root.tar"
    _make(
        "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", f"--include={','.join(PACKAGES)}",
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/*', "bookworm", str(tar), f"deb {mirror()} bookworm main",
    )  # fmt: skip
    disk = make_disk(folder / "root.img", _ROOT_SIZE)
    run_tool("mkfs.ext4", "-q", "-F", "-L", "base", str(disk))
    with mounted(disk) as root:
        run_tool("tar", "-xpf", str(tar), "-C", str(root), "--xattrs", "--numeric-owner")
        _install_dependencies(root)
        for file in (GUEST / "base").iterdir():
            target = root / file.name.replace("%", "/").lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        run_tool("chroot", str(root), "systemctl", "--quiet", "enable", "stillframe-job.service")
        (root / "etc/hostname").write_text("guest\n")
        (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, folder / name)
    tar.unlink()


def _make(*command: str) -> None:
    """Run what may take minutes, with this environment: mirrors and package indexes may be named in it."""
    result = subprocess.run(  # noqa: S603 - made here
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S
    )
    assert result.returncode == 0, f"{command[0]}: {result.stdout.decode(errors='replace')[-4000:]}"


def _install_dependencies(root: Path) -> None:
    """The product's dependencies for the guest's Python, which is of the same version as ours."""
    pins = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    _make(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(root / "opt/tool"), *pins)


def mirror() -> str:
    """The Debian mirror that this machine uses."""
    listed = run_tool("apt-get", "indextargets", "--format", _MIRROR, "Created-By: Packages")
    rows = (line.split() for line in listed.splitlines())
    return next(row[0] for row in rows if row[1:] == ["bookworm", "main"])
