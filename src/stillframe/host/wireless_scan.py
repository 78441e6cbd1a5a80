"""Which wireless networks are in reach, as iwd hears them.

Answers: "which names can a person choose from?" iwd is asked over D-Bus by ``busctl``; nothing is joined.

Source: iwd, doc/station-api.txt (Scan, Scanning, GetOrderedNetworks: object and strength in hundredths of a dBm),
doc/network-api.txt (Name, Type); busctl(1), ``--json=short``.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from stillframe.errors import MachineRefusal
from stillframe.host.network import NetworkPaths
from stillframe.host.run import run
from stillframe.host.wireless import require_radio, wireless_cards

_HERE: Final = NetworkPaths()
_PROGRAM: Final = "/usr/libexec/iwd"
_SERVICE: Final = "net.connman.iwd"
_STATION: Final = f"{_SERVICE}.Station"
_NETWORK: Final = f"{_SERVICE}.Network"
_SCAN_S: Final = 20.0
_STEP_S: Final = 1.0
_HINT: Final = "'systemctl status iwd' in the shell says more. A cable, or a phone with its USB cable, goes without."


@dataclass(frozen=True, slots=True, kw_only=True)
class WirelessNetwork:
    """A network that is in reach.

    Attributes:
        name: As its owner called it.
        kind: ``open``, ``psk`` (a password), or another that this program cannot join: ``8021x``, ``wep``.
        strength: In dBm: -40 is near, -80 is far.
    """

    name: str
    kind: str
    strength: float


def has_radio(paths: NetworkPaths = _HERE) -> bool:
    """Whether this computer has a card with an antenna that works here."""
    return bool(wireless_cards(paths.interfaces))


def has_program() -> bool:
    """Whether this system can join a wireless network."""
    return os.path.exists(_PROGRAM)


def find_networks(check: Callable[[], None], paths: NetworkPaths = _HERE) -> tuple[WirelessNetwork, ...]:
    """Listen, and say what was heard, the nearest first.

    Args:
        check: Asked while it is waited for; what it raises ends it.
        paths: Where the kernel's interfaces are.

    Raises:
        MachineRefusal: There is no radio, it is switched off, or iwd does not answer.
    """
    require_radio(paths.interfaces, paths.switches)
    run(["systemctl", "start", "iwd"]).require_success(hint="Was the medium built with '--wifi'?")
    ends, found = time.monotonic() + _SCAN_S, tuple[WirelessNetwork, ...]()
    asked = set[str]()
    while True:
        check()
        stations, networks = parse_objects(_objects())
        for path in stations.keys() - asked:
            run(["busctl", "call", _SERVICE, path, _STATION, "Scan"])  # refused when it is listening already
            asked.add(path)
        found = tuple(_heard(stations, networks))
        if (found and not any(stations.values())) or time.monotonic() > ends:
            return found
        time.sleep(_STEP_S)


def parse_objects(raw: bytes) -> tuple[dict[str, bool], dict[str, tuple[str, str]]]:
    """What iwd has: of each station whether it is listening, of each network its name and kind.

    Raises:
        MachineRefusal: That is not what ``GetManagedObjects`` answers.
    """
    stations, networks = dict[str, bool](), dict[str, tuple[str, str]]()
    try:
        for path, interfaces in json.loads(raw)["data"][0].items():
            if _STATION in interfaces:
                stations[path] = bool(interfaces[_STATION]["Scanning"]["data"])
            if _NETWORK in interfaces:
                said = interfaces[_NETWORK]
                networks[path] = (str(said["Name"]["data"]), str(said["Type"]["data"]))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MachineRefusal(f"iwd said something that is not understood: {error}", hint=_HINT) from error
    return stations, networks


def _heard(stations: dict[str, bool], networks: dict[str, tuple[str, str]]) -> Iterator[WirelessNetwork]:
    best = dict[tuple[str, str], float]()
    for path in stations:
        said = run(["busctl", "--json=short", "call", _SERVICE, path, _STATION, "GetOrderedNetworks"])
        for object_path, strength in _ordered(said.output if said.exit_code == 0 else b""):
            if object_path in networks:
                network = networks[object_path]
                best[network] = max(best.get(network, strength), strength)
    for (name, kind), most in sorted(best.items(), key=lambda one: -one[1]):
        yield WirelessNetwork(name=name, kind=kind, strength=most / 100)


def _ordered(raw: bytes) -> list[tuple[str, int]]:
    try:
        rows: list[Any] = json.loads(raw)["data"][0]
        return [(str(row[0]), int(row[1])) for row in rows]
    except (ValueError, KeyError, IndexError, TypeError):
        return []


def _objects() -> bytes:
    command = ["busctl", "--json=short", "call", _SERVICE, "/", "org.freedesktop.DBus.ObjectManager"]
    return run([*command, "GetManagedObjects"]).require_success(hint=_HINT).output
