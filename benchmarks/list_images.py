#!/usr/bin/env python3
"""How long it takes to list the images of a repository.

``list_images.py [COUNT]`` makes a repository in a temporary folder with so many images (1,000), each with a proof, and
prints the seconds that ``images`` needs after the program has started.
"""

import sys
import tempfile
import time

from stillframe.jobs.listing import list_images
from stillframe.repo.format import ObjectType
from stillframe.repo.proofs import write_proof
from stillframe.repo.records import ProofRecord, build_record
from stillframe.repo.sealing import make_id
from stillframe.store import LocalStore
from stillframe.testing.sample_repository import (
    MACHINE,
    sample_disk,
    sample_manifest,
    sample_partition,
    sample_repository,
)


def main(count: int) -> None:
    """Make the repository and list it."""
    with tempfile.TemporaryDirectory(prefix="stillframe-images-") as folder:
        repository = sample_repository(LocalStore(folder), passphrase="words")  # noqa: S106 - guards nothing
        partitions = tuple(sample_partition(number=number, start=number << 20) for number in range(1, 4))
        disks = (sample_disk(partitions=partitions),)
        for sequence in range(1, count + 1):
            manifest = sample_manifest(image=make_id().hex(), sequence=sequence, disks=disks)
            repository.box.write(ObjectType.IMAGE, bytes.fromhex(manifest.image), build_record(manifest))
            proof = ProofRecord(
                proof=make_id().hex(), image=manifest.image, created=manifest.created, machine=MACHINE,
                kind="read-back", ok=True, bytes=1,
            )  # fmt: skip
            write_proof(repository, proof)
        began = time.perf_counter()
        listing = list_images(repository, machine_id=MACHINE.id)
        print(f"{len(listing.images)} images listed in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
