"""The verb ``import``: what another program made becomes an image in a repository.

Answers: "as whose image is it kept, and what is written down of where it came from?" Saving itself is that of
``backup``: the same plan, the same used maps, the same reading back.

An imported image belongs to a machine of its own, named after what it came from: it is never ``latest`` of the machine
that imported it, and no retention of that machine's images counts it. See docs/adr/0017-imported-images.md.
"""

import hashlib
import os
from dataclasses import replace

from stillframe.capture.foreign import Importable
from stillframe.clock import rfc3339
from stillframe.jobs.backup import BackupOptions, BackupPlan, BackupResult, apply_backup, plan_backup
from stillframe.jobs.context import JobContext
from stillframe.repo.records import PATH_MAX, MachineName, StoredImport
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner

_NAME_MAX = 200


def imported_machine(found: Importable, owner: Owner) -> MachineName:
    """The machine that an imported image is kept under.

    The same path on the same machine gives the same one again, so that importing a newer state of it goes on where the
    last import ended; another path gives another, also when the disks in it have the same ids, as clones have.
    """
    words = ["stillframe import", owner.machine.id, found.path, found.machine_name]
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()
    name = found.machine_name or os.path.basename(found.path.rstrip("/"))
    return MachineName(id=digest[:32], name=f"{name[: _NAME_MAX - 20]} (imported)")


def plan_import(repository: Repository, found: Importable, options: BackupOptions, owner: Owner) -> BackupPlan:
    """Look at what was found, and decide what will be saved. Errors as ``plan_backup``."""
    machine = imported_machine(found, owner)
    plan = plan_backup(repository, found.sources, options, replace(owner, machine=machine))
    stored = StoredImport(
        format=found.format_name, path=found.path[:PATH_MAX], made=rfc3339(found.made) if found.made else ""
    )
    return replace(plan, imported=stored, notices=(*plan.notices, *found.notices))


def apply_import(repository: Repository, found: Importable, plan: BackupPlan, context: JobContext) -> BackupResult:
    """Make the image that was planned; errors as ``apply_backup``."""
    return apply_backup(repository, found.sources, plan, context)
