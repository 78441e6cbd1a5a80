"""How a computer starts from some disks, as words and as fields.

Answers: "what starts what, and where does it break?" Pure: lines and fields out.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.cli.results import Fields, notice_fields
from stillframe.cli.words import notice_lines
from stillframe.jobs.inside.system_reading import BootWaysFound
from stillframe.systems.chain_records import BootChain, BootStep

_FIRMWARES: Final = {"bios": "BIOS", "uefi": "UEFI"}
_SHORT: Final = frozenset({"loader", "system"})


def boot_lines(found: BootWaysFound, disks: Sequence[str], *, in_full: bool) -> list[str]:
    """One line for each way, or all its steps.

    Args:
        found: The ways.
        disks: What the disks are called that their steps count.
        in_full: Every step.
    """
    many = len(disks) > 1
    if in_full and not found.chains:
        return ["No way was found in which a computer starts from here.", *notice_lines(found.notices)]
    lines = list[str]()
    for chain in found.chains:
        lines.append(chain_words(chain, many=many))
        lines += _step_lines(chain, disks, many=many) if in_full else ()
    return [*lines, *notice_lines(found.notices)]


def chain_words(chain: BootChain, *, many: bool) -> str:
    """A way on one line: ``Starts by UEFI: Windows Boot Manager (1) -> Windows 11 Pro (3)``."""
    path = (", fallback path" if chain.is_fallback else "") + ("" if chain.is_first else ", another entry")
    steps = [step for step in chain.steps if step.kind in _SHORT]
    words = " -> ".join(f"{step.what} ({_place(step, many=many)})" for step in steps) or "code of the disk"
    ending = ""
    if chain.fault:
        ending = f" -> BROKEN: {chain.fault}"
    elif chain.system is None:
        ending = f" -> {chain.limit or 'not known'}"
    return f"Starts by {_FIRMWARES[chain.firmware]}{path}: {words}{ending}"


def _step_lines(chain: BootChain, disks: Sequence[str], *, many: bool) -> Iterator[str]:
    for number, step in enumerate(chain.steps, 1):
        where = f"{disks[step.disk]}, " if many and step.disk < len(disks) else ""
        where += "outside of partitions" if step.partition is None else f"partition {step.partition}"
        where += f" ({step.inner})" if step.inner else ""
        path = f" {step.path}" if step.path and step.path != step.what else ""
        leads = f" -> {step.leads}" if step.leads else ""
        yield f"  {number}. {step.what}, {where}{path}{leads}"
        if step.fault:
            yield f"     BROKEN: {step.fault}"
        if step.limit:
            yield f"     {step.limit}"


def _place(step: BootStep, *, many: bool) -> str:
    disk = f"disk {step.disk + 1}, " if many else ""
    if step.partition is None:
        return f"{disk}gap"
    return f"{disk}{step.partition}" + (f", {step.inner}" if step.inner else "")


def boot_fields(found: BootWaysFound, disks: Sequence[str]) -> Fields:
    """The ways as fields."""
    return {
        "chains": [_chain_fields(chain, disks) for chain in found.chains],
        "notices": notice_fields(found.notices),
    }


def _chain_fields(chain: BootChain, disks: Sequence[str]) -> Fields:
    return {
        "firmware": chain.firmware,
        "fallback": chain.is_fallback,
        "first": chain.is_first,
        "system": chain.system.what if chain.system is not None else None,
        "fault": chain.fault or None,
        "limit": chain.limit or None,
        "steps": [
            {
                "kind": step.kind,
                "what": step.what,
                "disk": disks[step.disk] if step.disk < len(disks) else None,
                "partition": step.partition,
                "inner": step.inner or None,
                "path": step.path or None,
                "leads": step.leads or None,
                "fault": step.fault or None,
                "limit": step.limit or None,
            }
            for step in chain.steps
        ],
    }
