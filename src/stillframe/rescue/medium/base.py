"""The distribution's part of the medium: made once, then kept until it is too old or its recipe changes.

Answers: "where is a base like this, and how is one made?" It is made by mmdebstrap in a namespace of its own: when this
process ends in whatever way, every program and every mount of it ends too.

Sources: mmdebstrap(1); mksquashfs(1) of squashfs-tools 4.5, ``-tar``; unshare(1), ``--kill-child``.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillframe.clock import Clock
from stillframe.errors import MachineRefusal
from stillframe.events import EventSink, PhaseStarted
from stillframe.host.linux import is_root
from stillframe.host.run import start
from stillframe.rescue.medium.cache import keep, made_once
from stillframe.rescue.medium.mirror import PackageSources
from stillframe.rescue.medium.recipe import ROOT_FILES, SUITE, Kernel, digest, dpkg_options, hooks, packages

AGE_MAX_S: Final = 30 * 86400
"""A base that is older is made anew: security updates have come since."""
BASE_SIZE: Final = 2_500_000_000
"""Room in the cache while one is made."""
_FACTS: Final = "base.json"
NAMESPACES: Final = (
    "unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc",
)  # fmt: skip
"""Of mounts and of processes: they end with what is started in them. What is unmounted outside is not held mounted."""
_COMPRESSION: Final = ("-comp", "zstd", "-Xcompression-level", "6", "-b", "256K")
_LOG: Final = "last-build.log"
_STEP_S: Final = 0.3
_STEPS: Final = {
    "running apt-get update...": "asking the mirror what there is",
    "downloading packages with apt...": "fetching packages",
    "extracting archives...": "unpacking the first packages",
    "installing remaining packages inside the chroot...": "installing packages",
    "running --customize-hook in shell": "making a rescue system of it",
    "running special hook": "making a rescue system of it",
    "creating tarball...": "packing it",
}
"""What mmdebstrap says on its standard error, and what that is in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWishes:
    """Which base.

    Attributes:
        kernel: Debian's for all computers, or the small one for virtual machines.
        wifi: With iwd, and with firmware where the sources have it.
        sources: Where its packages come from.
        fresh: Make it anew, also when there is one.
    """

    kernel: Kernel
    wifi: bool
    sources: PackageSources
    fresh: bool = False

    @property
    def digest(self) -> str:
        """Its name."""
        return digest(self.kernel, self.sources.lines, wifi=self.wifi, firmware=self.wifi and self.sources.has_firmware)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base.

    Attributes:
        folder: Where it is kept.
        made: When it was made, in seconds since 1970.
        reused: Whether it was there already.
    """

    folder: str
    made: int
    reused: bool

    @property
    def squashfs(self) -> str:
        """Its file system."""
        return os.path.join(self.folder, "filesystem.squashfs")

    def piece(self, name: str) -> str:
        """A file or folder beside it, by the name that ``finish`` gave it."""
        return os.path.join(self.folder, "pieces", name)


def find_base(wishes: BaseWishes, cache: str, now_s: float) -> Base | None:
    """The base that is kept; ``None`` when there is none, or it is too old."""
    folder = os.path.join(cache, "base", wishes.digest)
    facts = read_facts(os.path.join(folder, _FACTS))
    made = int(facts.get("made", 0))
    if wishes.fresh or not facts or not 0 <= now_s - made <= AGE_MAX_S:
        return None
    return Base(folder=folder, made=made, reused=True)


def get_base(wishes: BaseWishes, room: str, cache: str, clock: Clock, run_step: "Step") -> Base:
    """The base that is kept, or a new one.

    Args:
        wishes: Which.
        room: A folder to work in.
        cache: Where it is kept.
        clock: What time it is.
        run_step: Carries programs out.

    Raises:
        MachineRefusal: It could not be made; the log is kept.
    """
    with made_once(f"base/{wishes.digest}", check=run_step.check) as place:
        found = find_base(wishes, cache, clock.now().timestamp())
        if found is not None:
            return found
        half = os.path.join(room, "base")
        os.makedirs(half)
        made = int(clock.now().timestamp())
        _make(wishes, half, run_step)
        facts = {"made": made, "suite": SUITE, "kernel": wishes.kernel, "sources": wishes.sources.lines}
        Path(half, _FACTS).write_text(json.dumps(facts))
        keep(half, place)
        return Base(folder=place, made=made, reused=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How the programs of a build are run: they end when this process does, and when the person says so.

    Attributes:
        events: Is told what goes on.
        check: What it raises stops the program at work.
        epoch: For ``SOURCE_DATE_EPOCH``: the time that is written into what is made.
        log: Where what a failed program said is kept.
    """

    events: EventSink
    check: Callable[[], None]
    epoch: int
    log: str

    def run(
        self, command: Sequence[str], *, what: str, folder: str = "", said: Callable[[list[str]], None] | None = None
    ) -> None:
        """Run a program to its end.

        Args:
            command: Program and arguments.
            what: What it does, in words.
            folder: Where it keeps what it needs meanwhile.
            said: Is given what it has said until now, again and again.

        Raises:
            MachineRefusal: It failed.
        """
        self.check()
        given = [f"SOURCE_DATE_EPOCH={self.epoch}", *([f"TMPDIR={folder}"] if folder else [])]
        with start(["env", *given, *command]) as program:
            while (code := program.wait(_STEP_S)) is None:
                self.check()
                if said is not None:
                    said(program.said())
            words = program.last_words()
            lines = program.said()
        if code:
            Path(self.log).write_text("\n".join([" ".join(command), *lines, ""]))
            raise MachineRefusal(
                f"{what} failed: {command[0]} ended with exit code {code}: {words or 'it gave no reason'}",
                hint=f"All that it said is in {self.log}. Is there room, and a way to the mirror?",
            )


