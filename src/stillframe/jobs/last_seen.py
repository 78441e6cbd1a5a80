"""What this machine last saw of a repository, kept outside it: so an older or weaker state put back is noticed.

Answers: "which sequence number did each machine have when I last looked, and was it encrypted?" A missing or damaged
file only means that nothing is known.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from stillframe.errors import DamagedError
from stillframe.repo.identity import Identity
from stillframe.repo.records import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest image of a machine."""

    sequence: int
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What the file holds."""

    encrypted: bool = False
    machines: dict[str, Seen] = field(default_factory=dict)


class LastSeen:
    """A small file per repository in the state folder of this machine."""

    def __init__(self, folder: str, repository_id: str) -> None:
        self._path = os.path.join(folder, f"{repository_id}.json")

    def read(self) -> dict[str, Seen]:
        """Per machine id what was seen; empty when nothing is known."""
        return self._read().machines

    def note(self, manifests: Iterable[Manifest]) -> None:
        """Remember the newest image of every machine; never goes back.

        Two processes that do so at once may leave an older one: that is only noticed less.
        """
        state = self._read()
        seen = dict(state.machines)
        for manifest in manifests:
            known = seen.get(manifest.machine.id)
            if known is None or manifest.sequence > known.sequence:
                seen[manifest.machine.id] = Seen(sequence=manifest.sequence, image=manifest.image)
        if seen != state.machines:
            self._write(_State(encrypted=state.encrypted, machines=seen))

    def check_identity(self, identity: Identity, *, where: str) -> None:
        """Refuse a repository that was encrypted when this machine last saw it, and says now that it is not.

        Raises:
            DamagedError: Somebody replaced the identity file and took the key slots away.
        """
        state = self._read()
        if identity.encryption == "none" and state.encrypted:
            raise DamagedError(
                f"the repository at {where} was encrypted when this machine last saw it, and says now that it is not",
                hint="Do not write to it: somebody changed it. Copy it back from another copy.",
            )
        if identity.encryption != "none" and not state.encrypted:
            self._write(_State(encrypted=True, machines=state.machines))

    def _read(self) -> _State:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=_State)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return _State()

    def _write(self, state: _State) -> None:
        temporary = f"{self._path}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(msgspec.json.encode(state))
            os.replace(temporary, self._path)
