"""The words of the command line: verbs, their arguments, and the help that explains them.

Answers: "what did the person ask for?" Imports nothing heavy, so ``--help`` is there at once. The contract that scripts
depend on is ``docs/cli.md``, which a test compares with what is here.
"""

import argparse
from collections.abc import Callable
from typing import Any, Final, NoReturn

from stillframe.errors import UsageError

WIDTH: Final = 100

_LATER: Final = "not in this version"


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


class _Formatter(argparse.HelpFormatter):
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


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="stillframe", usage="stillframe VERB [WHAT] [--repo REPO] [options]", allow_abbrev=False,
        formatter_class=_Formatter,
        description="An exact image of a whole computer, and the way back.",
        epilog="'stillframe VERB --help' explains a verb. The guide is docs/guide.md.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=_version(), help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser, title="verbs")
    for add in (_add_looking, _add_repository, _add_backup, _add_restore, _add_care, _add_keys, _add_demo):
        add(verbs)
    return parser


def verb_parsers(parser: Parser | None = None) -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb, also of ``key add`` and its like; for the documentation and its test."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in (parser or build_parser())._actions:  # noqa: SLF001 - argparse offers no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, sub in action.choices.items():
                inner = verb_parsers(sub)
                found |= {f"{name} {word}": deeper for word, deeper in inner.items()} if inner else {name: sub}
    return found


Verbs = Any
"""argparse keeps the type of what ``add_subparsers`` returns to itself."""


