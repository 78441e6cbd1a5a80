"""Which wireless networks are heard, and the pages on which a person chooses one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stillframe.errors import MachineRefusal
from stillframe.host import wireless_scan
from stillframe.host.network import NetworkPaths, NetworkWish
from stillframe.host.run import Finished
from stillframe.host.wireless_scan import WirelessNetwork, find_networks, parse_objects
from stillframe.rescue import world as worlds
from stillframe.rescue.flows.menu import menu
from stillframe.rescue.pages.pages import Ask, Choose
from stillframe.rescue.world import Radio
from stillframe.testing.rescue_person import BACK, Person
from stillframe.testing.rescue_world import MadeUpJobs, make_world

ROOT = "/net/connman/iwd"


def boxed(kind: str, value: object) -> dict[str, object]:
    return {"type": kind, "data": value}


def objects(*, scanning: bool) -> bytes:
    """As busctl prints what iwd 2.3 has, but for properties that nobody reads here."""
    network = "net.connman.iwd.Network"
    return json.dumps({
        "type": "a{oa{sa{sv}}}",
        "data": [{
            ROOT: {"net.connman.iwd.AgentManager": {}},
            f"{ROOT}/0": {"net.connman.iwd.Adapter": {"Powered": boxed("b", True)}},
            f"{ROOT}/0/4": {"net.connman.iwd.Station": {"State": boxed("s", "disconnected"),
                                                      "Scanning": boxed("b", scanning)}},
            f"{ROOT}/0/4/a_psk": {network: {"Name": boxed("s", "my caf\u00e9 net"), "Type": boxed("s", "psk")}},
            f"{ROOT}/0/4/b_open": {network: {"Name": boxed("s", "guests"), "Type": boxed("s", "open")}},
        }],
    }).encode()  # fmt: skip


ORDERED = json.dumps({
    "type": "a(on)", "data": [[[f"{ROOT}/0/4/b_open", -4500], [f"{ROOT}/0/4/a_psk", -7600], [f"{ROOT}/x", -100]]],
}).encode()  # fmt: skip


def test_what_is_heard_comes_with_the_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    commands, listening = list[tuple[str, ...]](), [True, True, False]

    def run(arguments: list[str]) -> Finished:
        commands.append(tuple(arguments))
        output = b""
        if arguments[-1] == "GetManagedObjects":
            output = objects(scanning=listening.pop(0))
        elif arguments[-1] == "GetOrderedNetworks":
            output = ORDERED
        return Finished(arguments=tuple(arguments), exit_code=0, output=output, errors=b"")

    monkeypatch.setattr(wireless_scan, "run", run)
    monkeypatch.setattr(wireless_scan, "_STEP_S", 0.0)
    monkeypatch.setattr(wireless_scan, "require_radio", lambda *_: None)
    assert find_networks(lambda: None) == (
        WirelessNetwork(name="guests", kind="open", strength=-45.0),
        WirelessNetwork(name="my caf\u00e9 net", kind="psk", strength=-76.0),
    )
    assert listening == []
    assert [command[-1] for command in commands].count("Scan") == 1


def test_without_a_radio_it_says_so(tmp_path: Any) -> None:
    with pytest.raises(MachineRefusal, match="no wireless network card"):
        find_networks(lambda: None, NetworkPaths(interfaces=str(tmp_path), switches=str(tmp_path)))


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"data": []}', b'{"data": [{"x": {"net.connman.iwd.Station": {}}}]}'])
def test_what_is_not_understood_is_an_error(raw: bytes) -> None:
    with pytest.raises(MachineRefusal, match="not understood"):
        parse_objects(raw)


@dataclass
class MadeUpRadio(Radio):
    has_iwd: bool = True
    found: tuple[WirelessNetwork, ...] = ()
    wishes: list[NetworkWish] = field(default_factory=list)

    def is_there(self) -> bool:
        return True

    def can_join(self) -> bool:
        return self.has_iwd

    def networks(self, check: Callable[[], None]) -> tuple[WirelessNetwork, ...]:
        check()
        return self.found

    def bring_up(self, wish: NetworkWish) -> None:
        self.wishes.append(wish)
        if wish.wifi_password == "wrong one":  # noqa: S105 - this is the test
            raise MachineRefusal("the network did not come up: no connection", hint="Is its password right?")


@pytest.fixture
def radio(monkeypatch: pytest.MonkeyPatch) -> MadeUpRadio:
    made = MadeUpRadio(
        found=(
            WirelessNetwork(name="my net", kind="psk", strength=-45),
            WirelessNetwork(name="cafe", kind="open", strength=-70),
            WirelessNetwork(name="office", kind="8021x", strength=-50),
        )
    )  # fmt: skip
    monkeypatch.setattr(worlds, "bring_up", made.bring_up)
    return made


def at_the_list(radio: MadeUpRadio) -> Person:
    world = make_world(MadeUpJobs())
    world.radio = radio
    person = Person(lambda: menu(world))
    person.answer("Stillframe", "Restore this computer")
    return person


def test_a_person_joins_with_the_second_password(radio: MadeUpRadio) -> None:
    person = at_the_list(radio)
    page = person.answer("Where are", "Join a wireless network")
    assert isinstance(page, Choose)
    assert [(one.words, one.detail, bool(one.refusal)) for one in page.options] == [
        ("my net", "near; with a password", False), ("cafe", "in reach; open: others can read what is sent", False),
        ("office", "near; with a password", True), ("Another one ...", "that is hidden", False),
    ]  # fmt: skip
    page = person.answers([("Which wireless", "my net"), ("Password of", "wrong one")])
    assert isinstance(page, Ask)
    assert page.lines[:2] == ("The network did not come up: no connection.", "Is its password right?")
    page = person.answer("Password of", "correct horse")
    assert page.title == "Where are the backups?"
    assert "is in the wireless network my net" in page.lines[0]
    assert [(wish.wifi, wish.wifi_password) for wish in radio.wishes] == [
        ("my net", "wrong one"), ("my net", "correct horse"),
    ]  # fmt: skip


def test_an_open_network_asks_for_no_password_and_a_hidden_one_for_its_name(radio: MadeUpRadio) -> None:
    person = at_the_list(radio)
    page = person.answers([("Where are", "Join a wireless network"), ("Which wireless", "cafe")])
    assert "is in the wireless network cafe" in page.lines[0]
    page = person.answers(
        [("Where are", "Join a wireless network"), ("Which wireless", "Another one"), ("Which wireless", "hidden"),
         ("Password of", "")]
    )  # fmt: skip
    assert page.title == "Where are the backups?"
    assert [wish.wifi for wish in radio.wishes] == ["cafe"]
    page = person.answers([("Where are", "Join a wireless network"), ("Which wireless", BACK)])
    assert page.title == "Where are the backups?"


def test_a_medium_without_wifi_says_so_in_the_list(radio: MadeUpRadio) -> None:
    radio.has_iwd = False
    page = at_the_list(radio).page
    assert isinstance(page, Choose)
    assert {one.key: one.refusal for one in page.options}["wifi"] == "this medium was built without '--wifi'"
