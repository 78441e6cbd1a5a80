"""Begin new backups in a place that has none: protected or not, and the recovery key.

Answers: "how does a repository come to be, for somebody who never made one?" Files that are there stay.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal, StillframeError
from stillframe.rescue.flows.words import told
from stillframe.rescue.pages.pages import Ask, Choose, Option, Outcome, Step, Tell, TypeWord, Work
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.verbs.calls import Doing
from stillframe.rescue.verbs.records import InitSaid
from stillframe.rescue.world import Unlocked, World

_FOLDER: Final = "stillframe"
_KIT_MARK: Final = "Recovery key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Where backups begin.

    Attributes:
        words: The place, for a person.
        open_top: Opens it to write, and brings its folder.
        describe: The repository in a folder there.
    """

    words: str
    open_top: Callable[[], str]
    describe: Callable[[str], FoundRepository]


def begin_repository(world: World, where: Beginning) -> Step:
    """Lead to a new repository; brings an ``Unlocked``, or ``None``."""
    how = yield Choose(
        title="Protect the backups?",
        lines=(f"New backups begin on {where.words}.", "Files that are there stay."),
        options=(
            Option(
                key="aes256",
                words="Protect them with a passphrase",
                detail="without it nobody can read them, not even you",
            ),
            Option(key="none", words="No passphrase", detail="whoever finds the disk can read everything in them"),
        ),
    )
    secret = ""
    if how == "none":
        lines = ("Without a passphrase whoever finds the disk can read everything.",)
        yield TypeWord(title="No passphrase?", lines=lines, word="none")
    else:
        secret = yield from _new_secret()
    outcome: Outcome = yield Work(
        title="Preparing the disk", lines=(where.words,), do=lambda doing: _init(world, where, secret, doing)
    )
    if outcome.error is not None:
        yield told(outcome.error)
        return None
    unlocked, key = outcome.value
    if key:
        yield Tell(
            title="Write this key down",
            is_final=True,
            next_words="go on, it is written down",
            lines=(
                "This is the recovery key. It opens the backups when the passphrase is",
                "forgotten. Write it on paper. It is not shown again.",
                "",
                f"   {key}",
                "",
                f"Repository {unlocked.opened.repository.id}",
            ),
        )
    return unlocked


def _new_secret() -> Step:
    lines: tuple[str, ...] = ("Choose several words that you can remember. What you type is not shown.",)
    while True:
        first = yield Ask(title="A passphrase", lines=lines, question="Passphrase:", is_secret=True)
        again = yield Ask(
            title="The same once more", lines=("To be sure it is typed right.",), question="Once more:", is_secret=True
        )
        if first and first == again:
            return first
        lines = ("The two were different, or empty. Type it once more.",)


def _init(world: World, where: Beginning, secret: str, doing: Doing) -> tuple[Unlocked, str]:
    top = where.open_top()
    names = (f"{_FOLDER}-{number}" if number else _FOLDER for number in range(100))
    folder = next((path for name in names if not os.path.lexists(path := os.path.join(top, name))), "")
    if not folder:
        raise MachineRefusal("no name is left for the folder of the backups", hint="Choose another disk.")
    with tempfile.TemporaryDirectory(prefix="stillframe-", dir="/run") as room_of_kit:
        kit = os.path.join(room_of_kit, "kit.txt")
        words = ["init", folder, *(["--recovery-kit", kit] if secret else ["--encryption", "none"])]
        world.run(words, InitSaid, doing, secret=secret or None)
        key = _read_key(kit) if secret else ""
    found = where.describe(folder)
    opened = world.opened(found, secret or None)
    return Unlocked(opened=opened, images=()), key


def _read_key(kit: str) -> str:
    with open(kit, encoding="utf-8") as file:
        for line in file:
            if line.startswith(_KIT_MARK):
                return line.removeprefix(_KIT_MARK).strip()
    raise StillframeError("the recovery key was not written", hint="Make one later with 'stillframe recovery-kit'.")
