"""Where repositories may be, and which are there.

Answers: "on which volumes, shares and folders is a repository, and which one is it?" A repository is known by the id
in its identity file, never by the name of a folder or a disk. Volumes are looked into one after the other, read-only;
what holds no repository is closed again at once. ``Places`` is a context: at its end, and when this process is killed,
everything is closed.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from stillframe.errors import MachineRefusal, RepositoryNotFound, StillframeError
from stillframe.host.attaching import Keeper
from stillframe.host.places import free_space
from stillframe.host.stacked_places import ClosedVolume, Part
from stillframe.host.volume_places import (
    RUN_FOLDER,
    How,
    VolumeDevice,
    can_read,
    can_write,
    list_volume_devices,
    mount_share,
    mount_volume,
    require_root,
)
from stillframe.rescue.places.found import (
    Found,
    FoundRepository,
    FoundVolume,
    closed_folders,
    find_repositories,
    identify_volume,
    volume_words,
    why_not_read,
)
from stillframe.rescue.places.shares import Address
from stillframe.rescue.places.stacks import Stacks, closed_among, part_of

_SHOWN: Final = 3
"""Names in a message."""


class Places:
    """Opens volumes and shares, and closes them again.

    Args:
        loops: Loop devices that count as disks.
        folder: Below which volumes are mounted.
    """

    def __init__(self, *, loops: Sequence[str] = (), folder: str = RUN_FOLDER) -> None:
        self._loops = tuple(loops)
        self._folder = f"{folder}/{os.getpid()}"  # the screens of another terminal open the same volumes
        self._keeper: Keeper | None = None
        self._open: dict[str, str] = {}
        self._share_number = 0
        self._stacks = Stacks(lambda: list_volume_devices(loops=self._loops))

    def __enter__(self) -> Self:
        self._keeper = Keeper().__enter__()
        return self

    def _make_room(self) -> None:
        if not os.path.isdir(self._folder):
            os.makedirs(os.path.dirname(self._folder), mode=0o700, exist_ok=True)
            self._kept().make_folder(self._folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.__exit__(kind, error, trace)

    def close_all(self, *, but: str = "") -> None:
        """Close every volume and share, and what was opened below them, but not where a folder lies in."""
        kept = {name: place for name, place in self._open.items() if but and _is_in(but, place)}
        self._close_mounts(but=kept)
        if self._keeper is not None:
            self._stacks.close_but(self._keeper, kept)

    def _close_mounts(self, *, but: Collection[str] = ()) -> None:
        for name in [name for name in self._open if name not in but]:
            self._close(name)

    def search(self, say: Callable[[str], None] = lambda _: None, *, check: Callable[[], None] = lambda: None) -> Found:
        """Look into every volume of this machine, also those in what was opened; what is closed is not opened.

        Args:
            say: Told which volume is looked into.
            check: Asked before each volume; what it raises ends the search.

        Raises:
            MachineRefusal: This is not root.
        """
        require_root()
        self._close_mounts()
        self._stacks.close_gone(self._kept())
        return self._search(list_volume_devices(loops=self._loops), say, check)

    def _search(
        self, devices: Iterable[VolumeDevice], say: Callable[[str], None], check: Callable[[], None]
    ) -> Found:  # fmt: skip
        volumes, repositories, parts = list[FoundVolume](), list[FoundRepository](), list[Part]()
        for device in devices:
            check()
            volume = None if self._stacks.is_open(device) else identify_volume(device)
            if volume is None:
                continue
            part = part_of(device, volume)
            if part is not None:
                parts.append(part)
            else:
                say(f"{volume.device} {volume.label}".rstrip())
                looked, found = self._look_into(volume)
                volumes.append(looked)
                repositories += found
        return Found(volumes=tuple(volumes), repositories=tuple(repositories), closed=closed_among(parts))

    def open_closed(
        self, closed: ClosedVolume, secret: str = "", *, say: Callable[[str], None] = lambda _: None
    ) -> Found:
        """Open something read-only, and look inside. It stays open until it is closed, or something else is chosen.

        Raises:
            WrongKey: The secret does not open it.
            MachineRefusal: It cannot be opened here.
        """
        names = self._stacks.open(self._kept(), closed, secret)
        devices = (device for device in list_volume_devices(loops=self._loops) if device.path in names)
        return self._search(devices, say, lambda: None)

    def close_opened(self, closed: ClosedVolume) -> None:
        """Close what was opened, and all in it."""
        inside = self._stacks.inside(closed)
        self._close_mounts(but=[name for name in self._open if name not in inside])
        self._stacks.close(self._kept(), closed)

    def open_address(
        self, address: Address, *, secret: str = "", read_write: bool = False
    ) -> tuple[FoundRepository, ...]:
        """The repositories at an address; none when there are none.

        Raises:
            MachineRefusal: The share cannot be reached, or its folders may not be read.
            LoginRefused: The other computer does not let that name in.
            RepositoryNotFound: The folder is not there.
        """
        top = self.open_folder(address, secret=secret, read_write=read_write)
        try:
            found = find_repositories(top)
            closed = () if found else closed_folders(top)
        except OSError as error:
            raise _may_not_read(address, error.strerror or str(error)) from error
        if closed:
            raise _may_not_read(address, f"folder {', '.join(closed[:_SHOWN])}")
        return tuple(replace(one, where=_words(address, top, one.folder), address=address) for one in found)

    def open_folder(self, address: Address, *, secret: str = "", read_write: bool = False) -> str:
        """The folder at an address, its share mounted. Raises as ``open_address``."""
        if address.share is None:
            top = address.folder
        else:
            self._close(address.words)
            self._share_number += 1
            place = f"{self._folder}/share-{self._share_number}"
            self._make_room()
            mount_share(self._kept(), address.share, place, secret=secret, read_write=read_write)
            self._open[address.words] = place
            top = os.path.join(place, address.folder)
        if not os.path.isdir(top):
            raise RepositoryNotFound(f"there is no folder {address.words}", hint="Look at the address once more.")
        return top

    def open_volume(self, volume: FoundVolume, how: How) -> str:
        """The top folder of a volume; mounted where it is not.

        Raises:
            MachineRefusal: It cannot be mounted.
        """
        path = volume.device
        if how == "write" and self._stacks.is_read_only(path):
            path = self._open_to_write(path)
            volume = replace(volume, device=path)
        device = self._device(path)
        usable = [where for where in device.mounted if where not in self._open.values()]
        if usable and (device.read_write or how != "write"):
            return usable[0]
        self._close(volume.device)
        place = f"{self._folder}/{volume.device.removeprefix('/dev/').replace('/', '-')}"
        self._make_room()
        try:
            mount_volume(self._kept(), volume.device, volume.filesystem, place, how=how)
        except StillframeError:
            self._forget(place)
            if how != "read" or not self._stacks.is_read_only(path):
                raise
            # Its journal must be replayed: that writes, as on a volume that is in no stack.
            return self.open_volume(replace(volume, device=self._open_to_write(path)), how)
        self._open[volume.device] = place
        return place

    def _open_to_write(self, device: str) -> str:
        beside = self._stacks.beside(device)
        self._close_mounts(but=[name for name in self._open if name not in beside])
        return self._stacks.open_to_write(self._kept(), device)

    def reopen(self, repository: FoundRepository, *, read_write: bool, secret: str = "") -> FoundRepository:
        """The same repository, where it can be written or only be read; everything else is closed.

        Raises:
            MachineRefusal: It cannot be opened so.
            RepositoryNotFound: It is gone, or another one is there now.
        """
        if repository.volume is None:
            if repository.address is not None and repository.address.share is not None and read_write:
                return _same(self.open_address(repository.address, secret=secret, read_write=True), repository)
            self.close_all(but=repository.folder)
            return repository
        below = os.path.relpath(repository.folder, self._top_of(repository))
        top = self.open_volume(repository.volume, "write" if read_write else "read")
        self.close_all(but=top)
        found = _same(find_repositories(os.path.normpath(os.path.join(top, below))), repository)
        device = next((name for name, place in self._open.items() if place == top), repository.volume.device)
        return replace(found, volume=replace(repository.volume, device=device))

    def repository_in(self, volume: FoundVolume, folder: str) -> FoundRepository:
        """The repository in a folder of an open volume.

        Raises:
            RepositoryNotFound: There is none.
        """
        found = [one for one in find_repositories(folder) if one.folder == folder]
        if not found:
            raise RepositoryNotFound(f"there is no repository in {folder}", hint="Look again.")
        top = self._open.get(volume.device, os.path.dirname(folder))
        return replace(found[0], where=volume_words(volume, top, folder), volume=volume)

    def repository_at(self, address: Address, folder: str) -> FoundRepository:
        """The repository in a folder of an open share, or of this system. Raises as ``repository_in``."""
        found = [one for one in find_repositories(folder) if one.folder == folder]
        if not found:
            raise RepositoryNotFound(f"there is no repository in {folder}", hint="Look again.")
        where = f"{address.words.rstrip('/')}/{os.path.basename(folder)}"
        return replace(found[0], where=where, address=address)

    def labelled(self, label: str) -> Iterator[str]:
        """The top folder of each volume with a label, one after the other."""
        for device in list_volume_devices(loops=self._loops):
            volume = identify_volume(device)
            if volume is not None and volume.label.strip() == label and can_read(volume.filesystem):
                try:
                    yield self.open_volume(volume, "look")
                except StillframeError:
                    continue

    def _top_of(self, repository: FoundRepository) -> str:
        tops = [*self._open.values(), *(self._device(repository.volume.device).mounted if repository.volume else ())]
        return max((top for top in tops if _is_in(repository.folder, top)), key=len, default="/")

    def _look_into(self, volume: FoundVolume) -> tuple[FoundVolume, list[FoundRepository]]:
        if not can_read(volume.filesystem):
            return replace(volume, refusal=why_not_read(volume.filesystem)), []
        try:
            top = self.open_volume(volume, "look")
            looked = replace(volume, free=_free(top), writable=self._can_write(volume))
            found = [
                replace(one, where=volume_words(looked, top, one.folder), volume=looked)
                for one in find_repositories(top)
            ]
        except (StillframeError, OSError) as error:
            self._close(volume.device)
            return replace(volume, refusal=str(error)), []
        if not found:
            self._close(volume.device)
        return looked, found

    def _can_write(self, volume: FoundVolume) -> bool:
        return can_write(volume.filesystem) and self._stacks.can_be_written(volume.device)

    def _device(self, path: str) -> VolumeDevice:
        for device in list_volume_devices(loops=self._loops):
            if device.path == path:
                return device
        raise MachineRefusal(f"{path} is not there any more", hint="Was it unplugged? Plug it in again and look again.")

    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise AssertionError("Places is used as a context")
        return self._keeper

    def _close(self, name: str) -> None:
        place = self._open.pop(name, None)
        if place is not None:
            self._forget(place)

    def _forget(self, place: str) -> None:
        self._kept().undo(place)


def _may_not_read(address: Address, what: str) -> MachineRefusal:
    hint = "The other computer decides who may: log in as the one who made the backups, or let this name read there."
    if address.share is not None and address.share.kind == "nfs":
        hint = (
            "The other computer takes who asks for nobody: switch 'squash' off there ('no_root_squash') for this "
            "computer; or use SMB or SFTP."
        )
    return MachineRefusal(f"what is at {address.words} may not be read: {what}", hint=hint)


def _free(top: str) -> int | None:
    try:
        return free_space(top)
    except OSError:
        return None


def _same(found: Iterable[FoundRepository], wanted: FoundRepository) -> FoundRepository:
    for one in found:
        if one.id == wanted.id:
            return replace(one, where=wanted.where, volume=wanted.volume, address=wanted.address)
    raise RepositoryNotFound(
        f"the repository {wanted.id[:8]} is not at {wanted.where} any more",
        hint="Was the disk unplugged? Plug it in again and look again.",
    )


def _words(address: Address, top: str, folder: str) -> str:
    inside = os.path.relpath(folder, top)
    return address.words if inside == "." else f"{address.words.rstrip('/')}/{inside}"


def _is_in(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")
