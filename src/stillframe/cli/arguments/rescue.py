"""The words about the rescue medium, and about the health of disks.

Answers: "what did the person ask for, about the medium?" Each word has its own function here, and its own module of
``cli`` that carries it out.
"""

from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.uses import add_machine
from stillframe.cli.arguments.words import Formatter, Parser, Verbs, number, verb


def _add_rescue(verbs: Verbs) -> None:
    words = "the rescue medium: whether it fits, and whether it works"
    parser = verbs.add_parser(
        "rescue", help=words, description=words[0].upper() + words[1:] + ".", usage="stillframe rescue WHAT",
        allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    inner = parser.add_subparsers(dest="rescue_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    for add in _WORDS:
        add(inner)


def _add_check(verbs: Verbs) -> None:
    parser = verb(
        verbs, "check", "rescue check [--medium FILE.iso] [--repo REPO]",
        "whether the medium will see this computer's disks, network and repository", repo=False,
    )  # fmt: skip
    option = parser.add_argument
    option(
        "--medium", metavar="FILE", default="",
        help="the medium: its ISO, or a folder with its pieces (default: the one that was built here last)",
    )  # fmt: skip
    option("-r", "--repo", metavar="REPO", default="", help="the repository (or STILLFRAME_REPO); it is not opened")


def _add_rehearse(verbs: Verbs) -> None:
    parser = verb(
        verbs, "rehearse", "rescue rehearse [IMAGE] [--medium FILE.iso] [options]",
        "start the medium in a virtual machine, restore there, start what was restored, and take the time",
    )  # fmt: skip
    option = parser.add_argument
    option(
        "image", metavar="IMAGE", nargs="?", default="latest",
        help="an id, the beginning of one, latest or latest:NAME (default: latest)",
    )  # fmt: skip
    option("--medium", metavar="FILE", default="", help="the medium's ISO (default: the one that was built here last)")
    option("--scratch", metavar="DIR", default="", help="where the disk to restore to has room (default: that of /tmp)")
    option(
        "--limit", metavar="S", type=number, default=7200, help="longest time for the restore, and again for the start "
        "(default: 7200)",
    )  # fmt: skip
    add_machine(parser)


def _add_sheet(verbs: Verbs) -> None:
    parser = verb(
        verbs, "sheet", "rescue sheet FILE.html [--with-recovery-key]",
        "one page to print: how this computer comes back, step by step", writes=True,
    )  # fmt: skip
    option = parser.add_argument
    option("file", metavar="FILE", help="must not exist, nor lie inside the repository")
    option(
        "--with-recovery-key", action="store_true",
        help="with a new recovery key, also as a QR code: whoever has the page and the disk can read everything",
    )  # fmt: skip


def _add_health(verbs: Verbs) -> None:
    health = verb(verbs, "health", "health [DISK]", "ask disks whether they are failing", repo=False)
    health.add_argument("disk", metavar="DISK", nargs="?", default="", help="one disk; else all disks")


_WORDS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_check, _add_rehearse, _add_sheet)

ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_rescue, _add_health)
"""In the order of the help."""