def _verb(
    verbs: Verbs, name: str, usage: str, words: str, *, repo: bool = True, writes: bool = False
) -> argparse.ArgumentParser:
    """A verb with the options that every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=words, description=words[0].upper() + words[1:] + ".", usage=f"stillframe {usage}",
        allow_abbrev=False, formatter_class=_Formatter,
    )  # fmt: skip
    if repo:
        parser.add_argument("-r", "--repo", metavar="REPO", default="", help="the repository (or STILLFRAME_REPO)")
        _add_secret(parser)
    if writes:
        parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--json", action="store_true", help="events as JSON lines; the last line is the result")
    parser.add_argument("--debug", action="store_true", help="show where in the program an error arose")
    return parser


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_secret(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-file", metavar="FILE", default="",
        help="a file whose first line is the passphrase or the recovery key (or STILLFRAME_PASSWORD; else it asks)",
    )  # fmt: skip


def _add_looking(verbs: Verbs) -> None:
    disks = _verb(verbs, "disks", "disks [SOURCE]", "show disks, partitions and what is on them", repo=False)
    disks.add_argument("source", metavar="SOURCE", nargs="?", help="one disk, partition or disk file; else all disks")
    images = _verb(verbs, "images", "images [--all]", "list the images of this machine")
    images.add_argument("--all", action="store_true", help="of every machine")
    show = _verb(verbs, "show", "show IMAGE", "show one image in full")
    _add_image(show)


def _add_repository(verbs: Verbs) -> None:
    init = _verb(
        verbs, "init", "init REPO [--encryption aes256|none] [--recovery-kit FILE]", "make a new repository",
        repo=False, writes=True,
    )  # fmt: skip
    init.add_argument("repository", metavar="REPO", help="a folder that is empty or does not exist yet")
    init.add_argument(
        "--encryption", choices=("aes256", "none"), default="aes256",
        help="'none': whoever finds the folder can read every image (default: aes256)",
    )  # fmt: skip
    init.add_argument("--recovery-kit", metavar="FILE", default="", help="write a recovery key there, for printing")
    _add_secret(init)


def _add_backup(verbs: Verbs) -> None:
    backup = _verb(verbs, "backup", "backup SOURCE... [options]", "make an image", writes=True)
    backup.add_argument("sources", metavar="SOURCE", nargs="*", help="a disk, a partition or a raw disk file")
    option = backup.add_argument
    option("--system", action="store_true", help=f"what this computer needs to start ({_LATER})")
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
    _add_selection(backup)
    option(
        "--exclude", metavar="PATTERN", action="append", default=[],
        help="leave out the contents of files, such as '/Users/*/Downloads/' or '*.iso'; may be repeated",
    )  # fmt: skip
    option(
        "--verify", action=argparse.BooleanOptionalAction, default=True,
        help="read back what was stored (default: it does)",
    )  # fmt: skip
    _add_hooks(backup)
    option(
        "--then", choices=("nothing", "shutdown", "restart", "sleep"), default="nothing",
        help="what to do when the image is made (default: nothing)",
    )  # fmt: skip


def _add_hooks(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--hook-before", metavar="CMD", default="", help="run this right before a disk in use is held still")
    option("--hook-after", metavar="CMD", default="", help="run this right after it")
    option("--hook-limit", metavar="S", type=_number, default=60, help="stop them after S seconds (default: 60)")
    option(
        "--hook-failure", choices=("stop", "continue"), default="stop",
        help="when the first one fails, make no image, or go on with a notice (default: stop)",
    )  # fmt: skip


def _add_restore(verbs: Verbs) -> None:
    restore = _verb(
        verbs, "restore", "restore IMAGE TARGET [options]", "write an image back; the target's contents are lost",
        writes=True,
    )  # fmt: skip
    _add_yes(restore)
    _add_image(restore)
    restore.add_argument("target", metavar="TARGET", help="a disk, a partition, or a disk file (made if missing)")
    restore.add_argument("--disk", metavar="N", type=_number, help="which disk of an image of several")
    restore.add_argument(
        "--partition", metavar="N[:M]", type=_partition_pair, default=(None, None),
        help="only partition N of the image; onto partition M of the target disk, else onto the whole TARGET",
    )  # fmt: skip
    restore.add_argument(
        "--salvage", action="store_true", help="of a damaged image restore what can be had; says what is lost (exit 3)"
    )
    _add_writing(restore)
    clone = _verb(
        verbs, "clone", "clone SOURCE TARGET [options]", "copy a disk onto another without a repository",
        repo=False, writes=True,
    )  # fmt: skip
    _add_yes(clone)
    clone.add_argument("source", metavar="SOURCE", help="a disk or a raw disk file")
    clone.add_argument("target", metavar="TARGET", help="a disk or a disk file (made if missing)")
    _add_selection(clone)
    _add_writing(clone)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--all-sectors", action="store_true", help="also what no file system uses")
    option("--include-paging", action="store_true", help="also paging, hibernation and swap contents")
    option("--allow-torn", action="store_true", help="copy a source in use; the copy is never called good (exit 3)")


def _add_writing(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--delta", action="store_true", help="read the target and write only what differs; goes on after a stop")
    option("--wipe", action="store_true", help="also clear what no file system uses")
    option("--new-identity", action="store_true", help="give the copy new disk ids, to stay beside the original")
    option("--fit", action="store_true", help=f"shrink or grow to the target ({_LATER})")
    option("--adapt", action="store_true", help=f"prepare it for another computer ({_LATER})")


def _add_care(verbs: Verbs) -> None:
    verify = _verb(verbs, "verify", "verify [IMAGE] [--quick]", "read an image back from storage and check it")
    verify.add_argument("image", metavar="IMAGE", nargs="?", help="an id, the beginning of one, latest or latest:NAME")
    verify.add_argument("--quick", action="store_true", help="check the structure only")
    _verb(verbs, "check", "check", "check the structure of the repository")
    repair = _verb(verbs, "repair", "repair [--read-all]", "mend the repository from what is still good", writes=True)
    repair.add_argument("--read-all", action="store_true", help="read every stored chunk on the way")
    forget = _verb(verbs, "forget", "forget IMAGE...", "forget images; 'expire' frees the room", writes=True)
    _add_yes(forget)
    forget.add_argument("images", metavar="IMAGE", nargs="+", help="an id, the beginning of one, latest or latest:NAME")
    expire = _verb(
        verbs, "expire", "expire [--keep-daily N] ... [--max-size S]",
        "forget images by rules and free the room of forgotten ones", writes=True,
    )  # fmt: skip
    _add_yes(expire)
    for word, words in (("last", "images"), ("daily", "days"), ("weekly", "weeks"), ("monthly", "months")):
        what = "the newest N images" if word == "last" else f"one image of each of the last N {words}"
        expire.add_argument(f"--keep-{word}", metavar="N", type=_number, default=0, help=f"keep {what}")
    expire.add_argument("--max-size", metavar="S", type=_size, help="keep within this size, such as 500G")
    expire.add_argument(
        "--grace", metavar="HOURS", type=_number, default=24,
        help="delete only what was given up so long ago (default: 24)",
    )  # fmt: skip


def _add_keys(verbs: Verbs) -> None:
    words = "passphrases and recovery keys of a repository"
    key = verbs.add_parser(
        "key", help=words, description=words[0].upper() + words[1:] + ".", usage="stillframe key add|remove|list",
        allow_abbrev=False, formatter_class=_Formatter,
    )  # fmt: skip
    inner = key.add_subparsers(dest="key_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    add = _verb(inner, "add", "key add [--label L] [--new-password-file FILE]", "add a passphrase", writes=True)
    add.add_argument("--label", metavar="L", default="", help="whose it is")
    add.add_argument(
        "--new-password-file", metavar="FILE", default="",
        help="a file whose first line is the new passphrase (or STILLFRAME_NEW_PASSWORD; else it asks)",
    )  # fmt: skip
    remove = _verb(inner, "remove", "key remove KEY", "take a key away", writes=True)
    _add_yes(remove)
    remove.add_argument("key", metavar="KEY", help="its id, or the beginning of it")
    _verb(inner, "list", "key list", "list the keys")
    kit = _verb(verbs, "recovery-kit", "recovery-kit FILE", "make a recovery key and a page to print", writes=True)
    kit.add_argument("file", metavar="FILE", help="must not exist, nor lie inside the repository")


def _add_demo(verbs: Verbs) -> None:
    demo = _verb(verbs, "demo", "demo [--keep DIR]", "save and restore a disk made for it, and compare", repo=False)
    demo.add_argument("--keep", metavar="DIR", default="", help="keep the disks and the repository in this new folder")


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="an id, the beginning of one, latest or latest:NAME")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _size(text: str) -> int:
    from stillframe.units import parse_size  # noqa: PLC0415 - decimal arithmetic is slow to load, and seldom asked for

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _partition_pair(text: str) -> tuple[int, int | None]:
    first, colon, second = text.partition(":")
    number: Callable[[str], int] = _number
    return number(first), number(second) if colon else None


def _version() -> str:
    import stillframe  # noqa: PLC0415 - kept beside its one use

    return f"stillframe {stillframe.__version__}"
