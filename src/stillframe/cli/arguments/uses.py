"""The verbs that use a stored image: its files, a folder, a network disk, a machine, other formats.

Answers: "what can a person do with an image without restoring it?" One function for each room.
"""

from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import Verbs, add_image, number, verb


def _add_diff(verbs: Verbs) -> None:
    diff = verb(
        verbs, "diff", "diff IMAGE OTHER [PATH] [--disk N] [--partition N] [--touched]",
        "list files added, changed and removed between two images",
    )  # fmt: skip
    add_image(diff)
    diff.add_argument("other", metavar="OTHER", help="the later image, written likewise")
    diff.add_argument("path", metavar="PATH", nargs="?", help="one folder or file, from the root of its partition")
    diff.add_argument("--disk", metavar="N", type=number, help="only this disk")
    diff.add_argument("--partition", metavar="N", type=number, help="only this partition")
    diff.add_argument("--touched", action="store_true", help="also files whose times, rights or owner alone changed")


ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_diff,)
"""In the order of the help."""
