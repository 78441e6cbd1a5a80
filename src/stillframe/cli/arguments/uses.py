"""The verbs that use a stored image: its files, a folder, a network disk, a machine, other formats.

Answers: "what can a person do with an image without restoring it?" One function for each room.
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import Verbs, verb


def _add_import(verbs: Verbs) -> None:
    parser = verb(
        verbs, "import", "import SOURCE [options]", "make an image of a disk file that another program made",
        writes=True,
    )  # fmt: skip
    option = parser.add_argument
    option("source", metavar="SOURCE", help="a disk file: raw, QCOW2, VHD, VHDX, VMDK or VDI")
    option(
        "--kind", choices=("auto", "full", "incremental", "differential"), default="auto",
        help="how much is read and trusted; every image is complete (default: auto)",
    )  # fmt: skip
    option("--name", metavar="N", default="", help="a name for this series of images")
    option("--comment", metavar="T", default="", help="a note that is kept with the image")
    option(
        "--compression", choices=("none", "fast", "balanced", "high"), default="fast",
        help="how hard to try to make it small (default: fast)",
    )  # fmt: skip
    option("--all-sectors", action="store_true", help="also what no file system uses")
    option("--include-paging", action="store_true", help="also paging, hibernation and swap contents")
    option("--allow-torn", action="store_true", help="copy a source in use; the copy is never called good (exit 3)")
    option(
        "--verify", action=argparse.BooleanOptionalAction, default=True,
        help="read back what was stored (default: it does)",
    )  # fmt: skip


ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_import,)
"""In the order of the help."""
