"""The way to a repository: found on a disk, on a share, or in a folder; and unlocked.

Answers: "which repository, and with which images?"
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stillframe.errors import LoginRefused, StillframeError, UsageError, WrongKey
from stillframe.host.stacked_places import ClosedVolume
from stillframe.rescue.choosing import sentence
from stillframe.rescue.flows.beginning import Beginning, begin_repository
from stillframe.rescue.flows.joining import join_network, wifi_option
from stillframe.rescue.flows.opening import TRIES, chosen_closed, closed_options, open_closed
from stillframe.rescue.flows.words import told, when
from stillframe.rescue.pages.pages import Ask, Choose, Option, Outcome, Step, Work
from stillframe.rescue.places.found import Found, FoundRepository
from stillframe.rescue.places.shares import Address, parse_address
from stillframe.rescue.verbs.calls import Doing, Progress
from stillframe.rescue.world import Unlocked, World

_RECOVERY: Final = (
    "What was typed did not open it, three times. Nothing is lost by that.",
    "The recovery key opens it too. It was printed, or written down, when the",
    "backups were begun: STILLFRAME RECOVERY KIT, a line that begins with SF1.",
)
_NONE_FOUND: Final = (
    "No backups were found on the disks of this computer.",
    "Plug in the disk with the backups, wait ten seconds, and choose 'Look again'.",
)
_LOCKED_ONLY: Final = (
    "No backups were found on what is open. Are they on a disk that is locked,",
    "or on LVM or a RAID? Choose it to look inside: nothing is changed there.",
)
_SOME_FOUND: Final = ("These backups were found. Nothing was changed on any disk.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A repository in the list, and what is in it, as far as that can be told."""

    repository: FoundRepository
    summary: str


def search_page(world: World) -> Work:
    """Looks into every volume."""

    def look(doing: Doing) -> Found:
        return world.places.search(lambda words: doing.show(Progress(phase=words)), check=doing.check)

    return Work(title="Looking for backups", lines=("Every disk is looked into. Nothing is changed.",), do=look)


def find_repository(world: World, *, read_write: bool = False) -> Step:
    """Lead to a repository; brings an ``Unlocked``. Where one is to be written, it may be a new one on a share."""
    seen, closed, fault = yield from _look(world)
    while True:
        lines = fault or (_SOME_FOUND if seen else _LOCKED_ONLY if closed else _NONE_FOUND)
        options = tuple(_options(world, seen, closed))
        chosen = yield Choose(title="Where are the backups?", lines=lines, options=options)
        locked = chosen_closed(closed, chosen)
        if locked is not None and not (yield from open_closed(world, locked)):
            continue
        if chosen == "again" or locked is not None:
            seen, closed, fault = yield from _look(world)
            continue
        if chosen == "wifi":
            fault = yield from join_network(world)
            continue
        if chosen in ("share", "settled"):
            added, fault, empty = yield from _from_address(world, chosen)
            if empty is not None and read_write:
                unlocked = yield from begin_repository(world, _on_address(world, empty))
                if unlocked is not None:
                    return unlocked
            seen = [*added, *(one for one in seen if one.repository.id not in {new.repository.id for new in added})]
            if len(added) != 1:
                continue
            repository = added[0].repository
        else:
            repository = seen[int(chosen)].repository
        unlocked = yield from unlock(world, repository, read_write=read_write)
        if unlocked is not None:
            return unlocked


def _options(world: World, seen: list[_Seen], closed: tuple[ClosedVolume, ...]) -> Iterable[Option]:
    for number, one in enumerate(seen):
        yield Option(key=str(number), words=one.repository.where, detail=one.summary, refusal=one.repository.refusal)
    yield from closed_options(closed)
    if world.settings.repository.where:
        yield Option(key="settled", words=world.settings.repository.where, detail="set up with this medium")
    yield Option(key="share", words="Somewhere else ...", detail="a share in the network, or a folder")
    yield from wifi_option(world)
    yield Option(key="again", words="Look again", detail="after plugging in a disk")


def _look(world: World) -> Step:
    def look(doing: Doing) -> tuple[list[_Seen], tuple[ClosedVolume, ...]]:
        found: Found = search_page(world).do(doing)
        seen = [_Seen(repository=one, summary=_summary(world, one, doing)) for one in found.repositories]
        return seen, found.closed

    page = search_page(world)
    outcome: Outcome = yield Work(title=page.title, lines=page.lines, do=look)
    if outcome.error is not None:
        return [], (), sentence(outcome.error)
    return (*outcome.value, ())


def _summary(world: World, repository: FoundRepository, doing: Doing) -> str:
    """What is in a repository: of an open one the machines and the newest image, of a locked one how many."""
    words = f"{repository.images} image{'' if repository.images == 1 else 's'}, id {repository.id[:8]}"
    if repository.refusal or repository.encryption != "none":
        return f"locked; {words}"
    try:
        images = world.images(repository, None, doing).images
    except StillframeError as error:
        return f"{words}; {error.message}"
    if not images:
        return f"empty; {words}"
    machines = ", ".join(dict.fromkeys(image.machine for image in images))
    return f"{machines}, newest {when(images[0].created)}; {words}"


