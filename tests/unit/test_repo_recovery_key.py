"""The recovery key on paper: Crockford's base 32 is written again here, from the format page, section 7."""

import hashlib
import random
from collections.abc import Callable

import pytest

from stillframe.errors import WrongKey
from stillframe.repo.recovery_key import (
    format_recovery_key,
    looks_like_recovery_key,
    make_recovery_secret,
    parse_recovery_key,
)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SECRETS = [bytes(20), b"\xff" * 20, bytes(range(20)), *(random.Random(n).randbytes(20) for n in range(20))]


def by_the_page(secret: bytes) -> str:
    raw = secret + hashlib.sha256(b"stillframe recovery key" + secret).digest()[:5]
    bits = "".join(f"{byte:08b}" for byte in raw)
    letters = "".join(ALPHABET[int(bits[at : at + 5], 2)] for at in range(0, 200, 5))
    return "SF1-" + "-".join(letters[at : at + 5] for at in range(0, 40, 5))


TEXT = by_the_page(bytes(range(20)))


@pytest.mark.parametrize("secret", SECRETS, ids=bytes.hex)
def test_text_is_that_of_the_page_and_is_read_back(secret: bytes) -> None:
    text = format_recovery_key(secret)
    assert text == by_the_page(secret)
    assert looks_like_recovery_key(text)
    assert parse_recovery_key(text) == secret


TYPED: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no dashes": lambda text: text.replace("-", ""),
    "blanks": lambda text: " " + text.replace("-", "  ") + "\n",
    "tabs and lines": lambda text: text.replace("-", "\t\r\n"),
    "letter O for 0": lambda text: text.replace("0", "O"),
    "small o for 0": lambda text: text.replace("0", "o"),
    "I for 1": lambda text: text.replace("1", "I"),
    "i for 1": lambda text: text.replace("1", "i"),
    "L for 1": lambda text: text.replace("1", "L"),
    "l for 1": lambda text: text.replace("1", "l"),
    "no prefix": lambda text: text.removeprefix("SF1-"),
    "no prefix, other case": lambda text: text.removeprefix("SF1-").lower().replace("0", "o"),
    "dash in the prefix": lambda text: text.replace("SF1", "S F-1"),
}


@pytest.mark.parametrize("habit", TYPED)
@pytest.mark.parametrize("secret", SECRETS[:4], ids=bytes.hex)
def test_habits_of_typing_do_not_matter(habit: str, secret: bytes) -> None:
    typed = TYPED[habit](by_the_page(secret))
    assert looks_like_recovery_key(typed)
    assert parse_recovery_key(typed) == secret


def test_any_one_wrong_character_is_noticed() -> None:
    for place in range(4, len(TEXT)):
        for letter in ALPHABET:
            if TEXT[place] not in {"-", letter}:
                with pytest.raises(WrongKey):
                    parse_recovery_key(TEXT[:place] + letter + TEXT[place + 1 :])


def test_any_two_neighbours_swapped_are_noticed() -> None:
    plain = TEXT.replace("-", "")
    for place in range(3, len(plain) - 1):
        swapped = plain[:place] + plain[place + 1] + plain[place] + plain[place + 2 :]
        if swapped != plain:
            with pytest.raises(WrongKey, match="check digits"):
                parse_recovery_key(swapped)


@pytest.mark.parametrize(
    "text", ["", "SF1-", TEXT[:-1], TEXT + "0", TEXT.replace("-", "", 1)[3:-1], "SF1-" + "U" * 40, "é" * 43]
)
def test_another_length_or_letter_is_refused(text: str) -> None:
    with pytest.raises(WrongKey, match="40 letters and digits"):
        parse_recovery_key(text)


@pytest.mark.parametrize("text", ["", "a passphrase", "SF1", "SF1-short", TEXT[5:], "0" * 40])
def test_other_texts_are_passphrases(text: str) -> None:
    assert not looks_like_recovery_key(text)


def test_secrets_are_20_bytes_and_differ() -> None:
    secrets = {make_recovery_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(secret) for secret in secrets} == {20}
