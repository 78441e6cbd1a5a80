"""The way into a wireless network: what is in reach, the password, and whether it worked.

Answers: "how does somebody without a cable reach the share with the backups?"
"""

from stillframe.host.wireless_scan import WirelessNetwork
from stillframe.rescue.choosing import sentence
from stillframe.rescue.pages.pages import Ask, Choose, Option, Outcome, Step, Work
from stillframe.rescue.verbs.calls import Doing, Progress
from stillframe.rescue.world import World

_NEAR, _FAR = -60, -75
_CANNOT = {"8021x": "it wants a certificate or a name, as in companies", "wep": "its lock is of 1999, and open to all"}


def wifi_option(world: World) -> tuple[Option, ...]:
    """The entry that leads here; none where there is no radio, or where the network is not ours to bring up."""
    if world.is_installed or not world.radio.is_there():
        return ()
    refusal = "" if world.radio.can_join() else "this medium was built without '--wifi'"
    return (Option(key="wifi", words="Join a wireless network ...", detail="for backups on a share", refusal=refusal),)


def join_network(world: World) -> Step:
    """Join one; brings what a person should read then: empty when it worked or was left."""
    outcome: Outcome = yield Work(title="Looking for wireless networks", lines=("It listens for some seconds.",),
                                  do=lambda doing: world.radio.networks(doing.check))  # fmt: skip
    if outcome.error is not None:
        return sentence(outcome.error)
    networks: tuple[WirelessNetwork, ...] = outcome.value
    chosen = yield Choose(
        title="Which wireless network?",
        lines=("Nothing is changed on any disk.",) if networks else ("None is heard.",),
        options=(*(_option(one) for one in networks), Option(key="", words="Another one ...", detail="that is hidden")),
    )
    name = chosen.removeprefix("=") or (yield Ask(title="Which wireless network?", question="Name:"))
    if not name:
        return ()
    is_open = any(one.name == name and one.kind == "open" for one in networks)
    fault: tuple[str, ...] = ()
    while True:
        password = ""
        if not is_open:
            password = yield Ask(
                title="Password of the wireless network",
                lines=(*fault, name, "It often stands on the router. Nothing typed: back to the list."),
                question="Password:",
                is_secret=True,
            )
            if not password:
                return fault
        outcome = yield _join_page(world, name, password)
        if outcome.error is None:
            return (f"This computer is in the wireless network {name}. Choose 'Somewhere else' for a share.",)
        fault = sentence(outcome.error)
        if is_open:
            return fault


def _join_page(world: World, name: str, password: str) -> Work:
    def join(doing: Doing) -> None:
        doing.show(Progress(phase=f"joining {name}"))
        world.join_wifi(name, password)

    return Work(title="Joining the wireless network", lines=(name, "That takes up to a minute."), do=join)


def _option(network: WirelessNetwork) -> Option:
    how = "near" if network.strength >= _NEAR else "far" if network.strength < _FAR else "in reach"
    lock = "open: others can read what is sent" if network.kind == "open" else "with a password"
    return Option(
        key=f"={network.name}", words=network.name, detail=f"{how}; {lock}", refusal=_CANNOT.get(network.kind, "")
    )
