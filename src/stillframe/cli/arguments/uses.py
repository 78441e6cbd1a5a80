"""The verbs that use a stored image: its files, a folder, a network disk, a machine, other formats.

Answers: "what can a person do with an image without restoring it?" One function for each room.
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import Verbs, add_image, number, size, verb


def _add_export(verbs: Verbs) -> None:
    parser = verb(
        verbs, "export", "export IMAGE FILE [options]", "write a stored disk or partition into a file", writes=True
    )
    add_image(parser)
    option = parser.add_argument
    option("file", metavar="FILE", help="the file to make, a pipe, or - for standard output")
    option(
        "--format", choices=("raw", "qcow2", "vhdx", "vhd", "vmdk"), default="",
        help="default: what the name of FILE ends with, else raw",
    )  # fmt: skip
    option(
        "--split",
        type=size,
        metavar="SIZE",
        help="in parts of this size, FILE.001, FILE.002, ..., with their checksums",
    )
    option("--disk", type=number, metavar="N", help="which disk of an image of several")
    option("--partition", type=number, metavar="N", help="only this partition")
    option(
        "--salvage", action="store_true", help="of a damaged image write what can be had; says what is lost (exit 3)"
    )
    option("--overwrite", action="store_true", help="replace FILE, or its parts, when they exist")


def _add_import(verbs: Verbs) -> None:
    parser = verb(
        verbs, "import", "import SOURCE [options]", "make an image of a disk file that another program made",
        writes=True,
    )  # fmt: skip
    option = parser.add_argument
    option("source", metavar="SOURCE", help="a disk file: raw, QCOW2, VHD, VHDX, VMDK, VDI; a partclone image")
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


ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_export, _add_import)
"""In the order of the help."""
