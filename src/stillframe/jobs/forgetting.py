"""Forgotten images that can still come back: which there are, and bringing one back.

Answers: "I forgot the wrong one. Is it still there?" Thin: it opens the session that a run needs and calls ``repo``.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.errors import DamagedError, RepositoryNotFound, UnsupportedFormat, UsageError
from stillframe.repo.forgetting import bring_back
from stillframe.repo.forgotten import BinnedImage
from stillframe.repo.inventory import read_image
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner, begin_session
from stillframe.store import ObjectMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenListing:
    """A forgotten image that is not gone, and its manifest if that can be read."""

    binned: BinnedImage
    manifest: Manifest | None


def list_forgotten(repository: Repository) -> tuple[ForgottenListing, ...]:
    """Forgotten images that are not gone, those that were forgotten first at the beginning."""
    found = []
    for image_id, binned in repository.forgotten().binned.items():
        manifest = None
        with contextlib.suppress(ObjectMissing, DamagedError, UnsupportedFormat):
            manifest = read_image(repository, bytes.fromhex(image_id)).manifest
        found.append(ForgottenListing(binned=binned, manifest=manifest))
    return tuple(sorted(found, key=lambda one: (one.binned.since, one.binned.image.image)))


def find_forgotten(repository: Repository, word: str) -> str:
    """The id of the forgotten image that a person means.

    Raises:
        RepositoryNotFound: No forgotten image begins so.
        UsageError: Several do.
    """
    ids = [image_id for image_id in repository.forgotten().binned if image_id.startswith(word.lower()) and word]
    if len(ids) > 1:
        names = ", ".join(image_id[:12] for image_id in ids)
        raise UsageError(f"{len(ids)} forgotten images begin with {word}: {names}", hint="Write more of the id.")
    if not ids:
        raise RepositoryNotFound(
            f"no forgotten image begins with {word!r}", hint="'stillframe images --forgotten' lists them."
        )
    return ids[0]


def undo_forget(repository: Repository, image_ids: Sequence[str], *, owner: Owner) -> tuple[BinnedImage, ...]:
    """Bring forgotten images back.

    Raises:
        RepositoryNotFound: It is too late for one of them. Nothing was changed.
        DamagedError: One of them cannot be read any more.
    """
    session = begin_session(repository, owner, "undelete")
    try:
        return bring_back(session, image_ids)
    finally:
        session.end()
