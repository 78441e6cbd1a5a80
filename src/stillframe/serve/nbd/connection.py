"""One client: its socket, its threads, from the first byte to the last.

Answers: "who reads the next request, and who answers it?" One worker has the lead: it takes a request off the stream
and answers it. While answers are quick it goes on alone, because threads that wait for one another cost more than they
gain. Before an answer that may be slow, or when the client does not take a reply, it passes the lead on. So slow
requests of one client run side by side without a queue, replies go out in the order in which they are ready, and a
client that does not read its replies stops only itself.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from typing import Final

from stillframe.events import Notice
from stillframe.serve.nbd import protocol as nbd
from stillframe.serve.nbd.answers import Answers, payload_size
from stillframe.serve.nbd.channel import Channel, Gone, Inbox, PlainChannel, TlsChannel, hang_up
from stillframe.serve.nbd.exports import ExportList
from stillframe.serve.nbd.negotiation import Leave, Negotiation, Send, Serve, StartTls
from stillframe.serve.nbd.protocol import Command, ProtocolFault, Request
from stillframe.serve.nbd.reports import Reports

NEGOTIATION_S: Final = 30.0
"""So long a client may take until it sends its first request."""
WORKERS_MAX: Final = 8
"""Requests of one client that are answered at the same time."""
BYTES_MAX: Final = 64 << 20
"""Bytes of reads and writes of one client that are in memory at the same time."""
QUICK_S: Final = 0.003
"""While an answer takes no longer than this, one worker answers all: handing over takes about as long."""
_RECEIVE_SIZE: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What every client of a server is offered."""

    exports: ExportList
    tls: ssl.SSLContext | None
    reports: Reports


