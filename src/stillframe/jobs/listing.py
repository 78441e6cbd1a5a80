"""The verbs ``images`` and ``show``, and which image a person means.

Answers: "which images are here, and how good is each?" and "which one is 'latest', or '3fa9'?" Reads manifests and
proofs, never chunks.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.errors import RepositoryNotFound, TargetError, UsageError
from stillframe.events import Finding
from stillframe.repo.format import ObjectType
from stillframe.repo.proofs import Standing, Verdict, judge, ladder, read_screenshot
from stillframe.repo.records import Manifest, ProofRecord, StoredDisk, StoredPartition
from stillframe.repo.repository import Repository

PREFIX_MIN: Final = 4
_ID: Final = re.compile(r"[0-9a-f]{1,32}")
_CHOICES: Final = 10
"""So many images are named when a word could mean several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """An image with what is known of it: its proofs, oldest first, and what they add up to."""

    manifest: Manifest
    proofs: tuple[ProofRecord, ...]
    verdict: Verdict
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageListing:
    """Images, oldest first; images of other machines that are not listed; and what is wrong with some."""

    images: tuple[ListedImage, ...]
    others: int
    findings: tuple[Finding, ...]


def list_images(repository: Repository, *, machine_id: str | None) -> ImageListing:
    """The images of one machine, or with ``None`` of every machine."""
    found = repository.images()
    manifests = [image.manifest for image in found.images]
    wanted = [manifest for manifest in manifests if machine_id in (None, manifest.machine.id)]
    proofs = _proofs_by_image(repository.proofs())
    listed = tuple(_listed(manifest, proofs.get(manifest.image, ())) for manifest in wanted)
    return ImageListing(images=listed, others=len(manifests) - len(wanted), findings=found.findings)


def look_at_image(repository: Repository, manifest: Manifest) -> ListedImage:
    """One image with its proofs."""
    return _listed(manifest, [proof for proof in repository.proofs() if proof.image == manifest.image])


def save_screenshot(repository: Repository, listed: ListedImage, path: str) -> ProofRecord:
    """Write the screenshot of an image's newest start into a new file; returns its proof.

    Raises:
        RepositoryNotFound: There is none.
        TargetError: The file is there already, or cannot be written.
        DamagedError: It is not what was written.
    """
    proof = next((proof for proof in reversed(listed.proofs) if proof.screenshot), None)
    if proof is None:
        raise RepositoryNotFound(
            f"image {listed.manifest.image[:8]} has no screenshot", hint="'stillframe prove IMAGE' takes one."
        )
    png = read_screenshot(repository, proof)
    try:
        with open(path, "xb") as file:
            file.write(png)
    except OSError as error:
        raise TargetError(
            f"{path} cannot be written: {error.strerror}", hint="Name a file that is not there."
        ) from error
    return proof


def find_image(repository: Repository, word: str, *, machine_id: str) -> Manifest:
    """The image a person means; arguments and errors as ``find_image_id``, and those of reading it."""
    return repository.image(bytes.fromhex(find_image_id(repository, word, machine_id=machine_id))).manifest


def find_image_id(repository: Repository, word: str, *, machine_id: str) -> str:
    """The id of the image a person means; the image itself may be damaged.

    Args:
        repository: Where to look.
        word: An id, at least four characters of one, ``latest`` (the newest of this machine), or ``latest:NAME``.
        machine_id: This machine.

    Raises:
        RepositoryNotFound: There is none.
        UsageError: The word could mean several; they are listed. Nobody guesses.
    """
    name, colon, wanted = word.partition(":")
    if name == "latest":
        return _latest(repository, wanted if colon else None, machine_id).image
    prefix = word.lower()
    if not _ID.fullmatch(prefix) or len(prefix) < PREFIX_MIN:
        raise UsageError(
            f"{word!r} is not an image",
            hint="Write an id, at least its first 4 characters, 'latest' or 'latest:NAME'; 'stillframe images' lists "
            "them.",
        )
    ids = [image_id.hex() for image_id in repository.box.ids(ObjectType.IMAGE) if image_id.hex().startswith(prefix)]
    if len(ids) > 1:
        found = repository.images()
        ids = [image_id for image_id in ids if image_id not in found.forgotten]
        if len(ids) > 1:
            manifests = [image.manifest for image in found.images if image.manifest.image in ids]
            raise _ambiguous(f"{len(ids)} images begin with {prefix}", manifests)
    if not ids:
        raise RepositoryNotFound(f"no image {word}", hint="'stillframe images --all' lists them.")
    return ids[0]


