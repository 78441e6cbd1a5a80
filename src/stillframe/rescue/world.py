"""What the rescue program can do: look for places, and run the verbs of Stillframe.

Answers: "what is here, and what becomes of it when a job runs?" The flows and the unattended run ask nothing else, so a
test has another world.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from stillframe.errors import StillframeError, TargetError
from stillframe.host.network import NetworkWish, bring_up, is_up
from stillframe.host.wireless_scan import WirelessNetwork, find_networks, has_program, has_radio
from stillframe.rescue.answering.answers import Answers, NetworkAnswer
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.places.opened import Places
from stillframe.rescue.verbs.calls import Doing, Ended, Progress, Runs, call_job
from stillframe.rescue.verbs.records import (
    DiskSeen,
    DisksSaid,
    ImageSeen,
    ImagesSaid,
    PlanSaid,
    R,
    RestoreSaid,
    ShowSaid,
)

_JOIN_S: Final = 60.0


class Radio:
    """The radio of this machine. A test has another."""

    def is_there(self) -> bool:
        """Whether there is one that works here."""
        return has_radio()

    def can_join(self) -> bool:
        """Whether this system can join a network with it."""
        return has_program()

    def networks(self, check: Callable[[], None]) -> tuple[WirelessNetwork, ...]:
        """What is in reach. Raises as ``find_networks``."""
        return find_networks(check)


@dataclass(slots=True, kw_only=True)
class World:
    """This machine, as the rescue program sees it.

    Attributes:
        places: Opens volumes and shares.
        also: Loop devices and disk files that count as disks.
        is_installed: The screens run on the system that they may restore, and not on the medium.
        medium: The disk that this system was started from; empty when none is.
        settings: What was settled beforehand.
        secrets: The password of a share, by its address, for opening it once more.
        passphrases: Of encrypted volumes, given beforehand.
        network_is_up: It was brought up before.
        radio: The wireless one.
        run: Runs a verb of Stillframe.
    """

    places: Places
    also: tuple[str, ...] = ()
    is_installed: bool = False
    medium: str = ""
    settings: Answers = field(default_factory=Answers)
    secrets: dict[str, str] = field(default_factory=dict)
    passphrases: tuple[str, ...] = ()
    network_is_up: bool = False
    radio: Radio = field(default_factory=Radio)
    run: Runs = call_job

    @property
    def volume_secrets(self) -> tuple[str, ...]:
        """Passphrases of encrypted volumes that nobody needs to type."""
        unlock = self.settings.unlock
        settled = (unlock.password,) if unlock is not None and unlock.password else ()
        return tuple(dict.fromkeys((*self.passphrases, *settled)))

    @property
    def opens_closed(self) -> bool:
        """Whether closed volumes are opened without a person."""
        return self.settings.unlock is not None or bool(self.passphrases)

    def opened(self, repository: FoundRepository, secret: str | None) -> "Opened":
        """A repository with what opens it."""
        return Opened(repository=repository, secret=secret, run=self.run)

    def disks(self, doing: Doing) -> tuple[DiskSeen, ...]:
        """The disks of this machine, and those that were named besides."""
        doing.show(Progress(phase="looking at the disks"))
        found = list(self.run(["disks"], DisksSaid, doing).result.disks)
        for path in self.also:
            found += self.run(["disks", path], DisksSaid, doing).result.disks
        return tuple(found)

    def images(self, repository: FoundRepository, secret: str | None, doing: Doing) -> ImagesSaid:
        """All images of a repository, the newest first."""
        said = self.run(["images", "--all", "--repo", repository.folder], ImagesSaid, doing, secret=secret).result
        ordered = sorted(said.images, key=lambda image: image.created, reverse=True)
        return ImagesSaid(images=tuple(ordered), findings=said.findings)

    def show(self, opened: "Opened", image: ImageSeen, doing: Doing) -> ShowSaid:
        """One image in full."""
        return opened.call(["show", image.id], ShowSaid, doing).result

    def bring_network(self) -> None:
        """Bring the network up as it was settled, else by DHCP; on an installed system that is not ours to do.

        Raises:
            MachineRefusal: It does not come up.
        """
        wanted = self.settings.network
        if self.is_installed or (is_up() and wanted is None) or self.network_is_up:
            return
        bring_up(network_wish(wanted))
        self.network_is_up = True

    def join_wifi(self, name: str, password: str) -> None:
        """Join a wireless network.

        Raises:
            UsageError: Name or password is none.
            MachineRefusal: It does not let this computer in, or it is too far.
        """
        bring_up(NetworkWish(wifi=name, wifi_password=password, wait_s=_JOIN_S))
        self.network_is_up = True

    def reopen(self, repository: FoundRepository, *, read_write: bool) -> FoundRepository:
        """The repository, ready to be read or written; every other volume is closed."""
        address = repository.address.words if repository.address else ""
        return self.places.reopen(repository, read_write=read_write, secret=self.secrets.get(address, ""))


def network_wish(answer: NetworkAnswer | None) -> NetworkWish:
    """What the answers want of the network."""
    if answer is None:
        return NetworkWish()
    return NetworkWish(
        interface=answer.interface, address=answer.address, gateway=answer.gateway, dns=answer.dns, wifi=answer.wifi,
        wifi_password=answer.wifi_password, wait_s=answer.wait,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A repository, and the secret that opens it."""

    repository: FoundRepository
    secret: str | None
    run: Runs = call_job

    def call(self, words: Sequence[str], kind: type[R], doing: Doing) -> Ended[R]:
        """Run a verb on it."""
        command = [*words, "--repo", self.repository.folder]
        return self.run(command, kind, doing, secret=self.secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocked:
    """A repository that is open, and its images, the newest first."""

    opened: Opened
    images: tuple[ImageSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreWish:
    """A restore, as it will be asked for."""

    image: ImageSeen
    disk: int | None
    target: str
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command, without what opens the repository."""
        which = ["--disk", str(self.disk)] if self.disk is not None else []
        return ["restore", self.image.id, self.target, *which, *self.options]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlanned:
    """A restore that can be carried out, and its plan."""

    wish: RestoreWish
    plan: PlanSaid
    was_too_small: str = ""


def plan_restore(opened: Opened, wish: RestoreWish, doing: Doing, *, is_smaller: bool) -> RestorePlanned:
    """Ask for the plan; where the target is smaller than the disk was and that does not do, once more with ``--fit``.

    Raises:
        StillframeError: Neither can be.
    """
    try:
        return RestorePlanned(wish=wish, plan=opened.call([*wish.words, "--dry-run"], PlanSaid, doing).result)
    except TargetError as error:
        if "--fit" in wish.options or not is_smaller:
            raise
        first = error
    fitted = RestoreWish(image=wish.image, disk=wish.disk, target=wish.target, options=(*wish.options, "--fit"))
    try:
        plan = opened.call([*fitted.words, "--dry-run"], PlanSaid, doing).result
    except StillframeError as error:
        raise TargetError(f"{first.message}; and {error.message}", hint=error.hint or first.hint) from error
    return RestorePlanned(wish=fitted, plan=plan, was_too_small=first.message)


def apply_restore(opened: Opened, wish: RestoreWish, doing: Doing) -> Ended[RestoreSaid]:
    """Carry a restore out. The person, or the answers, said yes before."""
    return opened.call([*wish.words, "--yes"], RestoreSaid, doing)
