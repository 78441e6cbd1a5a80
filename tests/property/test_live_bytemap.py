"""A map of bytes between devices obeys its laws: compared with a table that has one entry for each byte."""

from hypothesis import given
from hypothesis import strategies as st

from stillframe.extents import Extent, ExtentSet
from stillframe.host.live.bytemap import ByteMap

SIZE = 60


@st.composite
def maps(draw: st.DrawFn) -> ByteMap:
    """Pieces that overlap in neither device, in any order below."""
    cuts = sorted(draw(st.sets(st.integers(0, SIZE), min_size=2, max_size=8)))
    uppers = list(zip(cuts[::2], cuts[1::2], strict=False))
    at, pieces = draw(st.integers(0, 5)), []
    for start, end in draw(st.permutations(uppers)):
        pieces.append((start, at, end - start))
        at += end - start + draw(st.integers(0, 4))
    return ByteMap.of(*pieces)


def sets() -> st.SearchStrategy[ExtentSet]:
    pairs = st.tuples(st.integers(0, 2 * SIZE), st.integers(0, 12))
    return st.lists(pairs, max_size=6).map(lambda rows: ExtentSet.from_extents(Extent(a, a + n) for a, n in rows))


def table(pieces: ByteMap) -> dict[int, int]:
    rows = zip(pieces.uppers.tolist(), pieces.lowers.tolist(), pieces.sizes.tolist(), strict=True)
    return {upper + step: lower + step for upper, lower, size in rows for step in range(size)}


def numbers(extents: ExtentSet) -> set[int]:
    return {number for extent in extents for number in range(extent.start, extent.end)}


@given(maps(), sets())
def test_down_and_up_are_what_a_table_of_bytes_says(pieces: ByteMap, extents: ExtentSet) -> None:
    place = table(pieces)
    back = {lower: upper for upper, lower in place.items()}
    assert numbers(pieces.down(extents)) == {place[n] for n in numbers(extents) if n in place}
    assert numbers(pieces.up(extents)) == {back[n] for n in numbers(extents) if n in back}
    assert numbers(pieces.covered) == set(place)


@given(maps(), maps())
def test_a_map_onto_another_leads_where_both_lead(upper: ByteMap, lower: ByteMap) -> None:
    first, second = table(upper), table(lower)
    assert table(upper.onto(lower)) == {at: second[there] for at, there in first.items() if there in second}


@given(maps())
def test_halves_of_a_map_joined_are_the_map(pieces: ByteMap) -> None:
    middle = len(pieces.sizes) // 2
    low = ByteMap(pieces.uppers[:middle], pieces.lowers[:middle], pieces.sizes[:middle])
    high = ByteMap(pieces.uppers[middle:], pieces.lowers[middle:], pieces.sizes[middle:])
    assert high.joined(low).token == pieces.token
