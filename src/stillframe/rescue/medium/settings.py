"""What a person has put onto the medium, so that nobody need type it on the day it is needed.

Answers: "which files are that, and is there a secret in them?" A medium lies in drawers and goes from hand to hand:
it never holds a passphrase, a private key or the password of a share. What runs on the medium reads
``/stillframe/settings``; the format of ``rescue.toml`` is that of what runs.

Sources: TOML 1.0; systemd.network(5); sshd(8), "AUTHORIZED_KEYS FILE FORMAT"; RFC 3986, section 3.2.1 (user
information).
"""

import configparser
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from stillframe.errors import UsageError
from stillframe.jobs.starts.driver_folder import list_packages
from stillframe.rescue.answering.answers import parse_answers

ANSWERS: Final = "settings/rescue.toml"
_TEXT_MAX: Final = 1 << 20
_DRIVERS_MAX: Final = 1 << 30
_KEY: Final = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh|ecdsa)-[a-z0-9@.-]+) [A-Za-z0-9+/=]+"
)
_PRIVATE: Final = "PRIVATE KEY"
_SECRETS: Final = re.compile(
    r"pass(word|phrase)?|secret|.*(password|passphrase|private-?key|pre-?shared-?key|psk)(-file)?", re.IGNORECASE
)
_SECTION: Final = "secret"
_KEYBOARD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_NEVER: Final = "A medium never holds a secret: it is asked for when it is needed."


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingWishes:
    """What a person wants to have on the medium; all may be empty.

    Attributes:
        answers: A file of answers.
        repository: Where the repository is: a path, or ``smb://``, ``nfs://``, ``sftp://``.
        networks: Files of networks, of ``systemd.network``.
        drivers: A folder of Windows drivers.
        ssh_key: A file with public keys of those who may log in.
        keyboard: What the keyboard of the console is, such as ``de``.
    """

    answers: str = ""
    repository: str = ""
    networks: tuple[str, ...] = ()
    drivers: str = ""
    ssh_key: str = ""
    keyboard: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The files that are put onto the medium, checked.

    Attributes:
        texts: Path below ``/stillframe``, and what is in it.
        copies: Path below ``/stillframe``, and the file of this machine that goes there.
        keyboard: As wished.
        steps: What this is, in words.
    """

    texts: tuple[tuple[str, bytes], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    keyboard: str = ""
    steps: tuple[str, ...] = ()


def read_settings(wishes: SettingWishes) -> Settings:
    """Read and check everything that is to be put onto the medium.

    Raises:
        UsageError: Something is not there, is not of its kind, or is a secret.
    """
    texts, steps = list[tuple[str, bytes]](), list[str]()
    answers = _answers(wishes)
    if answers:
        texts.append((ANSWERS, answers))
        steps.append(_answers_words(wishes))
    for path in wishes.networks:
        texts.append((f"settings/network/{os.path.basename(path)}", _network(path)))
        steps.append(f"the network settings of {path}")
    if wishes.ssh_key:
        texts.append(("settings/ssh/authorized_keys", _public_keys(wishes.ssh_key)))
        steps.append(f"a login by SSH for the keys in {wishes.ssh_key}; without it there is none")
    copies = tuple(_driver_files(wishes.drivers)) if wishes.drivers else ()
    if copies:
        steps.append(f"the Windows drivers in {wishes.drivers} ({len(copies)} files), in /stillframe/drivers")
    if wishes.keyboard and not _KEYBOARD.fullmatch(wishes.keyboard):
        raise UsageError(f"'{wishes.keyboard}' is no keyboard", hint="Write it as loadkeys(1) does, such as 'de'.")
    return Settings(texts=tuple(texts), copies=copies, keyboard=wishes.keyboard, steps=tuple(steps))


def _answers_words(wishes: SettingWishes) -> str:
    if not wishes.answers:
        return f"that the repository is at {wishes.repository}"
    more = f", and that the repository is at {wishes.repository}" if wishes.repository else ""
    return f"the answers of {wishes.answers}: it asks nobody what they say{more}"


def _answers(wishes: SettingWishes) -> bytes:
    text, parsed = "", dict[str, Any]()
    if wishes.answers:
        text = _read(wishes.answers).decode("utf-8", "replace")
        try:
            parsed = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(
                f"{wishes.answers} is not TOML: {error}", hint="docs/guide/rescue.md shows one."
            ) from error
        _refuse_secrets(parsed, wishes.answers)
    if wishes.repository:
        _refuse_password(wishes.repository, "--repo")
        if "repository" in parsed:
            raise UsageError(
                f"'--repo' and the section 'repository' of {wishes.answers} both say where the repository is",
                hint="Leave one of them out.",
            )
        text += f"\n[repository]\nwhere = {json.dumps(wishes.repository, ensure_ascii=False)}\n"
    parse_answers(text, where=wishes.answers or "--repo")
    return text.encode()


def _refuse_secrets(values: Mapping[str, Any], file: str, above: str = "") -> None:
    for name, value in values.items():
        if name.lower() == _SECTION or _SECRETS.fullmatch(name):
            raise UsageError(f"{file} holds a secret: '{above}{name}'", hint=f"Take it out. {_NEVER}")
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Mapping):
                _refuse_secrets(inner, file, f"{above}{name}.")
            elif isinstance(inner, str):
                _refuse_password(inner, file)


def _refuse_password(address: str, where: str) -> None:
    try:
        password = urlsplit(address).password
    except ValueError:
        return
    if password:
        raise UsageError(f"an address of {where} holds a password", hint=f"Write it without one. {_NEVER}")


def _network(path: str) -> bytes:
    contents = _read(path)
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read_string(contents.decode())
    except (configparser.Error, UnicodeDecodeError):
        parser.clear()
    if not path.endswith(".network") or not parser.has_section("Match") or not parser.has_section("Network"):
        raise UsageError(
            f"{path} is no file of a network: a name that ends in .network, and sections [Match] and [Network]",
            hint="systemd.network(5) shows them; a fixed address takes five lines. Any wired network with DHCP needs "
            "none.",
        )
    for section in parser.sections():
        _refuse_secrets(dict(parser.items(section)), path, f"{section}.")
    return contents


def _public_keys(path: str) -> bytes:
    contents = _read(path)
    text = contents.decode("utf-8", "replace")
    if _PRIVATE in text:
        raise UsageError(f"{path} is a private key", hint=f"Give the public one, whose name ends in .pub. {_NEVER}")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not all(_KEY.search(line) for line in lines):
        raise UsageError(f"{path} holds no public keys of SSH", hint="'ssh-keygen -t ed25519' makes a pair.")
    return contents


def _driver_files(folder: str) -> Iterator[tuple[str, str]]:
    list_packages(folder)
    total = 0
    for path in _files_below(folder):
        total += os.path.getsize(path)
        if total > _DRIVERS_MAX:
            raise UsageError(f"{folder} has more than 1 GiB", hint="Give only the folders of disk drivers.")
        yield f"drivers/{os.path.relpath(path, folder)}", path


def _files_below(folder: str) -> Sequence[str]:
    found = [os.path.join(here, name) for here, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if os.path.isfile(path) and not os.path.islink(path))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            contents = file.read(_TEXT_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Name a file that you may read.") from error
    if len(contents) > _TEXT_MAX:
        raise UsageError(f"{path} has more than 1 MiB: it is no file of settings", hint="Name the right file.")
    return contents
