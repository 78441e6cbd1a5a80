"""The verb ``get``: files out of an image into a folder, without mounting and without root.

Answers: "bring me these files as they were." A file that cannot be given whole is named and not written at all; the
rest goes on. What is there already is kept unless it may be replaced.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from stillframe.errors import Cancelled, StillframeError, TargetError
from stillframe.events import BytesMoved, EventSink, Notice
from stillframe.fs.files.source import FILE, FOLDER, LINK, Content, FileEntry, FileSource
from stillframe.host.destination import AlreadyThere, Destination, Traits
from stillframe.host.streamed import Send, stream_apart
from stillframe.jobs.browsing import DEPTH_MAX, NOT_READ, files_of, find_entry, show_text
from stillframe.jobs.exposing import ExposedPartition
from stillframe.jobs.pipeline import CancelToken

NOT_GOT: Final = "file-not-got"
KEPT: Final = "file-kept"
ATTRIBUTE: Final = "attribute-not-got"
_BLOCK_SIZE: Final = 1 << 20
_MOVED_STEP: Final = 4 << 20
_OWNER_ATTRIBUTES: Final = ("security.", "trusted.", "system.")


@dataclass(slots=True)
class Tally:
    """What was written."""

    files: int = 0
    folders: int = 0
    links: int = 0
    bytes_written: int = 0
    notices: list[Notice] = field(default_factory=list)


def get_files(
    part: ExposedPartition, places: Sequence[tuple[bytes, ...]], destination: Destination, *, events: EventSink,
    cancel: CancelToken,
) -> Tally:  # fmt: skip
    """Write files and whole folders of one partition into a folder.

    Args:
        part: The partition.
        places: The names on the way to each; none stands for all that is in the root.
        destination: Where they go, each under its own last name.
        events: Gets bytes as they are written, and each notice.
        cancel: Asked a few times a second.

    Raises:
        StillframeError: As ``browsing.open_files_of``; ``UsageError`` when a path is not there; ``TargetError`` when
            nothing more can be written.
    """
    tally = Tally()

    def produce(send: Send) -> None:
        with files_of(part) as opened:
            for notice in opened.notices:
                send(notice)
            found = [find_entry(opened.source, names) for names in places]  # all, before anything is written
            left_out = {file.path.casefold(): file.kind for file in part.stored.left_out}
            _Copy(opened.source, destination, send, left_out).copy_all(found)

    what = f"reading the files of partition {part.word}"
    for bundle in stream_apart(produce, what=what, check=cancel.check):
        for record in bundle:
            if isinstance(record, Notice):
                tally.notices.append(record)
                events.emit(record)
            elif isinstance(record, int):
                tally.bytes_written += record
                events.emit(BytesMoved(size=record))
            else:
                tally.files, tally.folders, tally.links = record
    return tally


class _Copy:
    """One run, in the child."""

    def __init__(self, source: FileSource, destination: Destination, send: Send, left_out: dict[str, str]) -> None:
        self._source = source
        self._to = destination
        self._send = send
        self._left_out = left_out
        self._files = self._folders = self._links = self._moved = 0
        self._kept: dict[int, bytes] = {}
        self._entered: set[int] = set()

    def copy_all(self, found: Iterable[tuple[str, FileEntry]]) -> None:
        """Copy each with all that is below it, then say how many there were."""
        for path, entry in found:
            if not entry.name and entry.kind == FOLDER:
                self._entered.add(entry.number)
                self._copy_below(self._to.root, path, entry, depth=1)
            else:
                self._copy(self._to.root, path, entry, depth=1)
        self._send(self._moved)
        self._send((self._files, self._folders, self._links))

    def _copy(self, folder: int, path: str, entry: FileEntry, *, depth: int) -> None:
        """Copy one entry; what goes wrong with it alone is told, and the rest goes on."""
        try:
            if entry.name in (b"", b".", b"..") or b"/" in entry.name or b"\0" in entry.name:
                self._refuse(path, "its name would lead out of the destination")
            elif entry.refusal:
                self._refuse(path, entry.refusal)
            elif entry.kind == FOLDER:
                self._copy_folder(folder, path, entry, depth=depth)
            elif entry.kind == LINK:
                self._copy_link(folder, path, entry)
            elif entry.kind != FILE:
                self._refuse(path, f"it is a {entry.kind}, and only named here")
            elif path.casefold() in self._left_out:
                self._refuse(path, f"its contents were left out of the image ({self._left_out[path.casefold()]})")
            else:
                self._copy_file(folder, path, entry)
        except AlreadyThere:
            self._keep(path)
        except (Cancelled, TargetError):
            raise
        except StillframeError as error:
            self._refuse(path, error.message, error.hint)
        except OSError as error:
            self._to.require_room(error)
            self._refuse(path, f"the destination does not take it ({error.strerror})")

    def _copy_folder(self, folder: int, path: str, entry: FileEntry, *, depth: int) -> None:
        if entry.number in self._entered:
            self._refuse(path, "the same folder is in another place too, or was named twice")
            return
        self._entered.add(entry.number)
        if depth > DEPTH_MAX:
            self._refuse(path, f"it lies {DEPTH_MAX} folders deep")
            return
        descriptor, made = self._to.enter(folder, entry.name)
        try:
            self._folders += 1
            self._copy_below(descriptor, path, entry, depth=depth + 1)
            if entry.streams:
                self._copy_streams(folder, path, entry, self._source.read_contents(entry))
            if made:
                self._dress(descriptor, path, entry)
        finally:
            os.close(descriptor)

    def _copy_below(self, descriptor: int, path: str, entry: FileEntry, *, depth: int) -> None:
        def note(fault: StillframeError) -> None:
            message = f"{path or '/'} was not read whole: {fault.message}"
            self._send(Notice(code=NOT_READ, message=message, hint=fault.hint))

        for inner in self._source.iter_folder(entry, note):
            self._copy(descriptor, f"{path}/{show_text(inner.name)}", inner, depth=depth)

    def _copy_link(self, folder: int, path: str, entry: FileEntry) -> None:
        if not self._to.is_free(folder, entry.name):
            self._keep(path)
            return
        begun = self._to.begin_link(entry.target)
        try:
            self._to.dress_link(begun, _traits(entry))
            self._to.place(begun, folder, entry.name)
        finally:
            self._to.drop(begun)
        self._links += 1

    def _copy_file(self, folder: int, path: str, entry: FileEntry) -> None:
        if not self._to.is_free(folder, entry.name):
            self._keep(path)
            return
        first = self._kept.get(entry.number) if entry.links > 1 else None
        if first is not None and self._copy_again(first, folder, entry.name):
            return
        contents = self._source.read_contents(entry)
        main = next((one for one in contents if not one.name), None)
        begun = self._write(path, entry, main)
        try:
            if entry.links > 1:
                self._keep_first(entry.number, begun)
            self._to.place(begun, folder, entry.name)
        finally:
            self._to.drop(begun)
        self._files += 1
        self._copy_streams(folder, path, entry, contents)

    def _keep_first(self, number: int, begun: bytes) -> None:
        """Keep a hidden name of a file that may come again."""
        try:
            self._kept[number] = self._to.begin_copy(begun)
        except OSError:
            self._kept.pop(number, None)  # this destination has no second names: each becomes a file of its own

    def _copy_again(self, first: bytes, folder: int, name: bytes) -> bool:
        """Another name of a file that was written before; whether that was possible."""
        try:
            begun = self._to.begin_copy(first)
        except OSError:
            return False
        try:
            self._to.place(begun, folder, name)
        finally:
            self._to.drop(begun)
        self._files += 1
        return True

    def _copy_streams(self, folder: int, path: str, entry: FileEntry, contents: Iterable[Content]) -> None:
        """Alternate data streams, each as a file ``NAME:STREAM`` beside it."""
        for content in contents:
            if not content.name:
                continue
            place = f"{path}:{content.name}"
            name = entry.name + b":" + content.name.encode("utf-8", "surrogateescape")
            try:
                if b"/" in name or b"\0" in name:
                    self._refuse(place, "its name would lead out of the destination")
                elif not self._to.is_free(folder, name):
                    self._keep(place)
                else:
                    begun = self._write(place, entry, content)
                    try:
                        self._to.place(begun, folder, name)
                    finally:
                        self._to.drop(begun)
            except StillframeError as error:
                if isinstance(error, Cancelled | TargetError):
                    raise
                self._refuse(place, error.message, error.hint)
            except OSError as error:
                self._to.require_room(error)
                self._refuse(place, f"the destination does not take it ({error.strerror})")

    def _write(self, path: str, entry: FileEntry, content: Content | None) -> bytes:
        """Write a stream into a file that nobody sees yet; it is gone again when that fails."""
        descriptor, begun = self._to.begin()
        try:
            try:
                if content is not None:
                    self._fill(descriptor, content)
                self._dress(descriptor, path, entry)
            finally:
                os.close(descriptor)
        except BaseException:
            self._to.drop(begun)
            raise
        return begun

    def _fill(self, descriptor: int, content: Content) -> None:
        os.truncate(descriptor, content.size)
        for offset, length in _blocks(content):
            rest = memoryview(self._source.read_at(content, offset, length))
            os.lseek(descriptor, offset, os.SEEK_SET)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            self._moved += length
            if self._moved >= _MOVED_STEP:
                self._send(self._moved)
                self._moved = 0

    def _dress(self, descriptor: int, path: str, entry: FileEntry) -> None:
        for name, why in self._to.dress(descriptor, _traits(entry), self._source.read_attributes(entry)):
            if not name.startswith(_OWNER_ATTRIBUTES):
                message = f"{path}: its attribute {name} was not written ({why})"
                self._send(Notice(code=ATTRIBUTE, message=message))

    def _refuse(self, path: str, why: str, hint: str = "") -> None:
        self._send(Notice(code=NOT_GOT, message=f"{path} was not written: {why}", hint=hint))

    def _keep(self, path: str) -> None:
        message = f"{path} was not written: something of its name is in {self._to.path} already"
        self._send(Notice(code=KEPT, message=message, hint="'--overwrite' replaces it."))


def _blocks(content: Content) -> Iterator[tuple[int, int]]:
    """Offset and length of each read."""
    for piece in content.pieces:
        for offset in range(piece.start, piece.end, _BLOCK_SIZE):
            yield offset, min(_BLOCK_SIZE, piece.end - offset)


def _traits(entry: FileEntry) -> Traits:
    return Traits(
        modified_ns=entry.modified_ns, accessed_ns=entry.accessed_ns, mode=entry.mode, uid=entry.uid, gid=entry.gid
    )
