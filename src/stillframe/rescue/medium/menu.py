"""The menu of the medium's boot loader.

Answers: "what can be started from it, and with which words does the kernel start?" One text for a BIOS and for UEFI, on
the screen and on the first serial line. A key starts an entry at once.

Sources: GNU GRUB manual 2.06 (``serial``, ``menuentry --hotkey``, ``fwsetup``, ``grub_platform``; ``lockdown`` is set
under Secure Boot); live-boot(7); systemd.unit words in kernel-command-line(7).
"""

from collections.abc import Iterator
from typing import Final

FOLDER: Final = "/live"
LIVE_WORDS: Final = "boot=live nopersistence noeject"
"""What the kernel is told by each entry."""
_QUIET: Final = "quiet loglevel=3"
SERIAL_WORDS: Final = "console=tty0 console=ttyS0,115200"
_TIMEOUT_S: Final = 5
_HEAD: Final = """\
if serial --unit=0 --speed=115200; then
  terminal_input console serial
  terminal_output console serial
fi
"""
_MEMTEST: Final = """\
if [ "$grub_platform" = efi ]; then
  if [ "$lockdown" != y ]; then
    menuentry "Test the memory of this computer (t)" --hotkey=t --id=memtest {
      chainloader /boot/memtest86+x64.efi
    }
  fi
else
  menuentry "Test the memory of this computer (t)" --hotkey=t --id=memtest {
    linux16 /boot/memtest86+x64.bin
  }
fi
"""
# A BIOS names the disk that it started hd0, so the computer's own one is hd1 then; from a CD it is hd0.
_OWN_DISK: Final = """\
if [ "$grub_platform" = efi ]; then
  menuentry "Start from the computer's own disk (d)" --hotkey=d --id=disk {
    exit
  }
  menuentry "Settings of the firmware (f)" --hotkey=f --id=firmware {
    fwsetup
  }
else
  menuentry "Start from the computer's own disk (d)" --hotkey=d --id=disk {
    if regexp '^hd0' "$root"; then
      set root=(hd1)
      drivemap -s (hd0) (hd1)
    else
      set root=(hd0)
    fi
    chainloader +1
  }
fi
"""


def menu(*, keyboard: str, serial: bool, has_memtest: bool) -> str:
    """The text of ``grub.cfg``.

    Args:
        keyboard: Of the console; empty for an American one.
        serial: The entry for the serial line is the one that starts by itself.
        has_memtest: Whether the programs for it are on the medium.
    """
    return "\n".join(_parts(keyboard, serial=serial, has_memtest=has_memtest))


def _parts(keyboard: str, *, serial: bool, has_memtest: bool) -> Iterator[str]:
    words = f"{LIVE_WORDS} {f'stillframe.keyboard={keyboard} ' if keyboard else ''}"
    yield _HEAD
    yield f"set timeout={_TIMEOUT_S}"
    yield f"set default={'serial' if serial else 'rescue'}\n"
    yield _entry("rescue", "Stillframe: rescue, back up, restore", "r", f"{words}{_QUIET}")
    yield _entry("memory", "The same, all of it in memory: the medium can be taken out", "m",
                 f"{words}toram=filesystem.squashfs {_QUIET}")  # fmt: skip
    yield _entry("graphics", "The same with basic graphics, for a screen that stays dark", "g",
                 f"{words}nomodeset {_QUIET}")  # fmt: skip
    yield _entry("serial", "The same on the serial line too, 115200 baud", "s", f"{words}{SERIAL_WORDS} {_QUIET}")
    if has_memtest:
        yield _MEMTEST
    yield _OWN_DISK


def _entry(name: str, title: str, key: str, words: str) -> str:
    return (
        f'menuentry "{title} ({key})" --hotkey={key} --id={name} {{\n'
        f"  linux {FOLDER}/vmlinuz {words}\n  initrd {FOLDER}/initrd\n}}\n"
    )
