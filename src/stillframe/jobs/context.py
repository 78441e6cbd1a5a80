"""What every job is given besides its plan: on whose behalf it works, who is told, and how it is stopped.

Answers: "who vouches for this run, where do its events go, and may it go on?"
"""

from dataclasses import dataclass

from stillframe.events import EventSink
from stillframe.jobs.pipeline import CancelToken
from stillframe.repo.session import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One run of a job.

    Attributes:
        owner: The machine and process it runs on; sessions and proofs name it.
        events: Gets what happens, from any thread.
        cancel: Asked between chunks.
    """

    owner: Owner
    events: EventSink
    cancel: CancelToken
