"""Packs that should be looked at entry by entry, because somebody found something in them.

Answers: "where did the last readings find chunks that are bad, or that only parity could bring back?"
"""

from stillframe.repo.repository import Repository
from stillframe.repo.writing import failed_chunks, last_readings


def suspected_packs(repository: Repository) -> set[bytes]:
    """The packs in question: those that proofs name, and those in which chunks that a proof calls bad rest."""
    packs = {bytes.fromhex(pack) for proof in last_readings(repository) for pack in proof.healed_packs}
    bad = failed_chunks(repository)
    if bad:
        index = repository.load_index()
        packs.update(place.pack_id for chunk_id in bad for place in index.copies(chunk_id))
    return packs
