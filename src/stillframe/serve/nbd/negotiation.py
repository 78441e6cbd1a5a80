"""What client and server agree on before the first request: bytes in, events out.

Answers: "which export does this client get, and how shall it be answered?" No sockets: whoever has one sends what
``Send`` holds, and does what the other events say. Fixed newstyle only; what is not known is refused politely.

Source: "The NBD protocol", ``doc/proto.md``, sections "Fixed newstyle negotiation" and "Option types".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stillframe.serve.nbd import protocol as nbd
from stillframe.serve.nbd.exports import BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, Export, ExportList
from stillframe.serve.nbd.protocol import FactKind, Option, OptionReply, ProtocolFault, build_option_reply

OPTION_SIZE_MAX: Final = 64 << 10
"""A longer option is refused; the protocol needs less than half of it."""
OPTIONS_MAX: Final = 1000
"""So many options of one client are answered."""
_CLIENT_FLAGS: Final = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
_CONTEXT_ID: Final = 1
_ZEROES: Final = bytes(124)


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the client."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """From here on everything is encrypted: do the handshake of TLS now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """The transmission begins.

    Attributes:
        export: What the client gets.
        structured: Whether it understands structured replies.
        context_id: Under which number it wants ``base:allocation``; ``None`` when it did not ask.
        rest: Bytes that came already and belong to requests.
    """

    export: Export
    structured: bool
    context_id: int | None
    rest: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """The client is done: hang up."""


Step = Send | StartTls | Serve | Leave


