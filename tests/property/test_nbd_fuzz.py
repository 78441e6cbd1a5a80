"""Rubbish from a client: it never crashes or hangs the server, and never gets an answer from outside the disk."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.events import Finding, RecordedEvents
from stillframe.serve.nbd import Export, nbd_server
from stillframe.serve.nbd import protocol as nbd
from stillframe.serve.nbd.answers import Answers, payload_size
from stillframe.serve.nbd.exports import ExportList
from stillframe.serve.nbd.negotiation import Leave, Negotiation, Send, Serve, StartTls
from stillframe.serve.nbd.protocol import ProtocolFault, Request

SIZE = 300_000
CONTENT = bytes(number % 251 for number in range(SIZE))
FLAGS = struct.pack(">I", 3)
NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, SIZE + 2), st.sampled_from([SIZE - 1, SIZE, 2**63, 2**64 - 1])
)
NAMES = st.sampled_from([b"", b"disk", b"other", b"\xff" * 5000])


def exports(*, writable: bool = False) -> ExportList:
    disk = MemoryDisk(CONTENT)
    return ExportList([Export(name="disk", disk=disk, writer=disk if writable else None)])


def option(code: int, payload: bytes, length: int | None = None) -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", code, len(payload) if length is None else length) + payload


def string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def fuzz_nbd_negotiation(data: bytes) -> None:
    """Any bytes of a client are answered, or are a fault of the protocol."""
    for tls in (False, True):
        with contextlib.suppress(ProtocolFault):
            for step in Negotiation(exports(), tls=tls).receive(FLAGS + data):
                assert not isinstance(step, Serve) or step.export.disk.size == SIZE


def parse_replies(raw: bytes) -> list[tuple[int, int]]:
    """Option and kind of each reply; fails where the bytes are not whole replies."""
    found = []
    while raw:
        magic, code, kind, length = struct.unpack_from(">QIII", raw)
        assert magic == 0x3E889045565A9
        assert len(raw) >= 20 + length
        found.append((code, kind))
        raw = raw[20 + length :]
    return found


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda name, count, rest: string(name) + struct.pack(">H", count) + rest, NAMES,
              st.integers(0, 4), st.binary(max_size=8)),
    st.builds(lambda name, query: string(name) + struct.pack(">I", 1) + string(query), NAMES,
              st.sampled_from([b"base:allocation", b"base:", b"other:x"])),
    NAMES,
)  # fmt: skip
OPTIONS = st.builds(option, st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1)), PAYLOADS)
LYING = st.builds(option, st.integers(0, 12), st.binary(max_size=30), st.integers(0, 2**32 - 1))


@given(st.lists(st.one_of(OPTIONS, OPTIONS, LYING, st.binary(max_size=50)), max_size=12), st.booleans(), st.data())
@settings(max_examples=400, deadline=None)
def test_a_negotiation_answers_or_ends_whatever_comes_and_however_it_is_cut(
    parts: list[bytes], tls: bool, data: st.DataObject
) -> None:
    raw = FLAGS + b"".join(parts)
    negotiation, sent, ended, by_name = Negotiation(exports(), tls=tls), b"", False, False
    while raw and not ended:
        cut = data.draw(st.integers(1, len(raw)))
        piece, raw = raw[:cut], raw[cut:]
        try:
            for step in negotiation.receive(piece):
                assert not ended
                match step:
                    case Send():
                        sent += step.raw
                        by_name = len(step.raw) == 10  # the answer to a name alone has no header
                    case Serve() | Leave():
                        ended = True
                        assert isinstance(step, Leave) or step.export.disk.size == SIZE
                    case StartTls():
                        assert tls
        except ProtocolFault:
            ended = True
    parse_replies(sent[:-10] if by_name else sent)


@pytest.mark.parametrize("length", [65 << 10, 1 << 20])
def test_an_option_that_is_too_long_is_refused_and_the_next_one_is_answered(length: int) -> None:
    negotiation = Negotiation(exports(), tls=False)
    raw = FLAGS + option(7, bytes(length)) + option(3, b"")
    sent = b"".join(step.raw for step in negotiation.receive(raw) if isinstance(step, Send))
    assert parse_replies(sent) == [(7, 0x80000009), (3, 2), (3, 1)]


def test_what_is_sent_in_the_clear_after_asking_for_tls_is_a_fault() -> None:
    negotiation = Negotiation(exports(), tls=True)
    with pytest.raises(ProtocolFault, match="in the clear"):
        list(negotiation.receive(FLAGS + option(5, b"") + option(3, b"")))


REQUESTS = st.builds(
    Request, st.one_of(st.integers(0, 31), st.integers(0, 65535)), st.one_of(st.integers(0, 8), st.integers(0, 65535)),
    st.integers(0, 2**64 - 1), NUMBERS, st.one_of(st.integers(0, SIZE + 2), st.integers(0, 2**32 - 1)),
)  # fmt: skip


@given(st.lists(REQUESTS, max_size=20), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_request_is_answered_from_inside_the_disk_or_refused(
    requests: list[Request], structured: bool, writable: bool
) -> None:
    export = exports(writable=writable).exports[0]
    findings: list[Finding] = []
    serve = Serve(export=export, structured=structured, context_id=1 if structured else None, rest=b"")
    answers = Answers(serve, findings.append)
    model = bytearray(CONTENT)
    for request in requests:
        try:
            size = payload_size(request)
        except ProtocolFault:
            assert request.length > 32 << 20
            continue
        payload = b"\x5a" * size
        before = bytes(model)
        raw = b"".join(answers.answer(request, payload))
        inside = request.offset + request.length <= SIZE
        model = export.disk.contents if isinstance(export.disk, MemoryDisk) else model
        error, contents = _parse(raw, request, structured=structured)
        if not inside and request.command != nbd.Command.FLUSH:
            assert error in (1, 22, 28)
            assert model == before
        elif error:
            assert error in (1, 22)
            assert model == before
        elif request.command == nbd.Command.READ:
            assert contents == before[request.offset : request.offset + request.length]
        elif request.command == nbd.Command.WRITE:
            assert model == before[: request.offset] + payload + before[request.offset + size :]
        if not writable:
            assert model == CONTENT
    assert findings == []


def _parse(raw: bytes, request: Request, *, structured: bool) -> tuple[int, bytes]:
    """The error of a reply, and the bytes it brings."""
    (magic,) = struct.unpack_from(">I", raw)
    if magic == 0x67446698:
        error, cookie = struct.unpack_from(">IQ", raw, 4)
        assert cookie == request.cookie
        assert not structured or request.command != nbd.Command.READ
        return error, raw[16:]
    assert structured
    assert magic == 0x668E33EF
    flags, kind, cookie, length = struct.unpack_from(">HHQI", raw, 4)
    assert (flags, cookie, length) == (1, request.cookie, len(raw) - 20)
    if kind == 0x8001:
        error, words = struct.unpack_from(">IH", raw, 20)
        assert length == 6 + words
        return error, b""
    if kind == 1:
        assert struct.unpack_from(">Q", raw, 20)[0] == request.offset
        return 0, raw[28:]
    if kind == 2:
        return 0, bytes(struct.unpack_from(">QI", raw, 20)[1])
    if kind == 5:
        extents = list(struct.iter_unpack(">II", raw[24:]))
        assert extents
        assert sum(size for size, _ in extents) <= request.length
    return 0, b""


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        yield client


def go(client: socket.socket) -> None:
    """Agree on the only export, in the old way."""
    client.recv(18, socket.MSG_WAITALL)
    client.sendall(FLAGS + option(1, b"disk"))
    assert len(client.recv(10, socket.MSG_WAITALL)) == 10


def request(command: int, offset: int, length: int, *, cookie: int = 7) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length)


@given(st.lists(st.one_of(st.binary(max_size=200), OPTIONS, st.just(FLAGS)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_rubbish_on_the_wire_ends_that_client_and_nobody_else(parts: list[bytes]) -> None:
    with nbd_server([Export(name="disk", disk=MemoryDisk(CONTENT))], port=0) as server:
        with connected(server.port) as client:
            client.sendall(b"".join(parts))
        with connected(server.port) as good:
            go(good)
            good.sendall(request(0, 100, 50))
            assert good.recv(66, socket.MSG_WAITALL)[16:] == CONTENT[100:150]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbd-")]


def test_clients_that_never_read_vanish_or_send_rubbish_do_not_hold_the_server_up() -> None:
    events = RecordedEvents()
    disk = MemoryDisk(bytes(40 << 20))
    with nbd_server([Export(name="disk", disk=disk, writer=disk)], port=0, events=events) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(4)]
        silent, deaf, rude, half = clients
        for client in (deaf, rude, half):
            go(client)
        deaf.sendall(b"".join(request(0, 0, 32 << 20, cookie=n) for n in range(50)))
        rude.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        half.sendall(request(1, 0, 5 << 20) + b"x" * 1000)
        with connected(server.port) as good:
            go(good)
            for number in range(100):
                good.sendall(request(0, number, 10, cookie=number))
                assert len(good.recv(26, socket.MSG_WAITALL)) == 26
        assert rude.recv(1) == b""
        silent.close()
        half.close()
    deaf.close()
    rude.close()
    assert disk.contents == bytes(40 << 20)
    assert any("a request begins with" in getattr(event, "message", "") for event in events.events)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbd-")]


def test_a_client_may_send_much_before_it_reads_a_large_reply() -> None:
    size = 16 << 20
    disk = MemoryDisk(bytes(size))
    with nbd_server([Export(name="disk", disk=disk, writer=disk)], port=0) as server, connected(server.port) as client:
        go(client)
        client.sendall(request(0, 0, size, cookie=1))
        time.sleep(0.2)  # both directions are full when the next one is sent
        client.sendall(request(1, 0, size, cookie=2) + b"x" * size)
        with client.makefile("rb") as replies:
            assert len(replies.read(2 * 16 + size)) == 2 * 16 + size
    assert disk.contents == b"x" * size


def test_slow_requests_of_one_client_run_side_by_side() -> None:
    together = threading.Barrier(4, timeout=20)

    class SlowDisk(MemoryDisk):
        def read_at(self, offset: int, length: int) -> bytes:
            if offset < 10:
                time.sleep(0.05)
            else:
                together.wait()
            return super().read_at(offset, length)

    with (
        nbd_server([Export(name="disk", disk=SlowDisk(CONTENT))], port=0) as server,
        connected(server.port) as client,
    ):
        go(client)
        for number in (0, 10, 11, 12, 13):
            client.sendall(request(0, number, 1, cookie=number))
        replies = [client.recv(17, socket.MSG_WAITALL) for _ in range(5)]
    assert {(reply[15], reply[16:]) for reply in replies} == {(n, CONTENT[n : n + 1]) for n in (0, 10, 11, 12, 13)}


def test_more_clients_than_allowed_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.serve.nbd.server.CONNECTIONS_MAX", 2)
    with nbd_server([Export(name="disk", disk=MemoryDisk(CONTENT))], port=0) as server:
        with connected(server.port) as one, connected(server.port) as two:
            go(one)
            go(two)
            with connected(server.port) as three:
                assert three.recv(18, socket.MSG_WAITALL) == b""
        assert server.connections == 3


def test_a_client_that_agrees_on_nothing_is_sent_away_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillframe.serve.nbd.connection.NEGOTIATION_S", 0.2)
    events = RecordedEvents()
    with (
        nbd_server([Export(name="disk", disk=MemoryDisk(CONTENT))], port=0, events=events) as server,
        connected(server.port) as client,
    ):
        assert len(client.recv(18, socket.MSG_WAITALL)) == 18
        assert client.recv(1) == b""
    assert "did not agree" in str(events.events)
