"""Programs of a restored system, run with its volume as their root.

Answers: "let this system's own tools do their work, and keep them away from everything else." They see no network, no
other process, of devices only the disk they work on and what lies in it, and the kernel's settings read-only; what they
mount is gone when they end. They run as root all the same, on a system that the owner of this machine trusts enough to
start it.

Sources: unshare(1), mount_namespaces(7), pid_namespaces(7), capabilities(7); ELF: elf(5) (``EI_CLASS``, ``EI_DATA``,
``e_machine``).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stillframe.block.syscalls import refusal
from stillframe.errors import MachineRefusal
from stillframe.host.root_files import RootFiles
from stillframe.host.run import Finished, run

PROGRAM_S: Final = 1800.0
"""Longest time of one program: an initramfs with all drivers on a slow machine, for some kernels."""
_LAST_LINES: Final = 4
_NOT_NEEDED: Final = "-sys_module,-sys_boot,-sys_rawio,-sys_time,-syslog"
_OWN_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MEMORY_NODES: Final = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))  # major 1, null(4)

# $1: the root; $2: how many devices follow, each as NAME MAJOR MINOR; then how many links, each as NAME TARGET;
# then how many files in whose place others are seen, each as PLACE CONTENTS; then the program.
# Devices of memory are major 1. A slave: what is unmounted meanwhile outside is not held mounted in here.
_SCRIPT: Final = f"""set -e
root=$1; count=$2; shift 2
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=16m,nosuid tmpfs "$root/dev"
mount -t tmpfs -o mode=755,size=64m,nosuid,nodev tmpfs "$root/run"
mkdir "$root/dev/shm"; chmod 1777 "$root/dev/shm"
for pair in {" ".join(f"{name}:{minor}" for name, minor in _MEMORY_NODES)}; do
  mknod -m 666 "$root/dev/${{pair%%:*}}" c 1 "${{pair##*:}}"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
while [ "$count" -gt 0 ]; do
  mknod -m 600 "$root/dev/$1" b "$2" "$3"; shift 3; count=$((count - 1))
done
count=$1; shift
while [ "$count" -gt 0 ]; do
  mkdir -p "$root/dev/$(dirname "$1")"; ln -s "/dev/$2" "$root/dev/$1"; shift 2; count=$((count - 1))
done
count=$1; shift
while [ "$count" -gt 0 ]; do
  (umask 077; printf %s "$2" > "$root/run/cover"); mount --bind "$root/run/cover" "$1"; rm "$root/run/cover"
  shift 2; count=$((count - 1))
done
exec setpriv --bounding-set={_NOT_NEEDED} --inh-caps={_NOT_NEEDED} chroot "$root" \\
  /usr/bin/env -i PATH={_OWN_PATH} HOME=/root TERM=dumb LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a program sees besides the files of its system.

    Attributes:
        devices: Devices of this machine, under their own names.
        links: Other names below ``/dev`` for them, such as ``mapper/house-root``, each with its device.
        covers: Texts that it sees in place of files, by their paths; the files stay as they are.
    """

    devices: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    covers: Mapping[str, str] = field(default_factory=dict)


NOTHING_SEEN: Final = Seen()


def require_same_machine(files: RootFiles) -> None:
    """Refuse when the programs of a system are for another kind of processor than those of this machine.

    Raises:
        MachineRefusal: They are, or it has no shell.
    """
    theirs = files.read_file("/bin/sh", 0, 20)
    with open(sys.executable, "rb") as file:
        ours = file.read(20)
    if theirs is None or theirs[:4] != b"\x7fELF":
        raise MachineRefusal("the restored system has no shell that could be run", hint="Is it whole?")
    if (theirs[4:6], theirs[18:20]) != (ours[4:6], ours[18:20]):
        raise MachineRefusal(
            "the restored system is for another kind of processor than this machine, so its programs do not run here",
            hint="Restore it on a machine of its kind, or start it and repair it there.",
        )


def run_inside(
    files: RootFiles, arguments: Sequence[str], *, seen: Seen = NOTHING_SEEN, given: bytes = b"",
    timeout_s: float = PROGRAM_S,
) -> Finished:  # fmt: skip
    """Run a program of a restored system to its end.

    Args:
        files: Of that system; everything that belongs to it is mounted below its root.
        arguments: The program, and what it is told.
        seen: What it sees besides.
        given: What it reads on its standard input.
        timeout_s: After so many seconds it is stopped, with everything it started.

    Raises:
        MachineRefusal: Its processor is another one, or it did not end in time, or failed: its last words are in the
            message.
    """
    require_same_machine(files)
    nodes = [word for device in seen.devices for word in _node(device)]
    links = [word for name in sorted(seen.links) for word in (name, os.path.basename(seen.links[name]))]
    covers = [word for path, text in seen.covers.items() for word in (files.place(path), text)]
    apart = ["--mount", "--propagation=slave", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
    command = ["unshare", *apart, "sh", "-c", _SCRIPT, "inside", files.root, str(len(seen.devices)), *nodes]
    command += [str(len(seen.links)), *links, str(len(seen.covers)), *covers, *arguments]
    try:
        done = run(command, given=given, timeout_s=timeout_s)
    except MachineRefusal as error:
        raise MachineRefusal(
            error.message.replace("unshare did", f"{arguments[0]} of the restored system did"), hint=error.hint
        ) from error
    if done.exit_code:
        lines = [line.strip() for line in (done.text + done.errors.decode(errors="replace")).splitlines()]
        said = "; ".join([line for line in lines if line][-_LAST_LINES:])
        raise MachineRefusal(
            f"{arguments[0]} of the restored system failed ({done.exit_code}): {said or 'no reason given'}",
            hint="Start the system from its own medium and run it there.",
        )
    return done


def _node(device: str) -> tuple[str, str, str]:
    if sys.platform == "win32":
        raise refusal("running programs of a restored system")
    number = os.stat(device).st_rdev
    return os.path.basename(device), str(os.major(number)), str(os.minor(number))
