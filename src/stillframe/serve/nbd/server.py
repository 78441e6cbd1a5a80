"""The server: it listens, and gives each client a thread.

Answers: "serve these disks while the block runs." Loopback unless told otherwise. At the end of the block every
connection is closed, and every thread has ended.
"""

import os
import selectors
import socket as sockets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from stillframe.events import EventSink, Finding, NoEvents, Notice
from stillframe.hanging import join
from stillframe.serve.nbd import protocol as nbd
from stillframe.serve.nbd.addresses import Address, TlsFiles, listen_on_port, listen_on_socket, load_tls
from stillframe.serve.nbd.connection import Connection, Offer
from stillframe.serve.nbd.exports import Export, ExportList
from stillframe.serve.nbd.reports import Reports

HOST: Final = "127.0.0.1"
_PAUSE_S: Final = 0.05
_SEND_BUFFER: Final = 4 << 20
"""Wanted for a socket, so that a reply fits and its thread need not wait for the client; systems give less."""
CONNECTIONS_MAX: Final = 32
"""Clients at a time; one more is hung up on."""


class NbdServer:
    """A server at work.

    Attributes:
        address: Where it listens.
        port: Its TCP port; 0 for a Unix socket.
    """

    def __init__(self, listener: sockets.socket, address: Address, offer: Offer) -> None:
        self.address: Final = address
        self.port: Final = 0 if not address.place else int(address.place.rpartition(":")[2])
        self._listener = listener
        self._offer = offer
        self._lock = threading.Lock()
        self._running: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._count = 0

    def uri(self, export_name: str | None = None) -> str:
        """The address of an export, for a client; ``None`` is the first."""
        return self.address.uri(self._offer.exports.exports[0].name if export_name is None else export_name)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every different failure that a client met, such as a damaged chunk."""
        return self._offer.reports.findings

    @property
    def connections(self) -> int:
        """How many clients have connected since the beginning."""
        return self._count

    @property
    def connected(self) -> int:
        """How many clients are connected now."""
        with self._lock:
            return len(self._running)

    def accept_until(self, waker: sockets.socket) -> None:
        """Take clients until ``waker`` can be read; then close them all and wait for their threads."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            while not any(key.fileobj is waker for key, _ in selector.select()):
                try:
                    self._take(self._listener.accept()[0])
                except OSError:  # the client has gone already, or this process has no descriptor left
                    time.sleep(_PAUSE_S)
        self._close_all()

    def _take(self, connected: sockets.socket) -> None:
        if connected.family != getattr(sockets, "AF_UNIX", None):
            connected.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            connected.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        connected.setblocking(True)
        connected.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _SEND_BUFFER)
        connection = Connection(connected, self._offer)
        thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-connection", daemon=True)
        with self._lock:
            self._count += 1
            is_full = len(self._running) >= CONNECTIONS_MAX
            if not is_full:
                self._running.add(connection)
                self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
        if is_full:
            connected.close()
            words = f"a client was sent away: {CONNECTIONS_MAX} are connected already"
            self._offer.reports.notice(Notice(code="nbd-client", message=words))
            return
        thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._running.remove(connection)

    def _close_all(self) -> None:
        with self._lock:
            running, threads = set(self._running), self._threads
        for connection in running:
            connection.stop()
        for thread in threads:
            thread.join()


@contextmanager
def nbd_server(
    exports: Sequence[Export], *, socket: str | None = None, host: str = HOST, port: int = nbd.PORT,
    tls: TlsFiles | None = None, events: EventSink | None = None,
) -> Iterator[NbdServer]:  # fmt: skip
    """Serve disks as network block devices while the block runs.

    Args:
        exports: What is served; several connections may use one at the same time.
        socket: Path of a Unix socket, for its owner alone; ``None`` listens on a port.
        host: Address to listen on. Whoever reaches it may read the disks: beyond loopback give ``tls`` with
            certificates of clients.
        port: TCP port; 0 takes any that is free.
        tls: Makes TLS mandatory.
        events: Is told what failed (``Finding``) and which clients were sent away (``Notice``), from any thread.

    Raises:
        UsageError, TargetError, MachineRefusal: There is no such address, or it is taken; TLS cannot be set up.
    """
    offer = Offer(
        exports=ExportList(exports), tls=None if tls is None else load_tls(tls), reports=Reports(events or NoEvents())
    )
    encrypted = tls is not None
    where = listen_on_port(host, port, encrypted=encrypted)
    if socket is not None:
        where = listen_on_socket(os.fspath(socket), encrypted=encrypted)
    ours, waker = sockets.socketpair()
    with ours, waker, where as (listener, address):
        listener.setblocking(False)
        server = NbdServer(listener, address, offer)
        thread = threading.Thread(target=server.accept_until, args=(waker,), name="nbd-listener", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            ours.send(b"!")
            join(thread)
