"""The recovery sheet of this computer, into a file.

Answers: "what stands on the page of *this* computer?" and writes it. A recovery key comes onto it only when the person
asks for that; it is made anew, for nobody can read an older one out of a repository.
"""

import io
from datetime import datetime

from stillframe.errors import DeviceError, MachineRefusal
from stillframe.host.disks import DiskFacts, describe, list_disks
from stillframe.host.machine import machine
from stillframe.host.places import disks_under, filesystem_under
from stillframe.host.start_up import read_start_up
from stillframe.jobs.keys import make_recovery_kit
from stillframe.jobs.listing import ListedImage, list_images
from stillframe.jobs.looking import look_at_disks
from stillframe.jobs.repositories import kit_file
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner
from stillframe.rescue.trying.sheet import PrintedKey, SheetFacts, build_sheet, words_of_disks
from stillframe.units import format_duration, format_size

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs")


def gather_sheet(repository: Repository, folder: str) -> SheetFacts:
    """What is known of this computer and of its repository.

    Args:
        repository: Opened.
        folder: Where it lies.
    """
    here, box = machine(), read_start_up()
    under = disks_under(folder)
    images = list_images(repository, machine_id=here.id).images
    newest = images[-1] if images else None
    all_disks = [facts for facts in list_disks() if facts.is_hardware]
    disks = [facts for facts in all_disks if facts.path not in under] or all_disks
    largest = max((disk.size for disk in newest.manifest.disks), default=0) if newest else 0
    return SheetFacts(
        machine=here.name, maker=box.maker, product=box.product,
        disks=words_of_disks([(format_size(facts.size), facts.model, facts.serial) for facts in disks]),
        system_size=format_size(largest) if largest else "", folder=folder, place=_place(folder, under),
        repository=repository.identity.id, is_encrypted=repository.identity.encryption != "none",
        image=_day(newest.manifest.created) if newest else "", recovery=_recovery(images),
        has_bitlocker=_has_bitlocker(), made=_day(datetime.now().astimezone().isoformat()),
    )  # fmt: skip


def write_sheet(repository: Repository, facts: SheetFacts, path: str, *, with_key: bool, owner: Owner) -> None:
    """Write the page into a new file that only this user may read.

    Raises:
        UsageError: The file exists, lies in the repository, or cannot be made.
        StorageError: It could not be written. Then there is no new key either.
    """
    if with_key:

        def page(key: str) -> str:
            return build_sheet(facts, PrintedKey(text=key, picture=draw_code(key)))

        make_recovery_kit(repository, path, facts.folder, owner=owner, page=page)
        return
    with kit_file(path, facts.folder) as write:
        write(build_sheet(facts))


def draw_code(text: str) -> str:
    """A QR code as SVG to stand in a page."""
    import segno  # noqa: PLC0415 - seldom asked for

    drawn = io.BytesIO()
    segno.make_qr(text, error="m").save(
        drawn, kind="svg", xmldecl=False, svgns=False, nl=False, omitsize=True, border=2
    )
    return drawn.getvalue().decode("ascii")


def _place(folder: str, under: frozenset[str]) -> str:
    """What holds the repository, so that a person finds it on a shelf."""
    if filesystem_under(folder) in _NETWORK:
        return "on the network"
    return "; ".join(_disk_words(describe(path)) for path in sorted(under))


def _disk_words(facts: DiskFacts) -> str:
    return words_of_disks([(format_size(facts.size), facts.model, facts.serial)])[0]


def _recovery(images: tuple[ListedImage, ...]) -> str:
    """The recovery time of the newest image that was rehearsed."""
    for listed in reversed(images):
        proof = listed.standing.rehearsal
        if proof is not None:
            return format_duration(proof.seconds) + (" (in a slow, emulated computer)" if proof.emulated else "")
    return ""


def _has_bitlocker() -> bool:
    try:
        seen = look_at_disks(None)
    except (MachineRefusal, DeviceError):
        return False
    return any(part.volume.volume.filesystem == "BitLocker" for disk in seen.disks for part in disk.partitions)


def _day(text: str) -> str:
    """A day as people write it: ``27 November 2026``; the number of the month has two orders in the world."""
    try:
        moment = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return text
    return f"{moment.day} {moment:%B %Y}"
