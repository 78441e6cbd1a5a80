"""What a partition of one kind of table is called in the other.

Answers: "which type says in a GPT what this one says in an MBR, and the reverse?" A type only says what a partition is
for; what is in it stays as it is. Which partitions there will be is decided in ``converting``.

Sources: as for ``types``; for pairs GNU ``gdisk`` 1.0.9, whose ``sgdisk --mbrtogpt`` and ``--gpttombr`` make the same
of most that it knows; learn.microsoft.com, "PARTITION_INFORMATION_GPT" (the attribute bits).
"""

from dataclasses import dataclass
from typing import Final

from stillframe.disk.layout import Partition
from stillframe.disk.types import name_type
from stillframe.errors import TargetError

ESP_GUID: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT_GUID: Final = "21686148-6449-6E6F-744E-656564454649"
RESERVED_GUID: Final = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
"""Microsoft's: empty, and only in a GPT."""
LINUX_GUID: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_WINDOWS_GUID: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_RECOVERY_GUID: Final = "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"
LINUX_CODE: Final = "83"
ESP_CODE: Final = "EF"
ACTIVE: Final = 0x80
"""The status of an entry of an MBR whose partition a BIOS is to start."""

_REQUIRED: Final = 1 << 0
_HIDDEN: Final = 1 << 62
_NO_LETTER: Final = 1 << 63

# Of each MBR type the GPT type, and the attribute bits that say what the MBR type says beside it.
_TO_GPT: Final[dict[str, tuple[str, int]]] = {
    **dict.fromkeys(("01", "04", "06", "07", "0B", "0C", "0E"), (_WINDOWS_GUID, 0)),
    **dict.fromkeys(("11", "12", "14", "16", "17", "1B", "1C", "1E", "DE"), (_WINDOWS_GUID, _HIDDEN | _NO_LETTER)),
    "27": (_RECOVERY_GUID, _REQUIRED | _NO_LETTER),
    "82": ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", 0),
    "83": (LINUX_GUID, 0),
    "8E": ("E6D6D379-F507-44C2-A23C-238F2A3DF928", 0),
    "A5": ("516E7CB4-6ECF-11D6-8FF8-00022D09712B", 0),
    "AF": ("48465300-0000-11AA-AA11-00306543ECAC", 0),
    "EA": ("BC13C2FF-59E6-4262-A352-B275FD6F7172", 0),
    "EF": (ESP_GUID, 0),
    "FD": ("A19D880F-05FC-4D3B-A006-743F0F84911E", 0),
}
_TO_MBR: Final[dict[str, str]] = {
    ESP_GUID: ESP_CODE,
    _WINDOWS_GUID: "07",
    _RECOVERY_GUID: "27",
    "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "82",
    "E6D6D379-F507-44C2-A23C-238F2A3DF928": "8E",
    "516E7CB4-6ECF-11D6-8FF8-00022D09712B": "A5",
    "48465300-0000-11AA-AA11-00306543ECAC": "AF",
    "BC13C2FF-59E6-4262-A352-B275FD6F7172": "EA",
    "A19D880F-05FC-4D3B-A006-743F0F84911E": "FD",
}
_LINUX_NAMES: Final = frozenset({
    "Linux", "Linux /usr", "Linux home", "Linux server data", "Linux variable data", "Linux temporary data",
    "Linux reserved", "Linux encrypted",
})  # fmt: skip
"""Names by ``types`` of GPT types that an MBR knows only as Linux."""
_REFUSED: Final = frozenset({
    "Windows dynamic disk", "Windows dynamic disk database", "Windows storage spaces", "MBR partition table",
    "ChromeOS kernel", "ChromeOS root", "PowerPC boot",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherType:
    """A type of the other kind of table.

    Attributes:
        type: As in ``Partition.type``.
        attributes: As in ``Partition.attributes``.
        is_guess: No type there says the same, so it is called Linux, which Windows leaves alone.
    """

    type: str
    attributes: int = 0
    is_guess: bool = False


def type_for_gpt(part: Partition) -> OtherType:
    """What a partition of an MBR is in a GPT.

    Raises:
        TargetError: It is of a kind that only lives in its own table.
    """
    _refuse(part)
    found = _TO_GPT.get(part.type)
    if found is None:
        return OtherType(type=LINUX_GUID, is_guess=True)
    return OtherType(type=found[0], attributes=found[1])


def type_for_mbr(part: Partition) -> OtherType:
    """What a partition of a GPT is in an MBR.

    Raises:
        TargetError: It is of a kind that only lives in its own table.
    """
    _refuse(part)
    if part.type_name in _LINUX_NAMES:
        return OtherType(type=LINUX_CODE)
    found = _TO_MBR.get(part.type)
    return OtherType(type=found) if found else OtherType(type=LINUX_CODE, is_guess=True)


def _refuse(part: Partition) -> None:
    if name_type(part.type) in _REFUSED:
        raise TargetError(
            f"partition {part.number} ({part.type_name}) belongs to its partition table, and is not converted",
            hint="Leave '--convert' out.",
        )
