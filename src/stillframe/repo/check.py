"""Examining a repository: everything but the contents of chunks.

Answers: "is every image still whole as far as names, tables and maps can tell, and if not, what is lost?" Changes
nothing and runs beside everything. Whether the bytes of a chunk are still right is for ``verify``, or ``repair`` with
``read_all``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import StillframeError
from stillframe.events import EventSink, Finding, Notice, PhaseStarted
from stillframe.repo.deletion_records import ForgottenImage
from stillframe.repo.forgetting import to_forget
from stillframe.repo.format import CHECK_HINT, ObjectType, object_name
from stillframe.repo.id_sets import IdSet
from stillframe.repo.identity import NAMES, read_identity
from stillframe.repo.index import ChunkIndex
from stillframe.repo.inventory import (
    Examined,
    State,
    examine_pack,
    examine_records,
    examine_slot_copy,
    read_image,
    rows_by_pack,
    stray_rows,
)
from stillframe.repo.keys import COPIES
from stillframe.repo.lineage import UNKNOWN_MACHINE, LastSeen, judge_lineage
from stillframe.repo.losses import LOSS_HINT, ImageState, survey_images
from stillframe.repo.parity.condition import check_parity
from stillframe.repo.reading import ChunkReader
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository, StoredImage
from stillframe.repo.rows import Ids, Rows, Table, ids_array
from stillframe.repo.walk import with_patches
from stillframe.store import ObjectMissing

HEAL_HINT: Final = "Run 'stillframe repair': it writes it anew. Then look at the disk the repository lies on."
_PACKS_TRACED: Final = 8
"""For so many bad packs it is told which bytes need each; the images tell the rest."""
_RECORDS: Final = (
    ObjectType.INDEX, ObjectType.SESSION, ObjectType.TOMBSTONE, ObjectType.PROOF, ObjectType.SCREENSHOT,
    ObjectType.KEPT_TABLE, ObjectType.SETTING, ObjectType.SESSION_END, ObjectType.RETIREMENT,
    ObjectType.GRANT, ObjectType.WARNING, ObjectType.REVOCATION,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found.

    Attributes:
        findings: What is wrong. None: every image is whole as far as a check can tell.
        notes: What is worth knowing and harms nothing.
        images: Every image that can be read, and what is lost of it.
        packs: How many packs were examined.
    """

    findings: tuple[Finding, ...]
    notes: tuple[Notice, ...]
    images: tuple[ImageState, ...]
    packs: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def check_repository(repository: Repository, *, events: EventSink, last_seen: LastSeen | None = None) -> CheckReport:
    """Examine a repository.

    Args:
        repository: Open.
        events: Gets every finding and note as it is made.
        last_seen: Per machine id the sequence and id of the newest image seen earlier, kept outside the repository.

    Raises:
        StorageError: The storage cannot even be listed.
    """
    log = _Log(events)
    log.phase("identity and keys")
    _check_identity(repository, log)
    _check_keys(repository, log)
    log.phase("records")
    # Manifests before the index, the index before the packs: what is written meanwhile is then never missed.
    images = _check_images(repository, log, last_seen or {})
    for kind in _RECORDS:
        for found, _ in examine_records(repository, kind):
            _judge_record(found, log)
    log.phase("packs")
    index = repository.load_index()
    packs = _PackCheck(repository, index)
    packs.run(log)
    check_parity(repository, log.note)
    log.phase("images")
    reader = ChunkReader(index, repository.packs)
    states = tuple(survey_images(reader, [image.manifest for image in images], packs.is_lost))
    for state in states:
        for finding in state.findings():
            log.finding(finding)
    packs.report(log, states)
    return CheckReport(findings=tuple(log.findings), notes=tuple(log.notes), images=states, packs=len(packs.found))


@dataclass(slots=True)
class _Log:
    """Collects what is found, and passes it on at once."""

    events: EventSink
    findings: list[Finding] = field(default_factory=list)
    notes: list[Notice] = field(default_factory=list)

    def phase(self, name: str) -> None:
        self.events.emit(PhaseStarted(name=name))

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.events.emit(finding)

    def note(self, code: str, message: str, hint: str = "") -> None:
        notice = Notice(code=code, message=message, hint=hint)
        self.notes.append(notice)
        self.events.emit(notice)


def _check_identity(repository: Repository, log: _Log) -> None:
    try:
        found = read_identity(repository.box.store, where="this place")
    except StillframeError as error:
        log.finding(Finding(code=error.code, message=error.message, hint=error.hint, thing=NAMES[0]))
        return
    for name in NAMES:
        if name not in found.copies:
            log.finding(
                Finding(
                    code="identity-copy",
                    message=f"{name}, one of the two copies of the repository's identity, is missing or damaged",
                    hint="'stillframe repair' writes it anew from the other copy.",
                    thing=name,
                )
            )