class Connection:
    """A client that has connected.

    Args:
        connected: Its socket; closed at the end of ``run``.
        offer: What it may ask for.
    """

    def __init__(self, connected: socket, offer: Offer) -> None:
        self._socket = connected
        self._offer = offer

    def run(self) -> None:
        """Serve the client until it leaves. Never raises because of what a client does."""
        try:
            with contextlib.closing(self._socket):
                channel, serve = self._negotiate()
                if serve is not None:
                    self._socket.settimeout(None)
                    Transmission(channel, serve, self._offer.reports).run()
        except TimeoutError:
            self._tell("nbd-client", f"a client did not agree on an export within {NEGOTIATION_S:g} seconds")
        except ProtocolFault as fault:
            self._tell("nbd-client", f"a client was sent away: {fault}")
        except (Gone, OSError):
            return  # clients may leave at any time

    def stop(self) -> None:
        """End it now, from another thread."""
        hang_up(self._socket)

    def _negotiate(self) -> tuple[Channel, Serve | None]:
        deadline = time.monotonic() + NEGOTIATION_S
        channel: Channel = PlainChannel(self._socket)
        negotiation = Negotiation(self._offer.exports, tls=self._offer.tls is not None)
        channel.send([negotiation.greeting()])
        while True:
            self._set_limit(deadline)
            for step in negotiation.receive(channel.receive(_RECEIVE_SIZE)):
                match step:
                    case Send():
                        channel.send([step.raw])
                    case StartTls():
                        channel = self._start_tls()
                    case Serve():
                        return channel, step
                    case Leave():
                        return channel, None

    def _set_limit(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _start_tls(self) -> Channel:
        context = self._offer.tls
        if context is None:
            raise ProtocolFault("TLS was asked for, and there is no certificate")
        channel = TlsChannel(self._socket, context)
        try:
            channel.shake_hands()
        except Gone as gone:
            raise ProtocolFault(str(gone)) from gone
        return channel

    def _tell(self, code: str, words: str) -> None:
        self._offer.reports.notice(Notice(code=code, message=words))


class Transmission:
    """The requests of one client.

    Args:
        channel: The stream.
        serve: What was agreed on.
        reports: Where failures are told.
    """

    def __init__(self, channel: Channel, serve: Serve, reports: Reports) -> None:
        self._channel = channel
        self._inbox = Inbox(channel, serve.rest)
        self._answers = Answers(serve, reports.finding)
        self._reading = threading.Lock()
        self._room = threading.Condition()
        self._bytes = 0
        self._pace = 0.0
        self._ended = False
        self._fault: ProtocolFault | None = None
        self._free = 0
        self._workers: list[threading.Thread] = []

    def run(self) -> None:
        """Answer until the client leaves; every worker has ended on return.

        Raises:
            ProtocolFault: The client did not speak the protocol.
        """
        self._work()
        for worker in self._workers:  # only whoever reads hires, and nobody reads any more
            worker.join()
        if self._fault is not None:
            raise self._fault

    def _work(self) -> None:
        lead = _Lead(self._reading, self._see_that_one_is_free)
        try:
            while (found := self._take_lead(lead)) is not None:
                if self._pace > QUICK_S:
                    lead.pass_on()
                self._answer(*found, lead)
        finally:
            lead.give_up()

    def _take_lead(self, lead: "_Lead") -> tuple[Request, bytes] | None:
        """Wait for the lead, unless it was kept, and read; ``None`` at the end."""
        if not lead.is_held:
            with self._room:
                self._free += 1
            lead.take()
            with self._room:
                self._free -= 1
        return self._next()

    def _answer(self, request: Request, payload: bytes, lead: "_Lead") -> None:
        began = time.monotonic()
        try:
            reply = self._answers.answer(request, payload)
            self._pace += (time.monotonic() - began - self._pace) / 8
            self._channel.send(reply, on_stall=lead.pass_on)
        except (OSError, Gone):
            self._channel.stop()  # the reader is woken, and ends it
        finally:
            with self._room:
                self._bytes -= _weight(request)
                self._room.notify_all()

    def _next(self) -> tuple[Request, bytes] | None:
        """The next request and its payload; ``None`` at the end. Its caller is the only reader."""
        if self._ended:
            return None
        try:
            request = nbd.parse_request(self._inbox.take(nbd.REQUEST.size))
            size = payload_size(request)
            if request.command != Command.DISC:
                self._make_room(_weight(request))
                return request, self._inbox.take(size)
        except ProtocolFault as fault:
            self._fault = fault
        except (OSError, Gone):
            pass
        self._ended = True
        return None

    def _make_room(self, weight: int) -> None:
        """Wait until the request fits into memory."""
        with self._room:
            while self._bytes and self._bytes + weight > BYTES_MAX:
                self._room.wait()
            self._bytes += weight

    def _see_that_one_is_free(self) -> None:
        """Hire a worker when nobody waits for the lead. Its caller has it."""
        with self._room:
            is_short = not self._free and len(self._workers) + 1 < WORKERS_MAX
        if is_short:
            worker = threading.Thread(target=self._work, name="nbd-worker", daemon=True)
            with contextlib.suppress(RuntimeError):  # the system has no more threads: those that are there go on
                worker.start()
                self._workers.append(worker)


class _Lead:
    """The right to read the next request, which a worker keeps as long as it answers quickly.

    Args:
        lock: Held by whoever has it.
        before_passing: Is called before another may take it.
    """

    def __init__(self, lock: threading.Lock, before_passing: Callable[[], None]) -> None:
        self._lock = lock
        self._before_passing = before_passing
        self.is_held = False

    def take(self) -> None:
        """Wait for it."""
        self._lock.acquire()
        self.is_held = True

    def pass_on(self) -> None:
        """Let another worker read, who is found; nothing when that was done before."""
        if self.is_held:
            self._before_passing()
            self.give_up()

    def give_up(self) -> None:
        """Let go of it, whoever takes it then."""
        if self.is_held:
            self.is_held = False
            self._lock.release()


def _weight(request: Request) -> int:
    """Bytes that a request takes in memory; what is too large is refused and takes none."""
    is_large = request.command in (Command.READ, Command.WRITE) and request.length <= nbd.LENGTH_MAX
    return request.length if is_large else 0
