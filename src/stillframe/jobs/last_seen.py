"""What this machine last saw in a repository, kept outside it: so an older state put back is noticed.

Answers: "which sequence number did each machine have when I last looked?" A missing or damaged file only means that
nothing is known.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from stillframe.repo.records import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest image of a machine."""

    sequence: int
    image: str


class LastSeen:
    """A small file per repository in the state folder of this machine."""

    def __init__(self, folder: str, repository_id: str) -> None:
        self._path = os.path.join(folder, f"{repository_id}.json")

    def read(self) -> dict[str, Seen]:
        """Per machine id what was seen; empty when nothing is known."""
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, Seen])
        except (OSError, msgspec.DecodeError):
            return {}

    def note(self, manifests: Iterable[Manifest]) -> None:
        """Remember the newest image of every machine; never goes back."""
        seen = self.read()
        for manifest in manifests:
            known = seen.get(manifest.machine.id)
            if known is None or manifest.sequence > known.sequence:
                seen[manifest.machine.id] = Seen(sequence=manifest.sequence, image=manifest.image)
        temporary = f"{self._path}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(msgspec.json.encode(seen))
            os.replace(temporary, self._path)
