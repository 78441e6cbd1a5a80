"""The steps of the demo, in order, each told in plain words with sizes, rates and times.

Answers: "what happened, how fast, and was it right?" It goes the way of the verbs: the same plans, the same jobs.
"""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import blake3

from stillframe.capture import open_source
from stillframe.errors import DamagedError, StorageError, StorageFull, UsageError
from stillframe.jobs.backup import BackupOptions, BackupResult, apply_backup, plan_backup
from stillframe.jobs.context import JobContext
from stillframe.jobs.demo.comparing import compare_disks
from stillframe.jobs.demo.disk import PAGING_FILES, PARTS, SIZE, change_disk, make_disk
from stillframe.jobs.demo.tools import require_machine
from stillframe.jobs.listing import list_images
from stillframe.jobs.repositories import NewRepository, SecretSources, create_at
from stillframe.jobs.restore import RestoreOptions, RestoreResult, apply_restore, plan_restore
from stillframe.jobs.verify import verify_image
from stillframe.repo.repository import Repository
from stillframe.units import GIB, MIB, format_duration, format_rate, format_size

ROOM: Final = 5 * GIB
"""What the demo's disks and repository need together, with some to spare."""
TARGET_SIZE: Final = 1500 * MIB
PASSPHRASE: Final = "demo"  # noqa: S105 - printed in words: there is nothing to protect

Say = Callable[[str], None]
"""Tells the person one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo did and found. ``kept_in`` is the folder with the disks and the repository, or empty."""

    seconds: float
    bytes_saved: int
    seconds_full: float
    seconds_incremental: float
    seconds_restore: float
    files_compared: int
    kept_in: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the demo's things lie, and how it speaks."""

    folder: str
    say: Say
    context: JobContext

    @property
    def disk(self) -> str:
        return os.path.join(self.folder, "computer.raw")

    @property
    def target(self) -> str:
        return os.path.join(self.folder, "new-disk.raw")

    @property
    def repository(self) -> str:
        return os.path.join(self.folder, "repository")


def run_demo(*, keep: str, say: Say, context: JobContext) -> DemoResult:
    """Run the demo.

    Args:
        keep: Folder that keeps the disks and the repository; empty to use a folder that is deleted at the end.
        say: Gets every line of the story.
        context: Of the jobs it runs; may also stop it between two steps.

    Raises:
        MachineRefusal: Not root, a program is missing (the hint installs it), or no loop devices here.
        StorageFull: There is no folder with enough room.
        DamagedError: Something that was restored differs from what was saved; the message names it.
    """
    require_machine()
    with _working_folder(keep) as folder:
        place = _Place(folder=folder, say=say, context=context)
        try:
            return _tell(place, kept_in=folder if keep else "")
        except BrokenPipeError:  # whoever read the story has gone
            raise
        except OSError as error:
            raise StorageError(
                f"the demo's own files failed: {error}", hint="Is there room, and is /usr left alone meanwhile?"
            ) from error


@contextmanager
def _working_folder(keep: str) -> Iterator[str]:
    if keep:
        folder = os.path.abspath(keep)
        if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
            raise UsageError(f"{folder} exists and is not an empty folder", hint="Name a new folder after '--keep'.")
        _require_room(os.path.dirname(folder))
        os.makedirs(folder, exist_ok=True)
        yield folder
        return
    folders = dict.fromkeys(("/var/tmp", tempfile.gettempdir(), os.getcwd()))  # noqa: S108 - only room is asked
    for parent in folders:
        if os.access(parent, os.W_OK) and shutil.disk_usage(parent).free >= ROOM:
            with tempfile.TemporaryDirectory(prefix="stillframe-demo-", dir=parent) as folder:
                yield folder
            return
    raise StorageFull(
        f"the demo needs {format_size(ROOM)} of room, and there is less in {', '.join(folders)}",
        hint="Name a folder on another disk: stillframe demo --keep FOLDER",
    )


