"""The text in which LVM2 writes down a volume group.

Answers: "which settings and sections are in it?" What they mean is for ``group``. Text is bounded in size and depth; a
name twice in one section, and whatever is left over, is an error.

Source: LVM2 ``libdm/libdm-config.c`` (the grammar above ``_section``, and its tokens); ``lvm.conf(5)`` "Syntax".
"""

import re
from collections.abc import Iterator
from typing import Final

from stillframe.errors import DiskFormatError

TEXT_SIZE_MAX: Final = 8 << 20
_DEPTH_MAX: Final = 8
"""What LVM writes is four deep: group, ``logical_volumes``, volume, segment."""
_TOKEN: Final = re.compile(
    r"""(?:[ \t\r\n\0]|\#[^\n]*)*+                    # LVM ends the text with a zero byte; nothing is tried twice
    (?:"(?P<string>(?:[^"\\]|\\.)*+)"
    |(?P<number>[-+]?[0-9]+)(?![\w.+-])
    |(?P<name>[A-Za-z0-9_.+-][A-Za-z0-9_.+/-]*)
    |(?P<sign>[{}\[\]=,])
    |(?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_HINT: Final = "'vgck' and 'vgcfgrestore' of LVM repair it, on a restored copy."

Scalar = int | str
Value = Scalar | list[Scalar]
Token = tuple[str, str]


class Section:
    """A section of the text. Asked for something that is not there, or of another kind, it raises."""

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.values: Final[dict[str, Value]] = {}
        self.sections: Final[dict[str, Section]] = {}

    def number(self, name: str, *, least: int = 0, most: int = (1 << 63) - 1) -> int:
        """A whole number between two bounds."""
        found = self.values.get(name)
        if not isinstance(found, int) or not least <= found <= most:
            raise self._wrong(name, f"a number from {least} to {most}", found)
        return found

    def word(self, name: str) -> str:
        """A string."""
        found = self.values.get(name)
        if not isinstance(found, str):
            raise self._wrong(name, "a string", found)
        return found

    def array(self, name: str) -> list[Scalar]:
        """An array; a missing one is empty, and one value stands for an array of it."""
        found = self.values.get(name, [])
        return found if isinstance(found, list) else [found]

    def section(self, name: str) -> "Section":
        """A section inside of this one."""
        if name not in self.sections:
            raise self._wrong(name, "a section", self.values.get(name))
        return self.sections[name]

    def _wrong(self, name: str, expected: str, found: object) -> DiskFormatError:
        shown = "nothing" if found is None else repr(found)[:60]
        return DiskFormatError(
            f"LVM metadata, {self.path}/{name}: expected {expected}, found {shown}",
            hint=_HINT,
        )


def parse_text(raw: bytes) -> Section:
    """Take the metadata of a volume group apart.

    Args:
        raw: The text as it lies on the disk; it may end with zero bytes.

    Raises:
        DiskFormatError: It is too large or too deep, or not of the grammar.
    """
    if len(raw) > TEXT_SIZE_MAX:
        raise DiskFormatError(f"LVM metadata: expected at most {TEXT_SIZE_MAX} bytes of text, found {len(raw)}")
    tokens = _iter_tokens(raw.decode("utf-8", "replace"))
    root = Section("")
    if _fill(root, tokens, depth=0) != "":
        raise _broken("a '}' too many")
    return root


def _iter_tokens(text: str) -> Iterator[Token]:
    position = 0
    while True:
        found = _TOKEN.match(text, position)
        if found is None:
            raise _broken(f"{text[position : position + 20]!r}")
        kind = str(found.lastgroup)
        yield kind, found[kind]
        if kind == "end":
            return
        position = found.end()


def _fill(section: Section, tokens: Iterator[Token], *, depth: int) -> str:
    """Read settings up to the end of a section; the sign that ended it, empty for the end of the text."""
    if depth > _DEPTH_MAX:
        raise _broken(f"sections more than {_DEPTH_MAX} deep")
    while True:
        kind, name = next(tokens)
        if kind == "end" or (kind, name) == ("sign", "}"):
            return name
        if kind not in ("name", "number", "string"):
            raise _broken(f"{name!r} in place of a name in {section.path or '/'}")
        if name in section.values or name in section.sections:
            raise _broken(f"{section.path}/{name} twice")
        sign = next(tokens)
        if sign == ("sign", "="):
            section.values[name] = _read_value(tokens)
        elif sign == ("sign", "{"):
            inner = section.sections[name] = Section(f"{section.path}/{name}")
            if _fill(inner, tokens, depth=depth + 1) != "}":
                raise _broken(f"the end of the text inside {inner.path}")
        else:
            raise _broken(f"{sign[1]!r} behind {section.path}/{name}")


def _read_value(tokens: Iterator[Token]) -> Value:
    token = next(tokens)
    if token != ("sign", "["):
        return _scalar(token)
    values = list[Scalar]()
    token = next(tokens)
    while token != ("sign", "]"):
        values.append(_scalar(token))
        token = next(tokens)
        if token == ("sign", ","):
            token = next(tokens)
        elif token != ("sign", "]"):
            raise _broken(f"{token[1]!r} in an array")
    return values


def _scalar(token: Token) -> Scalar:
    kind, text = token
    if kind == "number" and len(text) <= 20:
        return int(text)
    if kind == "string":
        return _ESCAPED.sub(r"\1", text)
    raise _broken(f"{text[:20]!r} in place of a value")


def _broken(found: str) -> DiskFormatError:
    return DiskFormatError(f"LVM metadata: expected settings and sections, found {found}", hint=_HINT)