def log_file(cache: str) -> str:
    """Where what a failed program said is kept."""
    return os.path.join(cache, _LOG)


def _make(wishes: BaseWishes, half: str, run_step: Step) -> None:
    events, told = run_step.events, set[str]()

    def tell(lines: list[str]) -> None:
        for line in lines:
            words = next((words for sign, words in _STEPS.items() if sign in line), "")
            if words and words not in told:
                told.add(words)
                events.emit(PhaseStarted(name=f"Debian: {words}"))

    tar, pieces = os.path.join(half, "root.tar"), os.path.join(half, "pieces.tar")
    events.emit(PhaseStarted(name="Debian: beginning"))
    run_step.run(_bootstrap(wishes, tar, pieces), what="installing Debian", folder=_folder(half), said=tell)
    events.emit(PhaseStarted(name="Debian: compressing its file system"))
    squashfs = os.path.join(half, "filesystem.squashfs")
    pack = ["mksquashfs", "-", squashfs, "-tar", *_COMPRESSION, "-noappend", "-quiet", "-no-progress"]
    run_step.run(["sh", "-c", 'file=$1; shift; exec "$@" < "$file"', "sh", tar, *pack],
                 what="compressing the file system")  # fmt: skip
    run_step.run(["tar", "-xf", pieces, "-C", half, "--no-same-owner"], what="unpacking the pieces")
    os.unlink(tar)
    os.unlink(pieces)


def _bootstrap(wishes: BaseWishes, tar: str, pieces: str) -> list[str]:
    wanted = packages(wishes.kernel, wifi=wishes.wifi, firmware=wishes.wifi and wishes.sources.has_firmware)
    mode = "root" if is_root() else "unshare"
    return [
        *(NAMESPACES if is_root() else ()), "mmdebstrap", "--variant=minbase", f"--mode={mode}",
        '--aptopt=APT::Install-Recommends "false"', *(f"--dpkgopt={option}" for option in dpkg_options()),
        f"--include={','.join(wanted)}", f"--essential-hook={_NO_INITRAMFS}",
        *(f"--customize-hook={hook}" for hook in hooks(str(ROOT_FILES), pieces)), SUITE, tar, *wishes.sources.lines,
    ]  # fmt: skip


_NO_INITRAMFS: Final = (
    'mkdir -p "$1/usr/local/sbin" && printf "#!/bin/sh\\n" > "$1/usr/local/sbin/update-initramfs" '
    '&& chmod 0755 "$1/usr/local/sbin/update-initramfs"'
)
"""The initramfs is made once, by ``finish``, which takes this away: the packages would make it several times."""


def _folder(half: str) -> str:
    """Where the new system lies while it is made; other users than root map to others there, who need to get in."""
    return half if is_root() else "/var/tmp"  # noqa: S108 - mmdebstrap makes its own folder in it


def read_facts(file: str) -> dict[str, Any]:
    """What was noted beside something that is kept; nothing when it is not whole."""
    try:
        facts = json.loads(Path(file).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
