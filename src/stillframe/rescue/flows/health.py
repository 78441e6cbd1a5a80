"""Are the disks of this computer well?

Answers: "is a disk failing, and what is to be done then?" Nothing is written.
"""

from collections.abc import Iterator

from stillframe.rescue.flows.words import told
from stillframe.rescue.pages.pages import Outcome, Step, Tell, Work
from stillframe.rescue.verbs.calls import Doing
from stillframe.rescue.verbs.records import HealthSaid, HealthSeen
from stillframe.rescue.world import World
from stillframe.units import format_size


def ask_health(world: World) -> Step:
    """From the question to the sentences; then the menu comes again."""

    def ask(doing: Doing) -> HealthSaid:
        return world.run(["health"], HealthSaid, doing).result

    outcome: Outcome = yield Work(title="Asking the disks how they are", do=ask)
    if outcome.error is not None:
        yield told(outcome.error)
        return "menu"
    found: tuple[HealthSeen, ...] = outcome.value.disks
    lines = tuple(line for one in found for line in _lines(one)) or ("No disk was found.",)
    yield Tell(title="The disks of this computer", lines=lines)
    return "menu"


def _lines(one: HealthSeen) -> Iterator[str]:
    """One disk: which it is, what follows, and the numbers that it rests on."""
    yield f"{one.model or 'disk'}, {format_size(one.size)}, {one.path}"
    yield one.verdict
    yield from (f"  {measure.name}: {measure.value}" for measure in one.measures)
    yield ""
