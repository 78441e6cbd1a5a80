"""The verbs that care for a repository: ``verify``, ``check``, ``repair``, ``forget``, ``expire``.

Answers: "is everything still good, and what may go?" Thin: it opens the session that a run needs and calls ``repo``.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.events import EventSink, Finding, JobFinished, JobStarted
from stillframe.jobs.context import JobContext
from stillframe.jobs.inside.lost_files import name_lost_files
from stillframe.jobs.last_seen import LastSeen
from stillframe.jobs.listing import list_images
from stillframe.jobs.verify import VerifyResult, verify_image
from stillframe.repo.check import CheckReport, check_repository
from stillframe.repo.deletion_records import ForgottenImage
from stillframe.repo.ending import require_right_to_delete
from stillframe.repo.expire import UNDELETE, ExpirePlan, ExpireResult, apply_expire, plan_expire
from stillframe.repo.forgetting import forget_images
from stillframe.repo.records import Manifest
from stillframe.repo.repair import RepairReport, repair_repository
from stillframe.repo.repository import Repository
from stillframe.repo.retention import RetentionPlan, RetentionPolicy, plan_retention
from stillframe.repo.session import Owner, begin_session
from stillframe.repo.usage import image_sizes

_NAMED_IMAGES_MAX: Final = 5
"""Images whose lost files 'repair' names; 'verify IMAGE' does it for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImages:
    """The verdicts about several images, and everything that was found."""

    results: tuple[VerifyResult, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def healed(self) -> tuple[str, ...]:
        """Packs of which chunks could be had only with the help of parity."""
        return tuple(sorted({pack for result in self.results for pack in result.healed}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """What an expiry will do: which images no rule keeps, and what can be deleted."""

    retention: RetentionPlan
    plan: ExpirePlan


def verify_images(
    repository: Repository, manifests: Sequence[Manifest] | None, *, quick: bool, context: JobContext
) -> VerifiedImages:
    """Verify images one after the other; one that cannot be examined at all is a finding, and the next one follows.

    Args:
        repository: Where they are.
        manifests: Which; ``None`` for every image of every machine, those that cannot be read told as findings.
        quick: Structure only.
        context: As ``verify_image``.
    """
    found = repository.images() if manifests is None else None
    results: list[VerifyResult] = []
    findings = list(found.findings if found else ())
    for finding in findings:
        context.events.emit(finding)
    for manifest in [image.manifest for image in found.images] if found else manifests or ():
        try:
            result = verify_image(repository, manifest, quick=quick, context=context)
        except (DamagedError, UnsupportedFormat) as error:
            finding = Finding(code=error.code, message=error.message, hint=error.hint, thing=manifest.image)
            context.events.emit(finding)
            findings.append(finding)
        else:
            results.append(result)
            findings += result.findings
    return VerifiedImages(results=tuple(results), findings=tuple(findings))


def check(repository: Repository, seen: LastSeen, *, events: EventSink) -> CheckReport:
    """Check the structure of a repository, also against what this machine last saw of it."""
    with _job(repository, "check", events):
        return check_repository(repository, events=events, last_seen=_known(seen))


def repair(
    repository: Repository, seen: LastSeen, *, owner: Owner, read_all: bool, events: EventSink,
    suspects: Collection[str] = (),
) -> RepairReport:  # fmt: skip
    """Mend a repository as far as what is there allows, then check it. ``suspects`` are packs to read in any case.

    Raises:
        Locked: Another run is at work.
        StorageError: The storage failed. What was done until then is sound.
    """
    with _job(repository, "repair", events):
        session = begin_session(repository, owner, "repair")
        try:
            require_right_to_delete(repository, owner.machine, "'repair'")
            packs = [bytes.fromhex(pack) for pack in suspects]
            report = repair_repository(
                session, events=events, read_all=read_all, suspects=packs, last_seen=_known(seen)
            )
            return replace(report, check=_with_lost_files(repository, report.check, events))
        finally:
            session.end()


def _with_lost_files(repository: Repository, report: CheckReport, events: EventSink) -> CheckReport:
    """A report that also names files that lost bytes, of the newest damaged images: they share most of the loss."""
    damaged = [state for state in report.images if not state.is_whole]
    damaged.sort(key=lambda state: state.manifest.created, reverse=True)
    reader, named = repository.reader(), list[Finding]()
    for state in damaged[:_NAMED_IMAGES_MAX]:
        for finding in name_lost_files(reader, state.manifest, state.lost):
            events.emit(finding)
            named.append(finding)
    return replace(report, findings=(*report.findings, *named))


def forget(repository: Repository, image_ids: Sequence[str], *, owner: Owner) -> tuple[ForgottenImage, ...]:
    """Forget images; their room comes free with ``expire``.

    Raises:
        RepositoryNotFound: One of them is not there. Nothing was changed.
        Locked: A repair is at work.
        DeletionRefused: The storage only lets this machine add.
    """
    session = begin_session(repository, owner, "forget")
    try:
        require_right_to_delete(repository, owner.machine, "forgetting")
        return forget_images(session, image_ids)
    finally:
        session.end()


def plan_expiry(
    repository: Repository, policy: RetentionPolicy, *, grace: timedelta, undelete: timedelta = UNDELETE
) -> Expiry:
    """Decide which images go by the rules, and look at what can be deleted. Changes nothing.

    Raises:
        DamagedError: An image cannot be read: nothing may be deleted then.
        UsageError: A rule is negative.
    """
    listed = list_images(repository, machine_id=None).images
    retention = plan_retention(
        [image.manifest for image in listed],
        policy,
        failed={image.manifest.image for image in listed if image.verdict == "damaged"},
        sizes=image_sizes(repository.reader()) if policy.max_size is not None else None,
    )
    leaving = [image.manifest.image for image in retention.forget]
    return Expiry(retention=retention, plan=plan_expire(repository, forget=leaving, grace=grace, undelete=undelete))


def apply_expiry(repository: Repository, expiry: Expiry, *, owner: Owner, events: EventSink) -> ExpireResult:
    """Forget the images that were planned, and delete what may go by now.

    What can be deleted is looked at again, inside the session; no other image is forgotten.

    Raises:
        Locked: Another expiry or a repair is at work.
        DeletionRefused: The storage only lets this machine add.
        DamagedError: An image cannot be read.
    """
    with _job(repository, "expire", events):
        session = begin_session(repository, owner, "expire")
        try:
            require_right_to_delete(repository, owner.machine, "'expire'")
            leaving, wanted = [image.image for image in expiry.plan.forget], expiry.plan
            plan = plan_expire(
                repository, forget=leaving, own_session=session.id, grace=wanted.grace, undelete=wanted.undelete
            )
            return apply_expire(session, plan)
        finally:
            session.end()


def _known(seen: LastSeen) -> dict[str, tuple[int, str]]:
    return {machine_id: (last.sequence, last.image) for machine_id, last in seen.read().items()}


@contextmanager
def _job(repository: Repository, verb: str, events: EventSink) -> Iterator[None]:
    """Tell that a job begins and that it ended well."""
    began = repository.clock.monotonic()
    events.emit(JobStarted(verb=verb, what=f"repository {repository.identity.id[:8]}"))
    yield
    events.emit(JobFinished(verb=verb, seconds=repository.clock.monotonic() - began))
