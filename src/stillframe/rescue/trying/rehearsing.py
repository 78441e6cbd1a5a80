"""The way back, walked once before it is needed: a medium, an empty disk, nobody at the keyboard.

Answers: "does this medium bring this image back, does it start then, and how long does all that take?" The medium is
started in a virtual machine that has an empty disk, and the repository on a stick that cannot be written
(``serve.stick``). It reads from its firmware what to do, restores, and switches itself off. Then that disk is started,
with what the firmware has learned, and judged as ``prove`` does. Nothing of the repository changes but the proof that
is kept.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.file import open_file_reader
from stillframe.clock import rfc3339
from stillframe.errors import StorageFull, UsageError
from stillframe.events import JobFinished, JobStarted, PhaseStarted
from stillframe.host.places import free_space
from stillframe.host.qemu import (
    Bus,
    DirectKernel,
    Drive,
    FileDrive,
    VirtualMachine,
    cpus_here,
    memory_here_mib,
    prepare,
)
from stillframe.host.qmp import connect
from stillframe.host.run import start
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import keep_proof
from stillframe.jobs.exposing import ExposedDisk, ExposedImage, expose
from stillframe.jobs.proving import BootOutcome, ProveResult, judge_start, keep_picture
from stillframe.jobs.virtual import Guest, MachineOptions, MachinePlan, plan_machine, refuse_disk_errors
from stillframe.jobs.watching import Onlooker
from stillframe.repo.records import Manifest, ProofRecord, StoredDisk
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.rescue.trying.returning import Returned, watch_return
from stillframe.serve.nbd import Export, nbd_server
from stillframe.serve.stick import open_stick
from stillframe.units import format_size

ANSWERS: Final = "opt/stillframe/answers"
"""Under this name the medium finds what to do in its firmware (QEMU's fw_cfg)."""
TARGET: Final = "rehearsal"
REPOSITORY: Final = "repository"
"""Serial numbers of the empty disk and of the stick with the repository."""
_ROOM_SHARE: Final = 1.05
_ROOM_MORE: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """What is started: an ISO, as a USB stick; or a kernel with the disks that it needs.

    Attributes:
        path: The ISO; of a kernel, what a person calls it.
        kernel: Started instead of the ISO.
        files: Its disks, with a kernel.
    """

    path: str
    kernel: DirectKernel | None = None
    files: tuple[FileDrive, ...] = ()

    @property
    def drives(self) -> tuple[FileDrive, ...]:
        """What the machine gets of it."""
        return self.files if self.kernel is not None else (FileDrive(path=self.path, use="stick"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalOptions:
    """What a person wants.

    Attributes:
        scratch: Folder for the empty disk; empty for that of temporary files.
        limit_s: Longest time for the restore, and again for the start.
        machine: What machine it gets.
    """

    scratch: str = ""
    limit_s: float
    machine: MachineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalPlan:
    """What will be rehearsed.

    Attributes:
        repository_id: Of the repository.
        folder: Where it lies.
        secret: What opens it; empty where it is not encrypted.
        machine: The machine that the image needs.
        scratch: Folder for the empty disk, which takes as much as the image has in use.
        room: Bytes that this needs there.
        limit_s: Longest time for the restore, and again for the start.
    """

    manifest: Manifest
    repository_id: str
    folder: str
    secret: str
    medium: Medium
    machine: MachinePlan
    scratch: str
    room: int
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a rehearsal took, in seconds: starting the medium until the restore wrote, the restore, the first start."""

    medium: float = 0.0
    restore: float = 0.0
    start: float = 0.0

    @property
    def total(self) -> float:
        """The recovery time."""
        return self.medium + self.restore + self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalResult:
    """What came of it; fields as of ``ProveResult``, and ``parts``."""

    image: str
    outcome: BootOutcome
    reason: str
    parts: Parts
    firmware: str
    emulated: bool
    picture: bytes = b""


def plan_rehearsal(
    repository: Repository, manifest: Manifest, medium: Medium, *, place: tuple[str, str], options: RehearsalOptions
) -> RehearsalPlan:
    """Decide by what is in the image. Call it while no other thread of this process is at work.

    Args:
        repository: Where the image is.
        manifest: The image.
        medium: What restores it.
        place: The repository's folder, and the secret that opens it, empty when none is needed.
        options: What the person wants.

    Raises:
        UsageError: The image has several disks, or there is no such medium.
        StorageFull: There is no room for the empty disk.
        MissingProgram, MachineRefusal: QEMU or the firmware is missing here.
    """
    if len(manifest.disks) != 1:
        raise UsageError(
            f"image {manifest.image[:8]} has {len(manifest.disks)} disks: only an image of one can be rehearsed",
            hint="Start the medium by hand once, and restore onto spare disks.",
        )
    for path in (medium.path, *(file.path for file in medium.drives)):
        if not os.path.isfile(path):
            raise UsageError(f"there is no medium {path}", hint="Make one: 'stillframe rescue build FILE.iso'.")
    scratch = options.scratch or tempfile.gettempdir()
    room = int(manifest.bytes_used * _ROOM_SHARE) + _ROOM_MORE
    if free_space(scratch) < room:
        raise StorageFull(
            f"the rehearsal needs {format_size(room)} in {scratch}, where {format_size(free_space(scratch))} are free",
            hint="Name another folder: '--scratch FOLDER'.",
        )
    return RehearsalPlan(
        manifest=manifest, repository_id=repository.identity.id, folder=place[0], secret=place[1], medium=medium,
        scratch=scratch, room=room, limit_s=options.limit_s,
        machine=plan_machine(expose(repository, manifest), options.machine),
    )  # fmt: skip


def rehearse(repository: Repository, plan: RehearsalPlan, context: JobContext) -> RehearsalResult:
    """Walk the way back, and keep what came of it as a proof.

    Raises:
        MachineRefusal: The machine could not be started, or went away.
        DamagedError: The restored disk could not be read.
        Cancelled: The person stopped it. No proof is kept.
    """
    began = time.monotonic()
    context.events.emit(JobStarted(verb="rescue rehearse", what=f"image {plan.manifest.image[:8]}"))
    with tempfile.TemporaryDirectory(prefix="stillframe-rehearsal-", dir=plan.scratch) as folder:
        disk = _make_empty(os.path.join(folder, "disk"), plan.manifest.disks[0].size)
        with tempfile.TemporaryDirectory(prefix="stillframe-") as private:
            returned = _restore(plan, disk, private, context)
            result = _judge(plan, disk, returned, _kept_variables(private), context)
    _keep(repository, result, context)
    context.events.emit(JobFinished(verb="rescue rehearse", seconds=time.monotonic() - began))
    return result


def build_answers(plan: RehearsalPlan) -> str:
    """What the medium is told to do, as a ``rescue.toml``."""
    secret = f"[secret]\npassword = {_quoted(plan.secret)}\n\n" if plan.secret else ""
    return f"""\
[repository]
id = {_quoted(plan.repository_id)}

{secret}[restore]
image = {_quoted(plan.manifest.image)}
target = {{ serial = {_quoted(TARGET)} }}

[after]
then = "poweroff"
on-failure = "poweroff"
report = "/dev/ttyS0"
"""


def _quoted(text: str) -> str:
    """A basic string of TOML: the escapes of JSON are among its own."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _make_empty(path: str, size: int) -> str:
    with open(path, "xb") as file:
        file.truncate(size)
    return path


def _restore(plan: RehearsalPlan, disk: str, private: str, context: JobContext) -> Returned:
    context.events.emit(PhaseStarted(name=f"starting {os.path.basename(plan.medium.path)} in a virtual machine"))
    with _medium_started(plan, disk, private, context) as guest:
        device = f"dev{len(guest.machine.drives) + len(plan.medium.drives)}"
        returned = watch_return(
            Onlooker(guest), lambda: guest.qmp.bytes_written(device), limit_s=plan.limit_s, context=context
        )
        findings = guest.server.findings
    refuse_disk_errors(findings)
    return returned


@contextmanager
def _medium_started(plan: RehearsalPlan, disk: str, private: str, context: JobContext) -> Iterator[Guest]:
    stored, options = plan.manifest.disks[0], plan.machine.options
    stick = open_stick(plan.folder)
    answers = os.path.join(private, "answers")
    with open(os.open(answers, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(build_answers(plan))
    with nbd_server([Export(name=REPOSITORY, disk=stick)], socket=f"{private}/nbd", events=context.events) as server:
        machine = VirtualMachine(
            folder=private, firmware=plan.machine.firmware, boot_index=None,
            drives=(Drive(uri=server.uri(REPOSITORY), serial=REPOSITORY, read_only=True),),
            files=(*plan.medium.drives, _target(disk, stored, plan.machine.buses[0])), kernel=plan.medium.kernel,
            given=((ANSWERS, answers),), memory_mib=options.memory_mib or memory_here_mib(),
            cpus=options.cpus or cpus_here(), acceleration=options.acceleration,
        )  # fmt: skip
        with start(prepare(machine)) as running, connect(machine.path("qmp"), running) as qmp:
            yield Guest(machine=machine, running=running, qmp=qmp, server=server)


def _target(disk: str, stored: StoredDisk, bus: Bus) -> FileDrive:
    return FileDrive(path=disk, use="target", bus=bus, sector_size=stored.sector_size, serial=TARGET)


def _kept_variables(private: str) -> str:
    """What the firmware of the first machine remembers: a restore may have told it of the new loader."""
    path = os.path.join(private, "variables")
    return path if os.path.exists(path) else ""


def _judge(plan: RehearsalPlan, disk: str, returned: Returned, variables: str, context: JobContext) -> RehearsalResult:
    """Start what was restored; a restore that failed is the outcome itself."""
    parts, emulated = Parts(medium=returned.medium_s, restore=returned.restore_s), _is_emulated(plan)
    if returned.failure:
        return RehearsalResult(
            image=plan.manifest.image, outcome="failed", reason=returned.failure, parts=parts,
            firmware=plan.machine.firmware, emulated=emulated, picture=returned.picture,
        )  # fmt: skip
    context.events.emit(PhaseStarted(name="starting what was restored"))
    with open_file_reader(disk, direct=False) as reader:
        started = _start_restored(plan, reader, variables, context)
    parts = Parts(medium=parts.medium, restore=parts.restore, start=started.seconds)
    reason = started.reason or "it was restored"
    return RehearsalResult(
        image=plan.manifest.image, outcome=started.outcome, reason=f"restored by the medium, then: {reason}",
        parts=parts, firmware=started.firmware or plan.machine.firmware, emulated=emulated, picture=started.picture,
    )  # fmt: skip


def _start_restored(plan: RehearsalPlan, reader: BlockReader, variables: str, context: JobContext) -> ProveResult:
    image = ExposedImage(
        manifest=plan.manifest, disks=(ExposedDisk(stored=plan.manifest.disks[0], reader=reader, partitions=()),)
    )
    machine = plan_machine(image, plan.machine.options)
    if not machine.is_bootable and not machine.loaders:
        words = "nothing that boots was found on the restored disk"
        return ProveResult(image=plan.manifest.image, outcome="unclear", reason=words, seconds=0.0)
    return judge_start(image, machine, limit_s=plan.limit_s, context=context, variables=variables)


def _is_emulated(plan: RehearsalPlan) -> bool:
    return plan.machine.options.acceleration == "tcg"


def _keep(repository: Repository, result: RehearsalResult, context: JobContext) -> None:
    proof_id, parts = make_id().hex(), result.parts
    has_picture = keep_picture(repository, proof_id, result.picture, context.events)
    proof = ProofRecord(
        proof=proof_id, image=result.image, created=rfc3339(repository.clock.now()), machine=context.owner.machine,
        kind="rehearsed", ok=result.outcome == "booted", bytes=0, how=result.reason[:4000], outcome=result.outcome,
        seconds=round(parts.total), medium_seconds=round(parts.medium), restore_seconds=round(parts.restore),
        start_seconds=round(parts.start), emulated=result.emulated, firmware=result.firmware, screenshot=has_picture,
    )  # fmt: skip
    keep_proof(repository, proof, context.events)
