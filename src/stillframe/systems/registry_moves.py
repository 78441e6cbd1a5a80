r"""Records of partitions in registry files, as they must be after a move.

Answers: "which bytes of this BCD, or of this ``SYSTEM``, must say something else?" Each is replaced in its own cell by
one of the same size, so neither the hive nor its sums change elsewhere. A hive that was not closed is refused: what its
log still holds would come back over the change. ``hive_repair`` gives it here with its logs applied.

Sources: as ``windows_disks``. That the first two hex digits 11, 21 and 31 of an element's name mean a device, of a
library, an application and a device object: Microsoft, "BCDElement"; Geoff Chappell, "BCD Elements".
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from stillframe.block.edits import Edit
from stillframe.errors import DiskFormatError
from stillframe.events import Notice
from stillframe.systems.hive import Hive, Key, OnFault, Value
from stillframe.systems.windows import SHUT_DOWN
from stillframe.systems.windows_disks import (
    iter_boot_devices,
    parse_mounted_device,
    write_boot_device,
    write_mounted_device,
)
from stillframe.systems.windows_moves import Moves, Rewriting, left_out

_DEVICE_KINDS: Final = ("11", "21", "31")
_ELEMENT: Final = "ELEMENT"
_OBJECTS_MAX: Final = 1000
_ELEMENTS_MAX: Final = 20_000
_REPAIRS: Final = "Start the recovery environment of that Windows: 'chkdsk /f', then 'bcdboot C:\\Windows'."


def move_boot_store(hive: Hive, moves: Moves) -> Rewriting:
    """The devices of a BCD.

    Raises:
        DiskFormatError: It is so broken that its objects cannot be listed.
    """
    if hive.is_dirty:
        return _dirty()
    faults, edits, lost = list[DiskFormatError](), list[Edit](), 0
    for value in _iter_elements(hive, faults.append):
        changed, unknown = _move_element(value.data, moves)
        lost += unknown
        if changed != value.data:
            if value.at is None:
                faults.append(DiskFormatError("a device does not lie in one piece"))
            else:
                edits.append(Edit(offset=value.at, old=value.data, new=changed))
    notices = list(_iter_faults(faults))
    if lost:
        notices.append(left_out(f"devices name partitions that were not taken over ({lost}); they stay as they are"))
    done = f"the devices that it starts from follow their partitions ({len(edits)})"
    return Rewriting(edits=tuple(edits), done=(done,) if edits else (), notices=tuple(notices))


def move_mounted_devices(hive: Hive, moves: Moves) -> Rewriting:
    r"""The key ``MountedDevices`` of a ``SYSTEM``. Records of what is not on the new disk stay: they are history.

    Raises:
        DiskFormatError: It is so broken that its values cannot be listed.
    """
    if hive.is_dirty:
        return _dirty()
    faults, edits = list[DiskFormatError](), list[Edit]()
    key = hive.find_key("MountedDevices")
    for value in hive.iter_values(key, faults.append) if key else ():
        record = parse_mounted_device(value.data)
        moved = record and moves.follow(record)
        if record is None or moved is None or moved == record or value.at is None:
            continue
        edits.append(Edit(offset=value.at, old=value.data, new=write_mounted_device(moved)))
    done = f"the records of drive letters and volumes (MountedDevices) follow their partitions ({len(edits)})"
    return Rewriting(edits=tuple(edits), done=(done,) if edits else (), notices=tuple(_iter_faults(faults)))


def _iter_elements(hive: Hive, on_fault: OnFault) -> Iterator[Value]:
    """The values of all elements that are devices."""
    objects = hive.find_key("Objects")
    found = _iter_element_keys(hive, objects, on_fault) if objects else iter(())
    for key in islice(found, _ELEMENTS_MAX):
        for value in hive.iter_values(key, on_fault):
            if value.name.upper() == _ELEMENT:
                yield value
    if next(found, None) is not None:
        on_fault(DiskFormatError(f"it has more than {_ELEMENTS_MAX} devices"))


def _iter_element_keys(hive: Hive, objects: Key, on_fault: OnFault) -> Iterator[Key]:
    for one in islice(hive.iter_keys(objects, on_fault), _OBJECTS_MAX):
        for folder in hive.iter_keys(one, on_fault):
            if folder.name.upper() == "ELEMENTS":
                yield from (key for key in hive.iter_keys(folder, on_fault) if key.name[:2] in _DEVICE_KINDS)


def _move_element(element: bytes, moves: Moves) -> tuple[bytes, int]:
    """An element with all its devices moved, and how many of this disk's could not be."""
    changed, unknown = element, 0
    for at, record in iter_boot_devices(element):
        moved = moves.follow(record)
        if moved is not None:
            changed = write_boot_device(changed, at, moved)
        elif moves.is_of_disk(record):
            unknown += 1
    return changed, unknown


def _dirty() -> Rewriting:
    message = "it was not closed: changes to it wait in its log"
    return Rewriting(notices=(Notice(code="registry-not-closed", message=message, hint=SHUT_DOWN),))


def _iter_faults(faults: list[DiskFormatError]) -> Iterator[Notice]:
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        message = f"a part of it is broken and stays as it is ({faults[0].message}{more})"
        yield Notice(code="registry-not-read", message=message, hint=_REPAIRS)
