"""Answers that a web server hands out, for one computer or for a whole fleet.

Answers: "what does that address say for this computer?" The network may come up late and the server may be busy, so
both are waited for. ``{mac}`` and ``{serial}`` in the address are filled in. No secret is in an address, for it is on
the screen, in the kernel's list and in the log of the server.

Source: RFC 9110 (HTTP); RFC 3986, section 3.2.1 (user information); PXELINUX, "BOOTIF=".
"""

import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import quote, urlsplit

from stillframe.errors import MachineRefusal, UsageError
from stillframe.events import Notice
from stillframe.host.network import read_card
from stillframe.host.start_up import read_serial_number
from stillframe.rescue.answering.answers import SIZE_MAX, Answers

_SCHEMES: Final = ("http://", "https://")
_ANSWER_S: Final = 30.0
_STEP_S: Final = 3.0
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_NET_HINT: Final = "Is the network cable in, and is the address on the kernel's command line right?"
_OPEN_SECRET: Final = Notice(
    code="secret-over-http",
    message="the answers hold a secret and came by http, which whoever is in that network can read",
    hint="Hand them out by https; or name a file with the secret on a volume of this computer: 'password-file'.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computer:
    """How a web server tells computers apart.

    Attributes:
        card: The number of the network card, such as ``52-54-00-12-34-56``; empty when it is not known.
        serial: The serial number that the maker gave; empty when there is none.
    """

    card: str
    serial: str


def this_computer(command_line: str) -> Computer:
    """This one. The card is that by which the firmware started, else that of the way out.

    Args:
        command_line: Of the kernel.
    """
    booted = [word.removeprefix("BOOTIF=01-") for word in command_line.split() if word.startswith("BOOTIF=01-")]
    card = booted[-1].lower() if booted else read_card().replace(":", "-")
    return Computer(card=card, serial=read_serial_number())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How answers are fetched.

    Attributes:
        bring_network: Called before the address is asked, again and again.
        computer: Which one this is; asked when the network is up.
        say: Told what is waited for.
        patience_s: How long network and server are waited for.
        step_s: Between two tries.
    """

    bring_network: Callable[[], None] = lambda: None
    computer: Callable[[], Computer] = lambda: this_computer("")
    say: Callable[[str], None] = lambda _: None
    patience_s: float = 0.0
    step_s: float = _STEP_S


def fetch_answers(address: str, how: Fetching) -> tuple[str, str]:
    """What stands at an address, as text.

    Args:
        address: As it stands on the kernel's command line.
        how: With what patience.

    Returns:
        The address with this computer filled in, and the text.

    Raises:
        UsageError: The address is none or holds a secret, the server has no such file, or nothing came in time.
    """
    _require_address(address)
    ends, told = time.monotonic() + how.patience_s, False
    while True:
        filled = address
        try:
            how.bring_network()
            filled = fill_in(address, how.computer) if _PLACEHOLDER.search(address) else address
            return filled, _ask(filled)
        except (MachineRefusal, _NotNow) as error:
            if time.monotonic() >= ends:
                raise UsageError(f"{filled} cannot be had: {error}", hint=_hint_of(error)) from error
            if not told:
                how.say(f"Waiting for the answers at {filled}: {error}")
                told = True
            time.sleep(how.step_s)


def fill_in(address: str, computer: Callable[[], Computer]) -> str:
    """An address with this computer's own numbers in it.

    Raises:
        UsageError: A number is not known, or another thing stands in braces.
    """
    found = computer()
    known = {"mac": (found.card, "no network card has a way out"), "serial": (found.serial, "its maker gave it none")}

    def value(match: re.Match[str]) -> str:
        number, reason = known[match[1]]
        if not number:
            raise UsageError(f"{address}: there is no {match[0]} of this computer: {reason}", hint="Use the other one.")
        return quote(number, safe="")

    return _PLACEHOLDER.sub(value, address)


def secret_notices(address: str, answers: Answers) -> tuple[Notice, ...]:
    """What a person should know of answers that came from an address."""
    secret = answers.secret
    wifi = answers.network.wifi_password if answers.network is not None else ""
    unlock = answers.unlock.password if answers.unlock is not None else ""
    held = secret.password or secret.share_password or unlock or wifi
    return (_OPEN_SECRET,) if held and address.startswith("http://") else ()


class _NotNow(Exception):
    """It did not come, and may come at another try."""


class _Careful(urllib.request.HTTPRedirectHandler):
    """Goes where a server points to, but never from https to http: what is secret would be read by others."""

    def redirect_request(  # noqa: PLR0917 - as urllib calls it
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://" if req.full_url.startswith("https://") else _SCHEMES):
            raise UsageError(f"{req.full_url} leads to {newurl}, which is less safe", hint="Name that address itself.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        is_address = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(
            f"{address} is no address", hint="Write http://SERVER/rescue.toml on the kernel's command line."
        )
    if "@" in parts.netloc:
        raise UsageError(
            f"the address of the answers at {parts.hostname} holds a name or a password",
            hint="It would be seen on the screen. Let the server decide by the network who gets them, or by {serial}.",
        )
    unknown = [name for name in _PLACEHOLDER.findall(address) if name not in ("mac", "serial")]
    if unknown:
        raise UsageError(f"{address}: nothing is known for {{{unknown[0]}}}", hint="There are {mac} and {serial}.")


def _ask(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Careful())
    try:
        with opener.open(address, timeout=_ANSWER_S) as answer:
            contents = bytes(answer.read(SIZE_MAX + 1))
            missing = answer.length or 0  # what the server announced and did not send
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code == 429:  # busy, or too many at once
            raise _NotNow(f"the server says {error.code} {error.reason}") from error
        raise UsageError(
            f"{address} cannot be had: the server says {error.code} {error.reason}",
            hint="Put the file there, or correct the kernel's command line.",
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UsageError(
                f"{address} cannot be trusted: {reason.verify_message}",
                hint="Is the clock of this computer right? Only certificates of known authorities are accepted here.",
            ) from error
        raise _NotNow(getattr(reason, "strerror", "") or str(reason)) from error
    if len(contents) > SIZE_MAX:
        raise UsageError(f"{address} is longer than an answers file can be", hint="Is it the right file?")
    if missing:
        raise _NotNow("the answer was cut off")
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{address} is not text", hint="Write it as UTF-8.") from error


def _hint_of(error: Exception) -> str:
    return (error.hint if isinstance(error, MachineRefusal) else "") or _NET_HINT
