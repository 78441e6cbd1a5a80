"""Several machines, one repository, and one of them reads nothing: a world with a put key.

Answers: "is nothing lost either where a machine sees deletions by warnings alone?" The laws are those of
``deletion_world``.
"""

import os
from collections import Counter
from collections.abc import Callable

from stillframe.repo.identity import read_identity
from stillframe.repo.objects import ObjectBox
from stillframe.repo.put.credential import Credential
from stillframe.repo.put.grants import grant, new_credential, revoke
from stillframe.repo.put.machine import open_to_put
from stillframe.repo.records import MachineName
from stillframe.repo.repository import Repository
from stillframe.store import Store
from stillframe.testing.clocks import FakeClock
from stillframe.testing.deletion_world import ADMIN, Running, World
from stillframe.testing.put_machines import make_owned


class PutWorld(World):
    """As ``World``, encrypted.

    Args:
        store: Empty.
        put: The machine that has a put key.
        folder: Where it keeps its tables.
        seen_by: Gives each machine's own view of the store.
        counted: Gets what happened, over many worlds.
        patches: As in ``World``; the machine with the put key makes none.
    """

    def __init__(
        self, store: Store, *, put: str, folder: str, seen_by: Callable[[str, Store], Store] | None = None,
        counted: Counter[str] | None = None, patches: bool = False,
    ) -> None:  # fmt: skip
        self._put = put
        self._folder = folder
        self._master = b""
        self._put_machines: list[MachineName] = []
        super().__init__(store, seen_by=seen_by, counted=counted, patches=patches)
        self._sees_all = True
        self._credential = self._grant_anew(self._open(store, self.true_clock))

    def _make(self) -> None:
        """Make the repository."""
        self._master = make_owned(self.store, clock=self.true_clock).box.master_key

    def _open(self, store: Store, clock: FakeClock) -> Repository:
        """The repository as its owner has it. Passphrases are hard to try, so it is opened without."""
        found = read_identity(self.store, where="the world")
        box = ObjectBox(store, found.identity.repository_id, self._master)
        return Repository(box, found, clock=clock, cache=None)

    def _open_to_add(self, name: str, store: Store, clock: FakeClock) -> Repository:
        """The repository as a machine has it that makes backups: the one with the put key reads nothing."""
        if name != self._put:
            return self._open(store, clock)
        cache = os.path.join(self._folder, self._credential.machine)
        return open_to_put(store, self._credential, where="the world", cache_folder=cache, clock=clock)

    def writer(self, name: str) -> MachineName:
        """Whose images those of a machine are."""
        return self._credential.machine_name if name == self._put else super().writer(name)

    def _everybody(self) -> list[MachineName]:
        """Every machine that can have left something open."""
        return [*super()._everybody(), *self._put_machines]

    def begin_revoking(self, name: str) -> Running:
        """Begin to take the put key away on a machine; the other one gets a new key at once."""
        old = self._credential
        self._credential = self._grant_anew(self._open(self.store, self.true_clock))
        return self.begin("revoke", name, lambda repository, _: revoke(repository, old.machine, ADMIN.machine))

    def _grant_anew(self, repository: Repository) -> Credential:
        credential = new_credential(repository, "put")
        grant(repository, credential, ADMIN.machine)
        self._put_machines.append(credential.machine_name)
        return credential
