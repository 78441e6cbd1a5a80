"""Why a share of another computer cannot be opened, in a sentence.

Answers: "is there such a computer, does it serve that, and what did it say no to?" The computer is asked for by a plain
connection first, because the programs that mount say little of that, and each something else. What they say of a name,
a password or a folder is read from their words.

Source: mount.cifs(8) and its "mount error(NUMBER)", Linux errno(3); mount.nfs(8); ssh(1), "-E"; sshfs(1).
"""

import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from stillframe.errors import LoginRefused, MachineRefusal
from stillframe.host.network import has_cable

CONNECT_S: Final = 10.0
_SERVED: Final = {"cifs": ("SMB", 445), "nfs": ("NFS", 2049), "sshfs": ("SSH", 22)}
_ERROR_NUMBER: Final = re.compile(rb"mount error\((\d+)\)")
_LOGIN_ERRORS: Final = (1, 13, 126, 127, 128, 129)
"""EPERM, EACCES, and those of accounts and passwords that are no longer valid: ENOKEY, EKEYEXPIRED, ..."""
_DOMAIN_HINT: Final = "Capital and small letters count. A user of a Windows domain is written DOMAIN\\NAME."
_FOLDER_HINT: Final = (
    "A NAS puts a volume before it, such as /volume1/backup: its page about NFS shows the whole path. 'showmount -e "
    "SERVER' in the shell lists them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShare:
    r"""A share of another computer.

    Attributes:
        kind: ``cifs``, ``nfs`` or ``sshfs``.
        source: As the program wants it: ``//host/share``, ``host:/path``.
        user: Who logs in; empty for a guest. ``DOMAIN\NAME`` for a user of a Windows domain.
        port: Where the other side listens; 0 for the usual one.
    """

    kind: str
    source: str
    user: str = ""
    port: int = 0

    @property
    def server(self) -> str:
        """The other computer, as it was written."""
        if self.kind == "cifs":
            return self.source[2:].partition("/")[0]
        return self.source.rpartition(":/")[0].strip("[]")

    @property
    def folder(self) -> str:
        """What of it: the name of the share, or a path."""
        return self.source[2:].partition("/")[2] if self.kind == "cifs" else f"/{self.source.rpartition(':/')[2]}"


def require_server(
    share: NetworkShare, *, timeout_s: float = CONNECT_S, is_plugged: Callable[[], bool] = has_cable
) -> NetworkShare:
    """Ask whether the other computer is there and serves what is wanted.

    Args:
        share: On it.
        timeout_s: How long it may take to answer.
        is_plugged: Whether a cable is in this computer, or its radio is connected.

    Returns:
        The share, by the name under which the computer was found: ``nas`` may be ``nas.local``.

    Raises:
        MachineRefusal: It is not known, does not answer, or serves no such thing.
    """
    name, usual = _SERVED[share.kind]
    port = share.port or usual
    server = _known_name(share.server, port)
    if server is None:
        raise MachineRefusal(
            f"no computer called {share.server} is known in this network",
            hint=_cable_hint(is_plugged)
            or "Is the name spelt right, and the other computer on? Its address in numbers, such as 192.168.1.10, "
            "does as well.",
        )
    try:
        socket.create_connection((server, port), timeout=timeout_s).close()
    except ConnectionRefusedError as error:
        raise MachineRefusal(
            f"{server} is there, but serves no {name} at port {port}",
            hint=f"Switch {name} on there. Another port is written SERVER:PORT.",
        ) from error
    except TimeoutError as error:
        raise MachineRefusal(
            f"{server} did not answer within {timeout_s:g} seconds",
            hint=_cable_hint(is_plugged) or "Is it switched on, and in the same network as this computer?",
        ) from error
    except OSError as error:
        raise MachineRefusal(
            f"there is no way to {server}: {error.strerror or error}",
            hint=_cable_hint(is_plugged) or "Is the other computer switched on, and in the same network?",
        ) from error
    return replace(share, source=share.source.replace(share.server, server, 1))


def _known_name(server: str, port: int) -> str | None:
    """The name under which a computer is found; many a NAS tells its name in the local network only (RFC 6762)."""
    names = [server] if "." in server or ":" in server else [server, f"{server}.local"]
    for name in names:
        with contextlib.suppress(OSError):  # gaierror is one
            if socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
                return name
    return None


def _cable_hint(is_plugged: Callable[[], bool]) -> str:
    return "" if is_plugged() else "No network cable is in this computer: put it in, at both ends, and try again."


def share_refusal(share: NetworkShare, said: bytes) -> MachineRefusal:
    """What a program said that could not mount a share, as an error.

    Args:
        share: Which one.
        said: All that it wrote.
    """
    if _is_login(share.kind, said):
        return _login(share)
    found = {"cifs": _of_cifs, "nfs": _of_nfs, "sshfs": _of_sshfs}[share.kind](share, said)
    if found is None:
        return MachineRefusal(
            f"{share.source} cannot be opened: {_last_words(said)}",
            hint="'dmesg' in the shell may say more. Does another computer open it?",
        )
    return MachineRefusal(found[0], hint=found[1])


def _is_login(kind: str, said: bytes) -> bool:
    return (kind == "cifs" and _error_number(said) in _LOGIN_ERRORS) or (
        kind == "sshfs" and b"Permission denied" in said
    )


def _login(share: NetworkShare) -> LoginRefused:
    if not share.user:
        words = f"{share.server} lets nobody into {share.folder} without a name"
        return LoginRefused(words, hint="Write NAME@ before the server; the password is asked for.")
    words = f"{share.server} refuses {share.user}: the password is wrong, or there is no right to {share.folder}"
    return LoginRefused(words, hint=_DOMAIN_HINT)


def _error_number(said: bytes) -> int:
    found = _ERROR_NUMBER.search(said)
    return int(found[1]) if found else 0


def _of_cifs(share: NetworkShare, said: bytes) -> tuple[str, str] | None:
    number = _error_number(said)
    if number in (2, 6):  # ENOENT, ENXIO: what Linux makes of STATUS_BAD_NETWORK_NAME
        words = f"{share.server} has no share called {share.folder}"
        return words, f"'smbclient -L {share.server} -U NAME' in the shell lists its shares."
    if number in (95, 112):  # EOPNOTSUPP, EHOSTDOWN
        words = f"{share.server} does not speak SMB 2 or 3"
        return words, "SMB 1 is not safe, and not spoken here. Switch SMB 2 on there, or use NFS or SFTP."
    return None


def _of_nfs(share: NetworkShare, said: bytes) -> tuple[str, str] | None:
    if b"access denied by server" in said or b"Operation not permitted" in said:
        words = f"{share.server} does not let this computer use {share.folder}"
        return words, "Allow the address of this computer there; 'ip -brief address' in the shell shows it."
    if b"No such file or directory" in said:
        return f"{share.server} serves no folder {share.folder} by NFS", _FOLDER_HINT
    return None


def _of_sshfs(share: NetworkShare, said: bytes) -> tuple[str, str] | None:
    if b"Host key verification failed" in said:
        return (
            f"{share.server} is not the computer that it was: its key is another one",
            f"If it was installed anew, 'ssh-keygen -R {share.server}' forgets the old one. Else another one answers.",
        )
    if b"No such file or directory" in said:
        return f"{share.server} has no folder {share.folder}", "Write the whole path, from the top folder."
    if b"subsystem request failed" in said:
        return f"{share.server} lets people in, but serves no files by SFTP", "Switch SFTP on there."
    if b"kex_exchange_identification" in said or b"banner" in said:
        return f"what answers at {share.server} is no SSH", "Is the port right? It is written SERVER:PORT."
    return None


def _last_words(said: bytes) -> str:
    """The last line that is no pointer to a manual: mount.cifs ends with one."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    wordy = [line for line in lines if line and not line.startswith("Refer to")]
    return wordy[-1] if wordy else "no reason was given"
