"""The radio of the rescue system: which cards there are, whether they may send, and what iwd is told.

Answers: "can this computer reach a wireless network, and what does iwd need for it?" A password goes into a file that
root alone can read, in memory, never onto a command line.

Source: iwd.network(5), naming of files and ``Passphrase``; IEEE 802.11, 8 to 63 characters; Linux
ABI/stable/sysfs-class-rfkill and ABI/testing/sysfs-class-net (``phy80211``).
"""

import contextlib
import os
import re
from typing import Final

from stillframe.errors import MachineRefusal, UsageError
from stillframe.host.blocks import names_in, read_number, read_text

_SSID_PLAIN: Final = re.compile(r"[A-Za-z0-9 _-]+")
_SSID_BYTES_MAX: Final = 32
_PASSWORD: Final = re.compile(r"[\x20-\x7e]{8,63}")
_CARD_HINT: Final = (
    "Was the medium built with '--wifi', and with firmware? 'dmesg' in the shell says which file a card asks for. A "
    "cable, or a phone with its USB cable, goes without."
)


def wireless_cards(interfaces: str) -> tuple[str, ...]:
    """The interfaces with an antenna, below the folder of the kernel's interfaces."""
    return tuple(name for name in names_in(interfaces) if os.path.exists(f"{interfaces}/{name}/phy80211"))


def require_radio(interfaces: str, switches: str) -> None:
    """Let the radio send; refuse where there is none, or where a switch of the computer holds it off.

    Args:
        interfaces: The folder of the kernel's interfaces.
        switches: The folder of the kernel's switches of radios.

    Raises:
        MachineRefusal: There is none, or it is switched off.
    """
    radios = [name for name in names_in(switches) if read_text(f"{switches}/{name}/type").strip() == "wlan"]
    for name in radios:
        with contextlib.suppress(OSError), open(f"{switches}/{name}/soft", "w", encoding="ascii") as file:
            file.write("0")
    if radios and all(read_number(f"{switches}/{name}/hard") == 1 for name in radios):
        raise MachineRefusal(
            "the radio of this computer is switched off",
            hint="Look for a switch at its side, or a key with an antenna on it, such as Fn+F8.",
        )
    if not radios and not wireless_cards(interfaces):
        raise MachineRefusal("this computer has no wireless network card that works here", hint=_CARD_HINT)


def iwd_file(name: str, password: str) -> tuple[str, str]:
    """The name and the text of the file by which iwd knows a network.

    Raises:
        UsageError: The name or the password is none of a wireless network.
    """
    if not 0 < len(name.encode()) <= _SSID_BYTES_MAX:
        raise UsageError(
            f"{name!r} is no name of a wireless network: at most 32 bytes", hint="Write it as it is shown."
        )
    plain = name if _SSID_PLAIN.fullmatch(name) else f"={name.encode().hex()}"
    if not password:
        return f"{plain}.open", ""
    if not _PASSWORD.fullmatch(password):
        raise UsageError(
            f"the password of the wireless network {name} has {len(password)} characters, or others than it can have",
            hint="It has 8 to 63 letters, numbers and signs. It often stands on the router.",
        )
    return f"{plain}.psk", f"[Security]\nPassphrase={password}\n"
