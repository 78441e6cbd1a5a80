"""The keys of encrypted partitions, before a backup looks at its sources.

Answers: "which passphrase opens which partition?" Passphrases come from files or from the person, never from the
command line; they and the keys stay in memory, and nothing of them is written anywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from stillframe.capture import LeftOutPart, OpenSource, find_partitions
from stillframe.capture.unlocking import LockedVolume, VolumeKey, find_locked
from stillframe.errors import UsageError, WrongKey
from stillframe.jobs.repositories import Ask

KEY_FILE_MAX: Final = 8 << 20  # cryptsetup's own limit, "Maximum keyfile size" of 'cryptsetup --help'
_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocking:
    """What a person asked for.

    Attributes:
        files: Each holds a passphrase, or is a key file.
        asks: The person wants to be asked.
        ask: Asks them; ``None`` when there is nobody to ask.
    """

    files: tuple[str, ...] = ()
    asks: bool = False
    ask: Ask | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be unlocked."""
        return self.asks or bool(self.files)

    def require_person(self) -> None:
        """Refuse to ask where nobody is.

        Raises:
            UsageError: So it is.
        """
        if self.asks and self.ask is None:
            raise UsageError(
                "'--unlock' asks for a passphrase, and there is nobody to ask", hint="Use '--unlock-file'."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """An encrypted partition, and on which source it is."""

    path: str
    volume: LockedVolume

    @property
    def name(self) -> str:
        return f"{self.volume.name} of {self.path}"


def unlock_sources(
    sources: Sequence[OpenSource], wanted: Unlocking, without: Sequence[LeftOutPart] = ()
) -> tuple[VolumeKey, ...]:
    """Find the keys of the encrypted partitions of sources that nobody uses.

    Args:
        sources: As opened.
        wanted: What the person asked for.
        without: Partitions that are left out of the image: they are not asked for.

    Raises:
        UsageError: There is nothing that could be unlocked, a file cannot be read, or there is nobody to ask.
        WrongKey: A passphrase opens none of them. Nothing was written.
        MachineRefusal: A key slot asks for more memory than this machine has.
    """
    if not wanted.is_wanted:
        return ()
    wanted.require_person()
    secrets = [(path, tuple(read_secrets(path))) for path in wanted.files]
    left_out = {(part.disk, part.place) for part in without}
    found = [one for one in _iter_locked(sources) if (one.path, one.volume.partition.extent) not in left_out]
    if not found:
        raise UsageError(
            "no encrypted partition is there that could be unlocked: '--unlock' opens LUKS on disks that nobody uses",
            hint="Leave it out. What is open in the running system is saved by what is in use without it.",
        )
    keys = dict[int, VolumeKey]()
    for path, candidates in secrets:
        opened = [_opens(number, one, candidates, keys) for number, one in enumerate(found)]
        if not any(opened):
            raise WrongKey(
                f"what is in {path} opens no key slot of {_named(found)}",
                hint="Is it the passphrase of another disk? Nothing was written.",
            )
    if wanted.asks and wanted.ask is not None:
        _ask_for_all(found, keys, wanted.ask)
    return tuple(keys.values())


def _iter_locked(sources: Iterable[OpenSource]) -> Iterator[_Found]:
    for source in sources:
        if source.consistency == "offline":
            for volume in find_locked(source.reader, find_partitions(source.reader)):
                yield _Found(path=source.facts.path, volume=volume)


def _opens(number: int, found: _Found, secrets: Iterable[bytes], keys: dict[int, VolumeKey]) -> bool:
    """Whether one of the secrets opens a partition, whose key is noted."""
    for secret in secrets:
        key = found.volume.find_key(secret)
        if key is not None:
            keys[number] = key
            return True
    return False


def _ask_for_all(found: Sequence[_Found], keys: dict[int, VolumeKey], ask: Ask) -> None:
    """Ask for every partition that is not open yet; what was typed for one is tried for the next ones too.

    Raises:
        WrongKey: What was typed did not open one, three times.
    """
    typed = list[bytes]()
    for number, one in enumerate(found):
        if number in keys or _opens(number, one, typed, keys):
            continue
        refusal = WrongKey(
            f"the passphrase opens no key slot of {_named([one])}",
            hint="Nothing was written. Without '--unlock' all of it is kept, encrypted.",
        )
        question = f"Passphrase of {one.name}, or Enter alone to keep all of it: "
        secret = ask_until_it_opens(ask, one.name, question, partial(_opens_by, number, one, keys), refusal)
        typed += [secret] if secret else []


def ask_until_it_opens(
    ask: Ask, name: str, question: str, opens: Callable[[bytes], bool], refusal: WrongKey
) -> bytes:  # fmt: skip
    """The passphrase of a volume that a person typed; empty where it was passed over.

    Args:
        ask: Asks the person.
        name: Of the volume.
        question: What is asked first.
        opens: Whether a passphrase opens it.
        refusal: Raised when it did not, three times.
    """
    for _ in range(_TRIES):
        secret = ask(question).encode("utf-8", "surrogateescape")
        if not secret or opens(secret):
            return secret
        question = f"That opens no key slot of {name}. Once more: "
    raise refusal


def _opens_by(number: int, found: _Found, keys: dict[int, VolumeKey], secret: bytes) -> bool:
    return _opens(number, found, [secret], keys)


def _named(found: Sequence[_Found]) -> str:
    """The partitions, and which of their key slots could not be tried."""
    return ", nor of ".join(
        f"{one.name} ({'; '.join(one.volume.header.unread)})" if one.volume.header.unread else one.name for one in found
    )


def read_secrets(path: str) -> Iterator[bytes]:
    """What a file may mean: a line of text, which an editor has ended, or a key file as it is.

    Raises:
        UsageError: It cannot be read, is empty or too long.
    """
    try:
        with open(path, "rb") as file:
            secret = file.read(KEY_FILE_MAX + 1)
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}", hint="Name another one.") from error
    line = secret.rstrip(b"\r\n")
    if not line or len(secret) > KEY_FILE_MAX:
        raise UsageError(
            f"the key file {path} is {'empty' if not line else 'longer than 8 MiB'}",
            hint="Write the passphrase into it, or name the key file.",
        )
    yield line
    if line != secret:
        yield secret
