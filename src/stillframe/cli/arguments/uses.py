"""The verbs that use a stored image: its files, a folder, a network disk, a machine, other formats.

Answers: "what can a person do with an image without restoring it?" One function for each room.
"""

import argparse
from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments import files
from stillframe.cli.arguments.words import Verbs, add_image, add_storing, add_verify, number, size, verb


def _add_nbd(verbs: Verbs) -> None:
    nbd = verb(
        verbs, "nbd", "nbd IMAGE [--socket PATH | --port N] [--writable [--keep FILE]]",
        "serve an image as a network block device, until Ctrl-C",
    )  # fmt: skip
    option = nbd.add_argument
    add_image(nbd)
    option("--socket", metavar="PATH", default="", help="listen on a Unix socket that only this user may use")
    option("--host", metavar="HOST", default="127.0.0.1", help="listen on this address (default: 127.0.0.1)")
    option("--port", metavar="N", type=number, help="listen on this port, 0: any that is free (default: 10809)")
    option("--disk", metavar="N", type=number, help="number of the disk, where the image has several")
    option("--partition", metavar="N", type=number, help="serve this partition instead of the whole disk")
    option("--writable", action="store_true", help="let clients write; the image stays as it is")
    option("--keep", metavar="FILE", default="", help="keep what is written in this file, and go on with it next time")
    option("--tls-cert", metavar="FILE", default="", help="encrypt: the certificate of this server (PEM)")
    option("--tls-key", metavar="FILE", default="", help="encrypt: the key of that certificate")
    option(
        "--tls-clients", metavar="FILE", default="", help="let in only clients with a certificate signed by this one"
    )


def _add_mount(verbs: Verbs) -> None:
    mount = verb(verbs, "mount", "mount IMAGE DIR", "show an image as a folder: its disks, and its files, until Ctrl-C")
    add_image(mount)
    mount.add_argument("folder", metavar="DIR", help="an empty folder")


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
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a disk file: raw, QCOW2, VHD, VHDX, VMDK, VDI; a partclone image; a Clonezilla folder; "
        "Windows' WindowsImageBackup",
    )
    add_storing(parser)
    add_verify(parser)


def _add_diff(verbs: Verbs) -> None:
    diff = verb(
        verbs, "diff", "diff IMAGE OTHER [PATH] [--disk N] [--partition N] [--touched]",
        "list files added, changed and removed between two images",
    )  # fmt: skip
    add_image(diff)
    diff.add_argument("other", metavar="OTHER", help="the later image, written likewise")
    diff.add_argument("path", metavar="PATH", nargs="?", help="one folder or file, from the root of its partition")
    diff.add_argument("--disk", metavar="N", type=number, help="only this disk")
    diff.add_argument("--partition", metavar="N", type=number, help="only this partition")
    diff.add_argument("--touched", action="store_true", help="also files whose times, rights or owner alone changed")


def _add_starting(verbs: Verbs) -> None:
    run = verb(verbs, "run", "run IMAGE [options]", "start an image in a virtual machine and use it")
    add_image(run)
    run.add_argument(
        "--display", choices=("window", "vnc", "serial", "none"), default="window",
        help="where its screen is (default: window)",
    )  # fmt: skip
    run.add_argument("--keep", metavar="FILE", default="", help="keep what is changed in this file, and go on with it")
    run.add_argument("--network", action="store_true", help="let it reach the network, behind this computer")
    add_machine(run)
    prove = verb(verbs, "prove", "prove IMAGE [options]", "start an image unattended, to prove that it boots")
    add_image(prove)
    prove.add_argument("--limit", metavar="S", type=number, default=300, help="longest time (default: 300)")
    add_machine(prove)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """For a verb that starts a virtual machine."""
    option = parser.add_argument
    option(
        "--firmware", choices=("auto", "bios", "uefi", "secure-boot"), default="auto",
        help="what starts it (default: what the disk is made for)",
    )  # fmt: skip
    option(
        "--bus", choices=("auto", "virtio", "sata", "nvme"), default="auto",
        help="what kind of disk it sees (default: the kind it was on)",
    )  # fmt: skip
    option("--memory", metavar="MIB", type=number, help="memory (default: half of this computer's, at most 4096)")
    option("--cpus", metavar="N", type=number, help="processors (default: this computer's, at most 4)")
    option(
        "--accel", choices=("tcg", "kvm"), default="tcg",
        help="'kvm' is faster, where this computer really has it (default: tcg)",
    )  # fmt: skip


ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (
    files.add_ls, files.add_find, files.add_get, _add_diff, _add_mount, _add_nbd, _add_export, _add_import,
    _add_starting
)  # fmt: skip
"""In the order of the help."""
