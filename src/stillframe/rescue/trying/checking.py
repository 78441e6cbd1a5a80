"""Whether a medium fits this machine.

Answers: "will it start here, and will it see the disks, the network and the repository?" Pure: what the machine is and
what the medium knows in, answers out. Nothing is started: a driver that fits by its lists may still fail, which only a
start from the medium tells.

Sources: Intel, "Intel Rapid Storage Technology" and "Volume Management Device" (what the modes hide); Linux
drivers/ata/ahci.c, ahci_remap_check ("Switch your BIOS from RAID to AHCI mode to use them").
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stillframe.host.hardware import Hardware, Link
from stillframe.host.start_up import StartUp
from stillframe.rescue.trying.contents import MediumContents
from stillframe.rescue.trying.modules import missing_firmware
from stillframe.units import format_size

Verdict = Literal["yes", "no", "note"]
MEMORY_MIN: Final = 1 << 30
_SHOWN: Final = 3
_RAID_HINT: Final = (
    "In the firmware set-up (F2, F10 or Del at the start) change the storage mode from 'RAID' or 'RST' to 'AHCI'. A "
    "Windows on it does not start any more then, unless it was told before: type 'bcdedit /set {current} safeboot "
    "minimal' there as administrator, restart into the set-up, change the mode, start Windows once, and undo it with "
    "'bcdedit /deletevalue {current} safeboot'."
)
_VMD_HINT: Final = (
    "In the firmware set-up switch 'VMD' off, or change the storage mode to 'AHCI'; what is said of Windows at 'RAID' "
    "in the guide holds here too."
)
_MORE_FIRMWARE_HINT: Final = (
    "It was built with '--wifi', but no source of packages had 'non-free-firmware' then: add that part to the sources "
    "of apt, 'apt-get update', and build it anew. Or keep a USB adapter for a network cable with it."
)
_FILE_SYSTEMS: Final = {"nfs4": "nfs", "smb3": "cifs", "fuseblk": "fuse", "fuse.sshfs": "fuse", "fuse": "fuse"}
_NO_DISK_NEEDED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "virtiofs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One line of the list: about what, whether it is so, why in a sentence, and what to do."""

    code: str
    about: str
    verdict: Verdict
    words: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a repository lies: the folder or address, its file system, the disks under it; or why it is none."""

    folder: str
    filesystem: str
    disks: frozenset[str]
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked about.

    Attributes:
        hardware: Of this machine.
        start_up: How it starts.
        place: Where its repository lies; ``None`` when nobody said.
        locked: Kinds of encrypted volumes on its disks: ``BitLocker``, ``crypto_LUKS``.
    """

    hardware: tuple[Hardware, ...]
    start_up: StartUp
    place: Place | None = None
    locked: tuple[str, ...] = ()


def check_medium(medium: MediumContents, asked: Asked) -> tuple[Answer, ...]:
    """Compare a medium with this machine."""
    return (
        *_iter_start(asked.start_up), *_iter_disks(medium, asked.hardware), *_iter_usb(medium, asked.hardware),
        *_iter_network(medium, asked.hardware), *_iter_place(medium, asked), *_iter_keys(asked.locked),
    )  # fmt: skip


def is_fit(answers: Iterable[Answer]) -> bool:
    """Whether nothing is missing."""
    return all(answer.verdict != "no" for answer in answers)


def _iter_start(machine: StartUp) -> Iterator[Answer]:
    if machine.processor not in ("x86_64", "AMD64"):
        words = f"the medium is for 64-bit PCs (x86_64); this machine is {machine.processor or 'another'}"
        yield Answer(code="processor", about="Processor", verdict="no", words=words, hint="It cannot start here.")
    if machine.efi_bits == 32:
        yield Answer(
            code="efi-32", about="Firmware", verdict="no", words="its UEFI has 32 bits, and starts no 64-bit medium",
            hint="Look for 'legacy', 'CSM' or 'BIOS' in the firmware set-up.",
        )  # fmt: skip
    else:
        how = "UEFI" if machine.has_uefi else "a BIOS, or by a UEFI that acts as one"
        words = f"this computer was started by {how}; the medium starts so, too"
        yield Answer(code="firmware", about="Firmware", verdict="yes", words=words)
    if machine.secure_boot:
        words = (
            "is on: media made by 'rescue build' start by Debian's signed loaders; some firmware asks first whether "
            "it may trust Microsoft's third-party certificate"
        )
        hint = "When it refuses: allow 'Microsoft 3rd party UEFI CA' in the firmware set-up, or switch Secure Boot off."
        yield Answer(code="secure-boot", about="Secure Boot", verdict="note", words=words, hint=hint)
    if machine.memory:
        enough, size = machine.memory >= MEMORY_MIN * 9 // 10, format_size(machine.memory)
        words = f"{size} is enough" if enough else f"{size} is less than the {format_size(MEMORY_MIN)} that it needs"
        yield Answer(code="memory", about="Memory", verdict="yes" if enough else "no", words=words)


