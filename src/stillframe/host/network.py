"""The network of the rescue system: an address by DHCP or by hand, a cable or Wi-Fi.

Answers: "is there a network, and how does one come up?" systemd-networkd does the work; what is to be is written where
it looks, in memory. ``wireless`` knows what iwd needs.

Source: systemd.network(5), networkctl(1); Linux ABI/sysfs-class-net.
"""

import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal, UsageError
from stillframe.host.blocks import names_in, read_number, read_text
from stillframe.host.run import run
from stillframe.host.wireless import iwd_file, require_radio, wireless_cards

_STEP_S: Final = 0.5
_ANYWHERE: Final = "00000000"
_LOCAL6: Final = ("fe80", "ff00")
_CARD: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UP_HINT: Final = "Is the network cable in? Without DHCP an address must be given: 'address' in [network]."


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkWish:
    """What the network is to be.

    Attributes:
        interface: Such as ``enp3s0``; empty for all with a cable, or for all with an antenna.
        address: Such as ``192.168.1.20/24``; empty for DHCP.
        gateway: Router; empty for none.
        dns: Name servers.
        wifi: Name of the wireless network; empty for a cable.
        wifi_password: Its password.
        wait_s: How long it may take.
    """

    interface: str = ""
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    wifi: str = ""
    wifi_password: str = ""
    wait_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPaths:
    """Where these things are; a test has others."""

    units: str = "/run/systemd/network"
    iwd: str = "/var/lib/iwd"
    interfaces: str = "/sys/class/net"
    routes: str = "/proc/net/route"
    routes6: str = "/proc/net/ipv6_route"
    switches: str = "/sys/class/rfkill"


def network_unit(wish: NetworkWish) -> str:
    """The text of a ``.network`` file.

    Raises:
        UsageError: An address is none.
    """
    for address in filter(None, (wish.gateway, *wish.dns)):
        _require_address(address, ipaddress.ip_address)
    if wish.address:
        _require_address(wish.address, ipaddress.ip_interface)
        if "/" not in wish.address:
            raise UsageError(
                f"the address {wish.address} has no length", hint=f"Write {wish.address}/24, for instance."
            )
    if not re.fullmatch(r"[\w.:*-]*", wish.interface):
        raise UsageError(f"{wish.interface!r} is no name of an interface", hint="Leave it out: a cable is found.")
    match = f"Name={wish.interface}" if wish.interface else f"Type={'wlan' if wish.wifi else 'ether'}"
    lines = ["[Match]", match, "", "[Network]"]
    lines += [f"Address={wish.address}"] if wish.address else ["DHCP=yes"]
    lines += ["MulticastDNS=resolve", "LLMNR=resolve"]  # a NAS is known by its own word: nas.local
    lines += [f"Gateway={wish.gateway}"] if wish.gateway else []
    lines += [f"DNS={server}" for server in wish.dns]
    return "\n".join(lines) + "\n"


def bring_up(wish: NetworkWish, paths: NetworkPaths = NetworkPaths()) -> None:
    """Bring the network up, and wait until it leads out of this computer.

    Raises:
        UsageError: An address is none, or a password is none of a wireless network.
        MachineRefusal: There is no cable, no such interface, no radio, or nothing answers in time.
    """
    text = network_unit(wish)
    wireless = iwd_file(wish.wifi, wish.wifi_password) if wish.wifi else None
    if wireless is not None:
        require_radio(paths.interfaces, paths.switches)
    elif not _interfaces(paths, wish.interface):
        named = f" {wish.interface}" if wish.interface else ""
        raise MachineRefusal(f"this computer has no network card{named}", hint="'ip link' in the shell lists them.")
    _write(f"{paths.units}/05-stillframe.network", text, mode=0o644)
    if wireless is not None:
        _write(f"{paths.iwd}/{wireless[0]}", wireless[1], mode=0o600)
        run(["systemctl", "restart", "iwd"]).require_success(hint="Was the medium built with '--wifi'?")
    hint = "Is systemd-networkd on this system? On another one bring the network up by its own means."
    run(["systemctl", "start", "systemd-networkd"]).require_success(hint=hint)
    run(["networkctl", "reload"]).require_success(hint=hint)
    ends = time.monotonic() + wish.wait_s
    while not _leads_out(wish, paths):
        if time.monotonic() > ends:
            raise _not_up(wish, paths)
        time.sleep(_STEP_S)


