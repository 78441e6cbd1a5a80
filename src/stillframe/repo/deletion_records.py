"""The records that a safe deletion rests on: sessions and their ends, tombstones, retirements.

Answers: "what does a machine say of itself while it is at work, and what is said of what goes?" Normative:
``docs/format/v1.md``, section 11. What follows from all of them together is in ``forgotten``.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from stillframe.repo.records import Hex16, MachineName, OptionalHex16, Size, Text, Time, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A machine is at work in the repository.

    ``disks`` are the paths of what a backup saves; without any it may be every disk of the machine.
    """

    session: Hex16
    verb: Word
    machine: MachineName
    boot_id: Word
    process: Word
    started: Time
    expires: Time
    disks: Annotated[tuple[Text, ...], Meta(max_length=256)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """A session counts as open no more.

    Attributes:
        end: Its own id.
        session: Of the session.
        machine: Whose session it was; of a session that could not be read, who ended it.
        by: Who wrote this.
        why: In a word: ``done``, ``dead``, ``expired``, ``damaged``, ``lost``, ``retired``.
        final: Without it this only announces that somebody is about to end the session.
        kept: Ids of manifests and tombstones of that session that count. No other one of it does.
    """

    end: Hex16
    session: Hex16
    machine: MachineName
    by: MachineName
    created: Time
    why: Word
    final: bool = True
    kept: Annotated[tuple[Hex16, ...], Meta(max_length=1000)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """A machine will not come back; or, where ``undoes`` names earlier retirements, it did."""

    retirement: Hex16
    machine: MachineName
    by: MachineName
    created: Time
    undoes: Annotated[tuple[Hex16, ...], Meta(max_length=1000)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A put key was taken away.

    Attributes:
        revocation: Its own id.
        grant: The machine that the key made of its holder.
        by: Who took it away.
        kept: Ids of its manifests that count. No other one does, whenever it says that it was made.
    """

    revocation: Hex16
    grant: Hex16
    by: MachineName
    created: Time
    kept: Annotated[tuple[Hex16, ...], Meta(max_length=100_000)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenImage:
    """An image that is to be treated as gone. Of one that could not be read: ``machine`` zeros, ``sequence`` 0."""

    image: Hex16
    machine: Hex16
    sequence: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtBack:
    """An image that is forgotten no more, as far as these tombstones forgot it."""

    image: Hex16
    tombstones: Annotated[tuple[Hex16, ...], Meta(max_length=1000)]


Images = Annotated[tuple[ForgottenImage, ...], Meta(max_length=100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneRecord:
    """An announcement of deletion.

    Attributes:
        images: Gone for good: whatever lies under these names does not count.
        packs: Nobody may rely on what rests in these any more.
        binned: Forgotten; they can be brought back.
        purging: Forgotten images that will be gone when this tombstone is ripe: too late to bring them back.
        back: Images brought back.
        follows: The tombstone that this one says more about: who was at work when it was there.
        sessions: The sessions that were open then: the tombstone is not ripe before all have ended.
        session: In which this was written.
    """

    tombstone: Hex16
    created: Time
    machine: MachineName
    images: Images = ()
    packs: Annotated[tuple[Hex16, ...], Meta(max_length=1_000_000)] = ()
    binned: Images = ()
    purging: Images = ()
    back: Annotated[tuple[BroughtBack, ...], Meta(max_length=1000)] = ()
    follows: OptionalHex16 = ""
    sessions: Annotated[tuple[Hex16, ...], Meta(max_length=100_000)] = ()
    session: OptionalHex16 = ""

    @property
    def announces(self) -> bool:
        """Whether something is deleted when it is ripe."""
        return bool(self.packs or self.purging)
