"""Closed volumes, opened without a person, one after the other, to look for a repository inside.

Answers: "is there a repository in one of them?" Each is opened read-only; one in which none is found is closed again at
once. What did not open is kept with its reason: it may be where the repository is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stillframe.errors import MachineRefusal, RepositoryNotFound, StillframeError, WrongKey
from stillframe.host.stacked_places import ClosedVolume, closed_words
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.places.opened import Places

_DEPTH_MAX = 6


@dataclass(slots=True, kw_only=True)
class Opening:
    """What is opened, and what came of it.

    Attributes:
        places: Opens them.
        secrets: Passphrases that are tried.
        volumes: Names, ids or devices of what is opened; all when there are none.
        say: Told what is looked into.
        repositories: That were found.
        refused: What did not open, by its id, and why.
    """

    places: Places
    secrets: Sequence[str]
    volumes: Sequence[str] = ()
    say: Callable[[str], None] = lambda _: None
    repositories: list[FoundRepository] = field(default_factory=list)
    refused: dict[str, StillframeError] = field(default_factory=dict)

    def look_into(self, closed: Iterable[ClosedVolume], *, also_incomplete: bool = True) -> None:
        """Open each that is meant, and look inside; one that lacks a disk only when nobody waits for that."""
        for one in closed:
            if one.missing and not also_incomplete:
                continue
            if not self.volumes or {one.id, one.name, *one.members} & set(self.volumes):
                self._look(one, 0)

    def explain(self, error: RepositoryNotFound) -> StillframeError:
        """Why nothing was found: what did not open is said with it."""
        if not self.refused:
            return error
        reasons = "; ".join(one.message for one in self.refused.values())
        if any(isinstance(one, WrongKey) for one in self.refused.values()):
            return WrongKey(
                f"{error.message}, and not every locked volume could be unlocked: {reasons}",
                hint="Is the passphrase in [unlock] that of the volume, and not that of the repository?",
            )
        return RepositoryNotFound(f"{error.message}; not opened: {reasons}", hint=error.hint)

    def _look(self, closed: ClosedVolume, depth: int) -> bool:
        """Whether something was found inside; else it is closed again."""
        if isinstance(self.refused.get(closed.id), WrongKey) or depth > _DEPTH_MAX:
            return False  # once more would be as wrong, and a key slot takes seconds
        self.say(closed_words(closed))
        for secret in self.secrets if closed.is_locked else ("",):
            try:
                found = self.places.open_closed(closed, secret, say=self.say)
            except StillframeError as error:
                self.refused[closed.id] = error
                continue
            self.refused.pop(closed.id, None)
            self.repositories += found.repositories
            inside = [self._look(one, depth + 1) for one in found.closed]
            if found.repositories or any(inside):
                return True
            self.places.close_opened(closed)
            return False
        if closed.is_locked and not self.secrets:
            self.refused[closed.id] = MachineRefusal(
                f"{closed_words(closed)} is locked", hint="'password' in [unlock]."
            )
        return False
