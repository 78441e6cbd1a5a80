"""The words about the rescue medium, and the screens that also run on an installed system.

Answers: "what did the person ask for, about the medium?" Each word has its own function here, and its own module of
``cli`` that carries it out.
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import Formatter, Parser, Verbs, verb


def _add_rescue(verbs: Verbs) -> None:
    words = "the rescue medium: what runs on it"
    parser = verbs.add_parser(
        "rescue", help=words, description=words[0].upper() + words[1:] + ".", usage="stillframe rescue WHAT",
        allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    inner = parser.add_subparsers(dest="rescue_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    for add in _WORDS:
        add(inner)


def _add_start(verbs: Verbs) -> None:
    parser = verb(
        verbs, "start", "rescue start [--answers FILE] [--also DISK]",
        "what the medium runs: carry out the answers that somebody left, else show the screens", repo=False,
    )  # fmt: skip
    parser.add_argument(
        "--answers", metavar="FILE", default="",
        help="carry out these answers (rescue.toml) and end with their exit code, without screens",
    )  # fmt: skip
    _add_also(parser)


def _add_ui(verbs: Verbs) -> None:
    ui = verb(verbs, "ui", "ui [--repo REPO] [--also DISK]", "the screens of the rescue medium, here", repo=False)
    ui.add_argument("-r", "--repo", metavar="REPO", default="", help="where the backups are (or STILLFRAME_REPO)")
    _add_also(ui)


def _add_also(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--also", metavar="DISK", action="append", default=[],
        help="offer this disk file or loop device as a disk too; may be repeated",
    )  # fmt: skip


_WORDS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_start,)

ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_rescue, _add_ui)
"""In the order of the help."""
