"""Where a server listens: a Unix socket or a TCP port.

Answers: "may this address be taken, and how does a client write it?" A Unix socket is for its owner alone. One that was
left behind is replaced when nobody answers there; anything else in its place is left alone.
"""

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote

from stillframe.errors import MachineRefusal, TargetError, UsageError

_BACKLOG: Final = 64
_ANSWER_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Files for TLS, all PEM.

    Attributes:
        certificate: The server's certificate, with those it depends on.
        key: Its key, without a passphrase.
        clients: Certificates that a client's must be signed by; empty lets every client in.
    """

    certificate: str
    key: str
    clients: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address that is listened on, as a client writes it."""

    scheme: str
    place: str
    query: str = ""

    def uri(self, name: str) -> str:
        """The address of an export. Source: "The NBD URI format", ``doc/uri.md`` of the same project."""
        return f"{self.scheme}://{self.place}/{quote(name, safe='')}{self.query}"


def load_tls(files: TlsFiles) -> ssl.SSLContext:
    """What a server needs for TLS.

    Raises:
        UsageError: A file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
        if files.clients:
            context.load_verify_locations(files.clients)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # SSLError is an OSError
        names = ", ".join(name for name in (files.certificate, files.key, files.clients) if name)
        raise UsageError(
            f"TLS cannot be set up with {names}: {error}",
            hint="Give a certificate and its own key, both PEM, the key without a passphrase.",
        ) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


@contextmanager
def listen_on_socket(path: str, *, encrypted: bool) -> Iterator[tuple[socket.socket, Address]]:
    """Listen on a Unix socket that only its owner may use; it is removed at the end.

    Raises:
        UsageError: The path is too long for a socket, or its folder is not there.
        TargetError: Something else is there, or somebody answers there.
        MachineRefusal: It cannot be made.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise MachineRefusal("this system has no Unix sockets", hint="Use a port: '--port 0'.")
    _make_way(path, family)
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(path)
            os.chmod(path, 0o600)  # nobody can connect before 'listen'
        except OSError as error:
            raise _not_made(path, error) from error
        made = os.lstat(path)
        try:
            listener.listen(_BACKLOG)
            scheme = "nbds+unix" if encrypted else "nbd+unix"
            yield listener, Address(scheme=scheme, place="", query=f"?socket={quote(os.path.abspath(path), safe='/')}")
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(made, os.lstat(path)):
                    os.unlink(path)


def _make_way(path: str, family: int) -> None:
    """Remove a socket that nobody answers at."""
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise TargetError(f"{path} is there already and is no socket", hint="Choose another path for the socket.")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise TargetError(
                f"{path} is a socket that cannot be asked: {error.strerror or error}", hint="Choose another path."
            ) from error
    raise TargetError(f"another program answers at {path}", hint="Stop it first, or choose another path.")


def _not_made(path: str, error: OSError) -> UsageError | MachineRefusal:
    if error.errno is None:  # Python's own check of the length
        return UsageError(
            f"{path} is too long for a socket: about 100 bytes are allowed", hint="Use a shorter path, such as in /run."
        )
    if error.errno == errno.ENOENT:
        return UsageError(f"the folder of {path} is not there", hint="Make it first.")
    return MachineRefusal(
        f"no socket can be made at {path}: {error.strerror}", hint="See that this user may write to its folder."
    )


@contextmanager
def listen_on_port(host: str, port: int, *, encrypted: bool) -> Iterator[tuple[socket.socket, Address]]:
    """Listen on a TCP port; 0 takes any that is free.

    Raises:
        UsageError: The host is not one of this machine.
        MachineRefusal: The port is taken or not allowed.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(
            f"{host}, port {port} is no address to listen on: {error}",
            hint="127.0.0.1 is this machine, 0.0.0.0 all of it.",
        ) from error
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise MachineRefusal(
                f"{host}, port {port} cannot be listened on: {error.strerror}",
                hint="Choose another port, or 0 for any that is free.",
            ) from error
        taken = cast("int", listener.getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        yield listener, Address(scheme="nbds" if encrypted else "nbd", place=f"{shown}:{taken}")
