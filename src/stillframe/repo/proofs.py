"""Proofs: evidence about an image, dated, kept beside it; of a start also the last screenshot.

Answers: "how good is this image, how high does it stand on the ladder of proofs, and since when is that known?"
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, ObjectType
from stillframe.repo.put.warnings import warn_of_bad_chunks
from stillframe.repo.records import Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository

Verdict = Literal["torn", "damaged", "good", "quick", "unproven"]
Rung = Literal["unproven", "quick", "read-back", "checked", "sampled", "booted", "rehearsed"]
RUNGS: Final[tuple[Rung, ...]] = ("unproven", "quick", "read-back", "checked", "sampled", "booted", "rehearsed")
"""From the ground up."""
_STORED: Final = frozenset({"read-back", "quick"})
"""Kinds of proofs that say something about what is stored; the others speak of what the disk was like."""
PNG_SIZE_MAX: Final = 16 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How high an image stands.

    Attributes:
        rung: The highest that it reached and has not fallen from.
        since: When that was proven last; empty on the ground.
        start: The newest proof of whether it boots that came to a clear end; ``None`` when there is none.
        rehearsal: The newest rehearsal of the way back that ended well; ``None`` when there is none.
    """

    rung: Rung
    since: str
    start: ProofRecord | None
    rehearsal: ProofRecord | None = None

    @property
    def boots(self) -> bool | None:
        """Whether it boots; ``None`` when that is not known."""
        return None if self.start is None else self.start.ok


def write_proof(repository: Repository, proof: ProofRecord) -> None:
    """Keep a proof; before that machines that cannot read it are warned of what it found bad of theirs."""
    warn_of_bad_chunks(repository, proof.proof, proof.bad_chunks)
    repository.box.write(ObjectType.PROOF, bytes.fromhex(proof.proof), build_record(proof))


def write_screenshot(repository: Repository, proof_id: str, png: bytes) -> None:
    """Keep the picture that belongs to a proof; it is written before the proof is.

    Raises:
        ValueError: It is no PNG, or too large.
    """
    if not png.startswith(_PNG) or len(png) > PNG_SIZE_MAX:
        raise ValueError(f"{len(png)} bytes are no screenshot")
    repository.box.write(ObjectType.SCREENSHOT, bytes.fromhex(proof_id), png)


def read_screenshot(repository: Repository, proof: ProofRecord) -> bytes:
    """The picture of a proof, a PNG.

    Raises:
        ObjectMissing, DamagedError: It is not there, or not what was written.
    """
    payload = repository.box.read(ObjectType.SCREENSHOT, bytes.fromhex(proof.proof)).payload
    require_png(payload, thing=f"screenshot {proof.proof}")
    return payload


def require_png(payload: bytes, *, thing: str) -> None:
    """Refuse what is no picture.

    Raises:
        DamagedError: It is none.
    """
    if not payload.startswith(_PNG) or len(payload) > PNG_SIZE_MAX:
        raise DamagedError(f"{thing}: it is no PNG picture", hint=CHECK_HINT)


def delete_proof(repository: Repository, proof: ProofRecord) -> None:
    """Delete a proof and its picture."""
    repository.box.delete(ObjectType.PROOF, bytes.fromhex(proof.proof))
    repository.box.delete(ObjectType.SCREENSHOT, bytes.fromhex(proof.proof))


def judge(manifest: Manifest, proofs: Iterable[ProofRecord]) -> Verdict:
    """The word for what is stored of an image: what its newest proofs say; torn is never good.

    ``good`` means that every chunk was read back; ``quick`` that its structure was whole when last looked at. A quick
    look does not undo what a reading back found. Whether it boots, and whether a
    file system on it is whole, says nothing about what is stored.
    """
    if manifest.is_torn:
        return "torn"
    mine = [proof for proof in proofs if proof.image == manifest.image and proof.kind in _STORED]
    read_back = [proof for proof in mine if proof.kind == "read-back"]
    if not all(proof.ok for proof in (*newest(mine), *newest(read_back))):
        return "damaged"
    if read_back:
        return "good"
    return "quick" if mine else "unproven"


def ladder(manifest: Manifest, proofs: Iterable[ProofRecord]) -> Standing:
    """How high an image stands. A torn or damaged image stands on the ground, whatever it did before.

    A rehearsal that came to its good end is a start, too; one that did not may be the medium's fault, and says nothing
    of whether the image boots.
    """
    mine = [proof for proof in proofs if proof.image == manifest.image]
    rehearsed = [proof for proof in mine if proof.kind == "rehearsed" and proof.outcome != "unclear"]
    good = [proof for proof in rehearsed if proof.ok]
    clear = [proof for proof in mine if proof.kind == "booted" and proof.outcome != "unclear"] + good
    last = newest(clear)
    start = next((proof for proof in last if not proof.ok), last[0] if last else None)
    rehearsal = next(iter(newest(good)), None)
    if judge(manifest, mine) in {"torn", "damaged"}:
        return Standing(rung="unproven", since="", start=start, rehearsal=rehearsal)
    found = {"booted": clear, "rehearsed": rehearsed}
    for rung in reversed(RUNGS[1:]):
        last = newest(found[rung] if rung in found else (proof for proof in mine if proof.kind == rung))
        if last and all(proof.ok for proof in last):
            return Standing(rung=rung, since=last[0].created, start=start, rehearsal=rehearsal)
    return Standing(rung="unproven", since="", start=start, rehearsal=rehearsal)


def newest(proofs: Iterable[ProofRecord]) -> tuple[ProofRecord, ...]:
    """The newest of some proofs: several when they are of the same second, of which none can be called the last."""
    known = tuple(proofs)
    last = max((proof.created for proof in known), default="")
    return tuple(proof for proof in known if proof.created == last)