def _check_keys(repository: Repository, log: _Log) -> None:
    """Both copies of every slot. A missing or torn copy may be a cut-off 'key add'; then another slot is whole."""
    if repository.identity.encryption == "none":
        return
    slots = {slot.slot_id: slot.copies for slot in repository.keys.slots()}
    is_safe = any(len(copies) == len(COPIES) for copies in slots.values())
    for slot_id in sorted(set(repository.box.ids(ObjectType.KEY_SLOT))):
        for copy in COPIES:
            name = object_name(ObjectType.KEY_SLOT, slot_id, copy=copy)
            if copy in slots.get(slot_id, ()):
                continue
            state = examine_slot_copy(repository, slot_id, copy)
            words = f"{name}, one of the two copies of a key slot, is {state.value}"
            hint = "'stillframe repair' writes it anew from the other copy, if there is one."
            if is_safe and state in {State.MISSING, State.TORN}:
                log.note("key-slot-copy", f"{words}: a change of keys was cut off", hint)
            else:
                log.finding(Finding(code="key-slot-copy", message=words, hint=hint, thing=name))


def _check_images(repository: Repository, log: _Log, last_seen: LastSeen) -> list[StoredImage]:
    """Every manifest, and whether some are missing or were put back. Returns those that count."""
    forgotten = repository.forgotten()
    images, void = [], list[ForgottenImage]()
    for found, image_id in examine_records(repository, ObjectType.IMAGE):
        if image_id.hex() in forgotten.binned:
            if forgotten.binned[image_id.hex()].image.machine != UNKNOWN_MACHINE:  # else it was bad before
                _judge_record(found, log)
        elif image_id.hex() in forgotten.gone:
            message = f"image {image_id.hex()[:8]} was forgotten, and its manifest lies there again; it is ignored"
            hint = "An older copy came back, or a deletion was cut off. 'stillframe expire' takes it away."
            log.note("image-put-back", message, hint)
        elif found.state not in {State.WHOLE, State.HEALABLE}:
            _judge_record(found, log)
        else:
            _judge_record(found, log)
            try:
                image = read_image(repository, image_id)
            except ObjectMissing:
                continue  # somebody forgot it just now
            if not forgotten.ends.counts(image.manifest.session, image_id.hex()):
                message = f"image {image_id.hex()[:8]} does not count: its run had lost its session when it was written"
                log.note("image-void", message, "'stillframe expire' takes it away.")
                void += to_forget(repository, [image_id.hex()])
            elif image.manifest.image == image_id.hex():
                images.append(image)
            else:
                message = f"{found.name} describes image {image.manifest.image}: it was put under another name"
                log.finding(Finding(code="damaged", message=message, hint=CHECK_HINT, thing=found.name))
    for finding in judge_lineage(images, (*forgotten.images, *void), last_seen):
        log.finding(finding)
    return sorted(images, key=lambda image: (image.manifest.created, image.manifest.sequence))


def _judge_record(found: Examined, log: _Log) -> None:
    if found.state is State.WHOLE:
        return
    if found.state is State.TORN:
        log.note("torn-object", f"{found.words}: it was never complete", "'stillframe expire' takes it away.")
        return
    hint = found.error.hint if found.error else CHECK_HINT
    if found.name.startswith(ObjectType.IMAGE.folder):
        hint = (
            "If the power failed during a backup, this never was an image: 'stillframe forget' takes it away. "
            "Else copy it back from another copy of the repository."
        )
    code = found.error.code if found.error else "damaged"
    if found.state is State.HEALABLE:
        code, hint = "healable", HEAL_HINT
    log.finding(Finding(code=code, message=_words(found), hint=hint, thing=found.name))


def _words(found: Examined) -> str:
    return f"{found.words}. Its parity brings it back" if found.state is State.HEALABLE else found.words


