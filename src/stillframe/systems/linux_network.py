"""Network settings of a Linux that name one network card, made to fit another.

Answers: "what must this file say so that the first wired network of another computer is used as this one was?" Names
such as ``enp3s0`` come from where a card is plugged in, hardware addresses from the card: neither comes along. Pure: a
text in, a text out. Only what is wired is changed, and where one file describes several cards, only the first.

Sources: interfaces(5), "Pattern matching interface names"; systemd.network(5), systemd.link(5); netplan YAML
configuration, "match"; nm-settings-keyfile(5); sysconfig.txt of initscripts, "ifcfg-<interface-name>";
systemd.net-naming-scheme(7).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_CARD: Final = r"(?:en(?:[opsx][0-9a-zA-Z]+)|eth[0-9]+)"
"""Names of wired network cards, by the kernel and by udev."""
_ANY: Final = "e*"
_HARDWARE: Final = r"[\"']?(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}[\"']?"
_INTERFACE: Final = re.compile(rf"(?m)^(\s*iface\s+)({_CARD})(\s+inet6?\s)")
_SECTION: Final = re.compile(r"(?ms)^\[(\w[\w-]*)\][ \t]*\n(.*?)(?=^\[|\Z)")
_MATCHED: Final = re.compile(rf"(?mi)^(?:Permanent)?MACAddress\s*=.*\n?|^Path\s*=.*\n?|^Name\s*=\s*{_CARD}[ \t]*\n?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """A changed file; ``text`` is ``None`` when it must not be there any more. ``why`` is a part of a sentence."""

    text: str | None
    why: str


def relax_interfaces(text: str) -> Relaxed | None:
    """``/etc/network/interfaces``: the first wired card gets what one of them had."""
    first = _INTERFACE.search(text)
    if first is None:
        return None
    name, changed = first[2], []
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words and (words[0] == "auto" or words[0].startswith("allow-")) and name in words[1:]:
            head, _, rest = line.partition(words[0])
            named = re.sub(rf"(?<=\s){re.escape(name)}(?=\s|$)", f"/{_ANY}/1={name}", rest)
            changed.append(f"{head}{words[0]}{named}")
        else:
            changed.append(line)
    done = "".join(changed)
    if done == text:
        return None
    return Relaxed(text=done, why=f"the first wired network card gets what {name} had")


def relax_networkd(text: str) -> Relaxed | None:
    """A ``.network`` of systemd-networkd that matches one wired card."""
    for section in _SECTION.finditer(text):
        if section[1] == "Match" and _MATCHED.search(section[2]) and "Type=wlan" not in section[2]:
            rest = _MATCHED.sub("", section[2])
            name = "" if re.search(r"(?m)^Name\s*=", rest) else "Name=en* eth*\n"
            body = f"[Match]\n{name}{rest}"
            done = text[: section.start()] + body + text[section.end() :]
            return Relaxed(text=done, why="it is for any wired network card")
    return None


def relax_link(text: str) -> Relaxed | None:
    """A ``.link`` of udev that names a card by its hardware address or its place."""
    for section in _SECTION.finditer(text):
        if section[1] == "Match" and re.search(r"(?mi)^(?:(?:Permanent)?MACAddress|Path)\s*=", section[2]):
            return Relaxed(text=None, why="it named a network card that stays behind")
    return None


def relax_rules(text: str) -> Relaxed | None:
    """``70-persistent-net.rules``: names of the cards that were there."""
    return Relaxed(text=None, why="it named network cards that stay behind") if "ATTR{address}" in text else None


def relax_ifcfg(text: str) -> Relaxed | None:
    """``ifcfg-*`` of a wired card: without an address or a name it is for the first one."""
    if re.search(r"(?mi)^TYPE=[\"']?(?!Ethernet)\w", text) or re.search(r"(?m)^DEVICE=[\"']?lo\b", text):
        return None
    done = re.sub(rf"(?m)^(?:HWADDR=.*|DEVICE=[\"']?{_CARD}[\"']?[ \t]*)\n?", "", text)
    return Relaxed(text=done, why="it is for any wired network card") if done != text else None


def relax_keyfile(text: str) -> Relaxed | None:
    """A connection of NetworkManager by wire: without an address or a name it is for any card."""
    if not re.search(r"(?m)^type\s*=\s*(?:ethernet|802-3-ethernet)\s*$", text):
        return None
    done = re.sub(rf"(?m)^(?:mac-address\s*=.*|interface-name\s*=\s*{_CARD}[ \t]*)\n?", "", text)
    return Relaxed(text=done, why="it is for any wired network card") if done != text else None


def relax_netplan(text: str) -> Relaxed | None:
    """The first card below ``ethernets`` in a file of netplan."""
    lines = text.splitlines(keepends=True)
    top = next((at for at, line in enumerate(lines) if re.fullmatch(r"\s*ethernets:\s*", line)), None)
    if top is None:
        return None
    body = [at for at in range(top + 1, len(lines)) if lines[at].strip() and not lines[at].lstrip().startswith("#")]
    if not body or _indent(lines[body[0]]) <= _indent(lines[top]):
        return None
    card = body[0]
    step = _indent(lines[card]) - _indent(lines[top])
    own = []
    for at in body[1:]:
        if _indent(lines[at]) <= _indent(lines[card]):
            break
        own.append(at)
    done = "".join(_netplan_lines(lines, card, own, step))
    return Relaxed(text=done, why="its first card is any wired network card") if done != text else None


def _netplan_lines(lines: list[str], card: int, own: list[int], step: int) -> Iterator[str]:
    space = " " * (_indent(lines[card]) + step)
    is_matched = any(lines[at].strip().startswith("match:") for at in own)
    for at, line in enumerate(lines):
        if at in own and re.match(r"\s*set-name:", line):
            continue
        changed = line
        if at in own and is_matched:
            changed = re.sub(rf"macaddress:\s*{_HARDWARE}", f'name: "{_ANY}"', line)
        yield changed
        if at == card and not is_matched and re.fullmatch(rf"\s*[\"']?{_CARD}[\"']?:\s*", line):
            yield f'{space}match:\n{space}{" " * step}name: "{_ANY}"\n'


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


NETWORK_FILES: Final[tuple[tuple[str, Callable[[str], Relaxed | None]], ...]] = (
    ("/etc/udev/rules.d/*persistent-net.rules", relax_rules),
    ("/etc/systemd/network/*.link", relax_link),
    ("/etc/systemd/network/*.network", relax_networkd),
    ("/etc/network/interfaces", relax_interfaces),
    ("/etc/network/interfaces.d/*", relax_interfaces),
    ("/etc/netplan/*.yaml", relax_netplan),
    ("/etc/NetworkManager/system-connections/*", relax_keyfile),
    ("/etc/sysconfig/network-scripts/ifcfg-*", relax_ifcfg),
)
"""Where they are, as patterns, and what is done to each."""
