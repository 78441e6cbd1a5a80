"""Network settings that name one card, and what fits any: forms of the manual pages."""

import pytest

from stillframe.systems.linux_network import (
    relax_ifcfg,
    relax_interfaces,
    relax_keyfile,
    relax_link,
    relax_netplan,
    relax_networkd,
    relax_rules,
)

INTERFACES = """auto lo
iface lo inet loopback

# the first card
allow-hotplug enp3s0
iface enp3s0 inet static
    address 192.0.2.7/24
    gateway 192.0.2.1

auto enp4s0
iface enp4s0 inet dhcp
"""


def test_interfaces_of_the_first_card_are_those_of_any() -> None:
    """``ifup --no-act`` of ifupdown 0.8.41 takes an ``eth0`` for it."""
    relaxed = relax_interfaces(INTERFACES)
    assert relaxed is not None
    assert relaxed.text == INTERFACES.replace("allow-hotplug enp3s0", "allow-hotplug /e*/1=enp3s0")


@pytest.mark.parametrize("text", ["auto lo\niface lo inet loopback\n", "auto wlp2s0\niface wlp2s0 inet dhcp\n", ""])
def test_interfaces_without_a_wired_card_stay(text: str) -> None:
    assert relax_interfaces(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Match]\nName=enp3s0\n\n[Network]\nDHCP=yes\n", "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"),
        (
            "[Match]\nMACAddress=52:54:00:12:34:56\n[Network]\nDHCP=yes\n[Link]\nMACAddress=52:54:00:aa:bb:cc\n",
            "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n[Link]\nMACAddress=52:54:00:aa:bb:cc\n",
        ),
        ("[Match]\nName=lan\nMACAddress=52:54:00:12:34:56\n[Network]\n", "[Match]\nName=lan\n[Network]\n"),
    ],
)
def test_a_network_file_matches_any_wired_card(text: str, expected: str) -> None:
    relaxed = relax_networkd(text)
    assert relaxed is not None
    assert relaxed.text == expected


@pytest.mark.parametrize(
    "text", ["[Match]\nName=en*\n[Network]\nDHCP=yes\n", "[Match]\nName=br0\n", "[NetDev]\nName=br0\n"]
)
def test_a_network_file_that_matches_many_stays(text: str) -> None:
    assert relax_networkd(text) is None


def test_what_names_cards_by_address_goes() -> None:
    link = relax_link("[Match]\nMACAddress=52:54:00:12:34:56\n[Link]\nName=lan0\n")
    rules = relax_rules('SUBSYSTEM=="net", ATTR{address}=="52:54:00:12:34:56", NAME="eth0"\n')
    assert link is not None
    assert rules is not None
    assert link.text is rules.text is None
    assert relax_link("[Match]\nOriginalName=*\n[Link]\nNamePolicy=path\n") is None
    assert relax_rules("# nothing\n") is None


KEYFILE = """[connection]
id=Wired
uuid=5f7a9f2c-0000-4000-8000-000000000001
type=ethernet
interface-name=enp0s31f6

[ethernet]
mac-address=52:54:00:12:34:56
mtu=1500

[ipv4]
method=auto
"""


def test_a_connection_by_wire_is_for_any_card() -> None:
    relaxed = relax_keyfile(KEYFILE)
    assert relaxed is not None
    assert relaxed.text == KEYFILE.replace("interface-name=enp0s31f6\n", "").replace(
        "mac-address=52:54:00:12:34:56\n", ""
    )
    assert relax_keyfile(KEYFILE.replace("type=ethernet", "type=wifi")) is None
    assert relax_keyfile("[connection]\ntype=ethernet\ninterface-name=br0\n") is None


def test_an_ifcfg_is_for_any_card() -> None:
    text = 'TYPE=Ethernet\nBOOTPROTO=dhcp\nNAME=enp1s0\nDEVICE=enp1s0\nHWADDR="52:54:00:12:34:56"\nONBOOT=yes\n'
    relaxed = relax_ifcfg(text)
    assert relaxed is not None
    assert relaxed.text == "TYPE=Ethernet\nBOOTPROTO=dhcp\nNAME=enp1s0\nONBOOT=yes\n"
    for other in ("DEVICE=lo\nHWADDR=00:00:00:00:00:00\n", "TYPE=Bridge\nDEVICE=eth0\n", "TYPE=Ethernet\nONBOOT=yes\n"):
        assert relax_ifcfg(other) is None


NETPLAN = """network:
  version: 2
  ethernets:
    enp3s0:
      dhcp4: true
    enp4s0:
      optional: true
"""
MATCHED = """network:
    ethernets:
        lan:
            match:
                macaddress: "52:54:00:12:34:56"
            set-name: lan
            addresses: [192.0.2.7/24]
    version: 2
"""


def test_the_first_card_of_netplan_is_any() -> None:
    relaxed, matched = relax_netplan(NETPLAN), relax_netplan(MATCHED)
    assert relaxed is not None
    assert matched is not None
    assert relaxed.text == NETPLAN.replace("    enp3s0:\n", '    enp3s0:\n      match:\n        name: "e*"\n')
    assert matched.text == MATCHED.replace('macaddress: "52:54:00:12:34:56"', 'name: "e*"').replace(
        "            set-name: lan\n", ""
    )
    for other in (
        "network:\n  wifis:\n    wlp2s0: {}\n",
        "",
        "network:\n  ethernets:\n",
        NETPLAN.replace("enp3s0", "id0"),
    ):
        assert relax_netplan(other) is None
