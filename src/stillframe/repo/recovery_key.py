"""The printable recovery key: 20 secret bytes as text that survives being copied by hand.

Answers: "how is the key written on paper, and was it typed in right?" Normative: ``docs/format/v1.md``,
section 7.
"""

import hashlib
import os
from typing import Final

from stillframe.errors import WrongKey

SECRET_SIZE: Final = 20
_PREFIX: Final = "SF1"
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U. Source: https://www.crockford.com/base32.html."""
_READ_AS: Final = str.maketrans("OIL", "011", " -\t\n\r")
_DIGITS: Final = 40


def make_recovery_secret() -> bytes:
    """20 fresh secret bytes."""
    return os.urandom(SECRET_SIZE)


def format_recovery_key(secret: bytes) -> str:
    """The secret as people keep it, such as ``SF1-01234-...``: eight groups of five."""
    number = int.from_bytes(secret + _check(secret), "big")
    text = "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_DIGITS)))
    return "-".join([_PREFIX, *(text[at : at + 5] for at in range(0, _DIGITS, 5))])


def looks_like_recovery_key(text: str) -> bool:
    """Whether a text was meant as a recovery key: it has prefix and length of one, or is one without its prefix."""
    plain = text.upper().translate(_READ_AS)
    if plain.startswith(_PREFIX) and len(plain) == len(_PREFIX) + _DIGITS:
        return True
    try:
        return bool(parse_recovery_key(text))
    except WrongKey:
        return False


def parse_recovery_key(text: str) -> bytes:
    """Read a recovery key as a person typed it.

    Raises:
        WrongKey: It has another length, a character that never occurs, or a slip of the pen.
    """
    digits = text.upper().translate(_READ_AS).removeprefix(_PREFIX)
    if len(digits) != _DIGITS or not set(digits) <= set(_ALPHABET):
        raise WrongKey(
            f"a recovery key is {_PREFIX}- and {_DIGITS} letters and digits; this has {len(digits)} after {_PREFIX}",
            hint="Compare with the printed kit, group by group.",
        )
    number = 0
    for digit in digits:
        number = number << 5 | _ALPHABET.index(digit)
    raw = number.to_bytes(SECRET_SIZE + 5, "big")
    secret, check = raw[:SECRET_SIZE], raw[SECRET_SIZE:]
    if check != _check(secret):
        raise WrongKey(
            "the recovery key was not copied right: its check digits do not fit",
            hint="Compare with the printed kit, group by group.",
        )
    return secret


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(b"stillframe recovery key" + secret).digest()[:5]
