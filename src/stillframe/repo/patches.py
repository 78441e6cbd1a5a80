"""Patches: a chunk stored as a Zstandard frame that is made with another chunk, its base, before it.

Answers: "how is a chunk made small by what it was before, and how does it come back?" A base is always whole, so a
chunk is two entries away at most, whatever came before. Normative: ``docs/format/v1.md``, section 6.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import zstandard

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, CHUNK_ID_SIZE
from stillframe.repo.rows import Location

BASE_SIZE_MIN: Final = 8
"""Of a base: shorter prefixes are not used by Zstandard."""
_WORTH_MIN: Final = 4096
"""A chunk that packs into less is stored whole: a patch would save little, and cost every reader a base."""
_BASES_KEPT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Base:
    """A chunk that others can be patches of: its id, its bytes, and in how many it is stored (0: unknown)."""

    chunk_id: bytes
    data: bytes
    stored_size: int = 0


@dataclass(frozen=True, slots=True)
class Patch:
    """A chunk as a frame that needs a base.

    Attributes:
        base_id: Of the base.
        frame: The bytes.
        is_clear: It pays, without trying what the chunk takes whole: what is new in it is in the frame, and that is
            less than half of what the base takes.
    """

    base_id: bytes
    frame: bytes
    is_clear: bool = False

    def pays_against(self, whole_size: int) -> bool:
        """Whether it is below 7/8 of the chunk stored whole in so many bytes, the id of the base included."""
        return whole_size > _WORTH_MIN and (len(self.frame) + CHUNK_ID_SIZE) * 8 < whole_size * 7


def make_patch(base: Base, plain: bytes | memoryview, level: int) -> Patch:
    """Make a patch.

    Args:
        base: At least ``BASE_SIZE_MIN`` bytes.
        plain: The chunk.
        level: Of Zstandard.
    """
    window = max(10, (len(base.data) + len(plain) - 1).bit_length())
    # The level's own table would forget most of a prefix: one place for each four bytes remembers it (ADR 42).
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window, hash_log=window - 2, write_content_size=True, write_checksum=True, write_dict_id=False
    )
    compressor = zstandard.ZstdCompressor(dict_data=_prefix(base.data), compression_params=parameters)
    frame = compressor.compress(plain)
    return Patch(base.chunk_id, frame, is_clear=_WORTH_MIN < len(frame) < base.stored_size // 2)


def expand_patch(frame: bytes | memoryview, base: bytes, size: int, *, thing: str) -> bytes:
    """Make the chunk of ``size`` bytes from a patch and its base; memory is bounded by ``size``.

    Raises:
        DamagedError: It is no frame made with this base, or holds another number of bytes.
    """
    try:
        if len(base) >= BASE_SIZE_MIN and zstandard.frame_content_size(frame) == size:
            expander = zstandard.ZstdDecompressor(dict_data=_prefix(base))
            data: bytes = expander.decompress(frame, max_output_size=size, allow_extra_data=False)
            if len(data) == size:
                return data
    except zstandard.ZstdError as error:
        raise DamagedError(f"{thing}: cannot be made from its base: {error}", hint=CHECK_HINT) from error
    raise DamagedError(f"{thing}: does not become {size} bytes with a base of {len(base)}", hint=CHECK_HINT)


def _prefix(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


ReadBases = Callable[[Sequence[bytes]], Iterator[tuple[bytes, bytes | DamagedError]]]
"""Reads whole chunks by their ids, each once, in any order; of one that cannot be had its error."""


class Expander:
    """Makes chunks from patches. Keeps bases for a while; safe for several threads.

    Args:
        read_bases: Reads them. It never gives a patch for a base, so there is an end to it.
    """

    def __init__(self, read_bases: ReadBases) -> None:
        self._read_bases = read_bases
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def expand(self, patches: Iterable[tuple[Location, bytes]]) -> Iterator[tuple[Location, bytes | DamagedError]]:
        """The chunks of some patches, in any order; bases that lie side by side are read in one go."""
        waiting: dict[bytes, list[tuple[Location, bytes]]] = {}
        for place, frame in patches:
            waiting.setdefault(place.base, []).append((place, frame))
        for base_id in list(waiting):
            base = self._recall(base_id)
            if base is not None:
                yield from _made(waiting.pop(base_id), base)
        for base_id, found in self._read_bases(list(waiting)) if waiting else ():
            yield from _made(waiting.pop(base_id), found)
            if not isinstance(found, DamagedError):
                self._keep(base_id, found)

    def _recall(self, base_id: bytes) -> bytes | None:
        with self._lock:
            found = self._kept.get(base_id)
            if found is not None:
                self._kept.move_to_end(base_id)
            return found

    def _keep(self, base_id: bytes, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._kept.pop(base_id, b""))
            self._kept[base_id] = data
            while self._size > _BASES_KEPT and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])


def _made(
    patches: Iterable[tuple[Location, bytes]], base: bytes | DamagedError
) -> Iterator[tuple[Location, bytes | DamagedError]]:
    for place, frame in patches:
        words = f"chunk {place.chunk_id.hex()[:16]} at {place.offset} of pack {place.pack_id.hex()}, a patch"
        if isinstance(base, DamagedError):
            error = DamagedError(
                f"{words}: its base, chunk {place.base.hex()[:16]}, cannot be had: {base.message}", hint=CHECK_HINT
            )
            error.__cause__ = base.__cause__  # that a pack is gone, for one
            yield place, error
            continue
        try:
            yield place, expand_patch(frame, base, place.plain_size, thing=words)
        except DamagedError as error:
            yield place, error
