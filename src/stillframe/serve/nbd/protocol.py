"""The words of the network block device protocol: its numbers and structures, as bytes.

Answers: "what does this number mean, and how is that reply written?" No sockets, no disks. All integers are big-endian.

Source of every constant here: "The NBD protocol", ``doc/proto.md`` of the NetworkBlockDevice project, sections
"Fixed newstyle negotiation", "Option types", "Option reply types", "Transmission phase" and "Values".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PORT: Final = 10809
"""The port that IANA gave to the protocol."""
LENGTH_MAX: Final = 32 << 20
"""Most bytes of one read or write: what a client may assume that asked for nothing else."""
STRING_MAX: Final = 4096
"""Most bytes of a name or description."""

SERVER_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003_E889_0455_65A9
REQUEST_MAGIC: Final = 0x2560_9513
SIMPLE_REPLY_MAGIC: Final = 0x6744_6698
STRUCTURED_REPLY_MAGIC: Final = 0x668E_33EF

FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1
"""Handshake flags: of the server in 16 bits, of the client in 32."""

SEND_HAS_FLAGS: Final = 1 << 0
SEND_READ_ONLY: Final = 1 << 1
SEND_FLUSH: Final = 1 << 2
SEND_FUA: Final = 1 << 3
SEND_TRIM: Final = 1 << 5
SEND_WRITE_ZEROES: Final = 1 << 6
SEND_DF: Final = 1 << 7
SEND_MULTI_CONN: Final = 1 << 8
SEND_CACHE: Final = 1 << 10
"""Transmission flags: what an export can do."""

COMMAND_FUA: Final = 1 << 0
COMMAND_NO_HOLE: Final = 1 << 1
COMMAND_DF: Final = 1 << 2
COMMAND_REQ_ONE: Final = 1 << 3
"""Flags of a request."""

CONTEXT_ALLOCATION: Final = b"base:allocation"
STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1
"""States of an extent in the context ``base:allocation``."""

OPTION_HEADER: Final = struct.Struct(">8sII")
OPTION_REPLY: Final = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHHQQI")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
STRUCTURED_REPLY: Final = struct.Struct(">IHHQI")
OFFSET_REPLY: Final = struct.Struct(">IHHQIQ")
"""A structured reply's header and the offset that data begins with."""
OFFSET_HOLE: Final = struct.Struct(">QI")
U32: Final = struct.Struct(">I")
U16: Final = struct.Struct(">H")
EXPORT_FACTS: Final = struct.Struct(">QH")


class Option(IntEnum):
    """What a client asks before it uses an export."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """Answers to options; those with the highest bit are refusals."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x8000_0001
    ERR_POLICY = 0x8000_0002
    ERR_INVALID = 0x8000_0003
    ERR_PLATFORM = 0x8000_0004
    ERR_TLS_REQD = 0x8000_0005
    ERR_UNKNOWN = 0x8000_0006
    ERR_SHUTDOWN = 0x8000_0007
    ERR_BLOCK_SIZE_REQD = 0x8000_0008
    ERR_TOO_BIG = 0x8000_0009


class FactKind(IntEnum):
    """Kinds of what ``INFO`` and ``GO`` tell."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """What a client asks of an export."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class ChunkKind(IntEnum):
    """Kinds of structured replies."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001


CHUNK_DONE: Final = 1 << 0


class ErrorNumber(IntEnum):
    """Errors of a request, of the protocol's own numbering."""

    NONE = 0
    EPERM = 1
    EIO = 5
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it came: ``offset`` and ``length`` are the client's and not yet checked."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class ProtocolFault(Exception):
    """The client does not speak the protocol: there is nothing to do but to hang up. The words say why."""


def parse_request(raw: bytes | bytearray | memoryview) -> Request:
    """One request's 28 bytes.

    Raises:
        ProtocolFault: They do not begin as a request does.
    """
    magic, flags, command, cookie, offset, length = REQUEST.unpack(raw)
    if magic != REQUEST_MAGIC:
        raise ProtocolFault(f"a request begins with {magic:#010x}, not {REQUEST_MAGIC:#010x}")
    return Request(flags, command, cookie, offset, length)


def build_option_reply(option: int, kind: OptionReply, payload: bytes = b"") -> bytes:
    """An answer to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload


def build_simple(cookie: int, error: int = ErrorNumber.NONE) -> bytes:
    """A simple reply's header; the data of a read follow it."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def build_done(cookie: int) -> bytes:
    """A structured reply that says only that all went well."""
    return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkKind.NONE, cookie, 0)


def build_data_header(cookie: int, offset: int, length: int) -> bytes:
    """What stands before the bytes of a read, when they come in one piece."""
    return OFFSET_REPLY.pack(
        STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkKind.OFFSET_DATA, cookie, length + 8, offset
    )  # fmt: skip


def build_hole(cookie: int, offset: int, length: int) -> bytes:
    """The whole answer to a read of zeros."""
    return build_chunk(cookie, ChunkKind.OFFSET_HOLE, OFFSET_HOLE.pack(offset, length))


def build_error(cookie: int, error: int, words: str) -> bytes:
    """A structured error, with words for whoever reads the client's log."""
    text = words.encode("utf-8", "replace")[:STRING_MAX].decode("utf-8", "ignore").encode()
    return build_chunk(cookie, ChunkKind.ERROR, U32.pack(error) + U16.pack(len(text)) + text)


def build_status(cookie: int, context_id: int, extents: Sequence[tuple[int, int]]) -> bytes:
    """A range's states as (length, state) pairs."""
    flat = [number for extent in extents for number in extent]
    return build_chunk(cookie, ChunkKind.BLOCK_STATUS, struct.pack(f">I{len(flat)}I", context_id, *flat))


def build_chunk(cookie: int, kind: ChunkKind, payload: bytes) -> bytes:
    """The last structured reply of a request."""
    return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, kind, cookie, len(payload)) + payload
