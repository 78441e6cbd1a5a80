"""Opening entries of packs one by one, and copying them into new packs.

Answers: "which entries of this pack open?" and "move these chunks". One damaged or unreadable entry never stops the
rest. It does not choose what is copied: ``expire`` and ``repair`` do.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from stillframe.errors import DamagedError, StorageError
from stillframe.repo.format import CHECK_HINT
from stillframe.repo.packs import Fetch, PackReader, PackWriter, compressor, plan_fetches
from stillframe.repo.patches import Patch
from stillframe.repo.repository import Repository
from stillframe.repo.rows import EntryKind, Location, Table
from stillframe.store import ObjectMissing

_LEVEL: Final = 3

Opened = bytes | DamagedError | StorageError
"""An entry's plaintext, of a patch its frame; or that its bytes are wrong; or that they could not be read this time."""


def open_entries(packs: PackReader, places: Sequence[Location], *, pack_size: int) -> Iterator[tuple[Location, Opened]]:
    """Open entries of one pack, each by itself where reading several fails.

    Args:
        packs: Reads packs.
        places: Of one pack.
        pack_size: Its size as it is; an entry beyond it is lost, not unreadable.
    """
    inside = []
    for place in places:
        if place.offset + place.sealed_size <= pack_size:
            inside.append(place)
        else:
            text = f"chunk {place.chunk_id.hex()[:16]} lies beyond the end of pack {place.pack_id.hex()}"
            yield place, DamagedError(text, hint=CHECK_HINT)
    for fetch in plan_fetches(inside):
        yield from _open(packs, fetch)


def _open(packs: PackReader, fetch: Fetch) -> Iterator[tuple[Location, Opened]]:
    try:
        opened: list[tuple[Location, bytes | DamagedError]] = list(packs.fetch(fetch))
    except DamagedError as error:
        yield from ((place, error) for place in fetch.locations)
    except ObjectMissing as error:
        gone = DamagedError(error.message, hint=CHECK_HINT)
        yield from ((place, gone) for place in fetch.locations)
    except StorageError as error:
        if len(fetch.locations) == 1:
            yield fetch.locations[0], error
            return
        for place in fetch.locations:
            yield from _open(packs, Fetch(fetch.pack_id, (place,)))
    else:
        yield from opened


class Copier:
    """Writes chunks into new packs, which nothing knows of until their tables are indexed."""

    def __init__(self, repository: Repository) -> None:
        self._box = repository.box
        self._pack: PackWriter | None = None
        self._tables: list[Table] = []
        self.bytes_written = 0

    def add(self, place: Location, data: bytes) -> None:
        """Copy one chunk or node; of a patch its frame, which stays what it is."""
        if self._pack is not None and self._pack.is_full:
            self._finish()
        if self._pack is None:
            self._pack = PackWriter(self._box, compressor(_LEVEL))
        if place.kind is EntryKind.PATCH:
            self._pack.add_patch(place.chunk_id, Patch(place.base, data), place.plain_size)
        else:
            self._pack.add(place.chunk_id, data, place.kind)

    def finish(self) -> list[Table]:
        """Make everything durable; returns where it rests."""
        self._finish()
        tables, self._tables = self._tables, []
        return tables

    def abandon(self) -> None:
        """Give up what is not finished: after an error."""
        if self._pack is not None:
            self._pack.abandon()

    def _finish(self) -> None:
        if self._pack is not None:
            self._tables.append(self._pack.finish())
            self.bytes_written += self._pack.size
            self._pack = None
