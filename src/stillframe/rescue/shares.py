"""Shares of other computers, as a person writes them down.

Answers: "which share, which folder in it, and who logs in?" Pure; ``host.volume_places`` mounts.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from stillframe.errors import UsageError
from stillframe.host.volume_places import NetworkShare

_HINT: Final = (
    "Write smb://NAME@SERVER/SHARE/FOLDER, nfs://SERVER/FOLDER, sftp://NAME@SERVER/FOLDER, or a folder such as "
    "/mnt/backup."
)
_KINDS: Final = {"smb": "cifs", "cifs": "cifs", "nfs": "nfs", "sftp": "sshfs", "ssh": "sshfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a repository may be: on a share, or in a folder of this system when ``share`` is ``None``.

    Attributes:
        share: What is to be mounted.
        folder: The folder in it, without a slash at the start; or an absolute path.
        words: As it was written, without a password.
    """

    share: NetworkShare | None
    folder: str
    words: str

    @property
    def wants_secret(self) -> bool:
        """Whether the other side asks for a password."""
        return self.share is not None and self.share.kind != "nfs" and bool(self.share.user)


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        UsageError: It is none, or holds a password, which would be shown on the screen.
    """
    text = text.strip()
    if "://" not in text:
        if not text.startswith("/"):
            raise UsageError(f"{text!r} is no place", hint=_HINT)
        return Address(share=None, folder=text, words=text)
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise UsageError(f"{text!r} is no address: {error}", hint=_HINT) from error
    kind = _KINDS.get(parts.scheme.lower())
    if kind is None or not parts.hostname:
        raise UsageError(f"{text!r} is no address that is known here", hint=_HINT)
    if parts.password:
        raise UsageError("the address holds a password", hint="Leave it out; it is asked for, or 'share-password'.")
    path, user = unquote(parts.path).strip("/"), unquote(parts.username or "")
    if any(char in path + user + parts.hostname for char in "\n\0,"):
        raise UsageError(f"{text!r} holds a character that cannot be there", hint=_HINT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname and kind != "cifs" else parts.hostname
    source, _, folder = path.partition("/")
    if kind == "cifs" and not source:
        raise UsageError(f"{text!r} names no share of that server", hint=_HINT)
    where = f"//{host}/{source}" if kind == "cifs" else f"{host}:/{path}"
    share = NetworkShare(kind=kind, source=where, user=user, port=port)
    return Address(share=share, folder=folder if kind == "cifs" else "", words=text)