def _from_address(world: World, chosen: str) -> Step:
    """Repositories at an address that is typed, or was settled; what went wrong; the address when none is there."""
    text = world.settings.repository.where
    if chosen == "share":
        text = yield Ask(
            title="Where are the backups?",
            lines=(
                "A share of Windows or a NAS:  smb://NAME@SERVER/SHARE/FOLDER",
                "                              or as Windows shows it, \\\\SERVER\\SHARE",
                "A share of Linux or a NAS:    nfs://SERVER/FOLDER",
                "A server with SSH:            sftp://NAME@SERVER/FOLDER",
                "A folder of this system:      /mnt/backup",
                "Nothing is changed there.",
            ),
            question="Address:",
            given=text,
        )
    try:
        address = parse_address(text)
    except UsageError as error:
        return [], sentence(error), None
    outcome, address = yield from _log_in(world, address)
    if outcome.error is not None:
        return [], sentence(outcome.error), None
    if not outcome.value:
        return [], (f"There are no backups at {address.words}.", "Look at the address once more."), address
    return outcome.value, (), None


def _log_in(world: World, address: Address) -> Step:
    """Open an address; while the other computer refuses name and password, they are asked for once more."""
    fault, settled = tuple[str, ...](), world.settings.secret.share_password
    while True:
        secret = ""
        if address.wants_secret:
            secret = settled or (
                yield Ask(
                    title="Password of the share",
                    lines=(*fault, f"{address.words} asks for the password of that user."),
                    question="Password:",
                    is_secret=True,
                )
            )
        outcome: Outcome = yield _address_page(world, address, secret)
        if not isinstance(outcome.error, LoginRefused) or address.share is None:
            return outcome, address
        fault, settled = sentence(outcome.error), ""
        name = yield Ask(
            title="Who logs in there?",
            lines=(*fault, "Nothing typed: back to the list."),
            question="Name:",
            given=address.share.user,
        )
        if not name:
            return outcome, address
        address, fault = address.as_user(name), ()


def _address_page(world: World, address: Address, secret: str) -> Work:
    return Work(
        title="Opening the share", lines=(address.words,), do=lambda doing: _open_address(world, address, secret, doing)
    )


def _on_address(world: World, address: Address) -> Beginning:
    secret = world.secrets.get(address.words, "")
    return Beginning(
        words=address.words,
        open_top=lambda: world.places.open_folder(address, secret=secret, read_write=True),
        describe=lambda folder: world.places.repository_at(address, folder),
    )


def _open_address(world: World, address: Address, secret: str, doing: Doing) -> list[_Seen]:
    world.bring_network()
    world.secrets[address.words] = secret
    found = world.places.open_address(address, secret=secret)
    return [_Seen(repository=one, summary=_summary(world, one, doing)) for one in found]


def unlock(world: World, repository: FoundRepository, *, read_write: bool) -> Step:
    """Open a repository, asking for what opens it; ``None`` when the person goes for another one."""
    if repository.encryption == "none":
        outcome = yield _open_page(world, repository, None, read_write=read_write)
        if outcome.error is not None:
            yield told(outcome.error)
            return None
        return outcome.value
    asked = 0
    lines: tuple[str, ...] = (repository.where, "What you type is not shown. Nothing is changed.")
    question = "Passphrase:"
    while True:
        secret = yield Ask(title="Unlock the backups", lines=lines, question=question, is_secret=True)
        if not secret:
            lines = ("Nothing was typed.", f"Type what opens {repository.where}, then press Enter.")
            continue
        outcome = yield _open_page(world, repository, secret, read_write=read_write)
        if outcome.error is None:
            return outcome.value
        if not isinstance(outcome.error, WrongKey):
            yield told(outcome.error)
            return None
        asked += 1
        lines = (
            "That does not open it. Capital and small letters differ.",
            "Is the keyboard the usual one? Try once more.",
        )
        if asked >= TRIES:
            chosen = yield _choose_way()
            if chosen == "other":
                return None
            question = "Recovery key:" if chosen == "key" else "Passphrase:"
            lines = (f"{repository.where}",)


def _choose_way() -> Choose:
    return Choose(
        title="It does not open",
        lines=_RECOVERY,
        options=(
            Option(key="key", words="Type the recovery key"),
            Option(key="again", words="Try the passphrase again"),
            Option(key="other", words="Choose other backups"),
        ),
    )


def _open_page(world: World, repository: FoundRepository, secret: str | None, *, read_write: bool) -> Work:
    def open_it(doing: Doing) -> Unlocked:
        ready = world.reopen(repository, read_write=read_write)
        said = world.images(ready, secret, doing)
        return Unlocked(opened=world.opened(ready, secret), images=said.images)

    return Work(title="Opening the backups", lines=(repository.where,), do=open_it)
