"""A medium is made.

Answers: "in which order, and what is left when it is stopped in between?" Nothing but the cache: the file has its name
when it is whole, and a stick is written at the very end, after all that can fail elsewhere.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.clock import Clock
from stillframe.errors import StillframeError, StorageError, StorageFull
from stillframe.events import JobFinished, JobStarted, PhaseStarted
from stillframe.host.packages import install_packages
from stillframe.host.places import free_space
from stillframe.jobs.context import JobContext
from stillframe.rescue.medium.base import Base, Step, get_base, log_file
from stillframe.rescue.medium.cache import gone, media_cache, work_room
from stillframe.rescue.medium.iso import make_iso
from stillframe.rescue.medium.plan import MediumPlan
from stillframe.rescue.medium.stick import write_stick
from stillframe.rescue.medium.tree import NETBOOT_FILES, label_of, make_filesystem, make_tree
from stillframe.units import MIB, format_size

VERB: Final = "rescue build"
PARTIAL: Final = ".partial"
_EPOCH: Final = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedStep:
    """A part of the build, and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What was made.

    Attributes:
        size: Bytes of the ISO; 0 without one.
        filesystem_size: Bytes of the file system in it.
        files: What was written, in order.
        label: By which the medium finds itself.
        kernel: Version of its kernel.
        base_reused: Whether the base was there already.
        base_made: When it was made, in seconds since 1970.
        bytes_written: To the stick.
        steps: How long what took.
        seconds: All of it.
    """

    size: int
    filesystem_size: int
    files: tuple[str, ...]
    label: str
    kernel: str
    base_reused: bool
    base_made: int
    bytes_written: int
    steps: tuple[TimedStep, ...]
    seconds: float


class _Times:
    """How long each part took."""

    def __init__(self) -> None:
        self.steps: list[TimedStep] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        began = time.monotonic()
        yield
        self.steps.append(TimedStep(name=name, seconds=time.monotonic() - began))


def apply_build(plan: MediumPlan, clock: Clock, context: JobContext) -> BuildResult:
    """Make the medium.

    Raises:
        MachineRefusal: A program failed, or the cache was cleared meanwhile.
        StorageError: Something cannot be written.
        TargetError: The stick is not the one that was shown, or is in use.
        Cancelled: The person stopped it.
    """
    began, times, wishes = time.monotonic(), _Times(), plan.wishes
    context.events.emit(JobStarted(verb=VERB, what=wishes.iso or wishes.usb or wishes.pieces))
    if plan.missing:
        with times.of("packages of this machine"):
            context.events.emit(PhaseStarted(name=f"installing {' '.join(plan.missing)} on this machine"))
            install_packages(plan.missing, check=context.cancel.check)
    try:
        with work_room() as room:
            made = _make(plan, room, clock, context, times)
    except FileNotFoundError as error:
        raise gone(error) from error
    except OSError as error:
        raise _failure(error) from error
    seconds = time.monotonic() - began
    context.events.emit(JobFinished(verb=VERB, seconds=seconds))
    base, files, filesystem_size, written = made
    return BuildResult(
        size=os.path.getsize(wishes.iso) if wishes.iso else 0, filesystem_size=filesystem_size, files=files,
        label=label_of(base), kernel=Path(base.piece("kernel-version")).read_text().strip(), base_reused=base.reused,
        base_made=base.made, bytes_written=written, steps=tuple(times.steps), seconds=seconds,
    )  # fmt: skip


def _make(
    plan: MediumPlan, room: str, clock: Clock, context: JobContext, times: _Times
) -> tuple[Base, tuple[str, ...], int, int]:
    wishes, files, written = plan.wishes, list[str](), 0
    epoch = int(os.environ.get(_EPOCH) or clock.now().timestamp())
    step = Step(events=context.events, check=context.cancel.check, epoch=epoch, log=log_file(media_cache()))
    with times.of("Debian"):
        base = get_base(plan.base, room, media_cache(), clock, step)
    with times.of("Stillframe"):
        filesystem = make_filesystem(base, plan.settings, room, step)
    tree = make_tree(base, filesystem, plan.settings, room, serial=wishes.serial)
    if wishes.pieces:
        with times.of("pieces"):
            os.makedirs(wishes.pieces, exist_ok=True)
            for name in NETBOOT_FILES:
                files.append(_publish(os.path.join(tree, "live", name), os.path.join(wishes.pieces, name)))
    if wishes.iso:
        with times.of("ISO"):
            made = os.path.join(room, "medium.iso")
            make_iso(base, tree, made, room, step)
            files.append(_publish(made, wishes.iso))
    if plan.stick is not None:
        with times.of("stick"):
            written = write_stick(plan.stick, base, tree, room, step)
            files.append(plan.stick.identity.path)
    return base, tuple(files), os.path.getsize(filesystem), written


def _publish(made: str, path: str) -> str:
    """Give something that is whole its name, in one moment; returns its full path."""
    partial, size = path + PARTIAL, os.path.getsize(made)
    if free_space(os.path.dirname(os.path.abspath(path))) < size:
        raise StorageFull(f"there is no room for {path}: {format_size(size)} are needed", hint="Make room there.")
    try:
        shutil.copyfile(made, partial)
        descriptor = os.open(partial, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    return os.path.abspath(path)


def _failure(error: OSError) -> StillframeError:
    return StorageError(
        f"{error.filename or media_cache()} cannot be written: {error.strerror}",
        hint=f"Is there room? A build needs some {format_size(3000 * MIB)} in {media_cache()}.",
    )
