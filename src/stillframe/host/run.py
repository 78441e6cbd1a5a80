"""The one place that starts other programs.

Answers: "what did this program say?" Always an argument list, never a shell; the C locale, so that output can be
parsed; a time limit; captured output. What the output means is for pure functions elsewhere.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.host.linux import memory_file

TIMEOUT_S: Final = 60.0
WATCH_STEP_S: Final = 0.2
Process = subprocess.Popen[bytes]
_ERROR_LINES: Final = 3

# Folders of administration programs: an ordinary user's PATH on Debian lacks them.
_SYSTEM_FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")

# Debian and Ubuntu packages of the programs we know.
_PACKAGES: Final = {
    "addpart": "util-linux",
    "blockdev": "util-linux",
    "btrfs": "btrfs-progs",
    "cryptsetup": "cryptsetup-bin",
    "dmsetup": "dmsetup",
    "e2fsck": "e2fsprogs",
    "efibootmgr": "efibootmgr",
    "fsck.exfat": "exfatprogs",
    "fsck.fat": "dosfstools",
    "fusermount3": "fuse3",
    "grub-install": "grub2-common",
    "grub-mkimage": "grub-common",
    "lvchange": "lvm2",
    "lvcreate": "lvm2",
    "lvremove": "lvm2",
    "lvs": "lvm2",
    "mcopy": "mtools",
    "mdadm": "mdadm",
    "mdel": "mtools",
    "mdir": "mtools",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.exfat": "exfatprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "mkfs.ntfs": "ntfs-3g",
    "mkfs.xfs": "xfsprogs",
    "mksquashfs": "squashfs-tools",
    "mmd": "mtools",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "mount.cifs": "cifs-utils",
    "mount.nfs": "nfs-common",
    "nbd-client": "nbd-client",
    "newuidmap": "uidmap",
    "ntfs-3g": "ntfs-3g",
    "ntfsfix": "ntfs-3g",
    "ntfsresize": "ntfs-3g",
    "partclone.dd": "partclone",
    "partx": "fdisk",
    "pvs": "lvm2",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "smartctl": "smartmontools",
    "sshfs": "sshfs",
    "umount": "mount",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
    "vgs": "lvm2",
    "xfs_growfs": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "xorriso": "xorriso",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended: with which exit code, and what it wrote."""

    arguments: tuple[str, ...]
    exit_code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode("utf-8", "replace")

    def require_success(self, *, hint: str) -> "Finished":
        """Itself when the exit code is 0.

        Raises:
            MachineRefusal: It is not; the program's last words are in the message.
        """
        if self.exit_code == 0:
            return self
        lines = self.errors.decode("utf-8", "replace").strip().splitlines()[-_ERROR_LINES:]
        said = "; ".join(line.strip() for line in lines) or "it gave no reason"
        raise MachineRefusal(f"{self.arguments[0]} failed with exit code {self.exit_code}: {said}", hint=hint)


def find_program(name: str) -> str:
    """Where a program is.

    Raises:
        MissingProgram: It is not installed; the hint is the line that installs it.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    found = shutil.which(name, path=path)
    if found is None:
        package = _PACKAGES.get(name)
        hint = f"On Debian or Ubuntu: sudo apt install {package}" if package else f"Install the program {name}."
        raise MissingProgram(f"the program {name} is needed and is not installed", hint=hint)
    return found


def package_of(name: str) -> str:
    """The Debian package of a program; empty when not known."""
    return _PACKAGES.get(name, "")


def run(arguments: Sequence[str], *, given: bytes = b"", timeout_s: float = TIMEOUT_S) -> Finished:
    """Run a program to its end.

    Args:
        arguments: Program and arguments.
        given: What it reads on its standard input.
        timeout_s: After so many seconds it, and what it started, is stopped.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started, or did not end in time.
    """
    command = [find_program(arguments[0]), *arguments[1:]]
    pipe = subprocess.PIPE
    try:
        # S603: here and below; every argument list comes from our own code.
        process = subprocess.Popen(  # noqa: S603
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), start_new_session=True
        )
    except OSError as error:
        raise _not_started(command[0], error) from error
    with process:
        try:
            output, errors = process.communicate(given, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _stop(process)
            raise MachineRefusal(
                f"{arguments[0]} did not end within {timeout_s:g} seconds",
                hint="A disk that does not answer may be failing: look at `dmesg`.",
            ) from error
        except BaseException:
            _stop(process)
            raise
    return Finished(arguments=tuple(arguments), exit_code=process.returncode, output=output, errors=errors)


def run_watched(arguments: Sequence[str], *, check: Callable[[], None]) -> Finished:
    """Run a program that takes as long as its work does, and may be stopped at any moment.

    Args:
        arguments: Program and arguments.
        check: Asked several times a second; what it raises stops the program, and everything it started.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    command = [find_program(arguments[0]), *arguments[1:]]
    pipe = subprocess.PIPE
    check()
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=_environment(), start_new_session=True
        )
    except OSError as error:
        raise _not_started(command[0], error) from error
    with process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=WATCH_STEP_S)
                    break
                except subprocess.TimeoutExpired:
                    check()
        except BaseException:
            _stop(process)
            raise
    return Finished(arguments=tuple(arguments), exit_code=process.returncode, output=output, errors=errors)


