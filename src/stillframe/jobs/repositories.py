"""Making and opening a repository by its path: folders, secrets, the cache, and what was last seen.

Answers: "is there a repository at this path, and which secret opens it?" A secret is a passphrase or the printed
recovery key; it comes from a file, from the environment or from the person, in this order.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from stillframe.errors import StorageError, UsageError, WrongKey
from stillframe.hanging import Underway, reach
from stillframe.host.machine import cache_dir, state_dir
from stillframe.host.places import is_inside, is_near
from stillframe.jobs.last_seen import LastSeen
from stillframe.jobs.owner import this_owner
from stillframe.repo.identity import NAMES, Identity, read_identity
from stillframe.repo.keys import DEFAULT_COST, Cost
from stillframe.repo.put.credential import CREDENTIAL_SIZE_MAX, Credential, parse_credential
from stillframe.repo.put.machine import open_to_put
from stillframe.repo.recovery_key import format_recovery_key, make_recovery_secret
from stillframe.repo.repository import Repository, create_repository, open_repository
from stillframe.repo.welcome import write_welcome
from stillframe.store import LocalStore, ReachableStore

SECRET_FILE_MAX: Final = 65_536
_TRIES: Final = 3

# What systems leave in the top folder of an empty disk; a folder with nothing else counts as empty.
_LEFT_BY_SYSTEMS: Final = frozenset(
    {"lost+found", "system volume information", "$recycle.bin", ".trashes", ".fseventsd", ".spotlight-v100"}
)

Ask = Callable[[str], str]
"""Asks a person for a secret; the argument is the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSources:
    """Where a secret may come from, tried in this order.

    Attributes:
        file: A file whose first line is the secret; empty for none.
        environment: The value of the variable, when it is set.
        ask: Asks the person; ``None`` when there is nobody to ask.
    """

    file: str = ""
    environment: str | None = None
    ask: Ask | None = None

    def given(self) -> str | None:
        """The secret of the file or the environment; ``None`` when neither was given.

        Raises:
            UsageError: The file cannot be read, or its first line is empty.
        """
        return read_secret_file(self.file) if self.file else self.environment


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRepository:
    """What a person asked for.

    Attributes:
        folder: Where; the folder above it must exist.
        encryption: ``none`` makes it open to everybody.
        secrets: Where the first passphrase comes from.
        recovery_kit: File to write the recovery kit to; empty for none.
        cost: Of guessing the passphrase.
        parity: Whether objects get parity.
    """

    folder: str
    encryption: Literal["aes256", "none"] = "aes256"
    secrets: SecretSources
    recovery_kit: str = ""
    cost: Cost = DEFAULT_COST
    parity: bool = False


def read_secret_file(path: str) -> str:
    """The first line of a file, without its end.

    Raises:
        UsageError: The file cannot be read, is not text, or its first line is empty.
    """
    try:
        with open(path, "rb") as file:
            line = file.read(SECRET_FILE_MAX).split(b"\n")[0].rstrip(b"\r").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the password file {path} is not text", hint="Write it as UTF-8.") from error
    except OSError as error:
        raise UsageError(
            f"the password file {path} cannot be read: {error.strerror}", hint="Name a file whose first line is it."
        ) from error
    if not line:
        raise UsageError(f"the first line of the password file {path} is empty", hint="Write the passphrase there.")
    return line


def folder_of(repository: str) -> str:
    """The folder that a person means.

    Raises:
        UsageError: Nothing was given, or a kind of storage that this version does not know.
    """
    if not repository:
        raise UsageError("no repository was named", hint="Add '--repo FOLDER', or set STILLFRAME_REPO to the folder.")
    if "://" in repository:
        raise UsageError(
            f"{repository} is no folder: this version keeps repositories in folders only",
            hint="Mount the share or bucket, and name the folder.",
        )
    return os.path.abspath(os.path.expanduser(repository))


