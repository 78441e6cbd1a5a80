"""The verb that shows what Stillframe does: ``demo``."""

from dataclasses import asdict

from stillframe.cli.call import Call, stoppable
from stillframe.jobs.demo import run_demo


def demo(call: Call) -> int:
    """Save and restore a disk made for it, and compare."""
    screen = call.screen
    with stoppable(screen) as cancel:
        result = run_demo(keep=call.options.keep, say=screen.say, events=screen, cancel=cancel)
    screen.finish("demo", asdict(result), ())
    return 0
