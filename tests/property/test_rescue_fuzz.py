"""Whatever smartctl, an ISO or a kernel's lists say, only our own errors come out."""

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stillframe.block import MemoryDisk
from stillframe.errors import StillframeError
from stillframe.host.disks import DiskFacts
from stillframe.host.health import judge_health
from stillframe.host.health_report import parse_health
from stillframe.rescue.trying.iso import find_file
from stillframe.rescue.trying.modules import parse_firmware, parse_modules
from stillframe.rescue.trying.returning import parse_verdict

DISK = DiskFacts(path="/dev/sda", kind="disk", size=1 << 30, is_hardware=True)
SAMPLES = [
    json.loads(path.read_bytes())
    for path in sorted((Path(__file__).parents[1] / "unit/samples/smartctl").glob("*.json"))
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def fuzz_rescue(data: bytes) -> None:
    for bits in (0, 2, 255):
        with contextlib.suppress(StillframeError):
            judge_health(DISK, parse_health(data, bits=bits))
    with contextlib.suppress(StillframeError):
        find_file(MemoryDisk(bytes(16 * 2048) + data), "live/filesystem.squashfs")
    text = data.decode("utf-8", "replace")
    parse_modules("6.1", alias=text, builtin=text, modinfo=data, dep=text).find_drivers("pci:v00008086d00001234")
    parse_firmware(data)
    parse_verdict(text)


def changed(tree: Any, path: list[int], value: Any) -> Any:
    """A tree with one of its values replaced, found by numbers."""
    if not path or not isinstance(tree, (dict, list)) or not tree:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[path[0] % len(keys)]
    copy = tree.copy()
    copy[key] = changed(tree[key], path[1:], value)
    return copy


@given(st.binary(max_size=4096))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    fuzz_rescue(data)


@given(st.sampled_from(SAMPLES), st.lists(st.integers(0, 40), min_size=1, max_size=5), JSON)
def test_a_report_with_another_value_is_judged(report: Any, path: list[int], value: Any) -> None:
    fuzz_rescue(json.dumps(changed(report, path, value)).encode())


@given(st.text(max_size=200))
def test_a_volume_descriptor_with_any_words_is_read_or_refused(text: str) -> None:
    fuzz_rescue(b"\x01CD001" + text.encode() + bytes(4096))
