r"""The way from Windows' loaders to a Windows: ``bootmgr`` and its store, ``ntldr`` and ``boot.ini``.

Sources: those of ``boot_store`` and ``boot_ini``; Microsoft, KB 314477 (``ntldr`` needs ``ntdetect.com``; without a
``boot.ini`` it takes the folder ``Windows`` of the first partition).
"""

from collections.abc import Iterator
from typing import Final

from stillframe.systems.boot_ini import SIZE_MAX, ArcPath, BootIni, parse_boot_ini
from stillframe.systems.boot_store import StoreEntry, read_boot_store
from stillframe.systems.chain_places import Places, unread
from stillframe.systems.chain_records import BootChain, BootPart, BootStep
from stillframe.systems.windows_disks import PartitionRecord

_MANAGER: Final = "Windows Boot Manager"
_NT_LOADER: Final = "loader of Windows NT to 2003"


def follow_manager(places: Places, chain: BootChain, part: BootPart, program: str, store: str) -> Iterator[BootChain]:
    """The boot manager of Windows, and every system in its store.

    Args:
        places: All volumes.
        chain: How it was started.
        part: Where it is.
        program: Its path.
        store: The path of its store.
    """
    fault = "" if places.has_file(part, program) is not False else f"there is no {program} on this partition"
    chain = chain.then(part.step("loader", _MANAGER, program, leads=store, fault=fault))
    found = read_boot_store(part.files, store) if part.files is not None else None
    if found is None:
        why = "is no registry file" if places.has_file(part, store) else "is not there"
        yield chain.then(part.step("menu", "boot configuration (BCD)", store, fault=f"{store} {why}"))
        return
    titles = ", ".join(f"'{entry.title or entry.id}'" for entry in found.entries)
    fault = found.fault or ("" if found.entries else "it names no Windows")
    chain = chain.then(part.step("menu", "boot configuration (BCD)", store, leads=titles, fault=fault))
    if not found.entries:
        yield chain
    for rank, entry in enumerate(found.entries):
        yield from _follow_entry(places, chain.choosing(rank), part, entry)


def _follow_entry(places: Places, chain: BootChain, part: BootPart, entry: StoreEntry) -> Iterator[BootChain]:
    what = f"its entry '{entry.title or entry.id}'"
    record = entry.device if entry.is_legacy else entry.system or entry.device
    if record is None:
        yield chain.then(part.step("volume", what, limit=f"{what} names its partition in a way not read here"))
        return
    found = places.find_recorded(record)
    if found is None:
        fault = f"{what} names {describe_record(record)}, which is on none of these disks"
        yield chain.then(part.step("volume", what, fault=fault))
    elif entry.is_legacy:
        yield from follow_ntldr(places, chain, found)
    else:
        yield chain.then(_system_step(places, found, entry.path, what))


def _system_step(places: Places, part: BootPart, loader: str, named: str) -> BootStep:
    """The Windows on a partition, or why it is not seen."""
    if part.files is None:
        return part.step("volume", f"the Windows of {named}", loader, limit=unread(part))
    system, name = places.system(part), "Windows"
    if system is None or system.family != "windows":
        return part.step("volume", name, loader, fault=f"{named} leads here, and there is no Windows")
    gone = bool(loader) and places.has_file(part, loader) is False
    fault = f"{named} starts {loader}, which is not there" if gone else ""
    return part.step("system", system.name, loader, fault=fault)


def follow_ntldr(places: Places, chain: BootChain, part: BootPart) -> Iterator[BootChain]:
    """The loader of Windows NT to 2003, and every system in its ``boot.ini``."""
    gone = [name for name in ("ntldr", "NTDETECT.COM") if places.has_file(part, places.written(part, name)) is False]
    fault = f"{' and '.join(gone)} missing" if gone else ""
    if chain.has_been_at(part, "/ntldr"):
        yield chain.then(part.step("loader", _NT_LOADER, fault="it leads back to itself"))
        return
    chain = chain.then(part.step("loader", _NT_LOADER, "/ntldr", leads="/boot.ini", fault=fault))
    path = places.written(part, "boot.ini")
    raw = places.read(part, path, size=SIZE_MAX)
    if not raw:
        fault = "there is no boot.ini: the loader then takes the folder Windows of the first partition"
        yield chain.then(part.step("menu", "boot.ini", path, fault=fault))
        return
    ini = parse_boot_ini(raw)
    fault = "" if ini.places else "it names no Windows"
    chain = chain.then(part.step("menu", "boot.ini", path, leads=_titles(ini), fault=fault))
    if not ini.places:
        yield chain
    for rank, place in enumerate(ini.places):
        yield chain.choosing(rank).then(_arc_step(places, part, place))


def _titles(ini: BootIni) -> str:
    return ", ".join(f"'{entry.title}'" for entry in ini.entries)


def _arc_step(places: Places, part: BootPart, place: ArcPath) -> BootStep:
    found = places.find_arc(place, part)
    if found is None:
        fault = f"boot.ini names {place.text}, which is on none of these disks"
        return part.step("volume", "the Windows of boot.ini", fault=fault)
    if found.files is None:
        return found.step("volume", "the Windows of boot.ini", place.folder, limit=unread(found))
    folder = places.written(found, place.folder) if place.folder else ""
    is_there = bool(places.names(found, f"{folder}/System32"))
    system = places.system(found)
    if not is_there or system is None or system.family != "windows":
        fault = f"boot.ini names {place.text}, and there is no Windows"
        return found.step("volume", "Windows", folder, fault=fault)
    return found.step("system", system.name, folder)


def describe_record(record: PartitionRecord) -> str:
    """A partition as Windows notes it, in words."""
    if record.scheme == "gpt":
        return f"partition GUID {record.guid}"
    return f"the partition at byte {record.start} of the disk with signature {record.disk}"
