"""Forgetting images, and bringing forgotten ones back.

Answers: "take this image off every list, so that it can still come back" and "bring it back". Deletes nothing but what
is gone for good already. Normative: ``docs/format/v1.md``, section 13.
"""

from collections.abc import Collection, Iterable
from typing import Final

from stillframe.clock import rfc3339
from stillframe.errors import DamagedError, RepositoryNotFound, UnsupportedFormat
from stillframe.repo.deletion_records import BroughtBack, ForgottenImage, TombstoneRecord
from stillframe.repo.forgotten import BinnedImage
from stillframe.repo.format import ObjectType
from stillframe.repo.inventory import read_image
from stillframe.repo.lineage import UNKNOWN_MACHINE
from stillframe.repo.proofs import delete_proof
from stillframe.repo.put.warnings import warn
from stillframe.repo.records import build_record, require_known_features
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Session
from stillframe.store import ObjectMissing

IMAGES_MAX: Final = 100_000
PACKS_MAX: Final = 1_000_000
_BACK_MAX: Final = 1000
"""Of one tombstone (section 11)."""


def to_forget(repository: Repository, image_ids: Iterable[str]) -> tuple[ForgottenImage, ...]:
    """What a tombstone says of images. Of one whose manifest cannot be read it does not say whose it was.

    Raises:
        RepositoryNotFound: There is no such image.
    """
    found = []
    for image_id in image_ids:
        try:
            manifest = read_image(repository, bytes.fromhex(image_id)).manifest
        except ObjectMissing:
            raise RepositoryNotFound(f"no image {image_id}", hint="'stillframe images' lists them.") from None
        except (DamagedError, UnsupportedFormat):
            found.append(ForgottenImage(image=image_id, machine=UNKNOWN_MACHINE, sequence=0))
        else:
            found.append(ForgottenImage(image=image_id, machine=manifest.machine.id, sequence=manifest.sequence))
    return tuple(found)


def forget_images(session: Session, image_ids: Iterable[str]) -> tuple[ForgottenImage, ...]:
    """Take images off every list. Nothing of them is deleted before an ``expire`` says that it is too late.

    An image whose manifest cannot be read can be forgotten too.

    Raises:
        RepositoryNotFound: There is no such image. Nothing was changed.
    """
    images = to_forget(session.repository, image_ids)
    for first in range(0, len(images), IMAGES_MAX):
        write_tombstone(session, binned=images[first : first + IMAGES_MAX])
    return images


def bring_back(session: Session, image_ids: Collection[str]) -> tuple[BinnedImage, ...]:
    """Bring forgotten images back, as they were: id, contents and proofs.

    An ``expire`` that wants to delete them says so before it looks who is at work. So either that is seen here, or
    this session is waited for, and what it wrote is seen there.

    Raises:
        RepositoryNotFound: One of them is not forgotten, or it is too late. Nothing was changed.
        DamagedError: Its manifest cannot be read.
        UnsupportedFormat: It needs a feature that this program does not know.
    """
    repository = session.repository
    forgotten = repository.forgotten()
    found = []
    for image_id in dict.fromkeys(image_ids):
        binned = forgotten.binned.get(image_id)
        if binned is None or binned.purging:
            raise _cannot_come_back(image_id, is_known=image_id in forgotten.ids)
        try:
            require_known_features(read_image(repository, bytes.fromhex(image_id)).manifest)
        except ObjectMissing:
            raise _cannot_come_back(image_id, is_known=True) from None
        found.append(binned)
    for first in range(0, len(found), _BACK_MAX):
        part = found[first : first + _BACK_MAX]
        back = tuple(BroughtBack(image=one.image.image, tombstones=one.tombstones) for one in part)
        session.confirm(write_tombstone(session, back=back))
    return tuple(found)


def write_tombstone(
    session: Session, *, images: tuple[ForgottenImage, ...] = (), packs: tuple[str, ...] = (),
    binned: tuple[ForgottenImage, ...] = (), purging: tuple[ForgottenImage, ...] = (),
    back: tuple[BroughtBack, ...] = (),
) -> str:  # fmt: skip
    """Write a tombstone; durable on return. Returns its id."""
    repository, tombstone = session.repository, make_id()
    record = TombstoneRecord(
        tombstone=tombstone.hex(), created=rfc3339(repository.clock.now()), machine=session.record.machine,
        images=images, packs=packs, binned=binned, purging=purging, back=back, session=session.id,
    )  # fmt: skip
    warn(repository, tombstone.hex(), packs=packs)
    repository.box.write(ObjectType.TOMBSTONE, tombstone, build_record(record))
    return tombstone.hex()


def delete_manifests(repository: Repository, image_ids: Iterable[str]) -> None:
    """Delete what lies of images that are gone, or never counted: manifest, proofs, screenshots."""
    gone = set(image_ids)
    for image_id in sorted(gone):
        repository.box.delete(ObjectType.IMAGE, bytes.fromhex(image_id))
    if gone:
        for proof in repository.proofs():
            if proof.image in gone:
                delete_proof(repository, proof)


def _cannot_come_back(image_id: str, *, is_known: bool) -> RepositoryNotFound:
    if is_known:
        return RepositoryNotFound(
            f"image {image_id[:8]} was forgotten, and it is too late to bring it back: 'expire' has announced its end",
            hint="Use an older or a newer image: 'stillframe images' lists them.",
        )
    return RepositoryNotFound(
        f"image {image_id[:8]} is not forgotten", hint="'stillframe images --forgotten' lists those that can come back."
    )
