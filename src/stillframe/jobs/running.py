"""The verb ``run``: an image becomes a machine that a person uses, at once.

Answers: "let me work with this image, without restoring it." What is changed is thrown away at the end, or kept in a
file beside the image.
"""

import time
from dataclasses import dataclass
from typing import Final

from stillframe.errors import Cancelled, MachineRefusal, UsageError
from stillframe.events import JobFinished, JobStarted, Notice
from stillframe.jobs.context import JobContext
from stillframe.jobs.exposing import expose
from stillframe.jobs.virtual import Guest, MachineOptions, kept_overlays_of, overlays_of, plan_machine, started
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository

_POWER_OFF_S: Final = 60.0
_TICK_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended. ``kept`` is the file that holds what was changed; empty when it was thrown away."""

    image: str
    seconds: float
    kept: str


def run_image(
    repository: Repository, manifest: Manifest, *, options: MachineOptions, keep: str, context: JobContext
) -> RunResult:
    """Start an image and wait until the machine is switched off, or the person stops it.

    Args:
        repository: Where the image is.
        manifest: The image.
        options: What machine it gets.
        keep: A file for what is changed, to go on with it next time; empty throws it away.
        context: Who is told, and how it is stopped.

    When the person stops it, its power button is pressed, and it is ended after a minute if that brings nothing.

    Raises:
        UsageError: Nothing that boots is on the disks, and no firmware was named.
        MissingProgram, MachineRefusal: It cannot be started here.
    """
    began = time.monotonic()
    context.events.emit(JobStarted(verb="run", what=f"image {manifest.image[:8]}"))
    image = expose(repository, manifest)
    plan = plan_machine(image, options)
    if not plan.is_bootable and not plan.loaders:
        raise UsageError(
            f"nothing that boots was found on the disks of image {manifest.image[:8]}",
            hint="'stillframe show' lists what is on them. '--firmware bios' or '--firmware uefi' tries it anyway.",
        )
    with (
        kept_overlays_of(image, keep) if keep else overlays_of(image) as overlays,
        started(image, plan, overlays, context.events) as guest,
    ):
        context.events.emit(Notice(code="machine-started", message=_where(guest)))
        _wait(guest, context)
    seconds = time.monotonic() - began
    context.events.emit(JobFinished(verb="run", seconds=seconds))
    return RunResult(image=manifest.image, seconds=seconds, kept=keep)


def _where(guest: Guest) -> str:
    """What was started, and where its screen is."""
    machine = guest.machine
    place = {
        "window": "its screen is in a window of its own",
        "serial": "its serial line is this terminal; Ctrl-A, then X, ends it",
        "none": "it has no screen",
        "vnc": "",
    }[machine.display]
    if machine.display == "vnc":
        found = guest.qmp.execute("query-vnc")
        place = f"its screen is at {found['host']}:{found['service']} for a VNC viewer on this computer"
    return f"the machine runs with {machine.firmware.upper()} and {machine.memory_mib} MiB of memory; {place}"


def _wait(guest: Guest, context: JobContext) -> None:
    """Until it is switched off."""
    while guest.running.wait(_TICK_S) is None:
        try:
            context.cancel.check()
        except Cancelled:
            _switch_off(guest, context)
            return
    code = guest.running.wait()
    if code:
        raise MachineRefusal(
            f"QEMU ended with exit code {code}: {guest.running.last_words() or 'it gave no reason'}",
            hint="Without a desktop use '--display vnc' or '--display serial'.",
        )


def _switch_off(guest: Guest, context: JobContext) -> None:
    context.events.emit(Notice(code="machine-power-button", message="its power button is pressed"))
    try:
        guest.qmp.press_power_button()
    except MachineRefusal:
        return  # it was just ending
    if guest.running.wait(_POWER_OFF_S) is None:
        words = f"it did not switch itself off in {_POWER_OFF_S:g} s and is ended"
        context.events.emit(Notice(code="machine-ended", message=words))
