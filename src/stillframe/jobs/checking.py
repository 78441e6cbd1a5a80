"""The file systems of an image, judged by the tools of others.

Answers: "would Linux's own checkers call these file systems whole?" Each is written out into a temporary sparse
file, its journal is replayed there, and its checker looks at that, changing nothing. What a checker finds was so on the
disk too, or is a fault of ours: in either case a person should know, and the image is not called damaged for it.

Sources: e2fsck(8), xfs_repair(8), btrfs-check(8), fsck.fat(8), fsck.exfat(8), ntfsfix(8): options and exit codes.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.block.base import ExtentKind
from stillframe.clock import rfc3339
from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.events import BytesMoved, Finding, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.extents import Extent
from stillframe.host.places import free_space
from stillframe.host.run import run
from stillframe.jobs.context import JobContext
from stillframe.jobs.examining import keep_proof
from stillframe.jobs.exposing import ExposedPartition, expose
from stillframe.jobs.inside.everywhere import all_volumes
from stillframe.repo.records import Manifest, ProofRecord
from stillframe.repo.repository import Repository
from stillframe.repo.sealing import make_id
from stillframe.units import format_size

_CHECKERS: Final = {
    "ext2": ("e2fsck", "-fn"),
    "ext3": ("e2fsck", "-fn"),
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "vfat": ("fsck.fat", "-n"),
    "exfat": ("fsck.exfat", "-n"),
    "ntfs": ("ntfsfix", "-n"),
}
_PIECE: Final = 4 << 20
_RESERVE: Final = 256 << 20
_LIMIT_S: Final = 4 * 3600.0
_LINES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """What the checkers found.

    Attributes:
        findings: One for each file system that is not whole.
        checked: File systems that were looked at, as ``disk 1, partition 2 (ext4)``.
        skipped: Those that were not, with the reason.
    """

    image: str
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    skipped: tuple[Notice, ...]

    @property
    def is_proven(self) -> bool:
        """Whether there is a file system, all were looked at, and all are whole."""
        return bool(self.checked) and not self.findings and not self.skipped


def check_filesystems(repository: Repository, manifest: Manifest, context: JobContext) -> CheckedImage:
    """Have every file system of an image checked, and keep the outcome as a proof.

    Raises:
        DamagedError: The image cannot be read; nothing is known of its file systems then.
    """
    began = repository.clock.monotonic()
    context.events.emit(
        JobStarted(verb="verify", what=f"file systems of {manifest.image[:8]}", bytes_total=manifest.bytes_used)
    )
    findings, checked, skipped = list[Finding](), list[str](), list[Notice]()
    volumes, unread = all_volumes(expose(repository, manifest))
    skipped += [Notice(code="not-checked", message=f"{place}: {why}") for place, why in unread]
    for notice in skipped:
        context.events.emit(notice)
    for place, part in volumes:
        if part.stored.filesystem not in _CHECKERS:
            continue
        context.events.emit(PhaseStarted(name=f"checking {place}"))
        try:
            said = _check(part, context)
        except MachineRefusal as error:
            notice = Notice(code="not-checked", message=f"{place}: {error.message}", hint=error.hint)
            context.events.emit(notice)
            skipped.append(notice)
            continue
        checked.append(place)
        if said:
            findings.append(_finding(manifest, place, said))
            context.events.emit(findings[-1])
    result = CheckedImage(
        image=manifest.image, findings=tuple(findings), checked=tuple(checked), skipped=tuple(skipped)
    )
    if checked:
        keep_proof(repository, _proof(repository, result, context), context.events)
    context.events.emit(JobFinished(verb="verify", seconds=repository.clock.monotonic() - began))
    return result


def _finding(manifest: Manifest, place: str, said: str) -> Finding:
    return Finding(
        code="filesystem-not-whole", thing=manifest.image, message=f"image {manifest.image[:8]}, {place}: {said}",
        hint="Check the volume where it came from with the tools of its own system, and make another image.",
    )  # fmt: skip


def _proof(repository: Repository, result: CheckedImage, context: JobContext) -> ProofRecord:
    found = [*(one.message for one in result.findings), *(one.message for one in result.skipped)]
    tools = f"by the checkers of Linux: {', '.join(result.checked)}"
    return ProofRecord(
        proof=make_id().hex(), image=result.image, created=rfc3339(repository.clock.now()),
        machine=context.owner.machine, kind="checked", ok=result.is_proven, bytes=0, how=tools[:4000],
        findings=tuple(words[:4000] for words in found[:1000]),
    )  # fmt: skip


def _check(part: ExposedPartition, context: JobContext) -> str:
    """What the checker says is wrong; empty when nothing is.

    Raises:
        MachineRefusal: It cannot be checked here: no room, or no such program.
    """
    kind, folder = part.stored.filesystem, tempfile.gettempdir()
    needed, free = part.stored.bytes_used + _RESERVE, free_space(folder)
    if needed > free:
        raise MachineRefusal(
            f"{folder} has room for {format_size(free)}, and {format_size(needed)} are needed",
            hint="Set TMPDIR to a folder with more room.",
        )
    with tempfile.TemporaryDirectory(prefix="stillframe-") as room:
        copy = os.path.join(room, "volume")
        _write_out(part.reader, copy, context)
        _replay(kind, copy, room)
        done = run([*_CHECKERS[kind], copy], timeout_s=_LIMIT_S)
    if done.exit_code == 0:
        return ""
    lines = [line.strip() for line in (done.text + done.errors.decode("utf-8", "replace")).splitlines() if line.strip()]
    return f"{done.arguments[0]} ended with {done.exit_code}: {'; '.join(lines[-_LINES:])}"


def _write_out(reader: BlockReader, path: str, context: JobContext) -> None:
    """A volume as a sparse file."""
    with open(path, "xb") as file:
        file.truncate(reader.size)
        for extent in _data(reader):
            context.cancel.check()
            file.seek(extent.start)
            file.write(reader.read_at(extent.start, extent.size))
            context.events.emit(BytesMoved(size=extent.size))


def _data(reader: BlockReader) -> Iterator[Extent]:
    for known in reader.known_extents(Extent(0, reader.size)):
        if known.kind is ExtentKind.DATA:
            for start in range(known.extent.start, known.extent.end, _PIECE):
                yield Extent(start, min(start + _PIECE, known.extent.end))


def _replay(kind: str, copy: str, room: str) -> None:
    """Have the journal of the copy replayed, as the next mount would. Where that fails, the checker will say so."""
    if kind in {"ext3", "ext4"}:
        run(["e2fsck", "-y", "-E", "journal_only", copy], timeout_s=_LIMIT_S)
    if kind != "xfs":
        return
    place = os.path.join(room, "mounted")
    os.mkdir(place)
    try:
        done = run(["mount", "-o", "loop,nouuid", copy, place], timeout_s=_LIMIT_S)
        if done.exit_code == 0:
            run(["umount", place], timeout_s=_LIMIT_S).require_success(hint="Unmount it by hand.")
    except MissingProgram:
        return
