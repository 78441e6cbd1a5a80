"""The words that all verbs have in common: the parser, the options of every verb, and how values are written.

Answers: "how does one verb look?" Which verbs there are stands in the modules beside this one.
"""

import argparse
from typing import Any, Final, NoReturn

from stillframe.errors import UsageError

WIDTH: Final = 100


class HelpShown(Exception):
    """``--help`` or ``--version`` was printed; there is nothing else to do."""


class Parser(argparse.ArgumentParser):
    """A parser that raises our own errors and never ends the program."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise UsageError(message, hint=f"'{self.prog} --help' shows how it is written.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise instead of exiting; argparse calls it after help was printed."""
        raise HelpShown(message or str(status))


class Formatter(argparse.HelpFormatter):
    """The same text on every Python and every terminal: it stands in the documentation."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest)
        names = ", ".join(action.option_strings)
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            return names
        choices = "|".join(str(choice) for choice in action.choices or ())
        return f"{names} {action.metavar or choices}"


Verbs = Any
"""argparse keeps the type of what ``add_subparsers`` returns to itself."""


def verb(
    verbs: Verbs, name: str, usage: str, words: str, *, repo: bool = True, writes: bool = False
) -> argparse.ArgumentParser:
    """A verb with the options that every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=words, description=words[0].upper() + words[1:] + ".", usage=f"stillframe {usage}",
        allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    if repo:
        parser.add_argument("-r", "--repo", metavar="REPO", default="", help="the repository (or STILLFRAME_REPO)")
        add_secret(parser)
        if name != "backup":  # known everywhere, so that it can be said that a put key reads nothing
            parser.add_argument("--put-key", default="", help=argparse.SUPPRESS)
    if writes:
        parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--json", action="store_true", help="events as JSON lines; the last line is the result")
    parser.add_argument("--debug", action="store_true", help="show where in the program an error arose")
    return parser


def add_yes(parser: argparse.ArgumentParser) -> None:
    """For a verb that asks before it destroys."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_secret(parser: argparse.ArgumentParser) -> None:
    """For a verb that opens a repository."""
    parser.add_argument(
        "--password-file", metavar="FILE", default="",
        help="a file whose first line is the passphrase or the recovery key (or STILLFRAME_PASSWORD; else it asks)",
    )  # fmt: skip


def add_image(parser: argparse.ArgumentParser) -> None:
    """For a verb about one image."""
    parser.add_argument("image", metavar="IMAGE", help="an id, the beginning of one, latest or latest:NAME")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """For a verb that copies a source."""
    option = parser.add_argument
    option("--all-sectors", action="store_true", help="also what no file system uses")
    option("--include-paging", action="store_true", help="also paging, hibernation and swap contents")
    option("--allow-torn", action="store_true", help="copy a source in use; the copy is never called good (exit 3)")


def add_storing(parser: argparse.ArgumentParser) -> None:
    """For a verb that makes an image of a source."""
    option = parser.add_argument
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
    option(
        "--patches", action=argparse.BooleanOptionalAction, default=True,
        help="store what changed in a chunk against what it was, where the repository is on a local disk (default: it "
        "does)",
    )  # fmt: skip
    add_selection(parser)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """For a verb that makes an image, too; later in its help."""
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True,
        help="read back what was stored (default: it does)",
    )  # fmt: skip


def seconds(text: str) -> float:
    """A time limit of an option: at least a second."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def number(text: str) -> int:
    """A number of an option."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def size(text: str) -> int:
    """A size of an option, such as ``500G``, in bytes."""
    from stillframe.units import parse_size  # noqa: PLC0415 - decimal arithmetic is slow to load, and seldom asked for

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def partition_choice(text: str) -> tuple[int, int | str | None]:
    """``N``, ``N:M`` or ``N:new``."""
    first, colon, second = text.partition(":")
    if second == "new":
        return number(first), second
    return number(first), number(second) if colon else None


def disk_target(text: str) -> tuple[int, str]:
    """``N=TARGET``: where a disk of an image goes."""
    first, equals, second = text.partition("=")
    if not equals or not second:
        raise argparse.ArgumentTypeError(f"{text!r}: write N=TARGET, such as 1=/dev/sdb")
    return number(first), second


def start(text: str) -> tuple[int, int | str]:
    """``N=START``: at which byte a partition is to begin on the target, or ``keep``."""
    first, equals, second = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write N=START, such as 3=100GB or 3=keep")
    return number(first), second if second == "keep" else size(second)


def conversion(text: str) -> tuple[str, int | None]:
    """``uefi``, ``uefi=SIZE``, ``bios`` or ``bios-mbr``: what is to start a disk; and bytes of a new EFI partition."""
    first, equals, second = text.partition("=")
    if first not in ("uefi", "bios", "bios-mbr") or (equals and first != "uefi"):
        raise argparse.ArgumentTypeError(f"{text!r}: write uefi, uefi=SIZE such as uefi=512M, bios, or bios-mbr")
    return first, size(second) if equals else None


def wish(text: str) -> tuple[int, int | str]:
    """``N=SIZE``: what a partition is to be on the target: bytes, ``keep`` or ``max``."""
    first, equals, second = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write N=SIZE, such as 3=100GB, 3=keep or 3=max")
    return number(first), second if second in ("keep", "max") else size(second)