def _require_room(parent: str) -> None:
    if not os.path.isdir(parent):
        raise UsageError(f"the folder {parent} does not exist", hint="Only the last folder of the path is made.")
    free = shutil.disk_usage(parent).free
    if free < ROOM:
        raise StorageFull(
            f"the demo needs {format_size(ROOM)} of room, and {parent} has {format_size(free)}",
            hint="Name a folder on another disk.",
        )


def _tell(place: _Place, *, kept_in: str) -> DemoResult:
    began = time.monotonic()
    _make_disk(place)
    place.say("\n2. Make an encrypted repository, as 'stillframe init' does.")
    repository = create_at(NewRepository(folder=place.repository, secrets=SecretSources(environment=PASSPHRASE)))
    place.say(f"   Repository {repository.identity.id[:8]}, AES-256; a passphrase opens it.")
    full = _back_up_untouched(place, repository)
    place.context.cancel.check()
    place.say("\n4. A day of work.")
    place.say(f"   {change_disk(place.disk)}.")
    place.say("\n5. Save it again. Only what changed is stored; the new image is complete all the same.")
    second = _back_up(place, repository)
    _list_and_verify(place, repository, second)
    restored = _restore(place, repository, second)
    files = _compare(place)
    seconds = time.monotonic() - began
    result = DemoResult(
        seconds=seconds, bytes_saved=full.manifest.bytes_used, seconds_full=full.seconds,
        seconds_incremental=second.seconds, seconds_restore=restored.seconds, files_compared=files, kept_in=kept_in,
    )  # fmt: skip
    _sum_up(place, result)
    return result


def _make_disk(place: _Place) -> None:
    place.say(f"1. Make a disk to save, a file of {format_size(SIZE)} in {place.folder}.")
    began = time.monotonic()
    count = make_disk(place.disk)
    for part in PARTS:
        kind = part.filesystem or "not formatted"
        place.say(f"   partition {part.number}: {part.words}, {kind}, {format_size(part.size)}")
    paging = " and ".join(f"{name} of {format_size(size)}" for name, size in PAGING_FILES.items())
    seconds = format_duration(time.monotonic() - began)
    place.say(f"   {count} files, most of them copies from /usr, and {paging}: {seconds}.")


def _back_up_untouched(place: _Place, repository: Repository) -> BackupResult:
    """The first backup, with a look at the source before and after: not one byte of it may change."""
    place.say("\n3. Save the disk, as 'stillframe backup' does: only what the file systems use, compressed, encrypted.")
    before = _digest(place.disk)
    result = _back_up(place, repository)
    if _digest(place.disk) != before:
        raise DamagedError("the source changed while it was saved", hint="This is a defect of Stillframe: report it.")
    place.say("   The disk was only read: its BLAKE3 digest is the same before and after.")
    return result


def _back_up(place: _Place, repository: Repository) -> BackupResult:
    with open_source(place.disk) as source:
        plan = plan_backup(repository, [source], BackupOptions(name="demo"), place.context.owner)
        result = apply_backup(repository, [source], plan, place.context)
    manifest = result.manifest
    raw = [p.number for disk in manifest.disks for p in disk.partitions if p.filesystem and p.map != "used"]
    if raw or not result.is_complete or (result.read_back is not None and result.read_back.findings):
        raise DamagedError(
            f"the image is not what it should be: partitions kept whole {raw}, complete: {result.is_complete}",
            hint="This is a defect of Stillframe: report it.",
        )
    left_out = sum(file.size for disk in manifest.disks for p in disk.partitions for file in p.left_out)
    place.say(
        f"   {manifest.kind} image {manifest.image[:8]}: {format_size(manifest.bytes_used)} to keep (holes and zeros "
        f"among them), {format_size(left_out)} of paging and hibernation left out"
    )
    place.say(
        f"   {format_size(manifest.bytes_read)} read and {format_size(manifest.bytes_added)} stored in "
        f"{format_duration(result.seconds)} ({format_rate(manifest.bytes_read, result.seconds)}), read back included"
    )
    return result


