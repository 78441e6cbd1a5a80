"""The network of the rescue system: what is written for systemd-networkd and iwd, and what is said when it fails."""

from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, UsageError
from stillframe.host import network
from stillframe.host.network import NetworkPaths, NetworkWish, bring_up, is_up, network_unit, read_card
from stillframe.host.run import Finished
from stillframe.host.wireless import iwd_file

NAMES = "MulticastDNS=resolve\nLLMNR=resolve\n"
ROUTES = "Iface\tDestination\tGateway\neth0\t00000000\t0100A8C0\n"


def paths(folder: Path, *, cable: int | None = 1, routes: str = "Iface\n") -> NetworkPaths:
    if cable is not None:
        (folder / "net" / "eth0").mkdir(parents=True)
        (folder / "net" / "eth0" / "carrier").write_text(f"{cable}\n")
    (folder / "net" / "lo").mkdir(parents=True)
    (folder / "route").write_text(routes)
    (folder / "route6").write_text("fe80 00 lo\n")
    return NetworkPaths(
        units=str(folder / "units"), iwd=str(folder / "iwd"), interfaces=str(folder / "net"),
        routes=str(folder / "route"), routes6=str(folder / "route6"), switches=str(folder / "rfkill"),
    )  # fmt: skip


def antenna(folder: Path, *, soft: int = 0, hard: int = 0) -> None:
    (folder / "net" / "wlan0" / "phy80211").mkdir(parents=True)
    (folder / "net" / "wlan0" / "carrier").write_text("0\n")
    (folder / "rfkill" / "rfkill0").mkdir(parents=True)
    for name, value in (("type", "wlan"), ("soft", soft), ("hard", hard)):
        (folder / "rfkill" / "rfkill0" / name).write_text(f"{value}\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    commands = list[tuple[str, ...]]()

    def run(arguments: list[str]) -> Finished:
        commands.append(tuple(arguments))
        return Finished(arguments=tuple(arguments), exit_code=0, output=b"", errors=b"")

    monkeypatch.setattr(network, "run", run)
    return commands


def test_dhcp_and_an_address_by_hand() -> None:
    assert network_unit(NetworkWish()) == f"[Match]\nType=ether\n\n[Network]\nDHCP=yes\n{NAMES}"
    by_hand = NetworkWish(interface="enp3s0", address="192.168.1.20/24", gateway="192.168.1.1", dns=("9.9.9.9", "::1"))
    assert network_unit(by_hand) == (
        f"[Match]\nName=enp3s0\n\n[Network]\nAddress=192.168.1.20/24\n{NAMES}Gateway=192.168.1.1\nDNS=9.9.9.9\nDNS=::1\n"
    )


@pytest.mark.parametrize(
    "wish",
    [
        NetworkWish(address="192.168.1.20"), NetworkWish(address="300.1.1.1/24"), NetworkWish(gateway="here"),
        NetworkWish(dns=("x\nDHCP=yes",)), NetworkWish(interface="a b\n[Network]"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(wish: NetworkWish) -> None:
    with pytest.raises(UsageError):
        network_unit(wish)


def test_the_network_comes_up(tmp_path: Path, started: list[tuple[str, ...]]) -> None:
    where = paths(tmp_path, routes=ROUTES)
    assert is_up(where)
    bring_up(NetworkWish(), where)
    assert (tmp_path / "units" / "05-stillframe.network").read_text() == network_unit(NetworkWish())
    assert ("networkctl", "reload") in started


def test_a_wireless_password_is_in_a_file_for_root_alone(tmp_path: Path, started: list[tuple[str, ...]]) -> None:
    wish = NetworkWish(wifi="my net", wifi_password="correct horse")  # noqa: S106 - this is the test
    where = paths(tmp_path, routes=ROUTES.replace("eth0", "wlan0"))
    antenna(tmp_path)
    bring_up(wish, where)
    file = tmp_path / "iwd" / "my net.psk"
    assert file.read_text() == "[Security]\nPassphrase=correct horse\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any("correct horse" in word for command in started for word in command)
    assert iwd_file("Café", "correct horse")[0] == f"={'Café'.encode().hex()}.psk"
    assert iwd_file("guests", "") == ("guests.open", "")


@pytest.mark.parametrize(("cable", "words"), [(0, "no cable"), (1, "within 0 seconds"), (None, "no network card")])
def test_what_is_missing_is_said(tmp_path: Path, started: list[tuple[str, ...]], cable: int | None, words: str) -> None:
    with pytest.raises(MachineRefusal, match=words) as caught:
        bring_up(NetworkWish(wait_s=0), paths(tmp_path, cable=cable))
    assert caught.value.hint
    assert started or cable is None


def test_the_card_that_leads_out_is_that_of_the_best_way(tmp_path: Path) -> None:
    rows = [
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT",
        "eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
        "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t2048\t00000000\t0\t0\t0",
        "eth0\t00000000\t0100A8C0\t0003\t0\t0\t1024\t00000000\t0\t0\t0",
    ]
    where = paths(tmp_path, routes="\n".join(rows) + "\n")
    for number, name in enumerate(("eth0", "eth1", "wlan0")):
        (tmp_path / "net" / name).mkdir(exist_ok=True)
        (tmp_path / "net" / name / "address").write_text(f"52:54:00:00:00:0{number}\n")
    assert read_card(where) == "52:54:00:00:00:00"
    (tmp_path / "route").write_text("\n".join(rows[:2]) + "\n")
    assert read_card(where) == "52:54:00:00:00:01"
    (tmp_path / "route").write_text(rows[0] + "\n")
    assert read_card(where) == "", "fe80 on lo is no way out"


WIFI = NetworkWish(wifi="my net", wifi_password="correct horse", wait_s=0)  # noqa: S106 - this is the test


def test_a_cable_does_not_count_for_a_wireless_network(tmp_path: Path, started: list[tuple[str, ...]]) -> None:
    where = paths(tmp_path, routes=ROUTES)
    antenna(tmp_path, soft=1)
    with pytest.raises(MachineRefusal, match=r"no connection to the wireless network my net \(wlan0\)"):
        bring_up(WIFI, where)
    assert ("systemctl", "restart", "iwd") in started
    assert (tmp_path / "rfkill" / "rfkill0" / "soft").read_text() == "0", "the radio may send"


def test_a_radio_that_is_switched_off_or_not_there(tmp_path: Path, started: list[tuple[str, ...]]) -> None:
    where = paths(tmp_path, routes=ROUTES)
    with pytest.raises(MachineRefusal, match="no wireless network card that works here") as caught:
        bring_up(WIFI, where)
    assert "--wifi" in caught.value.hint
    antenna(tmp_path, hard=1)
    with pytest.raises(MachineRefusal, match="is switched off"):
        bring_up(WIFI, where)
    assert started == []


@pytest.mark.parametrize(
    ("name", "password"), [("my net", "1234567"), ("my net", "x" * 64), ("my net", "naïve password"), ("x" * 33, "")]
)
def test_what_is_no_wireless_network_is_refused(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(UsageError) as caught:
        bring_up(NetworkWish(wifi=name, wifi_password=password), paths(tmp_path))
    assert not password or password not in caught.value.message
