"""What tombstones and ends of sessions add up to: which images count, which can come back, which never were.

Answers: "is this image forgotten, and can it still be brought back?" and "did the run that wrote this still hold its
session?" Pure. Normative: ``docs/format/v1.md``, sections 11 and 13.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stillframe.repo.deletion_records import ForgottenImage, Revocation, SessionEnd, TombstoneRecord

_TAG_AT: Final = 16
"""Where in an id, in hex, that begins which all ids of a put-only machine have in common."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What is known of sessions that ended other than by being taken away.

    Attributes:
        announced: Sessions that somebody was about to end.
        kept: For each session that has ended which of its records count: those that every end names.
        revoked: The same for each put key that was taken away, by how the ids of its sessions end.
    """

    announced: frozenset[str] = frozenset()
    kept: Mapping[str, frozenset[str]] = field(default_factory=dict)
    revoked: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def has_ended(self, session: str) -> bool:
        """Whether it is open no more."""
        return session in self.kept or session[_TAG_AT:] in self.revoked

    def is_touched(self, session: str) -> bool:
        """Whether somebody ended it or was about to."""
        return self.has_ended(session) or session in self.announced

    def counts(self, session: str, record_id: str) -> bool:
        """Whether a manifest or a tombstone that was written in this session counts."""
        if record_id not in self.revoked.get(session[_TAG_AT:], (record_id,)):
            return False
        return session not in self.kept or record_id in self.kept[session]


def judge_ends(records: Iterable[SessionEnd], revocations: Iterable[Revocation] = ()) -> Ends:
    """Sum the ends of sessions up, and those of put keys."""
    announced: set[str] = set()
    kept: dict[str, frozenset[str]] = {}
    for record in records:
        if record.final:
            kept[record.session] = kept.get(record.session, frozenset(record.kept)) & frozenset(record.kept)
        else:
            announced.add(record.session)
    revoked: dict[str, frozenset[str]] = {}
    for revocation in revocations:
        tag, names = revocation.grant[_TAG_AT:], frozenset(revocation.kept)
        revoked[tag] = revoked.get(tag, names) & names
    return Ends(frozenset(announced), kept, revoked)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedImage:
    """A forgotten image that is still there whole.

    Attributes:
        image: Which.
        since: When it was forgotten, the last time.
        tombstones: Which forgot it and were not undone.
        purging: Its deletion was announced: too late to bring it back.
    """

    image: ForgottenImage
    since: str
    tombstones: tuple[str, ...]
    purging: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Every image that does not count, by its id.

    Attributes:
        gone: For good.
        binned: Forgotten, and not gone yet.
        ends: Of sessions.
        tombstones: All of them, oldest first.
    """

    gone: Mapping[str, ForgottenImage]
    binned: Mapping[str, BinnedImage]
    ends: Ends
    tombstones: tuple[TombstoneRecord, ...]

    @property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.gone) | frozenset(self.binned)

    @property
    def images(self) -> tuple[ForgottenImage, ...]:
        """What tombstones say of all of them."""
        return (*self.gone.values(), *(binned.image for binned in self.binned.values()))


def judge_forgotten(tombstones: Iterable[TombstoneRecord], ends: Ends) -> Forgotten:
    """Sum tombstones up. An image brought back counts again as far as it was forgotten until then."""
    records = tuple(tombstones)
    gone = {image.image: image for record in records for image in record.images}
    undone: set[tuple[str, str]] = set()
    for record in records:
        if ends.counts(record.session, record.tombstone):
            undone.update((back.image, tombstone) for back in record.back for tombstone in back.tombstones)
    purging = {image.image for record in records for image in record.purging}
    binned: dict[str, BinnedImage] = {}
    for record in sorted(records, key=lambda record: record.created):
        for image in record.binned:
            if image.image in gone or (image.image, record.tombstone) in undone:
                continue
            earlier = binned.get(image.image)
            binned[image.image] = BinnedImage(
                image=image, since=record.created, purging=image.image in purging,
                tombstones=(*(earlier.tombstones if earlier else ()), record.tombstone),
            )  # fmt: skip
    return Forgotten(gone=gone, binned=binned, ends=ends, tombstones=records)