class Negotiation:
    """The state of one client's negotiation.

    Args:
        exports: What there is.
        tls: Whether every client has to encrypt first.
    """

    def __init__(self, exports: ExportList, *, tls: bool) -> None:
        self._exports = exports
        self._tls_missing = tls
        self._has_tls = tls
        self._buffer = bytearray()
        self._skip = 0
        self._greeted = False
        self._count = 0
        self._no_zeroes = False
        self._structured = False
        self._context: bytes | None = None

    def greeting(self) -> bytes:
        """What the server says first."""
        return nbd.SERVER_MAGIC + nbd.OPTION_MAGIC + nbd.U16.pack(_CLIENT_FLAGS)

    def receive(self, raw: bytes) -> Iterator[Step]:
        """Take bytes of the client; what is to be done, in order. After ``Serve`` or ``Leave`` it has ended.

        Raises:
            ProtocolFault: The client does not speak the protocol.
        """
        self._buffer += raw
        if not self._greeted and len(self._buffer) >= nbd.U32.size:
            self._greet(nbd.U32.unpack(self._take(nbd.U32.size))[0])
        while self._greeted:
            skipped = min(self._skip, len(self._buffer))
            self._take(skipped)
            self._skip -= skipped
            option = None if self._skip else self._next_option()
            if option is None:
                return
            for step in self._answer(*option):
                yield step
                if isinstance(step, Serve | Leave):
                    return

    def _greet(self, flags: int) -> None:
        if not flags & nbd.FLAG_FIXED_NEWSTYLE or flags & ~_CLIENT_FLAGS:
            raise ProtocolFault(f"the client's flags are {flags:#x}: it does not speak the fixed newstyle")
        self._greeted = True
        self._no_zeroes = bool(flags & nbd.FLAG_NO_ZEROES)

    def _next_option(self) -> tuple[int, bytes | None] | None:
        """The next option and its data, ``None`` in place of data that are too long; ``None`` until all is there."""
        if len(self._buffer) < nbd.OPTION_HEADER.size:
            return None
        magic, option, length = nbd.OPTION_HEADER.unpack_from(self._buffer)
        if magic != nbd.OPTION_MAGIC:
            raise ProtocolFault(f"an option begins with {magic.hex()}, not {nbd.OPTION_MAGIC.hex()}")
        if length > OPTION_SIZE_MAX:
            self._take(nbd.OPTION_HEADER.size)
            self._skip = length
            return option, None
        if len(self._buffer) < nbd.OPTION_HEADER.size + length:
            return None
        self._take(nbd.OPTION_HEADER.size)
        return option, self._take(length)

    def _answer(self, option: int, payload: bytes | None) -> Iterator[Step]:
        self._count += 1
        if self._count > OPTIONS_MAX:
            raise ProtocolFault(f"the client sent more than {OPTIONS_MAX} options")
        if option == Option.EXPORT_NAME:
            yield from self._export_name(payload)
        elif option == Option.ABORT:
            yield _reply(option, OptionReply.ACK)
            yield Leave()
        elif payload is None:
            yield _reply(option, OptionReply.ERR_TOO_BIG, "this option is too long")
        elif self._tls_missing and option != Option.STARTTLS:
            yield _reply(option, OptionReply.ERR_TLS_REQD, "this server wants TLS first")
        elif option == Option.STARTTLS:
            yield from self._start_tls(payload)
        elif option == Option.LIST:
            yield from self._list(payload)
        elif option in (Option.INFO, Option.GO):
            yield from self._info_or_go(option, payload)
        elif option == Option.STRUCTURED_REPLY:
            yield self._structured_reply(payload)
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            yield from self._meta_context(option, payload)
        else:
            yield _reply(option, OptionReply.ERR_UNSUP, f"option {option} is not known here")

    def _export_name(self, name: bytes | None) -> Iterator[Step]:
        """The old way to begin: it knows no refusal but hanging up."""
        export = None if self._tls_missing or name is None else self._exports.find(name)
        if export is None:
            why = "it did not start TLS" if self._tls_missing else f"there is no export {(name or b'')[:80]!r}"
            raise ProtocolFault(f"the client asked for an export by its name alone, and {why}")
        facts = nbd.EXPORT_FACTS.pack(export.shown.size, export.flags(structured=self._structured))
        yield Send(facts if self._no_zeroes else facts + _ZEROES)
        yield self._serve(export, name or b"")

    def _start_tls(self, payload: bytes) -> Iterator[Step]:
        if payload:
            yield _reply(Option.STARTTLS, OptionReply.ERR_INVALID, "this option has no contents")
        elif not self._has_tls:
            yield _reply(Option.STARTTLS, OptionReply.ERR_UNSUP, "this server has no certificate")
        elif not self._tls_missing:
            yield _reply(Option.STARTTLS, OptionReply.ERR_INVALID, "TLS is in use already")
        else:
            if self._buffer:
                raise ProtocolFault("the client went on in the clear after it had asked for TLS")
            self._tls_missing = False
            self._structured, self._context = False, None
            yield _reply(Option.STARTTLS, OptionReply.ACK)
            yield StartTls()

    def _list(self, payload: bytes) -> Iterator[Step]:
        if payload:
            yield _reply(Option.LIST, OptionReply.ERR_INVALID, "this option has no contents")
            return
        for export in self._exports.exports:
            name = _encoded(export.name)
            yield Send(
                build_option_reply(
                    Option.LIST, OptionReply.SERVER, nbd.U32.pack(len(name)) + name + _encoded(export.description)
                )
            )
        yield _reply(Option.LIST, OptionReply.ACK)

    def _info_or_go(self, option: int, payload: bytes) -> Iterator[Step]:
        parsed = _parse_info(payload)
        if parsed is None:
            yield _reply(option, OptionReply.ERR_INVALID, "the lengths in this option do not fit")
            return
        name, wanted = parsed
        export = self._exports.find(name)
        if export is None:
            yield _reply(option, OptionReply.ERR_UNKNOWN, "there is no such export")
            return
        facts = nbd.EXPORT_FACTS.pack(export.shown.size, export.flags(structured=self._structured))
        yield _info(option, FactKind.EXPORT, facts)
        yield _info(option, FactKind.BLOCK_SIZE, _block_sizes())
        if FactKind.NAME in wanted:
            yield _info(option, FactKind.NAME, _encoded(export.name))
        if FactKind.DESCRIPTION in wanted and export.description:
            yield _info(option, FactKind.DESCRIPTION, _encoded(export.description))
        yield _reply(option, OptionReply.ACK)
        if option == Option.GO:
            yield self._serve(export, name)

    def _structured_reply(self, payload: bytes) -> Step:
        if payload:
            return _reply(Option.STRUCTURED_REPLY, OptionReply.ERR_INVALID, "this option has no contents")
        self._structured = True
        return _reply(Option.STRUCTURED_REPLY, OptionReply.ACK)

    def _meta_context(self, option: int, payload: bytes) -> Iterator[Step]:
        is_setting = option == Option.SET_META_CONTEXT
        if is_setting:
            self._context = None
        if not self._structured:
            yield _reply(option, OptionReply.ERR_INVALID, "structured replies have to be agreed on first")
            return
        parsed = _parse_contexts(payload)
        if parsed is None:
            yield _reply(option, OptionReply.ERR_INVALID, "the lengths in this option do not fit")
            return
        name, queries = parsed
        if self._exports.find(name) is None:
            yield _reply(option, OptionReply.ERR_UNKNOWN, "there is no such export")
            return
        wanted = nbd.CONTEXT_ALLOCATION in queries
        if wanted or (not is_setting and (not queries or b"base:" in queries)):
            context_id = nbd.U32.pack(_CONTEXT_ID if is_setting else 0)
            yield Send(build_option_reply(option, OptionReply.META_CONTEXT, context_id + nbd.CONTEXT_ALLOCATION))
        if is_setting and wanted:
            self._context = name
        yield _reply(option, OptionReply.ACK)

    def _serve(self, export: Export, name: bytes) -> Serve:
        has_context = self._structured and self._context == name
        rest = self._take(len(self._buffer))
        return Serve(
            export=export, structured=self._structured, context_id=_CONTEXT_ID if has_context else None, rest=rest
        )

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def _reply(option: int, kind: OptionReply, words: str = "") -> Send:
    return Send(build_option_reply(option, kind, words.encode()))


