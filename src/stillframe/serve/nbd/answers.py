"""What a request does to a disk, and the bytes that answer it.

Answers: "the client asks this: what does it get?" No sockets: a request and its payload in, the parts of a reply out.
Every number of the client is checked here; nothing outside the disk is read, written or told. Safe for several threads.
"""

from collections.abc import Callable
from typing import Final

from stillframe.block import BlockWriter, ExtentKind
from stillframe.block.copy_on_write import BLOCK_SIZE
from stillframe.errors import StillframeError, StorageFull, TargetError
from stillframe.events import Finding
from stillframe.extents import Extent
from stillframe.serve.nbd import protocol as nbd
from stillframe.serve.nbd.negotiation import Serve
from stillframe.serve.nbd.protocol import Command, ErrorNumber, ProtocolFault, Request
from stillframe.units import align_down, align_up

EXTENTS_MAX: Final = 16_384
"""Most extents of one answer: a client asks again from where it ends."""
_STEP: Final = 1 << 20
_STATES: Final = {
    ExtentKind.DATA: 0,
    ExtentKind.ZERO: nbd.STATE_ZERO,
    ExtentKind.HOLE: nbd.STATE_HOLE | nbd.STATE_ZERO,
}
_FLAGS: Final = {
    Command.READ: nbd.COMMAND_FUA | nbd.COMMAND_DF,
    Command.WRITE: nbd.COMMAND_FUA,
    Command.FLUSH: nbd.COMMAND_FUA,
    Command.TRIM: nbd.COMMAND_FUA,
    Command.CACHE: nbd.COMMAND_FUA,
    Command.WRITE_ZEROES: nbd.COMMAND_FUA | nbd.COMMAND_NO_HOLE,
    Command.BLOCK_STATUS: nbd.COMMAND_FUA | nbd.COMMAND_REQ_ONE,
}
"""The flags that each command may have. FUA goes with all of them; where nothing is written it means nothing."""

Reply = list[bytes]
Report = Callable[[Finding], None]


class Refusal(Exception):
    """A request that is answered with an error of the protocol, and its words."""

    def __init__(self, error: ErrorNumber, words: str) -> None:
        super().__init__(words)
        self.error = error


def payload_size(request: Request) -> int:
    """Bytes that follow a request.

    Raises:
        ProtocolFault: More than a client may send: they are not worth being read.
    """
    if request.command != Command.WRITE:
        return 0
    if request.length > nbd.LENGTH_MAX:
        raise ProtocolFault(f"the client writes {request.length} bytes at once; {nbd.LENGTH_MAX} are allowed")
    return request.length


