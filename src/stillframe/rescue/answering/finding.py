"""Where an answers file may come from, and which one counts.

Answers: "was somebody here before, and left answers?" The first that is found wins; the others are not looked at: the
kernel's command line, QEMU's ``fw_cfg``, a volume labelled ``STILLFRAME``, the medium, and what was built into it.

Source: Linux Documentation/admin-guide/kernel-parameters.rst; QEMU docs/specs/fw_cfg.rst; live-boot(7).
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.rescue.answering.answers import SIZE_MAX, Answers, SecretAnswer, UnlockAnswer, parse_answers

KERNEL_WORD: Final = "stillframe.answers="
LABEL: Final = "STILLFRAME"
FILE_NAME: Final = "rescue.toml"
PATIENCE_S: Final = 120.0
"""How long a web server, and the way to it, are waited for."""
_WEB: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlaces:
    """Where to look; the medium's own places by default.

    Attributes:
        command_line: The file with the kernel's command line.
        firmware: What QEMU's fw_cfg shows.
        medium: The folder in which the medium is mounted.
        settings: What was built into the medium.
        labelled: The top folders of volumes that are labelled ``STILLFRAME``.
        bring_network: Called before an address is asked.
        say: Told what is waited for.
        patience_s: How long an address and the way to it are waited for.
    """

    command_line: str = "/proc/cmdline"
    firmware: str = "/sys/firmware/qemu_fw_cfg/by_name/opt/stillframe/answers/raw"
    medium: str = "/run/live/medium/rescue.toml"
    settings: str = "/stillframe/settings/rescue.toml"
    labelled: Callable[[], Iterable[str]] = tuple
    bring_network: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda _: None
    patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswers:
    """An answers file: where it was found, its folder (empty: it has none), what it says, and what to know of it."""

    where: str
    folder: str
    answers: Answers
    notices: tuple[Notice, ...] = ()


def find_answers(places: AnswerPlaces) -> FoundAnswers | None:
    """The answers that count; ``None`` when there are none.

    Raises:
        UsageError: Those that count cannot be had, or are wrong. Others are not taken instead: nobody guesses.
    """
    command_line = _read(places.command_line) or ""
    named = kernel_word(command_line)
    if named.startswith(_WEB):
        return _fetched(named, command_line, places)
    if named:
        text = _read(named)
        if text is None:
            raise UsageError(f"{KERNEL_WORD}{named}: there is no such file", hint="Correct the kernel's command line.")
        return _found(text, named)
    text = _read(places.firmware)
    if text is not None:
        return _found(text, places.firmware, has_folder=False)
    for folder in places.labelled():
        text = _read(os.path.join(folder, FILE_NAME))
        if text is not None:
            return _found(text, os.path.join(folder, FILE_NAME))
    for path in (places.medium, places.settings):
        text = _read(path)
        if text is not None:
            return _found(text, path)
    return None


def kernel_word(command_line: str) -> str:
    """What ``stillframe.answers=`` says; the last one counts, as for the kernel. Empty when it is not there."""
    words = [word for word in command_line.split() if word.startswith(KERNEL_WORD)]
    return words[-1].removeprefix(KERNEL_WORD) if words else ""


def serial_lines(command_line: str) -> tuple[str, ...]:
    """The serial lines that the kernel was told to use, as devices."""
    names = [
        word.removeprefix("console=").partition(",")[0] for word in command_line.split() if word.startswith("console=")
    ]
    return tuple(f"/dev/{name}" for name in dict.fromkeys(names) if name.startswith(("ttyS", "ttyAMA", "hvc")))


def _fetched(address: str, command_line: str, places: AnswerPlaces) -> FoundAnswers:
    from stillframe.rescue.answering import fetching as web  # noqa: PLC0415 - it takes long to load, and is seldom needed

    how = web.Fetching(
        bring_network=places.bring_network, computer=lambda: web.this_computer(command_line), say=places.say,
        patience_s=places.patience_s,
    )  # fmt: skip
    where, text = web.fetch_answers(address, how)
    found = _found(text, where)
    return replace(found, notices=web.secret_notices(where, found.answers))


def _found(text: str, where: str, *, has_folder: bool = True) -> FoundAnswers:
    is_path = has_folder and "://" not in where
    folder = os.path.dirname(where) if is_path else ""
    return FoundAnswers(
        where=where, folder=folder, answers=_with_secrets(parse_answers(text, where=where), folder, where)
    )


def _with_secrets(answers: Answers, folder: str, where: str) -> Answers:
    """The answers with what stands in the files of secrets: the volume is closed afterwards."""
    secret, unlock = answers.secret, answers.unlock

    def read(given: str, file: str, name: str) -> str:
        if not file:
            return given
        text = _read(os.path.join(folder, file)) if folder or file.startswith("/") else None
        line = (text or "").split("\n")[0].rstrip("\r")
        if not line:
            raise UsageError(
                f"{where}: {name}: there is no {file}, or its first line is empty",
                hint="It is looked for beside the answers file; for answers of a web server the whole path is needed.",
            )
        return line

    kept = SecretAnswer(
        password=read(secret.password, secret.password_file, "password-file"),
        share_password=read(secret.share_password, secret.share_password_file, "share-password-file"),
    )
    if unlock is not None:
        password = read(unlock.password, unlock.password_file, "[unlock] password-file")
        unlock = UnlockAnswer(password=password, volumes=unlock.volumes)
    return msgspec.structs.replace(answers, secret=kept, unlock=unlock)


def _read(path: str) -> str | None:
    """A small text file; ``None`` when it is not there or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(SIZE_MAX + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text", hint="Write it as UTF-8.") from error
    except OSError:
        return None
