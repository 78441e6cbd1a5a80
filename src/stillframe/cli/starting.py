"""The verbs that start an image in a virtual machine: ``run`` for a person, ``prove`` to know that it boots."""

import argparse
from typing import Final

from stillframe.cli.call import Call, running
from stillframe.cli.results import Fields
from stillframe.cli.words import local_time
from stillframe.host.machine import machine
from stillframe.jobs.listing import find_image
from stillframe.jobs.proving import ProveResult, prove_image
from stillframe.jobs.running import RunResult, run_image
from stillframe.jobs.virtual import MachineOptions

DOES_NOT_BOOT: Final = 21
"""Exit code: what is on the disk is not what a computer starts from."""
UNCLEAR: Final = 3


def prove(call: Call) -> int:
    """Start an image with nobody there, and keep what became of it as its proof."""
    options, screen = call.options, call.screen
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    with running(screen) as context:
        result = prove_image(
            repository, manifest, options=machine_options(options), limit_s=float(options.limit), context=context
        )
    screen.finish("prove", prove_fields(result), prove_lines(result))
    return prove_code(result)


def run(call: Call) -> int:
    """Start an image for a person to use it."""
    options, screen = call.options, call.screen
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    screen.say(f"Starting image {manifest.image[:8]} of {manifest.machine.name}, {local_time(manifest.created)}.")
    with running(screen) as context:
        result = run_image(
            repository,
            manifest,
            options=machine_options(options, display=options.display),
            keep=options.keep,
            context=context,
        )
    screen.finish("run", _run_fields(result), [_run_words(result)])
    return 0


def prove_fields(result: ProveResult) -> Fields:
    """What a start came to."""
    return {
        "image": result.image, "outcome": result.outcome, "reason": result.reason, "seconds": round(result.seconds, 1),
        "firmware": result.firmware or None, "screenshot": bool(result.picture),
    }  # fmt: skip


def prove_lines(result: ProveResult) -> list[str]:
    """The same for a person."""
    head = {"booted": "it boots", "failed": "DOES NOT BOOT", "unclear": "unclear whether it boots"}[result.outcome]
    took = f" ({result.seconds:.0f} s, {result.firmware.upper()})" if result.firmware else ""
    picture = f"'stillframe show {result.image[:8]} --screenshot FILE' writes what was on its screen."
    return [f"Image {result.image[:8]}  {head}{took}: {result.reason}", *([picture] if result.picture else [])]


def prove_code(result: ProveResult) -> int:
    """The exit code of an outcome."""
    return {"booted": 0, "failed": DOES_NOT_BOOT, "unclear": UNCLEAR}[result.outcome]


def machine_options(options: argparse.Namespace, *, display: str = "none") -> MachineOptions:
    """What a person wants of the virtual machine."""
    return MachineOptions(
        firmware=None if options.firmware == "auto" else options.firmware,
        bus=None if options.bus == "auto" else options.bus, memory_mib=options.memory, cpus=options.cpus,
        acceleration=options.accel, display=display, network=getattr(options, "network", False),  # type: ignore[arg-type]
    )  # fmt: skip


def _run_fields(result: RunResult) -> Fields:
    return {"image": result.image, "seconds": round(result.seconds, 1), "kept": result.kept or None}


def _run_words(result: RunResult) -> str:
    changes = f"is in {result.kept}: '--keep' goes on with it" if result.kept else "is thrown away"
    return f"Switched off after {result.seconds:.0f} s. What was changed {changes}; the image is as it was."
