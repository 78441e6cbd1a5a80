"""Something that is done again and again beside the main work.

Answers: "who looks every so often while this goes on?"
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], None], period_s: float) -> Iterator[None]:
    """Call ``action`` every so many seconds, in a thread of its own, while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(period_s):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
