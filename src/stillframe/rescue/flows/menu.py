"""The first page, and where each of its entries leads.

Answers: "what can be done here?"
"""

from collections.abc import Callable
from typing import Final

from stillframe.rescue.flows.cloning import clone
from stillframe.rescue.flows.health import ask_health
from stillframe.rescue.flows.repairing import repair
from stillframe.rescue.flows.restoring import restore
from stillframe.rescue.flows.saving import back_up
from stillframe.rescue.flows.taking import take_files
from stillframe.rescue.pages.pages import Choose, Flow, Leave, LeaveFor, Option, Step
from stillframe.rescue.world import World

_FLOWS: Final[dict[str, Callable[[World], Step]]] = {
    "backup": back_up,
    "restore": restore,
    "files": take_files,
    "clone": clone,
    "repair": repair,
    "health": ask_health,
}
_LEAVES: Final[dict[str, LeaveFor]] = {
    "shell": "shell",
    "restart": "restart",
    "switch-off": "switch-off",
    "leave": "leave",
}
_HERE: Final = "Nothing is changed on any disk until you type a word that says so."


def menu(world: World, notes: tuple[str, ...] = ()) -> Flow:
    """All pages of the rescue program, from the first on.

    Args:
        world: This machine.
        notes: What a person should read first, such as why answers were not carried out.
    """
    choice = yield menu_page(world, notes)
    if choice in _FLOWS:
        choice = yield from _FLOWS[choice](world)
    if choice in _LEAVES:
        yield Leave(title="", what=_LEAVES[choice])
    yield menu_page(world, ())


def menu_page(world: World, notes: tuple[str, ...]) -> Choose:
    """The first page."""
    options = [
        Option(
            key="backup", words="Back up this computer", detail="an image of its disks, onto another disk or a share"
        ),
        Option(key="restore", words="Restore this computer", detail="put an image back onto a disk"),
        Option(key="files", words="Take files out of a backup", detail="onto a USB stick or a disk"),
        Option(key="clone", words="Copy one disk to another", detail="without a backup in between"),
        Option(key="repair", words="Repair how it starts", detail="everything is there, and it does not start"),
        Option(key="health", words="Are the disks well?", detail="what they say of themselves; nothing is changed"),
        Option(key="shell", words="A shell", detail="for who knows commands; 'exit' comes back here"),
    ]
    if world.is_installed:
        options.append(Option(key="leave", words="Leave"))
    else:
        options += [
            Option(key="restart", words="Restart this computer"),
            Option(key="switch-off", words="Switch it off"),
        ]
    return Choose(title="Stillframe", lines=(*notes, _HERE), options=tuple(options), is_start=True)
