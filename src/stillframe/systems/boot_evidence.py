"""What the words of a starting computer prove.

Answers: "has it started, or has it failed, and by which words?" Pure: texts in, a sighting out. The texts are those of
the programs themselves; a text that may pass by, such as a boot loader's error before it finds another way, counts only
when nothing has followed it for a while, which whoever watches decides.

Sources of the texts: SeaBIOS 1.16 src/boot.c; edk2 MdeModulePkg BdsDxe and ShellPkg; GNU GRUB 2.06 grub-core/kern and
normal; Linux 6.1 kernel/panic.c; systemd 252 src/systemctl and units/emergency.service; initramfs-tools 0.142
scripts/functions; util-linux 2.38 agetty; Windows' boot sectors and boot manager.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Outcome = Literal["booted", "failed"]

_BOOTED: Final = (
    (r"(?m)^[^\n]{0,80}[\w.-]+ login: ?", "a login prompt"),
    (r"Reached target [^\n]*(?:Multi-User System|Graphical Interface)", "the system says that it has started"),
)
_FAILED: Final = (
    (r"Kernel panic - not syncing: [^\n]*", "the kernel gave up"),
    (r"\(initramfs\)", "Linux did not find its root file system"),
    (r"ALERT! +\S+ does not exist", "Linux did not find its root file system"),
    (r"You are in emergency mode", "Linux came up in emergency mode"),
    (r"Give root password for maintenance", "Linux asks for maintenance"),
    (r"(?:dracut:/#|Entering emergency mode|Warning: /dev/\S+ does not exist)", "Linux did not find what it needs"),
    (r"grub rescue>", "the boot loader GRUB did not find its files"),
    (r"error: (?:no such partition|no such device|unknown filesystem|no such disk)[^\n]*", "GRUB did not find a disk"),
    (r"error: file [^\n]* not found[^\n]*", "GRUB did not find a file"),
    (r"error: (?:invalid|bad|incorrect|premature|out of)[^\n]*", "GRUB met an error"),
    (r"No bootable device", "the firmware found nothing to start"),
    (r"No bootable option or device was found", "the firmware found nothing to start"),
    (r"(?:Boot failed: not a bootable disk|This is not a bootable disk)", "the disk cannot be started"),
    (r"failed to (?:load|start) Boot\w+ [^\n]*: (?:Access Denied|Security Violation)", "Secure Boot refused it"),
    (r"UEFI Interactive Shell", "the firmware found nothing to start"),
    (r"(?:Missing|No) operating system", "the boot code found no system"),
    (r"Operating System not found", "the boot code found no system"),
    (r"Error loading operating system", "the boot code could not load the system"),
    (r"A disk read error occurred", "the boot code could not read the disk"),
    (r"(?:BOOTMGR|NTLDR) is (?:missing|compressed)", "Windows' boot manager is not there"),
    (r"Windows failed to start", "Windows' boot manager failed"),
    (r"(?i)FATAL: [^\n]*(?:boot|could not read)[^\n]*", "the boot loader failed"),
)
# What follows a failure that has a reason of its own.
_FAILED_AFTER: Final = ((r"Minimal BASH-like line editing is supported", "GRUB found nothing to start"),)
_STARTED: Final = re.compile(r"(?:Booting from Hard Disk\.\.\.|Booting from 0000:7c00|GRUB ?(?:loading\.?)?)\s*\Z")
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[=>78cDEM])|[\x00\x07\x0e\x0f]")
_LINE_MAX: Final = 120
# The words that are looked for in the memory of a Linux whose screen is a picture: its console keeps each character
# beside its colour. Linux include/linux/console_struct.h, vc_screenbuf.
_IN_MEMORY: Final = (
    " login: ", "Kernel panic - not syncing: ", "(initramfs) ", "You are in emergency mode", "Give root password for ",
    "grub rescue>",
)  # fmt: skip
_COLORS: Final = (0x07, 0x0F, 0x02, 0x0C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Words that were seen, and what they mean.

    Attributes:
        outcome: What they prove.
        meaning: In words for a person.
        line: As they stood there.
    """

    outcome: Outcome
    meaning: str
    line: str

    @property
    def words(self) -> str:
        """The meaning, with the words that it comes from."""
        return f"{self.meaning}: '{self.line}'" if self.line else self.meaning


def clean_console(raw: bytes) -> str:
    """What a serial line carried, without what only moves the cursor or sets colours."""
    return _ESCAPES.sub("", raw.decode("utf-8", "replace").replace("\r", ""))


def read_text_screen(memory: bytes, *, columns: int = 80) -> str:
    """The text in a VGA's memory, above and below what is shown, line by line.

    Args:
        memory: What is at 0xB8000: a character and its colour, in turns.
        columns: Of a line.
    """
    characters = memory[0::2].replace(b"\0", b" ").decode("cp437")
    lines = (characters[at : at + columns].rstrip() for at in range(0, len(characters), columns))
    return "\n".join(line for line in lines if line)


def read_words(text: str) -> Sighting | None:
    """What a text proves: that it started, if it says so anywhere; else the failure that it ends with."""
    for pattern, meaning in _BOOTED:
        found = re.search(pattern, text)
        if found:
            return Sighting(outcome="booted", meaning=meaning, line=_shown(found[0]))
    return _last_failure(text, _FAILED) or _last_failure(text, _FAILED_AFTER)


def _last_failure(text: str, patterns: Iterable[tuple[str, str]]) -> Sighting | None:
    last: tuple[int, Sighting] | None = None
    for pattern, meaning in patterns:
        for found in re.finditer(pattern, text):
            if last is None or found.start() > last[0]:
                last = found.start(), Sighting(outcome="failed", meaning=meaning, line=_shown(found[0]))
    return last[1] if last else None


def is_stuck_in_boot_code(text: str) -> bool:
    """Whether the last words are those of the boot code that starts what is on the disk."""
    return _STARTED.search(text.rstrip()) is not None


def read_memory(piece: bytes) -> Sighting | None:
    """What the console of a Linux proves, by the memory of its machine."""
    for words in _IN_MEMORY:
        for color in _COLORS:
            wanted = b"".join(bytes((ord(letter), color)) for letter in words)
            at = piece.find(wanted)
            if at >= 0:
                around = piece[max(0, at - 80) & ~1 | (at & 1) : at + 200][0::2]
                line = re.sub(r"[^ -~]", " ", around.decode("latin-1"))
                sighting = read_words(line.strip() if words != " login: " else line[: 40 + len(words)].strip() + " ")
                if sighting is not None:
                    return sighting
    return None


def _shown(text: str) -> str:
    return " ".join(text.split())[:_LINE_MAX]