def open_at(folder: str, secrets: SecretSources) -> Repository:
    """Open the repository in a folder. A person who is asked may try three times.

    Raises:
        RepositoryNotFound, WrongKey, DamagedError, UnsupportedFormat, UsageError: As ``open_repository``.
    """
    store = ReachableStore(LocalStore(folder, is_near=is_near(folder)), where=folder)
    identity = read_identity(store, where=folder).identity
    LastSeen(state_dir(), identity.id).check_identity(identity, where=folder)
    given = secrets.given()

    def opened(secret: str | None) -> Repository:  # made slow on purpose, and the storage may hang: out of Ctrl-C's way
        opening = partial(open_repository, store, where=folder, secret=secret, cache_folder=cache_dir())
        return reach(opening, Underway("opening the repository", folder))

    if given is not None or identity.encryption == "none" or secrets.ask is None:
        return opened(given)
    question = f"Passphrase (or recovery key) of the repository {folder}: "
    for tries_left in reversed(range(_TRIES)):
        try:
            return opened(secrets.ask(question))
        except WrongKey as error:
            if not tries_left:
                raise
            question = f"{error.message}. Once more: "
    raise AssertionError


def open_to_put_at(folder: str, put_key_file: str) -> Repository:
    """Open the repository in a folder with a put key: to add images, and to read none.

    Raises:
        UsageError: The file cannot be read, or is no put key.
        PutOnly: The key was taken away.
        RepositoryNotFound, WrongKey, DamagedError, UnsupportedFormat: As ``open_to_put``.
    """
    store = LocalStore(folder)
    identity = read_identity(store, where=folder).identity
    seen = LastSeen(state_dir(), identity.id)
    seen.check_identity(identity, where=folder)
    credential = read_put_key(put_key_file)
    last = seen.read().get(credential.machine)
    return open_to_put(
        store, credential, where=folder, cache_folder=cache_dir(), last_sequence=last.sequence if last else 0
    )


def read_put_key(path: str) -> Credential:
    """The put key in a file.

    Raises:
        UsageError: The file cannot be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(CREDENTIAL_SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"the put key {path} cannot be read: {error.strerror}", hint="Name the file that 'key add --put-only' made."
        ) from error
    return parse_credential(raw, where=path)


def require_new(request: NewRepository) -> None:
    """Refuse a place where no repository can be made, before anything is asked or written.

    Raises:
        UsageError: The folder above is missing, or the folder holds something else, or a repository already.
    """
    folder = request.folder
    if not os.path.isdir(os.path.dirname(folder)):
        raise UsageError(
            f"the folder {os.path.dirname(folder)} does not exist",
            hint="Is the disk plugged in and mounted? Only the last folder of the path is made.",
        )
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder", hint="Name a folder that is empty or does not exist yet.")
    found = _contents(folder)
    if any(name in found for name in NAMES):
        raise UsageError(
            f"there is a repository at {folder} already",
            hint="Use it: one repository holds any number of images of any number of machines.",
        )
    if found:
        raise UsageError(
            f"{folder} is not empty: it holds {', '.join(found[:3])}{' and more' if len(found) > 3 else ''}",
            hint=f"Choose a new folder, for example {os.path.join(folder, 'stillframe')}. "
            "If an earlier 'init' was cut off there, delete the folder first.",
        )
    if request.recovery_kit:
        if request.encryption == "none":
            raise UsageError("a repository without encryption has no recovery key", hint="Leave out '--recovery-kit'.")
        require_outside(folder, request.recovery_kit)


def create_at(request: NewRepository) -> Repository:
    """Make a repository, and its recovery kit when one is wanted.

    Raises:
        UsageError: As ``require_new``; or no passphrase was given and there is nobody to ask.
        StorageError: The folder cannot be written.
    """
    require_new(request)
    passphrase = None
    if request.encryption == "aes256":
        passphrase = new_secret(request.secrets)
    if not request.recovery_kit:
        return _create(request, passphrase, None)
    key = format_recovery_key(make_recovery_secret())
    with kit_file(request.recovery_kit, request.folder) as write:
        repository = _create(request, passphrase, key)
        write(recovery_kit_text(repository.identity, key, request.folder))
    return repository


def new_secret(secrets: SecretSources) -> str:
    """A passphrase for a new key slot; a person types it twice.

    Raises:
        UsageError: It is empty, the two differ, or there is nobody to ask.
    """
    given = secrets.given()
    if given is None:
        if secrets.ask is None:
            raise UsageError(
                "no passphrase was given for the new key",
                hint="Use --password-file (for 'key add': --new-password-file), or run it on a terminal.",
            )
        given = secrets.ask("New passphrase: ")
        if given != secrets.ask("The same once more: "):
            raise UsageError("the two passphrases differ", hint="Run it again; nothing was changed.")
    if not given:
        raise UsageError("an empty passphrase protects nothing", hint="Choose several words.")
    return given


def require_outside(folder: str, kit: str) -> None:
    """Refuse a kit beside the lock it opens, or over a file that exists.

    Raises:
        UsageError: With another place to choose.
    """
    if is_inside(folder, kit):
        raise UsageError(
            f"{kit} lies inside the repository: whoever finds the folder would have its key",
            hint="Write the kit to another place, print it, and delete the file.",
        )
    if os.path.lexists(kit):
        raise UsageError(f"{kit} exists already", hint="Name a file that does not exist: it may be an older kit.")


@contextmanager
def kit_file(path: str, folder: str) -> Iterator[Callable[[str], None]]:
    """Reserve the file of a recovery kit before a key is made for it, readable by this user only.

    Yields:
        A function that writes the text durably. When the block fails the file is removed.
    """
    require_outside(folder, path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(
            f"the recovery kit {path} cannot be written: {error.strerror}", hint="Name a folder that may be written."
        ) from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:

            def write(text: str) -> None:
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError as error:
                    raise StorageError(
                        f"the recovery kit {path} could not be written: {error.strerror}",
                        hint="Make one at another place with 'stillframe recovery-kit FILE'.",
                    ) from error

            yield write
    except BaseException:
        os.unlink(path)
        raise


def recovery_kit_text(identity: Identity, key: str, folder: str) -> str:
    """The kit as it is printed."""
    return f"""STILLFRAME RECOVERY KIT