class _PackCheck:
    """Compares the packs with what index runs say of them."""

    def __init__(self, repository: Repository, index: ChunkIndex) -> None:
        self._repository = repository
        self._index = index
        self.found: dict[bytes, Examined] = {}
        self._empty: set[bytes] = set()
        self._strays: dict[bytes, list[Ids]] = {}
        self._lost_rows: dict[bytes, list[Ids]] = {}
        self._stray_ids = IdSet.of(ids_array(b""))

    @property
    def bad(self) -> dict[bytes, Examined]:
        """Packs that the index names and that are neither whole nor brought back by their parity."""
        good = {State.WHOLE, State.HEALABLE}
        return {pack_id: found for pack_id, found in self.found.items() if found.state not in good}

    def run(self, log: _Log) -> None:
        """Examine every pack, and tell those that no run names."""
        there = self._repository.stored_packs()
        for table in self._index.tables():
            for pack_id, numbers in rows_by_pack(table):
                if len(numbers) == 0:
                    self._empty.add(pack_id)
                    continue
                self._compare(pack_id, table.take(numbers), is_there=pack_id in there)
        self._index.exclude_packs(self.bad)
        strays = [ids for parts in self._strays.values() for ids in parts]
        self._stray_ids = self._without_good_copies(IdSet.of(np.concatenate([ids_array(b""), *strays])))
        for pack_id in sorted(self._empty.intersection(there) - self.found.keys()):
            message = f"{object_name(ObjectType.PACK, pack_id)} holds nothing any more that is used"
            log.note("pack-empty", message, "'stillframe expire' takes it away.")
        for pack_id in sorted(there.keys() - self.found.keys() - self._empty):
            found = examine_pack(self._repository, pack_id).found
            words = "is not in the index" if found.state is State.WHOLE else f"is {found.state.value}, and not in use"
            log.note(
                "pack-not-indexed",
                f"{found.name} {words}: left by a run that was cut off",
                "The next backup uses what is whole; 'stillframe expire' takes the rest away.",
            )

    def is_lost(self, ids: Ids) -> NDArray[np.bool_]:
        """Which chunks rest in no whole pack."""
        lost: NDArray[np.bool_] = ~self._index.contains(ids) | self._stray_ids.contains(ids)
        return lost

    def report(self, log: _Log, states: tuple[ImageState, ...]) -> None:
        """Tell of every bad pack and every wrong row, and who needs it."""
        for _, found in sorted(self.found.items()):
            if found.state is State.HEALABLE:
                _judge_record(found, log)
        needed_by = self._trace(states)
        for pack_id, found in sorted(self.bad.items()):
            needs = needed_by.get(pack_id, "images that are named here too")
            if found.state is State.MISSING and not needs:
                message = f"{found.name} is gone, and no image needs it"
                log.note("pack-missing", message, "'stillframe repair' takes it out of the index.")
                continue
            message = f"{found.words}; needed by {needs or 'no image'}"
            log.finding(Finding(code=f"pack-{found.state.value}", message=message, hint=LOSS_HINT, thing=found.name))
        for pack_id in sorted(self._strays):
            name = object_name(ObjectType.PACK, pack_id)
            message = f"the index says of {name} what the pack does not say of itself"
            hint = "'stillframe repair' makes the index anew from the packs."
            log.finding(Finding(code="index-wrong", message=message, hint=hint, thing=name))

    def _compare(self, pack_id: bytes, part: Table, *, is_there: bool) -> None:
        """One pack against the rows that one run has of it."""
        if not is_there:
            self.found[pack_id] = Examined(State.MISSING, object_name(ObjectType.PACK, pack_id))
            self._keep_lost(pack_id, part.rows)
            return
        examined = examine_pack(self._repository, pack_id)
        self.found[pack_id] = examined.found
        if examined.table is None:
            self._keep_lost(pack_id, part.rows)
            return
        stray = stray_rows(part, examined.table)
        if stray.any():
            self._strays.setdefault(pack_id, []).append(part.rows["id"][stray])

    def _keep_lost(self, pack_id: bytes, rows: Rows) -> None:
        if len(self._lost_rows) < _PACKS_TRACED or pack_id in self._lost_rows:
            self._lost_rows.setdefault(pack_id, []).append(rows["id"])

    def _without_good_copies(self, strays: IdSet) -> IdSet:
        """Those chunks of wrong rows that no right row of a whole pack has."""
        lost = [row for row in range(len(strays)) if not self._has_good_copy(strays.ids[row].tobytes())]
        return IdSet.of(strays.ids[lost])

    def _has_good_copy(self, chunk_id: bytes) -> bool:
        for place in self._index.copies(chunk_id):
            table = examine_pack(self._repository, place.pack_id).table if place.pack_id not in self.bad else None
            if table is not None and any(
                table.location(int(row)) == place for row in np.flatnonzero(table.rows["offset"] == place.offset)
            ):
                return True
        return False

    def _trace(self, states: tuple[ImageState, ...]) -> Mapping[bytes, str]:
        """For the first bad packs, in words, which lost bytes of which images rest in each."""
        damaged = [state.manifest for state in states if not state.is_whole]
        if not damaged:
            return dict.fromkeys(self.bad, "")
        traced = {}
        for pack_id, parts in self._lost_rows.items():
            gone = IdSet.of(np.concatenate(parts))
            traced[pack_id] = "; ".join(_needs(self._survey(damaged, with_patches(gone, self._index.tables()))))
        return traced

    def _survey(self, manifests: list[Manifest], ids: IdSet) -> Iterator[ImageState]:
        """Which bytes of images rest in these chunks, and are lost."""
        reader = ChunkReader(self._index, self._repository.packs)
        return survey_images(reader, manifests, lambda asked: ids.contains(asked) & self.is_lost(asked))


def _needs(states: Iterable[ImageState]) -> Iterator[str]:
    for state in states:
        for part in state.lost:
            yield f"{state.title}, {part.words}"
