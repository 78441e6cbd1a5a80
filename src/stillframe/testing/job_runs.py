"""Backups and restores in one call each, for tests that ask only whether the bytes came back.

Answers: "make an image of this, and put it there." Sources are disks in memory or paths; what a person would be asked
has a default.
"""

import os
from collections.abc import Sequence
from typing import Final, cast

from stillframe.block import BlockReader
from stillframe.block.file import FileReader
from stillframe.capture import OpenSource, Selection, open_source, open_sources
from stillframe.clock import Clock
from stillframe.events import EventSink, NoEvents
from stillframe.host.disks import DiskFacts
from stillframe.jobs.backup import BackupOptions, BackupResult, apply_backup, plan_backup
from stillframe.jobs.clone import CloneOptions, CloneResult, apply_clone, plan_clone
from stillframe.jobs.cloning.disk_image import disk_image
from stillframe.jobs.cloning.fitted import apply_fitted_clone, clone_planner
from stillframe.jobs.context import JobContext
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.jobs.verify import VerifyResult, verify_image
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, create_repository
from stillframe.repo.session import Owner
from stillframe.store import Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.repositories import CHEAP, make_owner

PLAIN_OPTIONS: Final = BackupOptions()
PLAIN_RESTORE: Final = RestoreOptions()
ANNA: Final = make_owner()


class MemorySource(OpenSource):
    """A source that nobody can mount: a disk in memory, or any other reader. It is always still.

    Its reader is given up, not closed: it belongs to the test.
    """

    def __exit__(self, *_: object) -> None:
        """Leave the reader to the test."""

    def stayed_still(self) -> bool:
        """Nobody else can write to it."""
        return True


def memory_source(disk: BlockReader, *, path: str = "/dev/test") -> MemorySource:
    """A source over any reader."""
    facts = DiskFacts(path=path, kind="disk", size=disk.size, sector_size=disk.sector_size)
    return MemorySource(facts=facts, reader=cast("FileReader", disk), consistency="offline", notices=(), stamp=None)


def make_repository(
    store: Store, *, chunk_size: int = 65_536, passphrase: str | None = None, clock: Clock | None = None
) -> Repository:
    """A new repository with chunks of a size; open to everybody unless a passphrase is given."""
    return create_repository(
        store, passphrase=passphrase, chunk_size=chunk_size, cost=CHEAP, clock=clock or FakeClock()
    )


def job_context(owner: Owner = ANNA, events: EventSink | None = None, cancel: CancelToken | None = None) -> JobContext:
    """What a job is given: told to nobody and never stopped, unless said otherwise."""
    return JobContext(owner=owner, events=events or NoEvents(), cancel=cancel or CancelToken())


def backup(
    repository: Repository, *disks: BlockReader, options: BackupOptions = PLAIN_OPTIONS, owner: Owner = ANNA,
    events: EventSink | None = None,
) -> BackupResult:  # fmt: skip
    """An image of readers."""
    sources = [memory_source(disk, path=f"/dev/test{number}") for number, disk in enumerate(disks)]
    return _backup(repository, sources, options, owner, events)


def backup_paths(
    repository: Repository, *paths: str | os.PathLike[str], options: BackupOptions = PLAIN_OPTIONS, owner: Owner = ANNA,
    events: EventSink | None = None, allow_torn: bool = False,
) -> BackupResult:  # fmt: skip
    """An image of disks or disk files."""
    with open_sources([os.fspath(path) for path in paths], allow_torn=allow_torn) as sources:
        return _backup(repository, sources, options, owner, events)


def _backup(
    repository: Repository, sources: Sequence[OpenSource], options: BackupOptions, owner: Owner,
    events: EventSink | None,
) -> BackupResult:  # fmt: skip
    plan = plan_backup(repository, sources, options, owner)
    return apply_backup(repository, sources, plan, job_context(owner, events))


def restore(
    repository: Repository, manifest: Manifest, target: str | os.PathLike[str], *,
    options: RestoreOptions = PLAIN_RESTORE, disk_number: int = 1, folder: str = "",
) -> RestoreResult:  # fmt: skip
    """Put an image onto a target."""
    plan = plan_restore(repository, manifest, disk_number, os.fspath(target), repository_folder=folder, options=options)
    return apply_restore(repository, plan, job_context())


def verify(repository: Repository, manifest: Manifest, *, quick: bool = False, owner: Owner = ANNA) -> VerifyResult:
    """Read an image back."""
    return verify_image(repository, manifest, quick=quick, context=job_context(owner))


def clone(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, wipe: bool = False, new_identity: bool = False,
    delta: bool = False, selection: Selection | None = None,
) -> CloneResult:  # fmt: skip
    """Copy a disk onto another."""
    options = CloneOptions(
        selection=selection or Selection(), wipe=wipe, new_identity=new_identity, delta=delta
    )  # fmt: skip
    with open_source(os.fspath(source)) as opened:
        plan = plan_clone(opened, os.fspath(target), options)
        return apply_clone(opened, plan, clock=FakeClock(), context=job_context())


def clone_fitted(
    source: str | os.PathLike[str], target: str | os.PathLike[str], options: RestoreOptions, *,
    context: JobContext | None = None,
) -> RestoreResult:  # fmt: skip
    """Copy a disk onto another of another size."""
    with open_source(os.fspath(source), may_snapshot=True) as opened:
        image = disk_image(opened, Selection(), FakeClock())
        plan = clone_planner(image, os.fspath(target)).plan(options)
        return apply_fitted_clone(image, plan, keep_table="", clock=FakeClock(), context=context or job_context())
