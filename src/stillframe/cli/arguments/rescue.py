"""The words about the rescue medium: ``rescue build`` and what else is done with it.

Answers: "what did the person ask for, about the medium?" Each word has its own function here, and its own module of
``cli`` that carries it out.
"""

from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import Formatter, Parser, Verbs, add_yes, verb


def _add_rescue(verbs: Verbs) -> None:
    words = "the rescue medium: build it"
    parser = verbs.add_parser(
        "rescue", help=words, description=words[0].upper() + words[1:] + ".", usage="stillframe rescue WHAT",
        allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    inner = parser.add_subparsers(dest="rescue_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    for add in _WORDS:
        add(inner)


def _add_build(verbs: Verbs) -> None:
    parser = verb(
        verbs, "build", "rescue build [FILE.iso] [--usb DEVICE] [options]",
        "make a medium that starts a computer, for the day it does not start", repo=False, writes=True,
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", nargs="?", default="", help="the file to make: for a CD, or any stick")
    option = parser.add_argument
    option("--usb", metavar="DEVICE", default="", help="write a USB stick; everything on it is lost")
    option("--pieces", metavar="DIR", default="", help="the files that start a computer over the network")
    option(
        "--kernel", choices=("generic", "cloud"), default="generic",
        help="'cloud': a smaller one, for virtual machines only (default: generic)",
    )  # fmt: skip
    option("--wifi", action="store_true", help="with wireless networks, and firmware where this machine's apt has it")
    option("--keyboard", metavar="NAME", default="", help="of the console, such as de or fr (default: American)")
    option("--serial", action="store_true", help="start on the serial line too when nobody chooses")
    option("-r", "--repo", metavar="REPO", default="", help="where the repository is, put onto the medium")
    option("--answers", metavar="FILE", default="", help="a rescue.toml that runs without a person; no secrets")
    option(
        "--network", metavar="FILE", action="append", default=[],
        help="a NAME.network of systemd, for a network without DHCP; may be repeated",
    )  # fmt: skip
    option("--drivers", metavar="DIR", default="", help="Windows drivers for 'restore --adapt', in /stillframe/drivers")
    option("--ssh-key", metavar="FILE", default="", help="public keys of who may log in by SSH (default: nobody)")
    option("--mirror", metavar="URL", default="", help="a mirror of Debian (default: that of this machine's apt)")
    option("--fresh", action="store_true", help="make the Debian in it anew, though the one that is kept is young")
    add_yes(parser)


_WORDS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_build,)

ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_rescue,)
"""In the order of the help."""
