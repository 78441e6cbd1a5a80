"""A stream of bytes to one client, in the clear or encrypted.

Answers: "how do bytes reach the client, and what came from it?" One thread receives while others send. An object of
OpenSSL may not be used by two threads at once, so TLS is kept apart from the socket: bytes in, bytes out, under a lock.
"""

import contextlib
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from socket import SHUT_RDWR, SO_SNDTIMEO, SOL_SOCKET, socket
from typing import Final, Protocol

_RECEIVE_SIZE: Final = 64 << 10
_TLS_PIECE: Final = 1 << 20
"""So much is encrypted before it is sent: what TLS keeps in memory for one reply."""
_STALL_US: Final = 50_000
"""Microseconds after which a client that takes nothing is one that is waited for."""

OnStall = Callable[[], None]


def _go_on() -> None:
    """A stall that needs nothing done."""


class Gone(Exception):
    """The client has hung up, or does not speak TLS. The words say which."""


class Channel(Protocol):
    """Bytes to and from a client."""

    def receive(self, size_max: int) -> bytes:
        """Some bytes, at least one.

        Raises:
            Gone, OSError: There are no more.
        """
        ...

    def send(self, parts: Sequence[bytes], *, on_stall: OnStall = _go_on) -> None:
        """Send all parts, together; several threads may. Raises ``OSError``, ``Gone``.

        Args:
            parts: What is sent.
            on_stall: Is called, once or more, when the client does not take them, before this thread waits for long.
        """
        ...

    def stop(self) -> None:
        """End it now: whoever receives or sends is woken."""
        ...


def hang_up(connected: socket) -> None:
    """End it now, from any thread, also when it has ended."""
    with contextlib.suppress(OSError):
        connected.shutdown(SHUT_RDWR)


class PlainChannel:
    """A socket as it is."""

    def __init__(self, connected: socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        self._send_parts = getattr(connected, "sendmsg", None)  # not on every system
        if self._send_parts is not None:  # socket(7): a send that waited so long fails, or says how much it took
            connected.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", 0, _STALL_US))

    def receive(self, size_max: int) -> bytes:
        """Some bytes, at least one."""
        received = self._socket.recv(size_max)
        if not received:
            raise Gone("the client hung up")
        return received

    def send(self, parts: Sequence[bytes], *, on_stall: OnStall = _go_on) -> None:
        """Send all parts, together."""
        if self._send_parts is None or not self._sending.acquire(timeout=_STALL_US / 1e6):
            on_stall()
            self._sending.acquire()
        try:
            self._send_all([memoryview(part) for part in parts if len(part)], on_stall)
        finally:
            self._sending.release()

    def _send_all(self, rest: list[memoryview], on_stall: OnStall) -> None:
        if self._send_parts is None:
            self._socket.sendall(b"".join(rest))
            return
        while rest:
            try:
                sent = self._send_parts(rest)
            except BlockingIOError:
                on_stall()
                continue
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]

    def stop(self) -> None:
        """End it now."""
        hang_up(self._socket)


class TlsChannel:
    """TLS over a socket; this side is the server.

    Args:
        connected: The socket, on which the client begins its handshake.
        context: With the certificate.
    """

    def __init__(self, connected: socket, context: ssl.SSLContext) -> None:
        self._socket = connected
        self._plain = PlainChannel(connected)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def shake_hands(self) -> None:
        """The handshake, before anything else.

        Raises:
            Gone, OSError: It failed.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._plain.send([self._outgoing.read()])
                self._incoming.write(self._plain.receive(_RECEIVE_SIZE))
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    self._plain.send([self._outgoing.read()])
                raise Gone(f"TLS failed: {error.reason or error}") from error
            else:
                self._plain.send([self._outgoing.read()])
                return

    def receive(self, size_max: int) -> bytes:
        """Some bytes, at least one."""
        while True:
            with self._lock:
                try:
                    received = self._tls.read(size_max)
                except ssl.SSLWantReadError:
                    received = None
                except ssl.SSLError as error:
                    raise Gone(f"TLS failed: {error.reason or error}") from error
            if received is not None:
                if not received:
                    raise Gone("the client hung up")
                return received
            raw = self._plain.receive(_RECEIVE_SIZE)
            with self._lock:
                self._incoming.write(raw)

    def send(self, parts: Sequence[bytes], *, on_stall: OnStall = _go_on) -> None:
        """Send all parts, together."""
        on_stall()  # encrypting alone takes long enough
        with self._sending:
            for part in parts:
                for start in range(0, len(part), _TLS_PIECE):
                    self._send_piece(memoryview(part)[start : start + _TLS_PIECE])

    def stop(self) -> None:
        """End it now."""
        self._plain.stop()

    def _send_piece(self, piece: memoryview) -> None:
        with self._lock:
            try:
                while len(piece):  # a memory BIO takes everything; what is left over would be a rule of TLS
                    piece = piece[self._tls.write(piece) :]
            except ssl.SSLError as error:
                raise Gone(f"TLS failed: {error.reason or error}") from error
            sealed = self._outgoing.read()
        self._plain.send([sealed])


class Inbox:
    """What came from a client and was not used yet; for one thread at a time.

    Args:
        channel: Where it comes from.
        rest: What came already.
    """

    def __init__(self, channel: Channel, rest: bytes = b"") -> None:
        self._channel = channel
        self._waiting = bytearray(rest)

    def take(self, length: int) -> bytes:
        """Exactly so many bytes. Raises ``Gone``, ``OSError``."""
        if len(self._waiting) < length:
            self._fill(length)
        with memoryview(self._waiting) as view:
            taken = bytes(view[:length])
        del self._waiting[:length]
        return taken

    def _fill(self, length: int) -> None:
        while len(self._waiting) < length:
            missing = length - len(self._waiting)
            self._waiting += self._channel.receive(max(missing, _RECEIVE_SIZE))
