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
    """The word for an image: what its newest read-back says; torn is never good.

    ``good`` means that every chunk was read back; ``quick`` that its structure was whole when last looked at.
    """
    if manifest.is_torn:
        return "torn"
    mine = sorted((proof for proof in proofs if proof.image == manifest.image), key=lambda proof: proof.created)
    if any(not proof.ok for proof in mine[-1:]):
        return "damaged"
    if any(proof.kind == "read-back" and proof.ok for proof in mine):
        return "good"
    return "quick" if mine else "unproven"
