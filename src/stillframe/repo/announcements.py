"""What others have announced: deletions, ends of sessions, machines and keys that were given up.

Answers: "what was said since I began, that I must not miss?" The owner's machines read the records themselves;
``put.machine`` has the same words from warnings.
"""

from collections.abc import Iterator

from stillframe.errors import DamagedError
from stillframe.repo.deletion_records import Retirement, Revocation, SessionEnd, TombstoneRecord
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.objects import ObjectBox
from stillframe.repo.records import R, parse_record
from stillframe.store import ObjectMissing


class Announcements:
    """The records of a repository that announce something."""

    def __init__(self, box: ObjectBox) -> None:
        self._box = box

    def tombstones(self) -> tuple[TombstoneRecord, ...]:
        """Every announcement of deletion, oldest first."""
        found = read_records(self._box, ObjectType.TOMBSTONE, TombstoneRecord)
        return tuple(sorted(found, key=lambda record: (record.created, record.tombstone)))

    def ends(self) -> tuple[SessionEnd, ...]:
        """What was said of sessions that ended other than by being taken away, in no order."""
        return tuple(read_records(self._box, ObjectType.SESSION_END, SessionEnd))

    def ids_of_ends(self) -> set[bytes]:
        """Under which names that is said. Announcements vanish: where one of these did, it must be asked again."""
        return set(self._box.ids(ObjectType.SESSION_END))

    def retirements(self) -> tuple[Retirement, ...]:
        """Machines that were given up, and those that came back, in no order."""
        return tuple(read_records(self._box, ObjectType.RETIREMENT, Retirement))

    def revocations(self) -> tuple[Revocation, ...]:
        """Put keys that were taken away, in no order."""
        return tuple(read_records(self._box, ObjectType.REVOCATION, Revocation))


def read_records(box: ObjectBox, kind: ObjectType, record: type[R]) -> Iterator[R]:
    """The readable records of a type, in no order. Torn ones never were; damaged ones are named by ``check``."""
    for object_id in box.ids(kind):
        try:
            opened = box.read(kind, object_id)
        except (DamagedError, ObjectMissing):
            continue
        yield parse_record(opened.payload, record, thing=object_name(kind, object_id))