class Answers:
    """Answers the requests of one client.

    Args:
        serve: What was agreed on.
        report: Is told what failed, once for each failure; the client only learns a number.
    """

    def __init__(self, serve: Serve, report: Report) -> None:
        self._export = serve.export
        self._shown = serve.export.shown
        self._structured = serve.structured
        self._context_id = serve.context_id
        self._report = report
        self._actions: Final[dict[int, Callable[[Request, bytes], Reply]]] = {
            Command.READ: self._read,
            Command.WRITE: self._write,
            Command.FLUSH: self._flush,
            Command.TRIM: self._trim,
            Command.CACHE: self._cache,
            Command.WRITE_ZEROES: self._write_zeroes,
            Command.BLOCK_STATUS: self._status,
        }

    def answer(self, request: Request, payload: bytes = b"") -> Reply:
        """The parts of the reply, in order. Never raises: whatever fails becomes an error for the client."""
        try:
            return self._action(request)(request, payload)
        except Refusal as refusal:
            return self._failed(request, refusal.error, str(refusal))
        except StillframeError as error:
            self._tell(error.code, error.message, error.hint)
            return self._failed(request, _error_number(error), error.message)
        except Exception as error:  # noqa: BLE001 - a client that gets no answer waits for ever; a bug of ours is told
            self._tell("bug", f"this is a bug in Stillframe: {type(error).__name__}: {error}", "Please report it.")
            return self._failed(request, ErrorNumber.EIO, "the server failed")

    def _action(self, request: Request) -> Callable[[Request, bytes], Reply]:
        action = self._actions.get(request.command)
        if action is None:
            raise Refusal(ErrorNumber.EINVAL, f"command {request.command} is not known here")
        if request.flags & ~_FLAGS[Command(request.command)]:
            raise Refusal(ErrorNumber.EINVAL, f"command {request.command} does not go with flags {request.flags:#x}")
        return action

    def _read(self, request: Request, _payload: bytes) -> Reply:
        if request.length > nbd.LENGTH_MAX:
            raise Refusal(ErrorNumber.EINVAL, f"at most {nbd.LENGTH_MAX} bytes can be read at once")
        extent = self._inside(request, ErrorNumber.EINVAL)
        if not self._structured:
            return [nbd.build_simple(request.cookie), self._shown.read_at(request.offset, request.length)]
        if not request.length:
            return [nbd.build_done(request.cookie)]
        if all(known.kind is not ExtentKind.DATA for known in self._shown.known_extents(extent)):
            return [nbd.build_hole(request.cookie, request.offset, request.length)]
        contents = self._shown.read_at(request.offset, request.length)
        return [nbd.build_data_header(request.cookie, request.offset, request.length), contents]

    def _write(self, request: Request, payload: bytes) -> Reply:
        writer = self._writer()
        self._inside(request, ErrorNumber.ENOSPC)
        writer.write_at(request.offset, payload)
        return self._written(request)

    def _write_zeroes(self, request: Request, _payload: bytes) -> Reply:
        writer = self._writer()
        extent = self._inside(request, ErrorNumber.ENOSPC)
        if not request.flags & nbd.COMMAND_NO_HOLE:
            writer.zero(extent)
            return self._written(request)
        zeros = bytes(min(_STEP, extent.size))
        for start in range(extent.start, extent.end, _STEP):
            writer.write_at(start, zeros[: min(_STEP, extent.end - start)])
        return self._written(request)

    def _trim(self, request: Request, _payload: bytes) -> Reply:
        """What is trimmed may read as anything: whole blocks become zeros, which take no room."""
        writer = self._writer()
        extent = self._inside(request, ErrorNumber.EINVAL)
        end = extent.end if extent.end == writer.size else align_down(extent.end, BLOCK_SIZE)
        start = align_up(extent.start, BLOCK_SIZE)
        if start < end:
            writer.zero(Extent(start, end))
        return self._written(request)

    def _flush(self, request: Request, _payload: bytes) -> Reply:
        if self._export.writer is not None:
            self._export.writer.flush()
        return [nbd.build_simple(request.cookie)]

    def _cache(self, request: Request, _payload: bytes) -> Reply:
        """Read ahead, as much as could be read at once."""
        extent = self._inside(request, ErrorNumber.EINVAL)
        end = min(extent.end, extent.start + nbd.LENGTH_MAX)
        for start in range(extent.start, end, _STEP):
            self._shown.read_at(start, min(_STEP, end - start))
        return [nbd.build_simple(request.cookie)]

    def _status(self, request: Request, _payload: bytes) -> Reply:
        if self._context_id is None:
            raise Refusal(ErrorNumber.EINVAL, "no context was agreed on")
        extent = self._inside(request, ErrorNumber.EINVAL)
        if not extent.size:
            raise Refusal(ErrorNumber.EINVAL, "no bytes have no state")
        limit = 1 if request.flags & nbd.COMMAND_REQ_ONE else EXTENTS_MAX
        found: list[tuple[int, int]] = []
        for known in self._shown.known_extents(extent):
            state = _STATES[known.kind]
            if found and found[-1][1] == state:
                found[-1] = (found[-1][0] + known.extent.size, state)
            elif len(found) == limit:
                break
            else:
                found.append((known.extent.size, state))
        return [nbd.build_status(request.cookie, self._context_id, found)]

    def _inside(self, request: Request, error: ErrorNumber) -> Extent:
        """The range of a request, checked."""
        if request.offset + request.length > self._shown.size:
            raise Refusal(error, f"bytes {request.offset} + {request.length} lie beyond the end at {self._shown.size}")
        return Extent(request.offset, request.offset + request.length)

    def _writer(self) -> BlockWriter:
        if self._export.writer is None:
            raise Refusal(ErrorNumber.EPERM, "this export is read-only")
        return self._export.writer

    def _written(self, request: Request) -> Reply:
        if request.flags & nbd.COMMAND_FUA:
            self._writer().flush()
        return [nbd.build_simple(request.cookie)]

    def _failed(self, request: Request, error: ErrorNumber, words: str) -> Reply:
        if self._structured:
            return [nbd.build_error(request.cookie, error, words)]
        return [nbd.build_simple(request.cookie, error)]

    def _tell(self, code: str, message: str, hint: str) -> None:
        self._report(Finding(code=code, message=message, hint=hint, thing=self._export.name))


def _error_number(error: StillframeError) -> ErrorNumber:
    return ErrorNumber.ENOSPC if isinstance(error, TargetError | StorageFull) else ErrorNumber.EIO
