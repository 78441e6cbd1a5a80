"""The verbs that make, keep and bring back images, and care for the repository.

Answers: "what can a person ask of a repository and of disks?"
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments.words import (
    Formatter,
    Parser,
    Verbs,
    add_image,
    add_secret,
    add_selection,
    add_storing,
    add_verify,
    add_yes,
    conversion,
    disk_target,
    number,
    partition_choice,
    seconds,
    size,
    start,
    verb,
    wish,
)
from stillframe.hanging import READ_LIMIT_S


def _add_looking(verbs: Verbs) -> None:
    disks = verb(verbs, "disks", "disks [SOURCE] [--boot]", "show disks, partitions and what is on them", repo=False)
    disks.add_argument("source", metavar="SOURCE", nargs="?", help="one disk, partition or disk file; else all disks")
    disks.add_argument("--boot", action="store_true", help="every step from the firmware to each system")
    images = verb(verbs, "images", "images [--all | --forgotten]", "list the images of this machine")
    images.add_argument("--all", action="store_true", help="of every machine")
    images.add_argument("--forgotten", action="store_true", help="instead: forgotten images that are not gone yet")
    show = verb(verbs, "show", "show IMAGE [--boot] [--screenshot FILE]", "show one image in full")
    add_image(show)
    show.add_argument("--boot", action="store_true", help="how it starts: every step from the firmware to each system")
    show.add_argument(
        "--screenshot", metavar="FILE", default="", help="write the screenshot of its newest start there, a PNG"
    )


def _add_repository(verbs: Verbs) -> None:
    init = verb(
        verbs, "init", "init REPO [--encryption aes256|none] [--recovery-kit FILE] [--parity]", "make a new repository",
        repo=False, writes=True,
    )  # fmt: skip
    init.add_argument("repository", metavar="REPO", help="a folder that is empty or does not exist yet")
    init.add_argument(
        "--encryption", choices=("aes256", "none"), default="aes256",
        help="'none': whoever finds the folder can read every image (default: aes256)",
    )  # fmt: skip
    init.add_argument("--recovery-kit", metavar="FILE", default="", help="write a recovery key there, for printing")
    init.add_argument("--parity", action="store_true", help="keep what brings rotted bytes back: about 4 %% more room")
    add_secret(init)


def _add_backup(verbs: Verbs) -> None:
    backup = verb(verbs, "backup", "backup [SOURCE...] [options]", "make an image", writes=True)
    backup.add_argument("sources", metavar="SOURCE", nargs="*", help="a disk, a partition or a disk file")
    option = backup.add_argument
    option("--system", action="store_true", help="only what a system needs to start; without SOURCE the running one")
    add_storing(backup)
    option(
        "--exclude", metavar="PATTERN", action="append", default=[],
        help="leave out the contents of files, such as '/Users/*/Downloads/' or '*.iso'; may be repeated",
    )  # fmt: skip
    _add_read_timeout(backup)
    _add_unlock(
        backup, "ask for the passphrase of encrypted (LUKS) partitions: only what is in use is kept, still encrypted"
    )
    option(
        "--put-key", metavar="FILE", default="",
        help="instead of a passphrase: the file of a put key, which adds and reads nothing (or STILLFRAME_PUT_KEY)",
    )  # fmt: skip
    add_verify(backup)
    option("--prove", action="store_true", help="then start it in a virtual machine, to see whether it boots")
    _add_hooks(backup)
    option(
        "--then", choices=("nothing", "shutdown", "restart", "sleep"), default="nothing",
        help="what to do when the image is made (default: nothing)",
    )  # fmt: skip


def _add_read_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--read-timeout", metavar="S", type=seconds, default=READ_LIMIT_S,
        help=f"give up when a read of the source takes so many seconds (default: {READ_LIMIT_S:g})",
    )  # fmt: skip


def _add_unlock(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--unlock", action="store_true", help=words)
    parser.add_argument(
        "--unlock-file", metavar="FILE", action="append", default=[],
        help="a file with such a passphrase, or a key file; may be repeated",
    )  # fmt: skip


def _add_hooks(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--hook-before", metavar="CMD", default="", help="run this right before a disk in use is held still")
    option("--hook-after", metavar="CMD", default="", help="run this right after it")
    option("--hook-limit", metavar="S", type=number, default=60, help="stop them after S seconds (default: 60)")
    option(
        "--hook-failure", choices=("stop", "continue"), default="stop",
        help="when the first one fails, make no image, or go on with a notice (default: stop)",
    )  # fmt: skip


def _add_restore(verbs: Verbs) -> None:
    restore = verb(
        verbs, "restore", "restore IMAGE TARGET [options]", "write an image back; the target's contents are lost",
        writes=True,
    )  # fmt: skip
    add_yes(restore)
    restore.add_argument("image", metavar="IMAGE", nargs="?", help="an id, the beginning of one, latest or latest:NAME")
    restore.add_argument(
        "target", metavar="TARGET", nargs="?", help="a disk, a partition, or a disk file (made if missing)"
    )
    restore.add_argument(
        "--undo-table", metavar="TARGET", default="",
        help="instead: put the partition table back that was there before the last restore onto TARGET",
    )  # fmt: skip
    restore.add_argument(
        "--from", metavar="FILE", dest="kept", default="",
        help="with --undo-table: as kept in FILE by a clone, without a repository",
    )  # fmt: skip
    restore.add_argument("--disk", metavar="N", type=number, help="which disk of an image of several")
    restore.add_argument(
        "--to", metavar="N=TARGET", action="append", type=disk_target, default=[],
        help="instead of TARGET: where disk N of the image goes; may be repeated, for all disks in one plan",
    )  # fmt: skip
    restore.add_argument(
        "--partition", metavar="N[:M|:new]", action="append", type=partition_choice, default=[],
        help="only partition N of the image; onto partition M of the target disk, or as a new one in its free space "
        "(may be repeated), else onto the whole TARGET",
    )  # fmt: skip
    _add_wishes(restore)
    restore.add_argument(
        "--salvage", action="store_true", help="of a damaged image restore what can be had; says what is lost (exit 3)"
    )
    _add_writing(restore)
    _add_adapting(restore)


def _add_clone(verbs: Verbs) -> None:
    clone = verb(
        verbs, "clone", "clone SOURCE TARGET [options]", "copy a disk onto another without a repository",
        repo=False, writes=True,
    )  # fmt: skip
    add_yes(clone)
    clone.add_argument("source", metavar="SOURCE", help="a disk or a disk file")
    clone.add_argument("target", metavar="TARGET", help="a disk or a disk file (made if missing)")
    add_selection(clone)
    _add_read_timeout(clone)
    clone.add_argument(
        "--keep-table", metavar="FILE", default="",
        help="keep what TARGET's partition table was in FILE (default: a file in the state of this machine)",
    )  # fmt: skip
    _add_wishes(clone)
    _add_writing(clone)
    _add_adapting(clone)


def _add_boot_repair(verbs: Verbs) -> None:
    repair = verb(
        verbs, "boot-repair", "boot-repair DISK [options]", "repair what keeps the systems on a disk from starting",
        repo=False, writes=True,
    )  # fmt: skip
    add_yes(repair)
    option = repair.add_argument
    option("disk", metavar="DISK", help="a whole disk that nothing uses, or a disk file")
    option(
        "--keep-undo", metavar="FILE", default="",
        help="keep what was there in FILE, on another disk (default: a new file in the current folder)",
    )  # fmt: skip
    option("--undo", metavar="FILE", default="", help="take a repair of DISK back: put back what FILE has kept")
    _add_unlock(repair, "ask for the passphrase of encrypted (LUKS) volumes, to repair a Linux in them")
    _add_adapting(repair, "DISK")


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--convert", metavar="HOW", type=conversion,
        help="make a Linux disk start by other firmware: uefi (GPT; uefi=SIZE: of its new EFI system partition), bios "
        "(GPT), or bios-mbr",
    )  # fmt: skip
    parser.add_argument(
        "--experimental", action="store_true",
        help="with --convert uefi: also a Windows, which was never proven on a real one; keep the old disk",
    )  # fmt: skip
    parser.add_argument("--fit", action="store_true", help="shrink or grow partitions so that they fill the target")
    parser.add_argument(
        "--resize", metavar="N=SIZE", action="append", type=wish, default=[],
        help="with --fit: make partition N so large: 100GB, keep, or max; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--move", metavar="N=START", action="append", type=start, default=[],
        help="let partition N begin there: 100GB from the start of the disk, or keep; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--leave-out", metavar="N", action="append", type=number, default=[],
        help="do not write partition N, and leave it out of the table; may be repeated",
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="show with the plan why it is so, for each partition")
    parser.add_argument("--edit", action="store_true", help="change the plan on the terminal before it is carried out")


def _add_adapting(parser: argparse.ArgumentParser, disk: str = "TARGET") -> None:
    option = parser.add_argument
    option("--adapt", action="store_true", help="prepare it for another computer")
    option(
        "--controller", metavar="ID", action="append", default=[],
        help="with --adapt: a disk controller of that computer, such as 8086:2922 (default: those of this one, when "
        f"{disk} is one of its disks); may be repeated",
    )  # fmt: skip
    option(
        "--drivers", metavar="FOLDER", default="", help="with --adapt: Windows drivers (.inf, .sys) for its controllers"
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--delta", action="store_true", help="read the target and write only what differs; goes on after a stop")
    option("--wipe", action="store_true", help="also clear what no file system uses")
    option("--new-identity", action="store_true", help="give the copy new ids, to stay beside the original")
    _add_unlock(
        parser,
        "with --new-identity or --adapt: ask for the passphrase of encrypted (LUKS) volumes, to open them",
    )


def _add_care(verbs: Verbs) -> None:
    verify = verb(
        verbs, "verify", "verify [IMAGE] [--quick | --filesystems --files [N]] [--repair]",
        "read an image back from storage and check it",
    )  # fmt: skip
    verify.add_argument("image", metavar="IMAGE", nargs="?", help="an id, the beginning of one, latest or latest:NAME")
    verify.add_argument("--quick", action="store_true", help="check the structure only")
    verify.add_argument(
        "--filesystems", action="store_true", help="also have the file systems of IMAGE checked by their own tools"
    )
    verify.add_argument(
        "--files", metavar="N", type=number, nargs="?", const=200,
        help="also compare N files of each volume of IMAGE with their originals (default: 200)",
    )  # fmt: skip
    verify.add_argument(
        "--repair", action="store_true", help="then write anew what parity brings back (see 'stillframe repair')"
    )
    verb(verbs, "check", "check", "check the structure of the repository")
    repair = verb(verbs, "repair", "repair [--read-all]", "mend the repository from what is still good", writes=True)
    repair.add_argument("--read-all", action="store_true", help="read every stored chunk on the way")


def _add_letting_go(verbs: Verbs) -> None:
    forget = verb(verbs, "forget", "forget [--undo] IMAGE...", "forget images; 'expire' frees the room", writes=True)
    add_yes(forget)
    forget.add_argument("--undo", action="store_true", help="bring forgotten images back, while they are there")
    forget.add_argument("images", metavar="IMAGE", nargs="+", help="an id, the beginning of one, latest or latest:NAME")
    expire = verb(
        verbs, "expire", "expire [--keep-daily N] ... [--max-size S]",
        "forget images by rules and free the room of forgotten ones", writes=True,
    )  # fmt: skip
    add_yes(expire)
    for word, words in (("last", "images"), ("daily", "days"), ("weekly", "weeks"), ("monthly", "months")):
        what = "the newest N images" if word == "last" else f"one image of each of the last N {words}"
        expire.add_argument(f"--keep-{word}", metavar="N", type=number, default=0, help=f"keep {what}")
    expire.add_argument("--max-size", metavar="S", type=size, help="keep within this size, such as 500G")
    expire.add_argument(
        "--grace", metavar="HOURS", type=number, default=24,
        help="delete only what was given up so long ago (default: 24)",
    )  # fmt: skip
    expire.add_argument(
        "--undelete-days", metavar="N", type=number,
        help="keep forgotten images whole for N days, for 'forget --undo' (default: 7; with '--grace 0': 0)",
    )  # fmt: skip
    verb(verbs, "machines", "machines", "list the machines that use the repository")
    retire = verb(
        verbs, "retire", "retire [--undo] MACHINE", "say that a machine will not come back", writes=True,
    )  # fmt: skip
    add_yes(retire)
    retire.add_argument("--undo", action="store_true", help="it came back: it may write here again")
    retire.add_argument("machine", metavar="MACHINE", help="its name, its id, or the beginning of that")


def _add_keys(verbs: Verbs) -> None:
    words = "passphrases and recovery keys of a repository"
    key = verbs.add_parser(
        "key", help=words, description=words[0].upper() + words[1:] + ".", usage="stillframe key add|remove|list",
        allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    inner = key.add_subparsers(dest="key_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    words = "add a passphrase, or a key that adds images and reads none"
    add = verb(inner, "add", "key add [--label L] [--new-password-file FILE | --put-only FILE]", words, writes=True)
    add.add_argument("--label", metavar="L", default="", help="whose it is")
    add.add_argument(
        "--new-password-file", metavar="FILE", default="",
        help="a file whose first line is the new passphrase (or STILLFRAME_NEW_PASSWORD; else it asks)",
    )  # fmt: skip
    add.add_argument(
        "--put-only", metavar="FILE", default="",
        help="instead: a put key, written to FILE for one machine; it can add images and read none",
    )  # fmt: skip
    remove = verb(inner, "remove", "key remove KEY", "take a key away", writes=True)
    add_yes(remove)
    remove.add_argument("key", metavar="KEY", help="its id, or the beginning of it")
    verb(inner, "list", "key list", "list the keys")
    kit = verb(verbs, "recovery-kit", "recovery-kit FILE", "make a recovery key and a page to print", writes=True)
    kit.add_argument("file", metavar="FILE", help="must not exist, nor lie inside the repository")


def _add_parity(verbs: Verbs) -> None:
    words = "what brings rotted bytes of the repository back"
    parity = verbs.add_parser(
        "parity", help=words, description=words[0].upper() + words[1:] + ".",
        usage="stillframe parity on|off|renew|status", allow_abbrev=False, formatter_class=Formatter,
    )  # fmt: skip
    inner = parity.add_subparsers(dest="parity_verb", metavar="WHAT", required=True, parser_class=Parser, title="what")
    verb(inner, "on", "parity on", "from now on every new object gets parity", writes=True)
    verb(inner, "off", "parity off", "new objects get no parity", writes=True)
    words = "give parity to what has none, and write parity anew that is not whole"
    verb(inner, "renew", "parity renew", words, writes=True)
    verb(inner, "status", "parity status", "say how much has parity")


def _add_demo(verbs: Verbs) -> None:
    demo = verb(verbs, "demo", "demo [--keep DIR]", "save and restore a disk made for it, and compare", repo=False)
    demo.add_argument("--keep", metavar="DIR", default="", help="keep the disks and the repository in this new folder")


def _add_bench(verbs: Verbs) -> None:
    bench = verb(
        verbs, "bench", "bench [SOURCE] [--repo REPO]", "measure how fast this computer saves and brings back",
        repo=False, writes=True,
    )  # fmt: skip
    bench.add_argument("source", metavar="SOURCE", nargs="?", help="a disk, a partition or a disk file, read only")
    bench.add_argument(
        "-r", "--repo", metavar="REPO", default="",
        help="the repository whose disk or network is measured (or STILLFRAME_REPO); no passphrase is needed",
    )  # fmt: skip


ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (
    _add_looking, _add_repository, _add_backup, _add_restore, _add_clone, _add_boot_repair, _add_care, _add_letting_go,
    _add_keys, _add_parity, _add_demo, _add_bench,
)  # fmt: skip
"""In the order of the help."""
