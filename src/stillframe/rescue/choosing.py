"""Which disk, which image, which repository: from what was asked for and what is there.

Answers: "which one is meant, and why can it not be that one?" Pure. When several could be meant nobody guesses: the
error lists them. The same rules stand behind the screens, which show the reason beside the disk.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from stillframe.errors import RepositoryNotFound, StillframeError, TargetError, UsageError
from stillframe.rescue.answering.answers import DiskAnswer, RepositoryAnswer
from stillframe.rescue.places.found import FoundRepository, FoundVolume
from stillframe.rescue.verbs.records import DiskSeen, ImageSeen
from stillframe.units import format_size, parse_size

_T = TypeVar("_T")
_SLACK: Final = 64
"""Sizes that people write are rounded: a disk of ``500GB`` may differ by one part in so many."""
_SPACE_MIN: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A disk, and why it cannot be the target; an empty refusal when it can."""

    disk: DiskSeen
    refusal: str = ""


def disk_words(disk: DiskSeen) -> str:
    """A disk for a person who must recognise it."""
    named = f"{disk.model or 'disk'}{' (removable)' if disk.removable else ''}"
    serial = f", serial {disk.serial}" if disk.serial else ""
    return f"{named}, {format_size(disk.size)}{serial}, {disk.path}"


def contents_words(disk: DiskSeen) -> str:
    """What is on a disk, in one line."""
    if not any(part.filesystem or part.type_name != "whole disk" for part in disk.partitions):
        return "nothing is on it that is known here"
    systems = ", ".join(disk.systems)
    labels = ", ".join(part.label for part in disk.partitions if part.label)
    count = len(disk.partitions)
    words = f"{count} partition{'s' if count > 1 else ''}"
    return "; ".join(part for part in (systems, words, labels) if part)


def judge_targets(
    disks: Iterable[DiskSeen], *, repository_disks: Iterable[str], medium: str, is_installed: bool
) -> tuple[Judged, ...]:
    """Each disk, and why it cannot be overwritten.

    Args:
        disks: All of this machine.
        repository_disks: Those that the repository lies on.
        medium: The disk that the rescue system was started from.
        is_installed: The screens run on an installed system.
    """
    holding = frozenset(repository_disks)
    return tuple(
        Judged(disk=disk, refusal=_refusal(disk, holding, medium, is_installed=is_installed)) for disk in disks
    )


def _refusal(disk: DiskSeen, holding: frozenset[str], medium: str, *, is_installed: bool) -> str:
    if disk.path in holding:
        return "the repository with the backups is on it"
    if medium and disk.path == medium:
        return "this rescue system runs from it"
    used = [place for part in disk.partitions for place in part.in_use_at]
    if "/" in used and is_installed:
        return "this system runs from it: start the rescue medium to restore it"
    if used:
        return f"it is in use ({used[0]})"
    if disk.read_only:
        return "it is write-protected"
    return ""


def choose_disk(disks: Sequence[Judged], wanted: DiskAnswer, *, what: str) -> DiskSeen:
    """The one disk that is meant.

    Raises:
        TargetError: None is, several are, or it cannot be that one. The choices are listed.
    """
    asked = any((wanted.serial, wanted.path, wanted.model, wanted.size))
    fitting = [one for one in disks if _fits(one.disk, wanted)]
    found = fitting if asked else [one for one in fitting if not one.refusal]
    if len(found) == 1:
        if found[0].refusal:
            raise TargetError(f"{what} {found[0].disk.path}: {found[0].refusal}", hint=_choices(disks))
        return found[0].disk
    usable = [one for one in found if not one.refusal]
    if len(usable) == 1 and asked:
        return usable[0].disk
    if not found:
        raise TargetError(f"no disk of this computer can be the {what}: {wanted.words}", hint=_choices(disks))
    raise TargetError(f"several disks can be the {what}: {wanted.words}", hint=_choices(found))


def _choices(disks: Sequence[Judged]) -> str:
    if not disks:
        return "No disk was found on this computer."
    listed = (f"{disk_words(one.disk)}{f' ({one.refusal})' if one.refusal else ''}" for one in disks)
    return f"The disks are: {'; '.join(listed)}. Name one by its serial number."


