"""Put-only machines for tests: an owner's repository, keys for machines, and what a thief of such a key can write.

Answers: "make me an encrypted repository with a machine that may only add." A forger seals whatever the test says, with
the primitives of the product and none of its rules.
"""

import os
from dataclasses import dataclass, replace

from stillframe.clock import Clock
from stillframe.repo.format import Footer, ObjectType, build_payload, object_name
from stillframe.repo.objects import ObjectBox
from stillframe.repo.put.credential import Credential
from stillframe.repo.put.grants import grant, new_credential
from stillframe.repo.put.machine import PutBox, PutRepository, open_to_put
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.repo.session import Owner
from stillframe.store import Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.repositories import BackupRun, Draft, make_owner, make_repository
from stillframe.testing.sample_repository import PASSPHRASE


@dataclass(frozen=True, slots=True, kw_only=True)
class PutSide:
    """A put-only machine of a test.

    Attributes:
        store: Where its repository is.
        credential: Its key.
        cache: The folder of its table; empty for none.
        clock: Its clock.
    """

    store: Store
    credential: Credential
    cache: str = ""
    clock: Clock

    @property
    def owner(self) -> Owner:
        """A process on it."""
        return replace(make_owner("put"), machine=self.credential.machine_name)

    def open(self, store: Store | None = None) -> PutRepository:
        """The repository as this machine has it, opened anew: what it made before it cannot read any more."""
        return open_to_put(
            store or self.store, self.credential, where="the test", cache_folder=self.cache or None, clock=self.clock
        )

    def store_image(self, draft: Draft) -> Manifest:
        """Back an image up, from the session to its end."""
        run = BackupRun(self.open(), self.owner, draft)
        try:
            run.write_chunks()
            return run.write_manifest()
        finally:
            run.end()


def make_owned(store: Store, *, clock: Clock | None = None) -> Repository:
    """A new encrypted repository, as its owner has it."""
    return make_repository(store, passphrase=PASSPHRASE, clock=clock or FakeClock())


def add_put_machine(repository: Repository, label: str = "web", *, cache: str | os.PathLike[str] = "") -> PutSide:
    """A put key of a repository, granted."""
    credential = new_credential(repository, label)
    grant(repository, credential, make_owner("dora").machine)
    return PutSide(store=repository.box.store, credential=credential, cache=os.fspath(cache), clock=repository.clock)


def seal_object(box: ObjectBox, kind: ObjectType, object_id: bytes, payload: bytes) -> bytes:
    """The bytes of an object, sealed as ``box`` seals it and not written; ``box`` may be that of a thief."""
    header = box.new_header(kind, object_id)
    head = header.build()
    trailer = box.seal(header).close(build_payload(payload), offset=len(head))
    footer = Footer.over(head, trailer, trailer_offset=len(head), trailer_size=len(trailer))
    return head + trailer + footer.build()


def forge(side: PutSide, kind: ObjectType, payload: bytes, *, object_id: bytes | None = None) -> bytes:
    """Write what the thief of a put key would; returns the object's id."""
    box = PutBox(side.store, side.credential)
    object_id = object_id or box.make_id()
    put_bytes(side.store, object_name(kind, object_id), seal_object(box, kind, object_id, payload))
    return object_id


def put_bytes(store: Store, name: str, raw: bytes) -> None:
    """Write an object as whoever can write to the storage does."""
    writer = store.create(name)
    writer.append(raw)
    writer.commit()
