"""The place of a new image in the chain of its machine.

Answers: "which number does it get, and which image was before it?" Runs of one machine that save other disks may end
at the same moment, so the number is taken last, by one of them at a time. That is only tidy: two images of one number
do no harm when their runs were at work beside each other (``repo.lineage``). Normative: ``docs/format/v1.md``,
section 10.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from stillframe.block.syscalls import lock_file
from stillframe.errors import MachineRefusal
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository

PATIENCE_S: Final = 30.0
"""How long one run waits for another one's turn: it may hang, and then nobody else shall wait for it."""
_STEP_S: Final = 0.05


def linked(repository: Repository, manifest: Manifest, beside: tuple[str, ...]) -> Manifest:
    """The manifest with its number, the digest of the machine's newest one, and the sessions beside it.

    A put-only machine reads no manifests: its numbers are in the ids of its images, so this image gets its id here too.
    """
    if repository.put is not None:
        link = repository.put.next_link()
        return replace(
            manifest, image=link.image_id.hex(), sequence=link.sequence, previous=link.previous, beside=beside
        )  # fmt: skip
    machine_id = manifest.machine.id
    mine = [image for image in repository.images().images if image.manifest.machine.id == machine_id]
    gone = [image.sequence for image in repository.forgotten().images if image.machine == machine_id]
    newest = max(mine, key=lambda image: image.manifest.place, default=None)
    last = max([newest.manifest.sequence if newest else 0, *gone])
    return replace(
        manifest, sequence=last + 1, previous=newest.digest.hex() if newest else "", beside=beside
    )  # fmt: skip


@contextmanager
def own_turn(folder: str, repository_id: str, check: Callable[[], None]) -> Iterator[None]:
    """Keep other runs of this machine out while the block runs; without a folder, or after a while, they are let be.

    Args:
        folder: Where this machine keeps what lasts; empty for none.
        repository_id: Of the repository: others are not kept out.
        check: Asked while it waits; what it raises ends the waiting.
    """
    descriptor = _open(os.path.join(folder, f"{repository_id}.turn")) if folder else -1
    try:
        deadline = time.monotonic() + PATIENCE_S
        while descriptor >= 0 and not _is_ours(descriptor) and time.monotonic() < deadline:
            check()
            time.sleep(_STEP_S)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(path: str) -> int:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return -1


def _is_ours(descriptor: int) -> bool:
    with contextlib.suppress(MachineRefusal, OSError):  # no locks here: then it is nobody's
        return lock_file(descriptor)
    return True
