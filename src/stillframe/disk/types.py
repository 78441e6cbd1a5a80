"""The types of partitions in words a person knows.

Answers: "what is a partition of this type for?" It says what the table claims; what is really inside, ``fs`` finds out.

Sources: UEFI Specification 2.10, table 5.7 (EFI system, MBR scheme); learn.microsoft.com, "PARTITION_INFORMATION_GPT"
(the Microsoft types); The Discoverable Partitions Specification, uapi-group.org (the Linux types); GNU GRUB manual
2.06, section 3.4 (BIOS boot); cryptsetup FAQ (dm-crypt, LUKS); Apple Technical Note TN2166 (the Apple types);
Andries Brouwer, "Partition types: List of partition identifiers for PCs" (MBR). ``sfdisk -T`` knows the same.
"""

from typing import Final

UNUSED_GUID: Final = "00000000-0000-0000-0000-000000000000"
"""UEFI Specification 2.10, table 5.7: "Unused Entry"."""

_GPT_NAMES: Final = {
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
    "024DEE41-33E7-11D3-9D69-0008C781F39F": "MBR partition table",
    "21686148-6449-6E6F-744E-656564454649": "BIOS boot",
    "9E1A2D38-C612-4316-AA26-8B49521E5A8B": "PowerPC boot",
    "BC13C2FF-59E6-4262-A352-B275FD6F7172": "Linux boot",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Microsoft reserved",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "Windows data",
    "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "Windows recovery",
    "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": "Windows dynamic disk database",
    "AF9B60A0-1431-4F62-BC68-3311714A69AD": "Windows dynamic disk",
    "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D": "Windows storage spaces",
    "0FC63DAF-8483-4772-8E79-3D69D8477DE4": "Linux",
    "44479540-F297-41B2-9AF7-D131D5F0458A": "Linux",  # root, x86
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "Linux",  # root, x86-64
    "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3": "Linux",  # root, ARM
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "Linux",  # root, ARM-64
    "72EC70A6-CF74-40E6-BD49-4BDA08E8F224": "Linux",  # root, RISC-V-64
    "8484680C-9521-48C6-9C11-B0720656F69E": "Linux /usr",  # x86-64
    "B0E01050-EE5F-4390-949A-9101B17104E9": "Linux /usr",  # ARM-64
    "933AC7E1-2EB4-4F13-B844-0E14E2AEF915": "Linux home",
    "3B8F8425-20E0-4F3B-907F-1A25A76F98E8": "Linux server data",
    "4D21B016-B534-45C2-A9FB-5C16E091FD2D": "Linux variable data",
    "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1": "Linux temporary data",
    "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "Linux swap",
    "8DA63339-0007-60C0-C436-083AC8230908": "Linux reserved",
    "E6D6D379-F507-44C2-A23C-238F2A3DF928": "LVM",
    "A19D880F-05FC-4D3B-A006-743F0F84911E": "RAID",
    "7FFEC5C9-2D00-49B7-8941-3EA10A5586B7": "Linux encrypted",  # plain dm-crypt
    "CA7D7CCB-63ED-4C53-861C-1742536059CC": "Linux encrypted",  # LUKS
    "516E7CB4-6ECF-11D6-8FF8-00022D09712B": "FreeBSD",
    "48465300-0000-11AA-AA11-00306543ECAC": "Apple HFS+",
    "7C3457EF-0000-11AA-AA11-00306543ECAC": "Apple APFS",
    "426F6F74-0000-11AA-AA11-00306543ECAC": "Apple recovery",
    "FE3A2A5D-4F32-41A7-B725-ACCC3285A309": "ChromeOS kernel",
    "3CB8E202-3B7E-47DD-8A3C-7FF2A13CFCEC": "ChromeOS root",
}

_MBR_NAMES: Final = {
    "01": "FAT",
    "04": "FAT",
    "06": "FAT",
    "0B": "FAT",
    "0C": "FAT",
    "0E": "FAT",
    "07": "Windows data",
    "11": "hidden FAT",
    "14": "hidden FAT",
    "16": "hidden FAT",
    "1B": "hidden FAT",
    "1C": "hidden FAT",
    "1E": "hidden FAT",
    "17": "hidden Windows data",
    "12": "maker's diagnostics",
    "27": "Windows recovery",
    "41": "PowerPC boot",
    "42": "Windows dynamic disk",
    "82": "Linux swap",
    "83": "Linux",
    "8E": "LVM",
    "A5": "FreeBSD",
    "AF": "Apple HFS+",
    "DE": "maker's diagnostics",
    "EA": "Linux boot",
    "EF": "EFI system",
    "FD": "RAID",
}


def name_type(type_code: str) -> str:
    """Say in words what a partition is for.

    Args:
        type_code: As in ``Partition.type``: a GUID of a GPT entry or two hex digits of an MBR entry, in upper case.

    Returns:
        Such as ``EFI system``; ``unknown`` for a type that is not in the tables.
    """
    return _GPT_NAMES.get(type_code) or _MBR_NAMES.get(type_code) or "unknown"