def _info(option: int, kind: FactKind, payload: bytes) -> Send:
    return Send(build_option_reply(option, OptionReply.INFO, nbd.U16.pack(kind) + payload))


def _block_sizes() -> bytes:
    return b"".join(nbd.U32.pack(size) for size in (BLOCK_SIZE_MIN, BLOCK_SIZE_PREFERRED, nbd.LENGTH_MAX))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _parse_info(payload: bytes) -> tuple[bytes, set[int]] | None:
    """Name and wanted kinds of ``INFO`` and ``GO``; ``None`` when the lengths do not fit."""
    name = _string(payload, 0)
    if name is None or len(payload) < 4 + len(name) + 2:
        return None
    at = 4 + len(name)
    (count,) = nbd.U16.unpack_from(payload, at)
    if len(payload) != at + 2 + 2 * count:
        return None
    return name, {nbd.U16.unpack_from(payload, at + 2 + 2 * number)[0] for number in range(count)}


def _parse_contexts(payload: bytes) -> tuple[bytes, list[bytes]] | None:
    """Name and queries of the two context options; ``None`` when the lengths do not fit."""
    name = _string(payload, 0)
    if name is None or len(payload) < 8 + len(name):
        return None
    at = 4 + len(name)
    (count,) = nbd.U32.unpack_from(payload, at)
    at += 4
    queries: list[bytes] = []
    while at < len(payload) and len(queries) < count:
        query = _string(payload, at)
        if query is None:
            return None
        queries.append(query)
        at += 4 + len(query)
    return (name, queries) if at == len(payload) and len(queries) == count else None


def _string(payload: bytes, at: int) -> bytes | None:
    """A length in 32 bits, and so many bytes; ``None`` when they are not there, or too many."""
    if len(payload) < at + 4:
        return None
    (length,) = nbd.U32.unpack_from(payload, at)
    if length > nbd.STRING_MAX or len(payload) < at + 4 + length:
        return None
    return payload[at + 4 : at + 4 + length]
