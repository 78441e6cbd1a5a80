"""Putting an object that parity brought back in the place of the damaged one.

Answers: "write this manifest anew under its own name, so that a power cut at any moment leaves one that can be read".
Other objects know manifests, proofs and the like by their names, and nothing is written over: so a good copy is made
under another name first, and whoever finds nothing under the own name reads that (``docs/format/v1.md``, section
16). Packs and index runs are not replaced: ``repair`` copies what they hold.
"""

from collections.abc import Iterator

from stillframe.errors import DamagedError, RepositoryError, StorageError
from stillframe.repo.format import ObjectType, object_name, parse_object_name
from stillframe.repo.objects import REPLACED, SPARES, ObjectBox
from stillframe.store import ObjectMissing, write_object


def replace_healed(box: ObjectBox, kind: ObjectType, object_id: bytes) -> None:
    """Write an object anew as its parity says it was.

    Raises:
        DamagedError: What parity says is not what was written. Nothing was changed.
        StorageError: The storage failed. A good copy is left if the damaged object is gone.
    """
    box.healer.forget(kind, object_id)  # what lies there now, not what lay there when it was looked at
    healed = box.healer.open(kind, object_id)
    if healed is None:
        raise DamagedError(f"{object_name(kind, object_id)} has no parity")
    raw = healed.read("")
    box.parse(raw, box.expected(kind, object_id))
    name = object_name(kind, object_id)
    box.store.delete(SPARES + name)
    _write_and_compare(box, SPARES + name, raw)
    _put(box, kind, object_id, raw)


def finish_replacing(box: ObjectBox) -> Iterator[str]:
    """Go on with what an earlier run left; yields the name of each object that is right again.

    A copy that is not whole was never complete, and the damaged object is still there: it is taken away. Where the
    object itself is gone it stays, whatever it is.

    Raises:
        StorageError: The storage failed.
    """
    for stored in list(box.store.list(SPARES)):
        name = stored.name.removeprefix(SPARES)
        kind = next((kind for kind in REPLACED if name.startswith(kind.folder)), None)
        object_id = parse_object_name(kind, name) if kind is not None else None
        if kind is None or object_id is None:
            continue
        try:
            raw = box.store.read(stored.name)
            box.parse(raw, box.expected(kind, object_id))
        except RepositoryError:
            if _is_there(box, name):
                box.store.delete(stored.name)
            continue
        except StorageError:
            continue  # it may be readable tomorrow
        if _is_whole(box, kind, object_id, name):
            box.store.delete(stored.name)
        else:
            _put(box, kind, object_id, raw)
            yield name


def _put(box: ObjectBox, kind: ObjectType, object_id: bytes, raw: bytes) -> None:
    """From the good copy, which is durable, to the object; the copy goes last."""
    name = object_name(kind, object_id)
    box.store.delete(name)
    _write_and_compare(box, name, raw)
    box.store.delete(SPARES + name)
    box.healer.forget(kind, object_id)


def _write_and_compare(box: ObjectBox, name: str, raw: bytes) -> None:
    write_object(box.store, name, raw)
    box.store.forget_cached(name)
    if box.store.read(name) != raw:
        raise StorageError(
            f"{name} was written, and reads back otherwise", hint="The disk is failing: copy the repository elsewhere."
        )


def _is_there(box: ObjectBox, name: str) -> bool:
    try:
        return box.store.size(name) >= 0
    except ObjectMissing:
        return False


def _is_whole(box: ObjectBox, kind: ObjectType, object_id: bytes, name: str) -> bool:
    try:
        box.parse(box.store.read(name), box.expected(kind, object_id))
    except (RepositoryError, StorageError):
        return False
    return True
