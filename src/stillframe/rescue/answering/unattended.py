"""A restore, a backup, a clone or a boot repair that nobody watches, as the answers say.

Answers: "what became of it?" Every error is a sentence in the verdict; there is no question, and no guess: what could
be two things is refused. The plan is told before anything is written.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stillframe.errors import Cancelled, RepositoryNotFound, StillframeError, UsageError
from stillframe.host.places import disks_under
from stillframe.rescue.answering.answers import Answers, BackupAnswer, BootRepairAnswer, CloneAnswer, RestoreAnswer
from stillframe.rescue.choosing import (
    Judged,
    choose_disk,
    choose_image,
    choose_repository,
    disk_words,
    judge_targets,
    propose_sources,
)
from stillframe.rescue.places.closed import Opening
from stillframe.rescue.places.for_undo import settled_folder, undo_name
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.places.shares import parse_address
from stillframe.rescue.verbs.calls import Doing, Ended, Progress
from stillframe.rescue.verbs.records import BackupSaid, DiskSeen, PlanSaid, RepairPlanSaid, RepairSaid, RestoreSaid
from stillframe.rescue.world import Opened, RestoreWish, World, apply_restore
from stillframe.units import format_duration, format_rate, format_size

SKIPPED: Final = 3
_BUG: Final = 1
_SETTLE_S: Final = 30.0
"""Disks on USB appear seconds after the system runs: so long a repository is looked for."""
_SETTLE_STEP_S: Final = 3.0
_TELL_S: Final = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it ended.

    Attributes:
        verb: ``restore``, ``backup``, ``clone``, ``boot-repair``.
        ok: It was done as asked.
        exit_code: As ``docs/errors.md`` lists them.
        message: One sentence.
        hint: What to do next.
        facts: More, for a program.
    """

    verb: str
    ok: bool
    exit_code: int
    message: str
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """As a line of JSON."""
        return {
            "type": "verdict", "verb": self.verb, "ok": self.ok, "exit_code": self.exit_code, "message": self.message,
            "hint": self.hint, **self.facts,
        }  # fmt: skip


def carry_out(world: World, answers: Answers, say: Say) -> Verdict:
    """Do what the answers say; never raises one of our errors.

    Args:
        world: This machine.
        answers: With a verb.
        say: Told what happens, in lines for people.
    """
    run = _Run(world, answers, _Told(say), say)
    try:
        return run.carry_out()
    except StillframeError as error:
        return Verdict(
            verb=answers.verb, ok=False, exit_code=error.exit_code, message=error.message, hint=error.hint,
            facts={"code": error.code},
        )  # fmt: skip


