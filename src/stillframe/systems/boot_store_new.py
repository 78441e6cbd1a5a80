r"""A boot configuration (BCD) for a Windows that has started by BIOS and is to start by UEFI.

Answers: "what would ``bcdboot`` write for this Windows on this GPT disk?" Out of the template that lies in Windows' own
folder, in memory. No real Windows was started with it: experimental.

Sources: Microsoft, "BCD System Store Settings for UEFI" (the template, and what is set in it),
"BcdBootMgrElementTypes", "BcdLibraryElementTypes", "BcdOSLoaderElementTypes"; Geoff Chappell, "BCD Elements" (the
numbers, and in which form each kind is kept); a BCD of a Windows 10 that starts by UEFI, read value by value. Devices:
as ``windows_disks``.
"""

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from stillframe.errors import DiskFormatError
from stillframe.systems.hive_writer import REG_BINARY, HiveWriter, NewValue, number_value, text_value, texts_value
from stillframe.systems.windows_disks import PartitionRecord, new_boot_device

_BOOTMGR: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_MEMORY_TEST: Final = "{b2721d73-1db4-4c62-bf78-c548a880142d}"
_LOADER_SETTINGS: Final = "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"
_BOOTMGR_KIND, _LOADER_KIND = 0x10100002, 0x10200003
_DEVICE, _PATH, _NAME, _LOCALE, _INHERITS = "11000001", "12000002", "12000004", "12000005", "14000006"
_OS_DEVICE, _OS_ROOT, _NX, _MENU = "21000001", "22000002", "25000020", "250000c2"
_DEFAULT, _ORDER, _TOOLS, _TIMEOUT = "23000003", "24000001", "24000010", "25000004"
_SECONDS: Final = 30
_FOLDER: Final = r"\EFI\Microsoft\Boot"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStore:
    """What a boot configuration is to say.

    Attributes:
        esp: The partition of the boot files, on a GPT disk.
        windows: That of Windows.
        loader_id: The new name of the entry.
        name: What the menu calls it.
        locale: Such as ``de-DE``.
        has_new_menu: Whether it is Windows 8 or later.
        has_memory_test: Whether ``memtest.efi`` is among the boot files.
    """

    esp: PartitionRecord
    windows: PartitionRecord
    loader_id: UUID
    name: str = "Windows"
    locale: str = "en-US"
    has_new_menu: bool = True
    has_memory_test: bool = False


def build_uefi_store(template: bytes, wanted: NewStore) -> bytes:
    r"""Make a BCD out of ``\Windows\System32\config\BCD-Template``.

    Raises:
        DiskFormatError: The template is none, or is damaged.
    """
    writer = HiveWriter.open(template)
    for name in (_BOOTMGR, _LOADER_SETTINGS):
        if writer.find_key(rf"Objects\{name}") is None:
            raise DiskFormatError(
                f"the template of the boot configuration lacks its object {name}",
                hint="Windows' own 'mbr2gpt' or 'bcdboot' may do it: start its recovery environment.",
            )
    writer.set_value("Description", text_value("KeyName", "BCD00000000"))
    writer.set_value("Description", number_value("System", 1))
    writer.set_value("Description", number_value("TreatAsSystem", 1))
    _set_boot_manager(writer, wanted)
    _set_loader(writer, wanted)
    return writer.finish()


def _set_boot_manager(writer: HiveWriter, wanted: NewStore) -> None:
    loader, esp = f"{{{wanted.loader_id}}}", new_boot_device(wanted.esp)
    writer.set_value(rf"Objects\{_BOOTMGR}\Description", number_value("Type", _BOOTMGR_KIND))
    for element, value in (
        (_DEVICE, _binary(esp)), (_PATH, _text(rf"{_FOLDER}\bootmgfw.efi")), (_NAME, _text("Windows Boot Manager")),
        (_LOCALE, _text(wanted.locale)), (_DEFAULT, _text(loader)), (_ORDER, texts_value("Element", loader)),
        (_TIMEOUT, _number(_SECONDS)),
    ):  # fmt: skip
        writer.set_value(rf"Objects\{_BOOTMGR}\Elements\{element}", value)
    if wanted.has_memory_test and writer.find_key(rf"Objects\{_MEMORY_TEST}") is not None:
        memory = rf"Objects\{_MEMORY_TEST}\Elements"
        writer.set_value(rf"{memory}\{_DEVICE}", _binary(esp))
        writer.set_value(rf"{memory}\{_PATH}", _text(rf"{_FOLDER}\memtest.efi"))
        writer.set_value(rf"Objects\{_BOOTMGR}\Elements\{_TOOLS}", texts_value("Element", _MEMORY_TEST))
    else:
        writer.delete_key(rf"Objects\{_BOOTMGR}\Elements\{_TOOLS}")


def _set_loader(writer: HiveWriter, wanted: NewStore) -> None:
    loader, device = rf"Objects\{{{wanted.loader_id}}}", _binary(new_boot_device(wanted.windows))
    writer.set_value(rf"{loader}\Description", number_value("Type", _LOADER_KIND))
    elements = [
        (_DEVICE, device), (_PATH, _text(r"\Windows\system32\winload.efi")), (_NAME, _text(wanted.name)),
        (_LOCALE, _text(wanted.locale)), (_INHERITS, texts_value("Element", _LOADER_SETTINGS)), (_OS_DEVICE, device),
        (_OS_ROOT, _text(r"\Windows")), (_NX, _number(0)),
    ]  # fmt: skip
    elements += [(_MENU, _number(1))] if wanted.has_new_menu else []
    for element, value in elements:
        writer.set_value(rf"{loader}\Elements\{element}", value)


def _binary(data: bytes) -> NewValue:
    return NewValue(name="Element", kind=REG_BINARY, data=data)


def _number(number: int) -> NewValue:
    return _binary(struct.pack("<Q", number))


def _text(text: str) -> NewValue:
    return text_value("Element", text)
