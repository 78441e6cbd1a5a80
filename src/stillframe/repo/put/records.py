"""The records of put keys: which were made, and what their machines must know.

Normative: ``docs/format/v1.md``, section 11. That one was taken away is in ``deletion_records``.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from stillframe.repo.deletion_records import Retirement
from stillframe.repo.put.credential import Label, put_machine_name
from stillframe.repo.records import Hex16, MachineName, Time

SESSIONS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A put key was made. It holds no secret: that follows from the master key."""

    grant: Hex16
    label: Label
    created: Time
    by: MachineName

    @property
    def machine(self) -> MachineName:
        """The machine that the key makes of its holder."""
        return put_machine_name(bytes.fromhex(self.grant), self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningRecord:
    """What a put-only machine must know.

    Attributes:
        warning: Its own id.
        repeats: The record of which it says a part: a tombstone, an end, a retirement, a revocation, or a proof.
        packs: Packs of this machine on which nothing may rely any more.
        sessions: Its sessions that somebody ended or was about to end.
        retirement: It was given up, or came back.
        is_revoked: Its put key was taken away.
    """

    warning: Hex16
    created: Time
    repeats: Hex16
    packs: Annotated[tuple[Hex16, ...], Meta(max_length=1_000_000)] = ()
    sessions: Annotated[tuple[Hex16, ...], Meta(max_length=SESSIONS_MAX)] = ()
    retirement: Retirement | None = None
    is_revoked: bool = False