def _iter_disks(medium: MediumContents, hardware: Sequence[Hardware]) -> Iterator[Answer]:
    for one in hardware:
        if one.kind == "controller":
            yield _controller(medium, one)
    disks = [one for one in hardware if one.kind == "disk"]
    for one in disks:
        yield _seen(medium, one, "disk", f"Disk {one.name}" + (f" ({one.words})" if one.words else ""))
    if not disks:
        yield Answer(code="disk", about="Disks", verdict="no", words="this system itself sees none")


def _controller(medium: MediumContents, one: Hardware) -> Answer:
    about = f"Disk controller {one.words}"
    if one.hidden:
        words = f"hides {one.hidden} NVMe disk(s) from every Linux: its mode is 'RAID On' (Intel RST)"
        return Answer(code="raid-mode", about=about, verdict="no", words=words, hint=_RAID_HINT)
    seen = _seen(medium, one, "controller", about)
    if one.is_vmd:
        if seen.verdict == "yes":
            words = "is Intel VMD, for which the medium has a driver; a RAID made by it is not put together"
            return Answer(code="vmd", about=about, verdict="note", words=words, hint=_VMD_HINT)
        words = "is Intel VMD, for which the medium has no driver: the disks behind it are not seen"
        return Answer(code="vmd", about=about, verdict="no", words=words, hint=_VMD_HINT)
    if one.is_intel_raid and seen.verdict == "yes":
        words = "is in the mode 'RAID' (Intel RST); its disks are seen one by one"
        return Answer(code="raid-mode", about=about, verdict="note", words=words, hint=_RAID_HINT)
    return seen


def _iter_usb(medium: MediumContents, hardware: Sequence[Hardware]) -> Iterator[Answer]:
    ports = [one for one in hardware if one.kind == "usb"]
    if not ports:
        return
    answers = [_seen(medium, one, "usb", "USB") for one in ports]
    if any(answer.verdict == "yes" for answer in answers):
        yield Answer(code="usb", about="USB", verdict="yes", words="keyboard, stick and USB disks are reached")
    else:
        yield answers[0]


def _iter_network(medium: MediumContents, hardware: Sequence[Hardware]) -> Iterator[Answer]:
    wired = [one for one in hardware if one.kind == "wired"]
    wireless = [one for one in hardware if one.kind == "wireless"]
    answers = [_seen(medium, one, "network", f"Network card {one.name}") for one in wired]
    answers += [_seen(medium, one, "wifi", f"Wi-Fi {one.name}") for one in wireless]
    yield from answers
    if not wired and wireless:
        words = "there is no socket for a network cable: the repository is reached by Wi-Fi or on a USB disk only"
        hint = "Build the medium with '--wifi', or keep a USB adapter for a network cable with it."
        yield Answer(code="wifi-only", about="Network", verdict="note", words=words, hint=hint)
    if not wired and not wireless:
        yield Answer(code="no-network", about="Network", verdict="note", words="no network card was found")


def _seen(medium: MediumContents, one: Hardware, code: str, about: str) -> Answer:
    """Whether the medium reaches a device: every device on the way must have a driver there."""
    drivers = list[str]()
    for link in one.way:
        found = _drivers_for(medium, link)
        if not found:
            words = f"the medium has no driver for {_link_words(link)}"
            return Answer(code=code, about=about, verdict="no", words=words, hint=_no_driver_hint(code))
        drivers.append(link.module.replace("-", "_") if link.module.replace("-", "_") in found else found[0])
    if not drivers:
        words = "this system does not say by which driver it works"
        return Answer(code=code, about=about, verdict="note", words=words, hint="Start from the medium once to see it.")
    missing = missing_firmware(medium.firmware_of(drivers[0]), medium.firmware)
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" or one of {len(missing) - _SHOWN} others" if missing[_SHOWN:] else "")
        words = f"its driver {drivers[0]} may ask for firmware that is not on the medium: {shown}"
        verdict: Verdict = "no" if code == "wifi" else "note"  # no radio works without; most wired cards do
        hint = _MORE_FIRMWARE_HINT if medium.has_wifi else "Build it with '--wifi'."
        return Answer(code=f"{code}-firmware", about=about, verdict=verdict, words=words, hint=hint)
    if code == "wifi" and not medium.has_wifi:
        words = "the medium has the driver for it, but not the program that joins a wireless network"
        return Answer(code="wifi-program", about=about, verdict="no", words=words, hint=_no_driver_hint(code))
    names = tuple(dict.fromkeys(drivers))
    words = f"the medium has the driver{'s' if len(names) > 1 else ''} for it: {', '.join(names)}"
    return Answer(code=code, about=about, verdict="yes", words=words)


