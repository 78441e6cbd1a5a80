r"""Everything that is in a registry file, as ``hivexml`` of libhivex reads it.

Answers: "what is in this hive, by another program than ours?" Two of these are compared before and after a change.
"""

import base64
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from stillframe.testing.tools import run_tool


def dump_hive(path: Path) -> Iterator[tuple[str, str]]:
    r"""Every key, as ``\Key\Below`` with nothing, and every value, as ``\Key:Name`` with its type and what it says."""
    root = ET.fromstring(run_tool("hivexml", str(path)))  # noqa: S314 - made by a tool of the test
    top = root.find("node")
    if top is not None:
        yield from _below(top, "")


def _below(node: ET.Element, path: str) -> Iterator[tuple[str, str]]:
    for value in node.findall("value"):
        name = "(default)" if value.get("default") else _text(value, "key")
        kind = value.get("type", "")
        yield f"{path}:{name}", f"{kind}:{_value(value, kind)}"
    for child in node.findall("node"):
        below = f"{path}\\{_text(child, 'name')}"
        yield below, ""
        yield from _below(child, below)


def _value(value: ET.Element, kind: str) -> str:
    if kind == "string-list":
        return "|".join(one.text for one in value.findall("string") if one.text)
    text = _text(value, "value")
    return base64.b64decode(text).hex() if kind == "binary" else text


def _text(element: ET.Element, name: str) -> str:
    text = element.get(name, "")
    return base64.b64decode(text).decode() if element.get(f"{name}_encoding") == "base64" else text
