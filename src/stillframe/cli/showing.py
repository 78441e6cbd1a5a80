"""The verb that shows what Stillframe does: ``demo``."""

from dataclasses import asdict

from stillframe.cli.call import Call, running
from stillframe.jobs.demo import run_demo


def demo(call: Call) -> int:
    """Save and restore a disk made for it, and compare."""
    screen = call.screen
    with running(screen) as context:
        result = run_demo(keep=call.options.keep, say=screen.say, context=context)
    screen.finish("demo", asdict(result), ())
    return 0
