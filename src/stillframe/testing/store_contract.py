"""What every store obeys, as checks that any store can be put through.

Answers: "is this a ``Store``?" Each law takes an empty store of its own, and fails with ``AssertionError``. Durability
cannot be seen from inside a running system; it is tested where the system's calls can be.
"""

from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from threading import Barrier
from typing import Final

from stillframe.errors import StorageError
from stillframe.store.base import ObjectExists, ObjectMissing, Store, StoredObject, write_object

BAD_NAMES: Final = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/.",
    ".hidden",
    "a/.hidden",
    "dot.",
    "a b",
    "a\\b",
    "a:b",
    "a\0b",
    "a\nb",
    "a\n",
    "\N{LATIN SMALL LETTER A WITH DIAERESIS}",
    "C:/a",
    "w" * 256,
    "/".join(["w" * 102] * 5),  # 514 characters
)
GOOD_NAMES: Final = (
    "a",
    "0",
    "-",
    "_",
    "README.txt",
    "keys/00ff.a",
    "a.b..c/x",
    "w" * 255,
    "/".join(["w" * 170] * 3),  # 512 characters
)
BAD_PREFIXES: Final = ("a", "/", "a//", "../", "a/b", ".hidden/")


def check_reads_what_was_written(store: Store) -> None:
    """The appended pieces, in order, are the object; an append may be empty, and its buffer be used again."""
    pieces = [Random(size).randbytes(size) for size in (1, 0, 4095, 4096, 70_001, 3 << 20)]  # noqa: S311
    writer = store.create("packs/ab/pieces")
    buffer = bytearray()
    for piece in pieces:
        buffer[:] = piece
        writer.append(buffer)
        buffer[:] = b"x" * len(buffer)
    writer.commit()
    expected = b"".join(pieces)
    assert store.size("packs/ab/pieces") == len(expected)
    assert store.read("packs/ab/pieces") == expected
    for offset, length in ((0, 0), (0, 1), (1, 4095), (4096, 4096), (len(expected) - 1, 1), (len(expected), 0)):
        assert store.read("packs/ab/pieces", offset, length) == expected[offset : offset + length]
    assert store.read("packs/ab/pieces", 70_000) == expected[70_000:]
    assert store.read("packs/ab/pieces", len(expected)) == b""


def check_takes_any_buffer(store: Store) -> None:
    """Bytes, bytearrays and memoryviews of any item size."""
    numbers = array("I", [1, 2, 3])
    writer = store.create("buffers")
    writer.append(b"a")
    writer.append(bytearray(b"b"))
    writer.append(memoryview(b"xcx")[1:2])
    writer.append(memoryview(numbers))
    writer.commit()
    assert store.read("buffers") == b"abc" + numbers.tobytes()


def check_empty_object_exists(store: Store) -> None:
    """An object of no bytes is an object."""
    store.create("folder/empty").commit()
    assert store.size("folder/empty") == 0
    assert store.read("folder/empty") == b""
    assert list(store.list("")) == [StoredObject("folder/empty", 0)]


def check_range_outside_fails(store: Store) -> None:
    """A range that is not all there is an error, and not a missing object; a negative one is a bug."""
    write_object(store, "short", b"12345")
    for offset, length in ((0, 6), (5, 1), (6, 0), (6, None), (1 << 62, 1), (0, 1 << 62)):
        error = _error_of(StorageError, lambda o=offset, n=length: store.read("short", o, n))  # type: ignore[misc]
        assert not isinstance(error, ObjectMissing)
    _error_of(ValueError, lambda: store.read("short", -1))
    _error_of(ValueError, lambda: store.read("short", 0, -1))


def check_missing_object_is_named(store: Store) -> None:
    """What is not there is ``ObjectMissing``, also below and above a folder that is."""
    write_object(store, "packs/ab/there", b"1")
    for name in ("nothing", "packs", "packs/ab", "packs/ab/nothing", "packs/cd/nothing", "packs/ab/there/below"):
        for ask in (store.read, store.size, store.forget_cached):
            error = _error_of(ObjectMissing, lambda ask=ask, name=name: ask(name))  # type: ignore[misc]
            assert name in str(error)
    assert isinstance(store.forget_cached("packs/ab/there"), bool)


def check_taken_name_is_refused(store: Store) -> None:
    """An object is never written over, neither a finished one nor one being written."""
    write_object(store, "a/once", b"first")
    _error_of(ObjectExists, lambda: store.create("a/once"))
    assert store.read("a/once") == b"first"
    writer = store.create("a/twice")
    _error_of(ObjectExists, lambda: store.create("a/twice"))
    writer.append(b"second")
    writer.commit()
    assert store.read("a/twice") == b"second"


def check_abandoned_object_is_gone(store: Store) -> None:
    """An abandoned object leaves nothing, its name is free, and abandoning again does nothing."""
    writer = store.create("a/b")
    writer.append(b"half")
    writer.abandon()
    assert list(store.list("")) == []
    write_object(store, "a/b", b"whole")
    writer.abandon()
    assert store.read("a/b") == b"whole"


