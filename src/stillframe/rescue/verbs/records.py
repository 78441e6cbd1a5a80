"""What the verbs of Stillframe say with ``--json``, as records.

Answers: "what did that child process tell?" The lines are those of ``docs/cli.md``; fields that nobody here needs are
not read.
"""

from typing import TypeVar

import msgspec

from stillframe.errors import MachineRefusal


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object; what is not named here is ignored."""


class NoticeSaid(Record, frozen=True, kw_only=True):
    """A notice or a finding."""

    message: str
    code: str = ""
    hint: str = ""


class PartitionSeen(Record, frozen=True, kw_only=True):
    """A partition of a disk, or of an image."""

    number: int
    size: int
    filesystem: str = ""
    label: str = ""
    type_name: str = ""
    bytes_used: int | None = None
    system: str | None = None
    in_use_at: tuple[str, ...] = ()
    in_system_backup: bool = False
    in_image: bool = True


class DiskSeen(Record, frozen=True, kw_only=True):
    """A disk as it is now."""

    path: str
    size: int
    model: str = ""
    serial: str = ""
    removable: bool = False
    read_only: bool = False
    partitions: tuple[PartitionSeen, ...] = ()
    notices: tuple[NoticeSaid, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        """The operating systems on it."""
        return tuple(dict.fromkeys(part.system for part in self.partitions if part.system))


class DisksSaid(Record, frozen=True, kw_only=True):
    """The result of ``disks``."""

    disks: tuple[DiskSeen, ...]


class MeasureSeen(Record, frozen=True, kw_only=True):
    """A number that a disk tells of itself."""

    name: str
    value: int | str


class HealthSeen(Record, frozen=True, kw_only=True):
    """How a disk is."""

    path: str
    size: int
    verdict: str
    condition: str
    model: str = ""
    measures: tuple[MeasureSeen, ...] = ()


class HealthSaid(Record, frozen=True, kw_only=True):
    """The result of ``health``."""

    disks: tuple[HealthSeen, ...]


class ImageSeen(Record, frozen=True, kw_only=True):
    """An image in a list."""

    id: str
    created: str
    machine: str
    machine_id: str = ""
    name: str = ""
    kind: str = ""
    bytes_used: int = 0
    bytes_total: int = 0
    proof: str = ""
    rung: str = ""
    rung_since: str | None = None
    boots: bool | None = None
    proofs: tuple["ProofSeen", ...] = ()

    @property
    def has_screenshot(self) -> bool:
        """Whether a picture of its start is kept."""
        return any(proof.screenshot for proof in self.proofs)


class ProofSeen(Record, frozen=True, kw_only=True):
    """A proof of an image."""

    kind: str = ""
    ok: bool = True
    screenshot: bool = False
    findings: tuple[str, ...] = ()


class ImagesSaid(Record, frozen=True, kw_only=True):
    """The result of ``images``."""

    images: tuple[ImageSeen, ...]
    findings: tuple[NoticeSaid, ...] = ()


class StoredDiskSeen(Record, frozen=True, kw_only=True):
    """A disk of an image."""

    number: int
    size: int
    model: str = ""
    serial: str = ""
    partitions: tuple[PartitionSeen, ...] = ()


class ShowSaid(Record, frozen=True, kw_only=True):
    """The result of ``show``."""

    disks: tuple[StoredDiskSeen, ...]


class PlanSaid(Record, frozen=True, kw_only=True):
    """The result of a dry run."""

    words: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    bytes_to_write: int = 0
    bytes_to_read: int = 0
    bytes_expected: int = 0
    seconds_expected: float = 0.0
    free_space: int | None = None


class LostSaid(Record, frozen=True, kw_only=True):
    """What a salvage could not bring."""

    partition: int | None
    bytes: int


class RestoreSaid(Record, frozen=True, kw_only=True):
    """The result of ``restore`` or ``clone``."""

    target: str
    bytes_written: int
    seconds: float
    changes: tuple[str, ...] = ()
    may_not_start: bool = False
    complete: bool = True
    lost: tuple[LostSaid, ...] = ()


class RepairPlanSaid(Record, frozen=True, kw_only=True):
    """The result of a dry run of ``boot-repair``, and of one that found nothing to do."""

    words: tuple[str, ...] = ()
    bytes_to_write: int = 0
    steps: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    may_not_start: bool = False


class RepairSaid(Record, frozen=True, kw_only=True):
    """The result of ``boot-repair``."""

    disk: str
    bytes_written: int = 0
    seconds: float = 0.0
    changes: tuple[str, ...] = ()
    undo_file: str = ""
    may_not_start: bool = False
    notices: tuple[NoticeSaid, ...] = ()


class ReadBackSaid(Record, frozen=True, kw_only=True):
    """Whether what was stored could be read back."""

    ok: bool
    whole: bool = False


class BackupSaid(Record, frozen=True, kw_only=True):
    """The result of ``backup``."""

    image: str
    bytes_read: int
    bytes_added: int
    seconds: float
    complete: bool = True
    read_back: ReadBackSaid | None = None
    findings: tuple[NoticeSaid, ...] = ()


class VerifySaid(Record, frozen=True, kw_only=True):
    """The result of ``verify``."""

    ok: bool
    findings: tuple[NoticeSaid, ...] = ()


class InitSaid(Record, frozen=True, kw_only=True):
    """The result of ``init``."""

    repository: str


class InnerSeen(Record, frozen=True, kw_only=True):
    """A volume inside a partition of an image."""

    name: str
    filesystem: str = ""
    label: str = ""
    size: int = 0
    refused: str = ""


class StoredPartitionSeen(Record, frozen=True, kw_only=True):
    """A partition of an image, as ``ls`` lists it."""

    number: int
    size: int
    filesystem: str = ""
    label: str = ""
    in_image: bool = True
    volumes: tuple[InnerSeen, ...] = ()


class EntrySeen(Record, frozen=True, kw_only=True):
    """A file in an image."""

    path: str
    type: str = "file"
    size: int = 0
    modified: str = ""


class FilesSaid(Record, frozen=True, kw_only=True):
    """The result of ``ls``."""

    partitions: tuple[StoredPartitionSeen, ...] = ()
    entries: tuple[EntrySeen, ...] = ()


class GetSaid(Record, frozen=True, kw_only=True):
    """The result of ``get``."""

    files: int = 0
    bytes: int = 0


R = TypeVar("R", bound=Record)


def parse(raw: bytes, kind: type[R], *, verb: str) -> R:
    """A result line as its record.

    Raises:
        MachineRefusal: It is not what ``docs/cli.md`` says: another version of the program answered.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise MachineRefusal(
            f"'stillframe {verb}' said something that is not understood: {error}",
            hint="Is another version of Stillframe installed beside this one?",
        ) from error
