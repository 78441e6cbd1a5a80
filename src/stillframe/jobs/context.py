"""What every job is given besides its plan: on whose behalf it works, who is told, and how it is stopped.

Answers: "who vouches for this run, where do its events go, and may it go on?"
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillframe.events import EventSink
from stillframe.jobs.pipeline import CancelToken
from stillframe.repo.session import Owner

if TYPE_CHECKING:
    from stillframe.capture.unlocking import VolumeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One run of a job.

    Attributes:
        owner: The machine and process it runs on; sessions and proofs name it.
        events: Gets what happens, from any thread.
        cancel: Asked between chunks.
        keys: Of encrypted volumes on what is written; in memory only, and no words show them.
        state_folder: Where this machine keeps what lasts, and its runs take turns; empty for nowhere.
    """

    owner: Owner
    events: EventSink
    cancel: CancelToken
    keys: "tuple[VolumeKey, ...]" = ()
    state_folder: str = ""
