"""Shares of other computers, as a person writes them down.

Answers: "which share, which folder in it, and who logs in?" Pure; ``host.volume_places`` mounts.
"""

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from stillframe.errors import UsageError
from stillframe.host.share_faults import NetworkShare

_HINT: Final = (
    "Write smb://NAME@SERVER/SHARE/FOLDER, nfs://SERVER/FOLDER, sftp://NAME@SERVER/FOLDER, or a folder such as "
    "/mnt/backup. What Windows shows, \\\\SERVER\\SHARE, does too."
)
_PLAIN: Final = "\\;"
_KINDS: Final = {"smb": "cifs", "cifs": "cifs", "nfs": "nfs", "sftp": "sshfs", "ssh": "sshfs"}
SCHEMES: Final = frozenset(_KINDS)
"""Of addresses of shares."""


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

    def as_user(self, user: str) -> "Address":
        """The same for another name; a folder of this system, and NFS, ask for none."""
        if self.share is None or self.share.kind == "nfs":
            return self
        scheme, _, rest = self.words.partition("://")
        top, slash, below = rest.partition("/")
        words = f"{scheme}://{quote(user, safe=_PLAIN)}@{top.rpartition('@')[2]}{slash}{below}"
        return replace(self, share=replace(self.share, user=user), words=words)


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        UsageError: It is none, or holds a password, which would be shown on the screen.
    """
    text = _from_windows(text.strip())
    if "://" not in text:
        if not text.startswith("/"):
            raise UsageError(f"{text!r} is no place", hint=_HINT)
        return Address(share=None, folder=text, words=text)
    try:
        parts = urlsplit(text.replace("?", "%3F"), allow_fragments=False)
        port = parts.port or 0
    except ValueError as error:
        raise UsageError(f"{text!r} is no address: {error}", hint=_HINT) from error
    kind = _KINDS.get(parts.scheme.lower())
    if kind is None or not parts.hostname:
        raise UsageError(f"{text!r} is no address that is known here", hint=_HINT)
    if parts.password:
        raise UsageError("the address holds a password", hint="Leave it out; it is asked for, or 'share-password'.")
    path, user = unquote(parts.path).strip("/"), unquote(parts.username or "").replace(";", "\\")
    if any(char in path + user + parts.hostname for char in "\n\0,"):
        raise UsageError(f"{text!r} holds a character that cannot be there", hint=_HINT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname and kind != "cifs" else parts.hostname
    source, _, folder = path.partition("/")
    if kind == "cifs" and not source:
        raise UsageError(f"{text!r} names no share of that server", hint=_HINT)
    where = f"//{host}/{source}" if kind == "cifs" else f"{host}:/{path}"
    share = NetworkShare(kind=kind, source=where, user=user, port=port)
    return Address(share=share, folder=folder if kind == "cifs" else "", words=text)


def _from_windows(text: str) -> str:
    """What Windows shows of a share, with its backslashes, as an address."""
    if text.startswith(("\\\\", "//")):
        return "smb:" + text.replace("\\", "/")
    return text