class _Told(Doing):
    """Says how far a job is, every few seconds."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._phase = ""
        self._last = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase != self._phase:
            self._phase, self._last = progress.phase, now
            self._say(f"{progress.phase} ...")
        elif now - self._last >= _TELL_S:
            self._last = now
            self._say(progress_words(progress))

    def check(self) -> None:
        """Nobody stops it."""


def progress_words(progress: Progress) -> str:
    """How far, how fast, how long still."""
    rate = format_rate(progress.done, progress.seconds)
    if not progress.total:
        return f"{format_size(progress.done)}, {rate}"
    done = min(progress.done, progress.total)
    left = progress.seconds * (progress.total - done) / done if done else 0.0
    ending = f", {format_duration(left)} left" if 0 < done < progress.total else ""
    percent = 100 * done // progress.total
    return f"{percent} %  {format_size(done)} of {format_size(progress.total)}, {rate}{ending}"


class _Run:
    """One unattended run."""

    def __init__(self, world: World, answers: Answers, doing: Doing, say: Say) -> None:
        self._world = world
        self._answers = answers
        self._doing = doing
        self._say = say

    def carry_out(self) -> Verdict:
        answers = self._answers
        if answers.restore is not None:
            return self._restore(answers.restore)
        if answers.backup is not None:
            return self._backup(answers.backup)
        if answers.clone is not None:
            return self._clone(answers.clone)
        if answers.boot_repair is not None:
            return self._boot_repair(answers.boot_repair)
        raise UsageError(
            "the answers ask for nothing", hint="Add a section [restore], [backup], [clone] or [boot-repair]."
        )

    def _restore(self, wanted: RestoreAnswer) -> Verdict:
        opened = self._open(read_write=False)
        said = self._world.images(opened.repository, opened.secret, self._doing)
        image = choose_image(said.images, wanted.image, wanted.machine)
        self._say(f"Image: {image.id[:8]} of {image.machine}, {image.created} ({image.rung or image.proof})")
        target = choose_disk(self._judged(opened.repository), wanted.target, what="target")
        self._say(f"Target: {disk_words(target)}")
        wish = RestoreWish(image=image, disk=wanted.disk or None, target=target.path, options=wanted.options)
        self._tell_plan(opened.call([*wish.words, "--dry-run"], PlanSaid, self._doing).result)
        ended = apply_restore(opened, wish, self._doing)
        facts = {"image": image.id, "machine": image.machine, "repository": opened.repository.id}
        return _restored("restore", ended, facts)

    def _backup(self, wanted: BackupAnswer) -> Verdict:
        opened = self._open(read_write=True)
        judged = self._judged(opened.repository)
        if wanted.sources:
            sources = tuple(
                choose_disk([Judged(disk=one.disk) for one in judged], one, what="source") for one in wanted.sources
            )
        else:
            sources = propose_sources([one.disk for one in judged if not one.refusal], (), medium=self._world.medium)
        if not sources:
            raise UsageError("no disk with a system was found", hint="Name the disks: 'sources' in [backup].")
        for source in sources:
            self._say(f"Source: {disk_words(source)}")
        words = ["backup", *(source.path for source in sources), *wanted.options]
        self._tell_plan(opened.call([*words, "--dry-run"], PlanSaid, self._doing).result)
        ended = opened.call(words, BackupSaid, self._doing)
        self._tell_notices(ended)
        said = ended.result
        ok = said.read_back is None or said.read_back.ok
        words_done = f"image {said.image[:8]} is made, {format_size(said.bytes_added)} stored"
        return Verdict(
            verb="backup", ok=ok and not ended.skipped, exit_code=14 if not ok else SKIPPED if ended.skipped else 0,
            message=words_done if ok else f"image {said.image[:8]} could not be read back whole",
            facts={"image": said.image, "repository": opened.repository.id, "bytes_added": said.bytes_added,
                   "seconds": said.seconds},
        )  # fmt: skip

    def _clone(self, wanted: CloneAnswer) -> Verdict:
        judged = self._judged(None)
        source = choose_disk([Judged(disk=one.disk) for one in judged], wanted.source, what="source")
        others = [one for one in judged if one.disk.path != source.path]
        target = choose_disk(others, wanted.target, what="target")
        self._say(f"Source: {disk_words(source)}")
        self._say(f"Target: {disk_words(target)}")
        words = ["clone", source.path, target.path, *wanted.options]
        self._tell_plan(self._world.run([*words, "--dry-run"], PlanSaid, self._doing).result)
        ended = self._world.run([*words, "--yes"], RestoreSaid, self._doing)
        return _restored("clone", ended, {"source": source.path})

    def _boot_repair(self, wanted: BootRepairAnswer) -> Verdict:
        disk = choose_disk(self._judged(None), wanted.disk, what="disk to repair")
        self._say(f"Disk: {disk_words(disk)}")
        words = ["boot-repair", disk.path, *wanted.options]
        planned = self._world.run([*words, "--dry-run"], RepairPlanSaid, self._doing).result
        for line in planned.words:
            self._say(line)
        if not planned.bytes_to_write and not planned.steps:
            return _repaired(RepairSaid(disk=disk.path, may_not_start=planned.may_not_start))
        file = os.path.join(settled_folder(self._world, wanted.keep_undo, disk.path), undo_name(disk.path))
        ended = self._world.run([*words, "--yes", "--keep-undo", file], RepairSaid, self._doing)
        self._tell_notices(ended)
        return _repaired(ended.result)

    def _open(self, *, read_write: bool) -> Opened:
        """The repository that is meant, ready, and its secret."""
        answers, world = self._answers, self._world
        wanted = answers.repository
        if wanted.where:
            address = parse_address(wanted.where)
            world.secrets[address.words] = answers.secret.share_password
            self._say(f"Opening {address.words}")
            if address.share is not None:
                world.bring_network()
            found = world.places.open_address(address, secret=answers.secret.share_password, read_write=read_write)
            if not found:
                raise RepositoryNotFound(
                    f"there is no repository at {address.words}",
                    hint="Look at the address once more; the folder with the file stillframe.json is meant.",
                )
            repository = choose_repository(found, wanted)
        else:
            repository = world.reopen(self._search(), read_write=read_write)
        self._say(f"Repository: {repository.id} on {repository.where}")
        return world.opened(repository, answers.secret.password or None)

    def _search(self) -> FoundRepository:
        """Look for the repository; disks may still be appearing. What is closed is opened when it is nowhere else."""
        begun, world = time.monotonic(), self._world
        volumes = world.settings.unlock.volumes if world.settings.unlock else ()
        opening = Opening(places=world.places, secrets=world.volume_secrets, volumes=volumes, say=self._say_looking)
        while True:
            is_late = time.monotonic() - begun > _SETTLE_S
            found = world.places.search(self._say_looking)
            try:
                return choose_repository(found.repositories, self._answers.repository)
            except RepositoryNotFound as error:
                failure: StillframeError = error
            if world.opens_closed:
                opening.look_into(found.closed, also_incomplete=is_late)
                try:
                    return choose_repository(opening.repositories, self._answers.repository)
                except RepositoryNotFound as error:
                    failure = opening.explain(error)
            if is_late:
                raise failure
            self._say("Not found yet; waiting for disks that still start")
            time.sleep(_SETTLE_STEP_S)

    def _say_looking(self, words: str) -> None:
        self._say(f"Looking into {words}")

    def _judged(self, repository: FoundRepository | None) -> tuple[Judged, ...]:
        disks: tuple[DiskSeen, ...] = self._world.disks(self._doing)
        holding = disks_under(repository.folder) if repository is not None else frozenset()
        volume = repository.volume if repository is not None else None
        return judge_targets(
            disks, repository_disks={*holding, *(volume.rests_on if volume else ())}, medium=self._world.medium,
            is_installed=self._world.is_installed,
        )  # fmt: skip

    def _tell_plan(self, plan: PlanSaid) -> None:
        for line in plan.words:
            self._say(line)

    def _tell_notices(self, ended: Ended[Any]) -> None:
        for notice in (*ended.notices, *ended.findings):
            self._say(f"Note: {notice.message} {notice.hint}".rstrip())


def _restored(verb: Literal["restore", "clone"], ended: Ended[RestoreSaid], facts: dict[str, Any]) -> Verdict:
    said = ended.result
    facts |= {
        "target": said.target, "bytes_written": said.bytes_written, "seconds": said.seconds,
        "changes": list(said.changes), "may_not_start": said.may_not_start,
    }  # fmt: skip
    done = f"{format_size(said.bytes_written)} written to {said.target} in {format_duration(said.seconds)}"
    if not ended.skipped:
        return Verdict(verb=verb, ok=True, exit_code=0, message=done, facts=facts)
    missing = "it could not be made ready to start" if said.may_not_start else "not everything could be had"
    reasons = "; ".join(one.message for one in (*ended.findings, *ended.notices))
    return Verdict(verb=verb, ok=False, exit_code=SKIPPED, message=f"{done}, but {missing}", hint=reasons, facts=facts)


def _repaired(said: RepairSaid) -> Verdict:
    facts = {
        "target": said.disk, "bytes_written": said.bytes_written, "seconds": said.seconds,
        "changes": list(said.changes), "undo_file": said.undo_file, "may_not_start": said.may_not_start,
    }  # fmt: skip
    done = f"{format_size(said.bytes_written)} written to {said.disk}" if said.bytes_written else "nothing was written"
    if not said.may_not_start:
        return Verdict(verb="boot-repair", ok=True, exit_code=0, message=done, facts=facts)
    message = f"{done}, and a system on {said.disk} still has no whole way to start"
    hint = "; ".join(one.message for one in said.notices)
    return Verdict(verb="boot-repair", ok=False, exit_code=SKIPPED, message=message, hint=hint, facts=facts)


def stopped(verb: str) -> Verdict:
    """The verdict of a run that a person ended."""
    error = Cancelled("stopped on request", hint="A disk that was being written is not complete.")
    return Verdict(verb=verb, ok=False, exit_code=error.exit_code, message=error.message, hint=error.hint)


def failed_by_bug(verb: str, words: str) -> Verdict:
    """The verdict of a run that ended by a fault of ours."""
    return Verdict(verb=verb, ok=False, exit_code=_BUG, message=f"this is a bug in Stillframe: {words}")
