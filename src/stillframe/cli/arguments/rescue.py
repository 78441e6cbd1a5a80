"""The words about the rescue medium, its screens on an installed system, and the health of disks.

Answers: "what did the person ask for, about the medium?" Each word has its own function here, and its own module of
``cli`` that carries it out.
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.uses import add_machine
from stillframe.cli.arguments.words import Formatter, Parser, Verbs, add_yes, number, verb


def _add_rescue(verbs: Verbs) -> None:
    words = "the rescue medium: built, tried, and what runs on it"
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


def _add_start(verbs: Verbs) -> None:
    parser = verb(
        verbs, "start", "rescue start [--answers FILE] [--unlock-file FILE] [--also DISK]",
        "what the medium runs: carry out the answers that somebody left, else show the screens", repo=False,
    )  # fmt: skip
    parser.add_argument(
        "--answers", metavar="FILE", default="",
        help="carry out these answers (rescue.toml) and end with their exit code, without screens",
    )  # fmt: skip
    _add_also(parser)


def _add_ui(verbs: Verbs) -> None:
    ui = verb(
        verbs,
        "ui",
        "ui [--repo REPO] [--unlock-file FILE] [--also DISK]",
        "the screens of the rescue medium, here",
        repo=False,
    )
    ui.add_argument("-r", "--repo", metavar="REPO", default="", help="where the backups are (or STILLFRAME_REPO)")
    _add_also(ui)


def _add_also(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--also", metavar="DISK", action="append", default=[],
        help="offer this disk file or loop device as a disk too; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--unlock-file", metavar="FILE", action="append", default=[],
        help="a passphrase or key file of an encrypted disk that the backups may be on; may be repeated",
    )  # fmt: skip


def _add_health(verbs: Verbs) -> None:
    health = verb(verbs, "health", "health [DISK]", "ask disks whether they are failing", repo=False)
    health.add_argument("disk", metavar="DISK", nargs="?", default="", help="one disk; else all disks")


_WORDS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_build, _add_check, _add_rehearse, _add_sheet, _add_start)

ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (_add_rescue, _add_ui, _add_health)
"""In the order of the help."""
