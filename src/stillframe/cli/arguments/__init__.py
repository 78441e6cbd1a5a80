"""The words of the command line: verbs, their arguments, and the help that explains them.

Answers: "what did the person ask for?" Imports nothing heavy, so ``--help`` is there at once. The contract that scripts
depend on is ``docs/cli.md``, which a test compares with what is here.
"""

import argparse

from stillframe.cli.arguments import keeping, rescue, uses
from stillframe.cli.arguments.words import Formatter, HelpShown, Parser

__all__ = ["HelpShown", "build_parser", "verb_parsers"]


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="stillframe", usage="stillframe VERB [WHAT] [--repo REPO] [options]", allow_abbrev=False,
        formatter_class=Formatter,
        description="An exact image of a whole computer, and the way back.",
        epilog="'stillframe VERB --help' explains a verb. The guide is docs/guide.md.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=_version(), help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser, title="verbs")
    for add in (*keeping.ADDERS, *uses.ADDERS, *rescue.ADDERS):
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


def _version() -> str:
    import stillframe  # noqa: PLC0415 - kept beside its one use

    return f"stillframe {stillframe.__version__}"
