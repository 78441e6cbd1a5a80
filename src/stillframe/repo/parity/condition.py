"""How the parity of a repository is: what has it, what has none, what could be repaired.

Answers: "is everything covered?" and "give parity to whatever has none, and whole parity to whatever has a broken one".
An object gets parity only after all of it was opened: parity of damaged bytes would bring damage back.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.errors import StillframeError
from stillframe.events import BytesMoved, EventSink, Finding
from stillframe.repo.copying import open_entries
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.objects import SPARES, TornObject
from stillframe.repo.parity.records import Geometry
from stillframe.repo.parity.sidecars import (
    CoveredObject,
    covered_objects,
    is_sidecar_whole,
    orphaned_sidecars,
    torn_sidecars,
    write_sidecar,
)
from stillframe.repo.repository import Repository
from stillframe.store import ObjectMissing

_DAMAGED_HINT: Final = "Run 'stillframe repair --read-all': it brings back what older parity can bring back."
RENEW_HINT: Final = "'stillframe parity renew' gives it to them."


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityStatus:
    """How much of a repository has parity, told by names and sizes alone.

    Attributes:
        is_wanted: Whether new objects get parity.
        objects: Objects that may have it.
        covered: Those that have.
        bytes_objects: Size of all of them.
        bytes_parity: Size of all sidecars that belong to an object.
        bytes_missing: What the missing sidecars will take.
        orphans: Sidecars whose object is gone.
    """

    is_wanted: bool
    objects: int
    covered: int
    bytes_objects: int
    bytes_parity: int
    bytes_missing: int
    orphans: int

    @property
    def missing(self) -> int:
        """Objects without parity."""
        return self.objects - self.covered


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewedParity:
    """What a renewal did.

    Attributes:
        checked: Sidecars that were read and are whole.
        written: Sidecars that were written.
        findings: Objects that are damaged themselves: their parity stays as it is.
    """

    checked: int
    written: int
    findings: tuple[Finding, ...]


def parity_status(repository: Repository) -> ParityStatus:
    """Look at names and sizes."""
    found = list(covered_objects(repository.box))
    return ParityStatus(
        is_wanted=repository.parity.is_wanted,
        objects=len(found),
        covered=sum(one.is_covered for one in found),
        bytes_objects=sum(one.size for one in found),
        bytes_parity=sum(one.sidecar_size for one in found),
        bytes_missing=sum(Geometry(one.size).sidecar_size for one in found if not one.is_covered),
        orphans=len(orphaned_sidecars(repository.box)),
    )


def check_parity(repository: Repository, note: Callable[[str, str, str], None]) -> None:
    """Tell what a check has to say of parity; none of it is wrong by itself."""
    if next(repository.box.store.list(SPARES), None) is not None:
        words = "a damaged object was being replaced when a repair was cut off; a good copy of it is there"
        note("repair-cut-off", words, "'stillframe repair' goes on with it.")
    for name in torn_sidecars(repository.box):
        note("torn-object", f"{name}: it was never complete", "'stillframe expire' takes it away.")
    status = parity_status(repository)
    if status.orphans:
        note("parity-orphaned", f"{status.orphans} parity objects belong to nothing", "'stillframe expire' takes them.")
    if status.is_wanted and status.missing:
        words = f"{status.missing} of {status.objects} objects have no parity"
        note("no-parity", words, RENEW_HINT)


def renew_parity(
    repository: Repository, objects: Iterable[CoveredObject], *, events: EventSink, check: Callable[[], None]
) -> RenewedParity:
    """Read every sidecar, and write those that are missing or not whole.

    Args:
        repository: Open, with a session ``parity`` begun.
        objects: What is to have parity.
        events: Gets the bytes of each object that was dealt with, and every finding.
        check: Called between objects; raises to stop.

    Raises:
        StorageError: A sidecar cannot be written. What was done until then is sound.
    """
    box, checked, written, findings = repository.box, 0, 0, list[Finding]()
    for one in objects:
        check()
        if one.sidecar_size and is_sidecar_whole(box, one.kind, one.object_id, one.size):
            checked += 1
        elif _is_whole(repository, one, findings):
            box.store.delete(object_name(ObjectType.PARITY, one.object_id))
            write_sidecar(box, one.kind, one.object_id)
            written += 1
        events.emit(BytesMoved(size=one.size))
    for finding in findings:
        events.emit(finding)
    return RenewedParity(checked=checked, written=written, findings=tuple(findings))


def _is_whole(repository: Repository, one: CoveredObject, findings: list[Finding]) -> bool:
    """Whether every byte of an object is what was written; one that is damaged is added to the findings."""
    name = object_name(one.kind, one.object_id)
    try:
        if one.kind is ObjectType.PACK:
            _require_whole_pack(repository, one)
        else:
            repository.box.read(one.kind, one.object_id, heal=False)
    except ObjectMissing:
        return False  # deleted meanwhile
    except StillframeError as error:
        if isinstance(error, TornObject) and repository.box.healer.open(one.kind, one.object_id) is None:
            return False  # it was never complete
        message = f"{name} is damaged, and gets no new parity: {error.message}"
        findings.append(Finding(code="damaged", message=message, hint=_DAMAGED_HINT, thing=name))
        return False
    return True


def _require_whole_pack(repository: Repository, one: CoveredObject) -> None:
    packs = repository.strict_packs
    table = packs.read_table(one.object_id)
    places = [table.location(row) for row in range(len(table.rows))]
    for _, data in open_entries(packs, places, pack_size=one.size):
        if not isinstance(data, bytes):
            raise data