def run_to_the_end(arguments: Sequence[str]) -> Finished:
    """Run a program that does harm when it is stopped halfway: one that holds volumes still while it works.

    It has no time limit, Ctrl-C waits for it, and when this process is killed it goes on: it writes to memory, and not
    to a pipe that would break, nor to a disk that it may hold still itself.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    command = [find_program(arguments[0]), *arguments[1:]]
    output, errors = memory_file("output"), memory_file("errors")
    try:
        try:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise _not_started(command[0], error) from error
        _wait_for(process)
        return Finished(
            arguments=tuple(arguments), exit_code=process.returncode, output=_all_of(output), errors=_all_of(errors)
        )
    finally:
        os.close(output)
        os.close(errors)


class Running:
    """A program that goes on while we do other things. ``start`` makes it."""

    def __init__(self, process: subprocess.Popen[bytes], *, name: str, errors: int) -> None:
        self.name: Final = name
        self._process = process
        self._errors = errors

    def wait(self, timeout_s: float = 0.0) -> int | None:
        """Its exit code, when it ends within a time; else ``None``."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it at once, if it still runs. Nothing is left of it then."""
        if self._process.poll() is None:
            _stop(self._process)
        self._process.wait()

    def said(self) -> list[str]:
        """What it wrote to its standard error until now, line by line."""
        if sys.platform == "win32":
            return []
        # Read by place: the program writes where the descriptor, which is its own too, stands.
        return os.pread(self._errors, os.fstat(self._errors).st_size, 0).decode("utf-8", "replace").splitlines()

    def last_words(self) -> str:
        """What it last wrote to its standard error, in one line."""
        lines = [line.strip() for line in self.said() if line.strip()]
        return "; ".join(lines[-_ERROR_LINES:])


@contextmanager
def start(arguments: Sequence[str], *, terminal: bool = False) -> Iterator[Running]:
    """Run a program while the block runs; at the end of the block it is stopped.

    It does not outlive this process either, however that ends: on Linux the kernel ends it together with the thread
    that called this, which therefore must be one that stays.

    Args:
        arguments: Program and arguments.
        terminal: Give it our own input and output, for a person to use it; Ctrl-C then goes to it as well.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    command = [find_program(arguments[0]), *arguments[1:]]
    if sys.platform == "linux":
        # The kernel is asked before the program begins; had we died until then, the parent would be another by now.
        ours = [find_program("sh"), "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
        command = [find_program("setpriv"), "--pdeathsig", "KILL", *ours, *command]
    errors = memory_file("errors")
    quiet = None if terminal else subprocess.DEVNULL
    try:
        try:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=quiet, stdout=quiet, stderr=errors, env=_environment(), start_new_session=not terminal
            )
        except OSError as error:
            raise _not_started(command[0], error) from error
        running = Running(process, name=arguments[0], errors=errors)
        try:
            yield running
        finally:
            running.stop()
    finally:
        os.close(errors)


def launch(arguments: Sequence[str], *, errors: int | None = None) -> Process:
    """Start a program and go on: with pipes to it and from it, or, without ``errors``, on our own terminal.

    Raises:
        MissingProgram: It is not installed.
        MachineRefusal: It could not be started.
    """
    command = [find_program(arguments[0]), *arguments[1:]]
    pipe = None if errors is None else subprocess.PIPE
    try:
        return subprocess.Popen(  # noqa: S603
            command, stdin=pipe, stdout=pipe, stderr=errors, start_new_session=errors is not None
        )
    except OSError as error:
        raise _not_started(command[0], error) from error


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    return environment | {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "LANGUAGE": "C"}


def _not_started(program: str, error: OSError) -> MachineRefusal:
    return MachineRefusal(f"{program} could not be started: {error.strerror}", hint="Is it damaged?")


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program's end, then be interrupted, if we were."""
    interrupted: KeyboardInterrupt | None = None
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _all_of(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and everything it started."""
    if sys.platform == "win32" or os.getpgid(process.pid) == os.getpgid(0):
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
