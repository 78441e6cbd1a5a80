"""Proofs: evidence about an image, dated, kept beside it.

Answers: "how good is this image, and since when is that known?"
"""

from collections.abc import Iterable
from typing import Literal

from stillframe.repo.format import ObjectType
from stillframe.repo.records import Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository

Verdict = Literal["torn", "damaged", "good", "quick", "unproven"]


def write_proof(repository: Repository, proof: ProofRecord) -> None:
    """Keep a proof."""
    repository.box.write(ObjectType.PROOF, bytes.fromhex(proof.proof), build_record(proof))


def judge(manifest: Manifest, proofs: Iterable[ProofRecord]) -> Verdict:
    """The word for an image: what its newest proofs say; torn is never good.

    ``good`` means that every chunk was read back; ``quick`` that its structure was whole when last looked at. A quick
    look does not undo what a reading back found.
    """
    if manifest.is_torn:
        return "torn"
    mine = [proof for proof in proofs if proof.image == manifest.image]
    read_back = [proof for proof in mine if proof.kind == "read-back"]
    if not all(proof.ok for proof in (*newest(mine), *newest(read_back))):
        return "damaged"
    if read_back:
        return "good"
    return "quick" if mine else "unproven"


def newest(proofs: Iterable[ProofRecord]) -> tuple[ProofRecord, ...]:
    """The newest of some proofs: several when they are of the same second, of which none can be called the last."""
    known = tuple(proofs)
    last = max((proof.created for proof in known), default="")
    return tuple(proof for proof in known if proof.created == last)
