"""The verb that compares images: ``diff``."""

from collections import Counter
from typing import Any, Final

from stillframe.cli.call import Call
from stillframe.cli.results import notice_fields
from stillframe.cli.words import notice_lines
from stillframe.host.machine import machine
from stillframe.jobs.differing import ImageComparison, Place, VolumeComparison, Wanted, compare_images
from stillframe.jobs.listing import find_image
from stillframe.units import format_count, format_size

_INCOMPLETE: Final = 3
_ONLY: Final = {"only-older": "is only in the first image", "only-newer": "is only in the second image"}


def diff(call: Call) -> int:
    """List what changed between two images."""
    options = call.options
    repository = call.open_repository()
    older, newer = (find_image(repository, word, machine_id=machine().id) for word in (options.image, options.other))
    wanted = Wanted(disk=options.disk, partition=options.partition, path=options.path or "")
    found = compare_images(repository, older, newer, wanted, events=call.screen)
    fields = {
        "image": older.image,
        "other": newer.image,
        "complete": found.is_complete,
        "changes": [one for volume in found.volumes for one in _changes_fields(volume, touched=options.touched)],
        "volumes": [_volume_fields(volume) for volume in found.volumes],
        "notices": notice_fields([*found.notices, *(one for volume in found.volumes for one in volume.notices)]),
    }
    call.screen.finish("diff", fields, _lines(found, touched=options.touched))
    return 0 if found.is_complete else _INCOMPLETE


def _lines(found: ImageComparison, *, touched: bool) -> list[str]:
    many = max(len(found.older.disks), len(found.newer.disks)) > 1
    lines, totals = [], Counter[str]()
    for volume in found.volumes:
        place = _place(volume)
        where = f"{place.disk}:{place.word}" if many else place.word
        if volume.status in _ONLY:
            lines.append(f"Partition {where} ({volume.filesystem or 'no file system'}) {_ONLY[volume.status]}.")
        for one in volume.changes:
            totals[one.kind] += 1
            if touched or one.kind != "touched":
                size = "" if one.is_folder else f"  {format_size(one.size)}"
                lines.append(f"{one.kind:<7}  {where}{one.path}{'/' if one.is_folder else ''}{size}")
    words = ", ".join(f"{totals[kind]} {kind}" for kind in ("added", "changed", "removed"))
    if totals["touched"] and not touched:
        words += f"; {totals['touched']} only touched ('--touched' lists them)"
    equal = sum(volume.status == "equal" for volume in found.volumes)
    same = f" {format_count(equal, 'partition')} did not change at all." if equal else ""
    notices = [*found.notices, *(one for volume in found.volumes for one in volume.notices)]
    return [*lines, f"{words}.{same}", *notice_lines(notices)]


def _place(volume: VolumeComparison) -> Place:
    place = volume.newer or volume.older
    assert place is not None
    return place


def _changes_fields(volume: VolumeComparison, *, touched: bool) -> list[dict[str, Any]]:
    place = _place(volume)
    return [
        {
            "kind": one.kind,
            "disk": place.disk,
            "partition": place.partition,
            **({} if place.volume is None else {"volume": place.volume}),
            "path": one.path,
            "size": one.size,
            "folder": one.is_folder,
        }
        for one in volume.changes
        if touched or one.kind != "touched"
    ]


def _volume_fields(volume: VolumeComparison) -> dict[str, Any]:
    totals = Counter(one.kind for one in volume.changes)
    return {
        "first": _place_fields(volume.older),
        "second": _place_fields(volume.newer),
        "filesystem": volume.filesystem,
        "status": volume.status,
        "complete": volume.is_complete,
        **{kind: totals[kind] for kind in ("added", "changed", "removed", "touched")},
    }


def _place_fields(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    volume = {} if place.volume is None else {"volume": place.volume}
    return {"disk": place.disk, "partition": place.partition, **volume}