def _fits(disk: DiskSeen, wanted: DiskAnswer) -> bool:
    if wanted.size and not any(abs(disk.size - size) <= size // _SLACK for size in _sizes(wanted.size)):
        return False
    return (
        wanted.serial in ("", disk.serial)
        and wanted.path in ("", disk.path)
        and (not wanted.model or wanted.model.lower() in disk.model.lower())
    )


def _sizes(text: str) -> tuple[int, int]:
    """What a size may mean: units are powers of 1024 where programs write them, of 1000 on the box of a disk."""
    size = parse_size(text)
    power = next((number for number, unit in enumerate("kmgt", 1) if unit in text.lower()), 0)
    return size, size * 1000**power // 1024**power


def choose_repository(found: Sequence[FoundRepository], wanted: RepositoryAnswer) -> FoundRepository:
    """The one repository that is meant.

    Raises:
        RepositoryNotFound: None is.
        UsageError: Several are; they are listed.
        StillframeError: It is there and cannot be used.
    """
    fitting = [one for one in found if one.id.startswith(wanted.id)]
    usable = {one.id: one for one in reversed(fitting) if not one.refusal}
    if len(usable) == 1:
        return next(iter(usable.values()))
    if not fitting:
        what = f"no repository with the id {wanted.id}" if wanted.id else "no repository"
        raise RepositoryNotFound(
            f"{what} was found on any disk of this computer",
            hint="Plug in the disk with the backups and try again, or give the address of the share.",
        )
    if not usable:
        raise RepositoryNotFound(f"the repository at {fitting[0].where} cannot be used", hint=fitting[0].refusal)
    listed = "; ".join(f"{one.id} on {one.where}" for one in usable.values())
    raise UsageError(f"several repositories were found: {listed}", hint="Name one: 'id' in [repository].")


def choose_image(images: Sequence[ImageSeen], wanted: str, machine: str) -> ImageSeen:
    """The one image that is meant: an id or its beginning, ``latest``, or ``latest:NAME``.

    Args:
        images: The newest first.
        wanted: What was written.
        machine: Whose; empty for any.

    Raises:
        RepositoryNotFound: There is none.
        UsageError: It could be images of several machines, or several with that beginning; they are listed.
    """
    mine = [image for image in images if machine in ("", image.machine, image.machine_id)]
    if not mine:
        owners = ", ".join(dict.fromkeys(image.machine for image in images)) or "none"
        raise RepositoryNotFound(
            f"there is no image{f' of {machine}' if machine else ''} in that repository",
            hint=f"It has images of: {owners}.",
        )
    word, _, name = wanted.partition(":")
    if word == "latest":
        named = [image for image in mine if name in ("", image.name)]
        newest = _once(named, lambda image: image.machine_id or image.machine)
        return _only(
            newest, "machine", f"image {wanted!r}", lambda image: f"{image.machine} ({image.id[:8]}, {image.created})"
        )
    begun = [image for image in mine if image.id.startswith(wanted)]
    return _only(
        begun, "image", f"image {wanted!r}", lambda image: f"{image.id[:8]} of {image.machine}, {image.created}"
    )


def _once(items: Iterable[_T], key: Callable[[_T], str]) -> list[_T]:
    found = dict[str, _T]()
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


def _only(found: Sequence[_T], of: str, what: str, words: Callable[[_T], str]) -> _T:
    if len(found) == 1:
        return found[0]
    if not found:
        raise RepositoryNotFound(f"there is no {what}", hint="'stillframe images --all' lists what is there.")
    listed = "; ".join(words(one) for one in found)
    raise UsageError(f"the {what} could be of several: {listed}", hint=f"Name the {of}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A place for a backup: a volume, the repository that is on it already, and why it is good or is not."""

    volume: FoundVolume
    repository: FoundRepository | None
    reason: str
    refusal: str = ""


def judge_rooms(
    volumes: Iterable[FoundVolume], repositories: Sequence[FoundRepository], sources: Sequence[DiskSeen],
    *, medium: str = "",
) -> tuple[Room, ...]:  # fmt: skip
    """Places for a backup of disks, the best first: external, not a source, already a repository, with room.

    Args:
        volumes: That were found.
        repositories: That were found on them.
        sources: The disks that are saved.
        medium: The disk that this system was started from.
    """
    saved = {disk.path for disk in sources}
    needed = sum(part.bytes_used or 0 for disk in sources for part in disk.partitions)
    rooms = []
    for volume in volumes:
        held = [one for one in repositories if one.volume and one.volume.device == volume.device and not one.refusal]
        rooms.append(_judge_room(volume, held[0] if held else None, saved, needed))
    return tuple(sorted(rooms, key=lambda room: _rank(room, needed, medium)))


def _judge_room(volume: FoundVolume, repository: FoundRepository | None, saved: set[str], needed: int) -> Room:
    refusal = ""
    if not saved.isdisjoint(volume.rests_on):
        refusal = "it is on a disk that is saved: it would be lost with it"
    elif volume.refusal:
        refusal = volume.refusal
    elif not volume.writable:
        refusal = "nothing can be written there"
    elif (volume.free or 0) < _SPACE_MIN:
        refusal = "no room is left there"
    words = []
    if repository is not None:
        words.append(f"your backups are there already ({repository.images})")
    if volume.external:
        words.append("external")
    if volume.free is not None:
        enough = "enough" if volume.free > needed else f"it may need up to {format_size(needed)}"
        words.append(f"{format_size(volume.free)} free, {enough}")
    return Room(volume=volume, repository=repository, reason="; ".join(words), refusal=refusal)


def _rank(room: Room, needed: int, medium: str) -> tuple[bool, bool, bool, bool, bool, int]:
    free = room.volume.free or 0
    return (
        bool(room.refusal), room.repository is None, free < needed, bool(medium) and medium in room.volume.rests_on,
        not room.volume.external, -free,
    )  # fmt: skip


def propose_sources(
    disks: Iterable[DiskSeen], repositories: Iterable[FoundRepository], *, medium: str
) -> tuple[DiskSeen, ...]:
    """The disks that a backup of this computer means: those with a system; never the medium, nor the repository's."""
    holding = {disk for one in repositories if one.volume is not None for disk in one.volume.rests_on}
    mine = [disk for disk in disks if disk.path not in holding and disk.path != medium]
    with_system = [disk for disk in mine if disk.systems]
    return tuple(with_system or [disk for disk in mine if not disk.removable and disk.partitions])


def sentence(error: StillframeError) -> tuple[str, ...]:
    """An error as a person reads it: what it is, and the way on."""
    words = error.message[:1].upper() + error.message[1:]
    return (f"{words}." if words[-1:] not in ".!?" else words, *((error.hint,) if error.hint else ()))