def _list_and_verify(place: _Place, repository: Repository, newest: BackupResult) -> None:
    place.context.cancel.check()
    place.say("\n6. What is in the repository, as 'stillframe images' shows it.")
    for image in list_images(repository, machine_id=place.context.owner.machine.id).images:
        found = image.manifest
        place.say(
            f"   {found.image[:8]}  {found.name}  {found.kind:<11}  {found.created}  "
            f"{format_size(found.bytes_used):>7} used  {format_size(found.bytes_added):>7} stored"
        )
    place.say("\n7. Read every piece of the newest image back from storage, as 'stillframe verify' does.")
    checked = verify_image(repository, newest.manifest, quick=False, context=place.context)
    if not checked.ok:
        raise DamagedError(
            f"the image does not verify: {'; '.join(finding.message for finding in checked.findings)}",
            hint="This is a defect of Stillframe, or the disk here is failing.",
        )
    place.say(
        f"   {format_size(checked.bytes_examined)} read back and right in {format_duration(checked.seconds)} "
        f"({format_rate(checked.bytes_examined, checked.seconds)})"
    )


def _restore(place: _Place, repository: Repository, image: BackupResult) -> RestoreResult:
    place.context.cancel.check()
    place.say("\n8. Restore onto a larger disk that is full of something else, as 'stillframe restore' does.")
    _make_old_disk(place.target)
    plan = plan_restore(
        repository, image.manifest, 1, place.target, repository_folder=place.repository, options=RestoreOptions()
    )
    place.say(f"   Target: {format_size(plan.target_size)}, every byte of it old data before.")
    result = apply_restore(repository, plan, place.context)
    place.say(
        f"   {format_size(result.bytes_written)} written in {format_duration(result.seconds)} "
        f"({format_rate(result.bytes_written, result.seconds)}), flushed to the disk"
    )
    for change in result.changes:
        place.say(f"   Changed: {change}.")
    return result


def _compare(place: _Place) -> int:
    place.say("\n9. Compare the two disks with programs that are not Stillframe's.")
    files = 0
    for compared in compare_disks(place.disk, place.target):
        place.context.cancel.check()
        files += compared.files
        place.say(f"   Right: {compared.words}.")
    return files


def _sum_up(place: _Place, result: DemoResult) -> None:
    place.say(
        f"\nAll is right: {result.files_compared} files came back as they were. "
        f"Saved in {format_duration(result.seconds_full)}, "
        f"saved again in {format_duration(result.seconds_incremental)}, "
        f"restored in {format_duration(result.seconds_restore)}; "
        f"the whole demo took {format_duration(result.seconds)}."
    )
    if result.kept_in:
        place.say(f"The disks and the repository are in {result.kept_in}; its passphrase is '{PASSPHRASE}'.")
    place.say(
        "\nFor your own computer (a Linux stays on while it is saved; for a Windows start from the rescue medium):\n"
        "    stillframe disks\n"
        "    stillframe init /media/BACKUP/stillframe --recovery-kit kit.txt\n"
        "    stillframe backup /dev/DISK --repo /media/BACKUP/stillframe\n"
        "and back, onto a disk that may be overwritten:\n"
        "    stillframe restore latest /dev/OTHERDISK --repo /media/BACKUP/stillframe"
    )


def _make_old_disk(path: str) -> None:
    """A disk that was in use: no byte of it is zero on purpose, and there is no table that anybody knows."""
    piece = (b"\xff" * 4096 + os.urandom(4096)) * (MIB // 8192)
    with open(path, "xb") as file:
        file.writelines(itertools.repeat(piece, TARGET_SIZE // MIB))


def _digest(path: str) -> bytes:
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.digest()
