"""Small repositories and records for tests.

Answers: "a repository in memory, with this secret", "a manifest that is right in every field". The cheap costs
of Argon2 guard nothing.
"""

from typing import Any, Final

from stillframe.clock import rfc3339
from stillframe.repo.keys import Cost
from stillframe.repo.records import MachineName, Manifest, StoredDisk, StoredMap, StoredPartition
from stillframe.repo.repository import Repository, create_repository
from stillframe.repo.session import Owner
from stillframe.store import MemoryStore, Store
from stillframe.testing.clocks import FIRST_MOMENT, FakeClock

PASSPHRASE: Final = "correct horse battery staple"  # noqa: S105 - of a test
CHEAP: Final = Cost(time_cost=1, memory_kib=8192, lanes=1)
CHUNK_SIZE: Final = 65_536
DOMAIN: Final = bytes(range(16))
MACHINE: Final = MachineName(id="11" * 16, name="desk")
OTHER_MACHINE: Final = MachineName(id="22" * 16, name="attic")
OWNER: Final = Owner(machine=MACHINE, boot_id="boot-1", process="100", is_alive=lambda _boot, _process: False)


def sample_repository(
    store: Store | None = None, *, passphrase: str | None = None, clock: FakeClock | None = None
) -> Repository:
    """A new repository with chunks of 64 KiB, open to everybody unless a passphrase is given."""
    return create_repository(
        MemoryStore() if store is None else store,
        passphrase=passphrase,
        chunk_size=CHUNK_SIZE,
        cost=CHEAP,
        clock=clock or FakeClock(),
    )


def sample_partition(**changes: Any) -> StoredPartition:
    """A partition of a MiB with nothing in it, with some fields as given."""
    fields: dict[str, Any] = {
        "number": 1,
        "index": 0,
        "start": 1 << 20,
        "size": 1 << 20,
        "blocks": StoredMap(size=1 << 20, kind=1),
    }
    return StoredPartition(**{**fields, **changes})


def sample_disk(**changes: Any) -> StoredDisk:
    """A disk of 4 MiB with one partition, with some fields as given."""
    fields: dict[str, Any] = {
        "number": 1,
        "path": "/dev/sda",
        "size": 4 << 20,
        "sector_size": 512,
        "scheme": "gpt",
        "outside": StoredMap(size=4 << 20, kind=0),
        "partitions": (sample_partition(),),
    }
    return StoredDisk(**{**fields, **changes})


def sample_manifest(**changes: Any) -> Manifest:
    """A manifest that is right in every field, with some fields as given."""
    moment = rfc3339(FIRST_MOMENT)
    fields: dict[str, Any] = {
        "image": "ab" * 16,
        "program": "0.1",
        "created": moment,
        "finished": moment,
        "machine": MACHINE,
        "kind": "full",
        "sequence": 1,
        "domain": DOMAIN.hex(),
        "chunk_size": CHUNK_SIZE,
        "session": "cd" * 16,
        "bytes_total": 4 << 20,
        "bytes_used": 0,
        "bytes_read": 0,
        "bytes_added": 0,
        "disks": (sample_disk(),),
    }
    return Manifest(**{**fields, **changes})


def replace_object(store: Store, name: str, contents: bytes) -> None:
    """Put other bytes under a name, as a failing disk or an attacker does; no store lets a program do so."""
    store.delete(name)
    writer = store.create(name)
    writer.append(contents)
    writer.commit()


def flipped(raw: bytes, position: int, bit: int = 0) -> bytes:
    """The same bytes with one bit changed."""
    return raw[:position] + bytes([raw[position] ^ 1 << bit]) + raw[position + 1 :]