def _drivers_for(medium: MediumContents, link: Link) -> tuple[str, ...]:
    """The drivers of the medium for one device: by its alias, else the one that it has here."""
    found = medium.modules.find_drivers(link.alias)
    if found:
        return found
    # What is part of a kernel has no aliases in its lists: there the name decides.
    names = {name.replace("-", "_") for name in (link.module, link.driver) if name}
    return tuple(sorted(name for name in names if name in medium.modules.builtin))


def _link_words(link: Link) -> str:
    known = f"{link.pci_id[0]:04x}:{link.pci_id[1]:04x}" if link.pci_id is not None else link.alias[:60]
    return f"{known} (here: {link.driver})" if link.driver else known


def _no_driver_hint(code: str) -> str:
    if code == "wifi":
        return "Build the medium with '--wifi', or use a network cable."
    return (
        "Build the medium with '--kernel generic' (the cloud kernel knows virtual machines only), or anew with "
        "'--fresh' when its kernel is old."
    )


def _iter_place(medium: MediumContents, asked: Asked) -> Iterator[Answer]:
    place = asked.place
    if place is None:
        words = "which one is not known: name it with '--repo FOLDER', to have its place checked"
        yield Answer(code="repository", about="Repository", verdict="note", words=words)
        return
    if place.refusal:
        hint = "Is its disk plugged in, or its share open? Name the folder with the file stillframe.json."
        yield Answer(
            code="repository", about=f"Repository {place.folder}", verdict="no", words=place.refusal, hint=hint
        )
        return
    about, kind = f"Repository {place.folder}", _FILE_SYSTEMS.get(place.filesystem, place.filesystem)
    known = medium.modules.find_drivers(f"fs-{kind}") or medium.modules.has(kind)
    if not known:
        words = f"the medium does not know the file system {place.filesystem} on which it lies"
        yield Answer(code="repository", about=about, verdict="no", words=words, hint="Copy it to another disk.")
    elif place.filesystem in _NO_DISK_NEEDED:
        usable = [one for one in asked.hardware if one.kind in ("wired", "wireless")]
        seen = any(_seen(medium, one, "network", "").verdict == "yes" for one in usable)
        if not seen:
            words = f"on the network ({place.filesystem}), and the medium has a driver for no network card here"
            yield Answer(code="repository", about=about, verdict="no", words=words, hint=_no_driver_hint("network"))
            return
        words = f"on the network ({place.filesystem}), which the medium knows; whether the server answers was not asked"
        yield Answer(code="repository", about=about, verdict="yes", words=words)
    else:
        yield _on_disks(medium, asked.hardware, place, about)


def _on_disks(medium: MediumContents, hardware: Sequence[Hardware], place: Place, about: str) -> Answer:
    disks = [one for one in hardware if one.kind == "disk" and one.name in place.disks]
    if not disks:
        words = f"on {place.filesystem}; on which disk is not known"
        return Answer(code="repository", about=about, verdict="note", words=words)
    answers = [_seen(medium, one, "repository", about) for one in disks]
    bad = next((answer for answer in answers if answer.verdict != "yes"), None)
    if bad is not None:
        return bad
    words = f"{place.filesystem} on {', '.join(one.name for one in disks)}, which the medium sees"
    internal = [one.name for one in disks if not any(link.alias.startswith("usb:") for link in one.way)]
    if not internal:
        return Answer(code="repository", about=about, verdict="yes", words=words)
    hint = "Keep a second copy on a USB disk or another computer."
    words += "; but that disk is built in, and may be lost together with this computer"
    return Answer(code="repository", about=about, verdict="note", words=words, hint=hint)


def _iter_keys(locked: Sequence[str]) -> Iterator[Answer]:
    if "BitLocker" in locked:
        words = "Windows may ask for its recovery key after a restore: 48 digits"
        hint = "In Windows as administrator: 'manage-bde -protectors -get C:'. Print it, and keep it with the stick."
        yield Answer(code="bitlocker", about="BitLocker", verdict="note", words=words, hint=hint)
    if "crypto_LUKS" in locked:
        words = "an encrypted Linux asks for its passphrase after a restore: it is in no backup"
        yield Answer(
            code="luks", about="LUKS", verdict="note", words=words, hint="Write it down where you keep the stick."
        )