def _leads_out(wish: NetworkWish, paths: NetworkPaths) -> bool:
    """Whether what was wished is there: a cable beside it does not count for a wireless network."""
    named = [wish.interface] if wish.interface else wireless_cards(paths.interfaces) if wish.wifi else None
    return is_up(paths) if named is None else any(is_up(paths, name) for name in named)


def is_up(paths: NetworkPaths = NetworkPaths(), interface: str = "") -> bool:
    """Whether an interface other than ``lo``, or the named one, has a route.

    Source: Linux net/ipv4/fib_trie.c, fib_route_seq_show; net/ipv6/route.c, ipv6_route_seq_show.
    """
    routes = [line.split()[0] for line in read_text(paths.routes).splitlines()[1:] if line.split()]
    routes6 = [
        line.split()[-1] for line in read_text(paths.routes6).splitlines() if line.split() and line[:4] not in _LOCAL6
    ]
    return any(name != "lo" and interface in ("", name) for name in (*routes, *routes6))


def read_card(paths: NetworkPaths = NetworkPaths()) -> str:
    """The number (MAC) of the network card that leads out of this computer; empty when none does.

    Source: Linux net/ipv4/fib_trie.c, fib_route_seq_show: name, destination, gateway, flags, two counts, metric.
    """
    rows = [line.split() for line in read_text(paths.routes).splitlines()[1:]]
    ways = sorted((row[1] != _ANYWHERE, int(row[6]), row[0]) for row in rows if len(row) > 7 and row[0] != "lo")
    names = [name for _, _, name in ways] or [
        line.split()[-1] for line in read_text(paths.routes6).splitlines() if line.split() and line[:4] not in _LOCAL6
    ]
    numbers = [read_text(f"{paths.interfaces}/{name}/address").strip().lower() for name in names if name != "lo"]
    return next((number for number in numbers if _CARD.fullmatch(number)), "")


def has_cable(paths: NetworkPaths = NetworkPaths(), interface: str = "") -> bool:
    """Whether any interface, or the named one, has a link."""
    return any(read_number(f"{paths.interfaces}/{name}/carrier") == 1 for name in _interfaces(paths, interface))


def _interfaces(paths: NetworkPaths, interface: str) -> list[str]:
    return [name for name in names_in(paths.interfaces) if name != "lo" and interface in ("", name)]


def _not_up(wish: NetworkWish, paths: NetworkPaths) -> MachineRefusal:
    cards = wireless_cards(paths.interfaces) if wish.wifi else tuple(_interfaces(paths, wish.interface))
    names = ", ".join(cards) or "no card"
    if not any(has_cable(paths, name) for name in cards):
        what = f"no connection to the wireless network {wish.wifi}" if wish.wifi else "no cable"
        hint = (
            "Are its name and password right, and is it near enough?"
            if wish.wifi
            else "Put the network cable in, at both ends, and try again."
        )
        return MachineRefusal(f"the network did not come up: {what} ({names})", hint=hint)
    return MachineRefusal(f"the network did not come up within {wish.wait_s:g} seconds ({names})", hint=_UP_HINT)


def _require_address(text: str, parse: Callable[[str], object]) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no address: {error}", hint="Write 192.168.1.20, for instance.") from error


def _write(path: str, text: str, *, mode: int) -> None:
    """Write a file that has its rights from the start."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise MachineRefusal(f"{path} cannot be written: {error.strerror}", hint="Are you root?") from error
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