def find_disk(manifest: Manifest, number: int | None) -> StoredDisk:
    """One disk of an image, by the number people see; ``None`` is the only one.

    Raises:
        UsageError: There are several and none was named, or none of that number.
    """
    if number is None and len(manifest.disks) == 1:
        return manifest.disks[0]
    for disk in manifest.disks:
        if disk.number == number:
            return disk
    which = "no disk was named" if number is None else f"there is no disk {number}"
    names = ", ".join(f"{disk.number} ({disk.path})" for disk in manifest.disks)
    raise UsageError(f"{which} of image {manifest.image[:8]}; it has {names}", hint="Add '--disk N'.")


def find_partition(disk: StoredDisk, number: int) -> StoredPartition:
    """One partition of a disk, by the number people see.

    Raises:
        UsageError: There is none of that number; those that are there are listed. Or nothing of it is in the image.
    """
    for part in disk.partitions:
        if part.number == number and part.is_left_out:
            raise UsageError(
                f"partition {number} of disk {disk.number} is not in this image: it was left out as a whole, with "
                "'backup --system'",
                hint="An image of the whole disk has it: 'stillframe images' lists what there is.",
            )
        if part.number == number:
            return part
    numbers = ", ".join(str(part.number) for part in disk.partitions) or "none"
    raise UsageError(
        f"the image has no partition {number} on disk {disk.number}; it has {numbers}",
        hint="'stillframe show IMAGE' lists them.",
    )


def _latest(repository: Repository, name: str | None, machine_id: str) -> Manifest:
    """The newest of this machine; with a name, of that name, also of another machine when only one has it."""
    called = "" if name is None else f" named {name!r}"
    found = [image.manifest for image in repository.images().images if name in (None, image.manifest.name)]
    mine = [manifest for manifest in found if manifest.machine.id == machine_id]
    machines = {manifest.machine.id for manifest in found}
    candidates = mine or (found if name is not None and len(machines) == 1 else [])
    if candidates:
        return max(candidates, key=lambda manifest: manifest.place)
    if not found:
        raise RepositoryNotFound(
            f"there is no image{called} in this repository", hint="'stillframe images --all' lists what is there."
        )
    raise _ambiguous(f"this machine has no image{called} here, so 'latest' could mean several", found)


def _ambiguous(what: str, manifests: Iterable[Manifest]) -> UsageError:
    newest = sorted(manifests, key=lambda manifest: (manifest.created, manifest.sequence), reverse=True)
    words = [
        f"{_short(manifest, newest)} ({manifest.machine.name}{', ' + manifest.name if manifest.name else ''}, "
        f"{manifest.created})"
        for manifest in newest[:_CHOICES]
    ]
    more = f", and {len(newest) - _CHOICES} older ones" if len(newest) > _CHOICES else ""
    return UsageError(f"{what}: {', '.join(words)}{more}", hint="Write more of the id of the one you mean.")


def _short(manifest: Manifest, among: Iterable[Manifest]) -> str:
    """The beginning of an id, as long as it takes to tell it from the others; at least eight characters."""
    others = [other.image for other in among if other.image != manifest.image]
    size = 8
    while size < len(manifest.image) and any(other.startswith(manifest.image[:size]) for other in others):
        size += 4
    return manifest.image[:size]


def _proofs_by_image(proofs: Iterable[ProofRecord]) -> dict[str, list[ProofRecord]]:
    found: dict[str, list[ProofRecord]] = {}
    for proof in proofs:
        found.setdefault(proof.image, []).append(proof)
    return found


def _listed(manifest: Manifest, proofs: Iterable[ProofRecord]) -> ListedImage:
    mine = tuple(sorted(proofs, key=lambda proof: (proof.created, proof.proof)))
    return ListedImage(manifest=manifest, proofs=mine, verdict=judge(manifest, mine), standing=ladder(manifest, mine))
