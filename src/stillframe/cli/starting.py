"""The verbs that start an image in a virtual machine: ``run`` for a person, ``prove`` to know that it boots."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.cli.call import Call, running
from stillframe.cli.results import Fields
from stillframe.cli.words import local_time
from stillframe.host.machine import machine
from stillframe.jobs.context import JobContext
from stillframe.jobs.listing import find_image
from stillframe.jobs.proving import LIMIT_S, ProveResult, prove_image
from stillframe.jobs.running import RunResult, run_image
from stillframe.jobs.virtual import MachineOptions
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository

DOES_NOT_BOOT: Final = 21
"""Exit code: what is on the disk is not what a computer starts from."""
UNCLEAR: Final = 3
_CODES: Final = {"booted": 0, "failed": DOES_NOT_BOOT, "unclear": UNCLEAR}


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSaid:
    """What a start came to: as fields, for a person, and as exit code."""

    fields: Fields
    lines: Sequence[str]
    code: int


def prove(call: Call) -> int:
    """Start an image with nobody there, and keep what became of it as its proof."""
    options, screen = call.options, call.screen
    repository = call.open_repository()
    manifest = find_image(repository, options.image, machine_id=machine().id)
    with running(screen) as context:
        result = prove_image(
            repository, manifest, options=machine_options(options), limit_s=float(options.limit), context=context
        )
    said = _said(result)
    screen.finish("prove", said.fields, said.lines)
    return said.code


def prove_new_image(repository: Repository, manifest: Manifest, context: JobContext) -> StartSaid:
    """Start an image that was just made, as ``prove`` does when nothing is asked for."""
    return _said(
        prove_image(repository, manifest, options=MachineOptions(), limit_s=LIMIT_S, context=context)
    )  # fmt: skip


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


def _said(result: ProveResult) -> StartSaid:
    return StartSaid(fields=_prove_fields(result), lines=_prove_lines(result), code=_CODES[result.outcome])


def _prove_fields(result: ProveResult) -> Fields:
    return {
        "image": result.image, "outcome": result.outcome, "reason": result.reason, "seconds": round(result.seconds, 1),
        "firmware": result.firmware or None, "screenshot": bool(result.picture),
    }  # fmt: skip


def _prove_lines(result: ProveResult) -> list[str]:
    head = {"booted": "it boots", "failed": "DOES NOT BOOT", "unclear": "unclear whether it boots"}[result.outcome]
    took = f" ({result.seconds:.0f} s, {result.firmware.upper()})" if result.firmware else ""
    picture = f"'stillframe show {result.image[:8]} --screenshot FILE' writes what was on its screen."
    return [f"Image {result.image[:8]}  {head}{took}: {result.reason}", *([picture] if result.picture else [])]


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
