"""The verbs that care for a repository: ``verify``, ``check``, ``repair``, ``forget``, ``expire``.

Answers: "is everything still good, and what may go?" Thin: it opens the session that a run needs and calls ``repo``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.events import EventSink, Finding, JobFinished, JobStarted
from stillframe.jobs.last_seen import LastSeen
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.verify import VerifyResult, verify_image
from stillframe.repo.check import CheckReport, check_repository
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImages:
    """The verdicts about several images, and everything that was found."""

    results: tuple[VerifyResult, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify_images(
    repository: Repository, manifests: Sequence[Manifest] | None, *, owner: Owner, quick: bool, events: EventSink,
    cancel: CancelToken,
) -> VerifiedImages:  # fmt: skip
    """Verify images one after the other; one that cannot be examined at all is a finding, and the next one follows.

    Args:
        repository: Where they are.
        manifests: Which; ``None`` for every image of every machine, those that cannot be read told as findings.
        owner: Who vouches for them.
        quick: Structure only.
        events: As ``verify_image``.
        cancel: Stops it.
    """
    found = repository.images() if manifests is None else None
    results: list[VerifyResult] = []
    findings = list(found.findings if found else ())
    for finding in findings:
        events.emit(finding)
    for manifest in [image.manifest for image in found.images] if found else manifests or ():
        try:
            result = verify_image(repository, manifest, owner=owner, quick=quick, events=events, cancel=cancel)
        except (DamagedError, UnsupportedFormat) as error:
            finding = Finding(code=error.code, message=error.message, hint=error.hint, thing=manifest.image)
            events.emit(finding)
            findings.append(finding)
        else:
            results.append(result)
            findings += result.findings
    return VerifiedImages(results=tuple(results), findings=tuple(findings))


def check(repository: Repository, seen: LastSeen, *, events: EventSink) -> CheckReport:
    """Check the structure of a repository, also against what this machine last saw of it."""
    known = {machine_id: (last.sequence, last.image) for machine_id, last in seen.read().items()}
    with _job(repository, "check", events):
        return check_repository(repository, events=events, last_seen=known)


@contextmanager
def _job(repository: Repository, verb: str, events: EventSink) -> Iterator[None]:
    """Tell that a job begins and that it ended well."""
    began = repository.clock.monotonic()
    events.emit(JobStarted(verb=verb, what=f"repository {repository.identity.id[:8]}"))
    yield
    events.emit(JobFinished(verb=verb, seconds=repository.clock.monotonic() - began))
