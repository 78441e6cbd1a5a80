r"""Names of files as text, whatever bytes they are made of.

Answers: "how is this name written, and compared?" Linux takes any bytes as a name. Bytes that are no UTF-8 are written
``\xNN``, and a backslash only where the text could be mistaken for that, so text goes to JSON and terminals and back.
"""

import re
from functools import lru_cache
from typing import Final

_AMBIGUOUS: Final = re.compile(rb"\\(?=x(?:5c|[89a-f][0-9a-f]))")
_ESCAPE: Final = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")
CASE_FREE: Final = frozenset({"ntfs", "vfat", "exfat"})
"""File systems in which capital and small letters are the same."""
_BMP_END: Final = 0x10000


def show_name(raw: bytes) -> str:
    """Write a name as text. No two names give the same text."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _AMBIGUOUS.sub(rb"\\x5c", raw).decode(errors="backslashreplace")
    return _AMBIGUOUS.sub(rb"\\x5c", raw).decode() if "\\x" in text else text


def read_name(text: str) -> bytes:
    """The bytes of a name that ``show_name`` wrote."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())


def fold_case(text: str) -> str:
    """The form in which two names are compared where case does not count.

    A letter becomes its capital only when that is one letter whose small form is the letter again: the tables of NTFS
    and exFAT know no others, and two names that Windows keeps apart must not become one here.
    """
    if text.isascii():
        return text.upper()
    return "".join(map(_fold_letter, text))


@lru_cache(maxsize=4096)
def _fold_letter(letter: str) -> str:
    capital = letter.upper()
    # The tables count 16-bit units: letters beyond have no case.
    return capital if len(capital) == 1 and capital.lower() == letter and ord(letter) < _BMP_END else letter
