"""Laws of disks under another kind of table: nothing lost, nothing over anything, and what is written is read again."""

import os
import tempfile
import uuid
from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block.file import open_file_reader
from stillframe.disk import Flexibility, Layout, Partition, fit_partitions, read_layout
from stillframe.disk.converting import StartsBy, draft_conversion, finish_conversion, room_of
from stillframe.disk.new_table import build_table
from stillframe.disk.types import name_type
from stillframe.errors import TargetError
from stillframe.extents import Extent, ExtentSet

MIB = 1 << 20
STEP = 512
GPT_TYPES = (
    "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
    "E6D6D379-F507-44C2-A23C-238F2A3DF928", "A19D880F-05FC-4D3B-A006-743F0F84911E",
)  # fmt: skip
MBR_TYPES = ("83", "82", "07", "27", "8E", "FD")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """A disk as its table says, primary partitions first on it when there are logical ones."""
    is_gpt, count = draw(st.booleans()), draw(st.integers(1, 9))
    primary = count if is_gpt or count <= 4 else draw(st.integers(1, 3))
    numbers = list(range(1, count + 1)) if is_gpt else [*range(1, primary + 1), *range(5, 5 + count - primary)]
    if is_gpt:
        numbers = draw(st.permutations(numbers))
    parts, end = [], draw(st.sampled_from((34, 63, 2048))) * STEP
    for index, number in enumerate(numbers):
        logical = index >= primary
        start = end + (draw(st.integers(1, 4096)) if logical else draw(st.integers(0, 4096))) * STEP
        end = start + draw(st.integers(1, 40_000)) * STEP
        kind = draw(st.sampled_from(GPT_TYPES if is_gpt else MBR_TYPES))
        parts.append(
            Partition(
                number=number, extent=Extent(start, end), type=kind, type_name=name_type(kind), name="", attributes=0,
                guid=str(uuid.UUID(int=number)).upper() if is_gpt else "", index=number - 1, logical=logical,
            )
        )  # fmt: skip
    parts.sort(key=lambda part: part.number)
    return Layout(
        scheme="gpt" if is_gpt else "mbr", disk_id=str(uuid.UUID(int=77)).upper() if is_gpt else "0A1B2C3D",
        size=end + 2 * MIB, sector_size=STEP, partitions=tuple(parts), notices=(), table=ExtentSet.empty(),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(layouts(), st.sampled_from(["uefi", "bios", "bios-mbr"]), st.integers(0, 300 * MIB))
def test_a_converted_disk_is_lawful(layout: Layout, starts_by: StartsBy, more: int) -> None:
    if starts_by == "bios-mbr" and layout.scheme == "mbr":
        return
    size = (layout.size + more) // STEP * STEP
    draft = draft_conversion(layout, starts_by, esp_size=64 * MIB)
    may = {part.number: Flexibility(smallest=part.extent.size) for part in draft.layout.partitions}
    try:
        found = fit_partitions(draft.layout, room_of(draft, size), may, {})
    except TargetError:
        assert more < (len(may) + 2) * MIB + 64 * MIB
        return
    places = {one.partition.number: one.place for one in found}
    after = finish_conversion(draft, places, size, next_uuid=uuid.uuid4)
    require_lawful(layout, after, draft.numbers)
    with tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, size)
        for patch in build_table(after):
            file.seek(patch.offset)
            file.write(patch.data)
        file.flush()
        with open_file_reader(file.name) as reader:
            again = read_layout(reader)
    assert again.partitions == after.partitions
    assert (again.scheme, again.disk_id, again.table) == (after.scheme, after.disk_id, after.table)


def require_lawful(before: Layout, after: Layout, numbers: Mapping[int, int]) -> None:
    assert sorted(numbers) == sorted(part.number for part in before.partitions)
    assert len({part.number for part in after.partitions}) == len(after.partitions)
    by_number = {part.number: part for part in after.partitions}
    for part in before.partitions:
        assert by_number[numbers[part.number]].extent.size == part.extent.size
    order = [numbers[part.number] for part in sorted(before.partitions, key=lambda part: part.extent.start)]
    kept = sorted((part for part in after.partitions if part.number in order), key=lambda part: part.extent.start)
    assert [part.number for part in kept] == order
    ranges = sorted([*(part.extent for part in after.partitions), *after.table])
    assert all(one.end <= other.start for one, other in pairwise(ranges))
    assert ranges[-1].end <= after.size
    if after.scheme == "gpt":
        assert all(old == new for old, new in numbers.items())
        assert len({part.guid for part in after.partitions}) == len(after.partitions)
    else:
        assert sum(part.attributes == 0x80 for part in after.partitions) == 1
        logical = [part.number for part in after.partitions if part.logical]
        assert logical == list(range(5, 5 + len(logical)))
        assert min(part.extent.start for part in after.partitions) >= MIB