def check_ended_writer_is_refused(store: Store) -> None:
    """After ``commit`` or ``abandon`` a writer is a bug of the caller, and the committed object stays."""
    committed, abandoned = store.create("committed"), store.create("abandoned")
    committed.append(b"all of it")
    committed.commit()
    abandoned.abandon()
    for writer in (committed, abandoned):
        _error_of(ValueError, lambda writer=writer: writer.append(b"more"))  # type: ignore[misc]
        _error_of(ValueError, writer.commit)
    committed.abandon()
    assert store.read("committed") == b"all of it"
    _error_of(ObjectMissing, lambda: store.size("abandoned"))


def check_lists_by_prefix(store: Store) -> None:
    """Every object under a prefix, with its size, once; a prefix is whole words."""
    names = ["top", "packs/a/1", "packs/a/2", "packs/ab/1", "packs/b", "packs-old/a/1", "keys/0.a"]
    for size, name in enumerate(names):
        write_object(store, name, bytes(size))
    assert sorted(store.list("")) == sorted(StoredObject(name, size) for size, name in enumerate(names))
    for prefix in ("packs/", "packs/a/", "keys/", "packs/b/", "nothing/", "top/"):
        found = sorted(stored.name for stored in store.list(prefix))
        assert found == sorted(name for name in names if name.startswith(prefix))
    for prefix in BAD_PREFIXES:
        _error_of(ValueError, lambda prefix=prefix: store.list(prefix))  # type: ignore[misc]


def check_deleted_object_is_gone(store: Store) -> None:
    """A deleted object is gone, its name is free; deleting nothing, or a folder, does nothing."""
    write_object(store, "a/b", b"1")
    write_object(store, "a/c", b"2")
    for name in ("a/b", "a/b", "nothing", "a", "a/c/below"):
        store.delete(name)
    assert list(store.list("")) == [StoredObject("a/c", 1)]
    _error_of(ObjectMissing, lambda: store.read("a/b"))
    write_object(store, "a/b", b"again")
    assert store.read("a/b") == b"again"


def check_names_are_checked(store: Store) -> None:
    """Names that could leave the store, or that some system changes, are a bug of the caller for every verb."""
    for name in BAD_NAMES:
        for ask in (store.create, store.read, store.size, store.delete, store.forget_cached):
            _error_of(ValueError, lambda ask=ask, name=name: ask(name))  # type: ignore[misc]
    for name in GOOD_NAMES:
        write_object(store, name, name.encode())
    assert sorted(stored.name for stored in store.list("")) == sorted(GOOD_NAMES)
    assert all(store.read(name) == name.encode() for name in GOOD_NAMES)


def check_objects_and_folders_are_apart(store: Store) -> None:
    """No object is called as another one's folder."""
    write_object(store, "a/b/c", b"1")
    for name in ("a", "a/b", "a/b/c/d", "a/b/c/d/e"):
        _error_of(StorageError, lambda name=name: store.create(name))  # type: ignore[misc]
    assert list(store.list("")) == [StoredObject("a/b/c", 1)]


def check_threads_do_not_disturb(store: Store) -> None:
    """Several threads write, read and list at once; a writer may be committed by another thread."""

    def write(number: int) -> None:
        writer = store.create(f"packs/{number % 4}/{number}")
        for _ in range(20):
            writer.append(bytes([number]) * 1000)
        committing.submit(writer.commit).result()
        assert store.read(f"packs/{number % 4}/{number}") == bytes([number]) * 20_000
        assert StoredObject(f"packs/{number % 4}/{number}", 20_000) in set(store.list("packs/"))

    with ThreadPoolExecutor(2) as committing, ThreadPoolExecutor(8) as writing:
        list(writing.map(write, range(32)))
    assert sorted(stored.size for stored in store.list("")) == [20_000] * 32


def check_one_creator_wins(store: Store) -> None:
    """Of threads that create the same name at once exactly one succeeds, and its object is whole."""
    start = Barrier(4)

    def create(number: int, name: str) -> int | None:
        start.wait()
        with suppress(ObjectExists):
            write_object(store, name, bytes([number]))
            return number
        return None

    with ThreadPoolExecutor(4) as pool:
        for again in range(10):
            name = f"new{again}/folder/same"
            winners = [number for number in pool.map(create, range(4), [name] * 4) if number is not None]
            assert len(winners) == 1
            assert store.read(name) == bytes(winners)


def check_free_space_is_bytes_or_unknown(store: Store) -> None:
    """A number of bytes that is not negative, or ``None``."""
    write_object(store, "a", b"1")
    space = store.free_space()
    assert space is None or space >= 0


STORE_LAWS: Final[tuple[Callable[[Store], None], ...]] = (
    check_reads_what_was_written,
    check_takes_any_buffer,
    check_empty_object_exists,
    check_range_outside_fails,
    check_missing_object_is_named,
    check_taken_name_is_refused,
    check_abandoned_object_is_gone,
    check_ended_writer_is_refused,
    check_lists_by_prefix,
    check_deleted_object_is_gone,
    check_names_are_checked,
    check_objects_and_folders_are_apart,
    check_threads_do_not_disturb,
    check_one_creator_wins,
    check_free_space_is_bytes_or_unknown,
)


def _error_of(kind: type[Exception], call: Callable[[], object]) -> Exception:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")