Print this page, keep it in a safe place, and delete the file.
Whoever has this key and the repository can read everything in it.

Recovery key   {key}
Repository     {identity.id}
Made           {identity.created}
Where it was   {folder}


What this is

The folder (on a disk or a share) that holds the file "stillframe.json" with the
id above is a Stillframe repository: images of whole computers, encrypted. This
key opens it, as the passphrase does, also when the passphrase is forgotten.


How to get a computer back

1. With Stillframe installed, plug the disk with the repository in and type

       stillframe images --all --repo FOLDER
       stillframe restore IMAGE TARGET --repo FOLDER

   and type the recovery key where it asks for the passphrase. Capital and small
   letters are the same, hyphens may be left out.

2. Without Stillframe, on any computer with Python: the folder "reader" inside
   the repository holds one program that needs nothing else of Stillframe.

       python3 -m pip install cryptography zstandard
       python3 FOLDER/reader/stillframe_reader.py FOLDER list
       python3 FOLDER/reader/stillframe_reader.py FOLDER restore IMAGE disk.raw

   It asks for the key. "disk.raw" is then the whole disk as one file.
"""


def last_seen(repository: Repository) -> LastSeen:
    """What this machine last saw in a repository."""
    return LastSeen(state_dir(), repository.identity.id)


def secrets_from(environment: Mapping[str, str], name: str, *, file: str, ask: Ask | None) -> SecretSources:
    """The sources of a secret; a variable that is set and empty counts as not set."""
    return SecretSources(file=file, environment=environment.get(name) or None, ask=ask)


def _contents(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {error.strerror}", hint="Choose a folder of yours, or use sudo."
        ) from error
    return [name for name in names if name.lower() not in _LEFT_BY_SYSTEMS and not name.startswith(".Trash-")]


def _create(request: NewRepository, passphrase: str | None, key: str | None) -> Repository:
    store = ReachableStore(LocalStore(request.folder), where=request.folder)
    repository = create_repository(store, passphrase=passphrase, recovery_key=key, cost=request.cost)
    if request.parity:
        repository.parity.decide(parity=True, machine=this_owner().machine, clock=repository.clock)
    write_welcome(store, repository.identity)
    return repository
