"""The verb ``prove``: an image is started in a virtual machine, with nobody there and no network.

Answers: "does this image boot?" with ``booted``, ``failed`` or ``unclear``, by evidence and never by a guess. In this
order: what the system says of itself on the serial line or the screen; what it does when its power button is pressed;
what it wrote on its disks. The image is not changed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.block.copy_on_write import CopyOnWrite
from stillframe.clock import rfc3339
from stillframe.errors import MachineRefusal, StorageError
from stillframe.events import EventSink, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.host.apart import call_apart
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import keep_proof
from stillframe.jobs.exposing import ExposedImage, expose
from stillframe.jobs.virtual import MachineOptions, MachinePlan, overlays_of, plan_machine, refuse_disk_errors, started
from stillframe.jobs.watching import QUIET_S, Onlooker, Watch
from stillframe.repo.proofs import write_screenshot
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.systems.boot_evidence import Sighting
from stillframe.systems.boot_traces import Traces, compare_traces

BootOutcome = Literal["booted", "failed", "unclear"]
LIMIT_S: Final = 300
_LOOK_S: Final = 1.0
_MEMORY_STILL_S: Final = 6.0
_POWER_OFF_S: Final = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveResult:
    """The outcome of a start.

    Attributes:
        image: Its id.
        outcome: ``unclear`` when nothing known was seen, or there is nothing to start.
        reason: By what it is known, or why it is not.
        seconds: Until it was known.
        firmware: That was used; empty when nothing was started.
        picture: The last screenshot, a PNG; empty when nothing was started.
    """

    image: str
    outcome: BootOutcome
    reason: str
    seconds: float
    firmware: str = ""
    picture: bytes = b""


def prove_image(
    repository: Repository, manifest: Manifest, *, options: MachineOptions, limit_s: float, context: JobContext
) -> ProveResult:
    """Start an image, and keep the outcome as its proof.

    Args:
        repository: Where it is.
        manifest: The image.
        options: What machine it gets.
        limit_s: Longest time for the start; waiting for it to switch off is not counted.
        context: Its owner vouches for the proof. Its cancel token is asked once a second.

    Raises:
        MissingProgram, MachineRefusal: QEMU or the firmware is missing, or this computer cannot run it.
        DamagedError: The image could not be read while it ran.
        Cancelled: The person stopped it. No proof is kept.
    """
    began = time.monotonic()
    context.events.emit(JobStarted(verb="prove", what=f"image {manifest.image[:8]}"))
    image = expose(repository, manifest)
    plan = plan_machine(image, options)
    result = _nothing_to_start(manifest, plan)
    if plan.is_bootable or plan.loaders:
        result = judge_start(image, plan, limit_s=limit_s, context=context)
    _keep(repository, result, context)
    context.events.emit(JobFinished(verb="prove", seconds=time.monotonic() - began))
    return result


def _nothing_to_start(manifest: Manifest, plan: MachinePlan) -> ProveResult:
    disks = "the disk" if len(plan.ways) == 1 else f"any of {len(plan.ways)} disks"
    reason = f"nothing that boots was found on {disks}: no boot code for a BIOS, and no EFI/BOOT/BOOTX64.EFI for UEFI"
    return ProveResult(image=manifest.image, outcome="unclear", reason=reason, seconds=0.0)


def judge_start(
    image: ExposedImage, plan: MachinePlan, *, limit_s: float, context: JobContext, variables: str = ""
) -> ProveResult:
    """Start disks with nobody there, and judge by evidence whether they boot. They are not changed.

    Args:
        image: The disks.
        plan: What machine they get.
        limit_s: Longest time until something is known.
        context: Told what happens; its cancel token is asked once a second.
        variables: What a firmware remembers, as another machine left it.

    Raises:
        MachineRefusal, DamagedError, Cancelled: As ``prove_image``.
    """
    context.events.emit(PhaseStarted(name=f"starting it with {plan.firmware.upper()}"))
    with overlays_of(image) as overlays:
        with started(image, plan, overlays, context.events, variables=variables) as guest:
            eye, watch = Onlooker(guest), Watch()
            sighting = _watch(eye, watch, limit_s=limit_s, context=context)
            seconds = eye.seconds
            picture = b"" if watch.last is None else watch.last.picture.build_png()
            switched_off = False
            if sighting is None:
                context.events.emit(PhaseStarted(name="pressing its power button"))
                switched_off = _switch_off(eye, watch, context)
            findings = guest.server.findings
        refuse_disk_errors(findings)
        outcome, reason = _decide(sighting, plan, overlays, image, switched_off=switched_off)
    return ProveResult(
        image=image.manifest.image, outcome=outcome, reason=reason, seconds=seconds, firmware=plan.firmware,
        picture=picture,
    )  # fmt: skip


def _watch(eye: Onlooker, watch: Watch, *, limit_s: float, context: JobContext) -> Sighting | None:
    """Look until something is known, nothing moves any more, or the time is over."""
    while eye.seconds < limit_s and watch.still_s < QUIET_S:
        context.cancel.check()
        look = eye.look()
        sighting = watch.take(look)
        if sighting is not None:
            return sighting
        if look.has_ended:
            return Sighting(outcome="failed", meaning="it switched itself off", line="")
        if not look.text and watch.still_s >= _MEMORY_STILL_S:
            sighting = eye.search_memory()
            if sighting is not None:
                return sighting
        time.sleep(_LOOK_S)
    return None


def _switch_off(eye: Onlooker, watch: Watch, context: JobContext) -> bool:
    """Whether it switches itself off when asked to: only a system that is at work does."""
    eye.press_power_button()
    until = eye.seconds + _POWER_OFF_S
    while eye.seconds < until:
        context.cancel.check()
        look = eye.look()
        if look.has_ended:
            return True
        watch.take(look)
        time.sleep(_LOOK_S)
    return False


def _decide(
    sighting: Sighting | None, plan: MachinePlan, overlays: Sequence[CopyOnWrite], image: ExposedImage, *,
    switched_off: bool,
) -> tuple[BootOutcome, str]:  # fmt: skip
    """The outcome, and by what it is known."""
    is_left_to_firmware = plan.firmware != "bios" and not plan.ways[plan.boot_index].uefi and bool(plan.loaders)
    if sighting is not None and sighting.outcome == "failed" and is_left_to_firmware:
        return "unclear", (
            f"{sighting.words}; but the computer itself knew of {plan.loaders[0]}, and that knowledge is on no disk"
        )
    if sighting is not None:
        return sighting.outcome, sighting.words
    traces = _traces(image, overlays)
    if traces.booted:
        return "booted", "; ".join(traces.booted)
    if switched_off and not plan.has_windows:
        return "booted", "it switched itself off when its power button was pressed, as only a system at work does"
    seen = "; ".join((*traces.other, *(["it switched itself off when asked to"] if switched_off else [])))
    return "unclear", f"nothing was seen that proves that it started, or that it failed{f' ({seen})' if seen else ''}"


def _traces(image: ExposedImage, overlays: Sequence[CopyOnWrite]) -> Traces:
    """What was written on all disks."""
    booted, other = list[str](), list[str]()
    for disk, overlay in zip(image.disks, overlays, strict=True):
        if len(overlay.changed):
            before = disk.reader
            try:
                found = call_apart(lambda b=before, o=overlay: compare_traces(b, o), what="reading what it wrote")  # type: ignore[misc]
            except MachineRefusal:
                continue
            booted += found.booted
            other += found.other
    return Traces(booted=tuple(booted), other=tuple(other))


def _keep(repository: Repository, result: ProveResult, context: JobContext) -> None:
    """Keep the picture and the proof, where that is possible."""
    proof_id = make_id().hex()
    has_picture = keep_picture(repository, proof_id, result.picture, context.events)
    proof = ProofRecord(
        proof=proof_id, image=result.image, created=rfc3339(repository.clock.now()), machine=context.owner.machine,
        kind="booted", ok=result.outcome == "booted", bytes=0, how=result.reason[:4000], outcome=result.outcome,
        seconds=round(result.seconds), firmware=result.firmware, screenshot=has_picture,
    )  # fmt: skip
    keep_proof(repository, proof, context.events)


def keep_picture(repository: Repository, proof_id: str, picture: bytes, events: EventSink) -> bool:
    """Keep a screenshot under the id of its proof; ``False`` when there is none, or it cannot be kept."""
    if not picture:
        return False
    try:
        write_screenshot(repository, proof_id, picture)
    except StorageError as error:
        events.emit(
            Notice(code="proof-not-kept", message=f"the picture could not be kept: {error.message}", hint=error.hint)
        )
        return False
    return True
