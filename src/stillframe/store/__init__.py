"""Storage for repositories: named immutable blobs in a folder or in memory (``Store``)."""

from stillframe.store.base import (
    DeletionRefused,
    ObjectExists,
    ObjectMissing,
    ObjectWriter,
    Store,
    StoredObject,
    write_object,
)
from stillframe.store.local import LocalStore
from stillframe.store.memory import MemoryStore
from stillframe.store.reachable import ReachableStore

__all__ = [
    "DeletionRefused",
    "LocalStore",
    "MemoryStore",
    "ObjectExists",
    "ObjectMissing",
    "ObjectWriter",
    "ReachableStore",
    "Store",
    "StoredObject",
    "write_object",
]
