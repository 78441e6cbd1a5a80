"""The words of ``ls``, ``find`` and ``get``: the files inside an image."""

import argparse

from stillframe.cli.arguments.words import Verbs, number, size, verb


def add_ls(verbs: Verbs) -> None:
    """The verb ``ls``."""
    ls = verb(verbs, "ls", "ls IMAGE[:N[/PATH]]", "list partitions of an image, or the files of one")
    ls.add_argument("place", metavar="IMAGE[:N[/PATH]]", help="an image; partition N of it; a folder or file there")
    ls.add_argument("-R", "--recursive", action="store_true", help="also what is in the folders below")
    _add_disk(ls)


def add_find(verbs: Verbs) -> None:
    """The verb ``find``."""
    find = verb(verbs, "find", "find IMAGE[:N] PATTERN", "find files in an image by name")
    find.add_argument("place", metavar="IMAGE[:N]", help="an image; only partition N of it")
    find.add_argument("pattern", metavar="PATTERN", help="a name such as '*.odt', or a path such as '/home/*/letter*'")
    find.add_argument("--type", choices=("f", "d"), default="", help="only files, only folders")
    find.add_argument("--larger", metavar="SIZE", type=size, default=0, help="only files of at least SIZE, such as 10M")
    find.add_argument("--newer", metavar="DATE", default="", help="only what was changed since DATE (2026-05-31)")
    _add_disk(find)


def add_get(verbs: Verbs) -> None:
    """The verb ``get``."""
    get = verb(verbs, "get", "get IMAGE:N/PATH... DEST", "bring files and folders out of an image", writes=True)
    get.add_argument("places", metavar="IMAGE:N/PATH", nargs="+", help="a file or a folder of partition N")
    get.add_argument("destination", metavar="DEST", help="the folder that they are put into; made when it is missing")
    get.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    _add_disk(get)


def _add_disk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--disk", metavar="D", type=number, default=None, help="of several disks in the image, disk D")
