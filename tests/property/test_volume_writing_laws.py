"""Laws of what is written to volumes inside partitions: it is where the layers put it, and nowhere else."""

from dataclasses import replace

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.block import BlockWriter, MemoryDisk
from stillframe.disk.luks.ciphers import SectorCipher
from stillframe.disk.lvm import LogicalVolume, PhysicalPlace, Segment, join_volume, join_volume_for_writing
from stillframe.extents import Extent

SIZE = 64 * 1024
STRIPE = 512
PLACES = tuple(
    PhysicalPlace(name=f"pv{number}", uuid=f"{number}" * 32, start=0, size=SIZE, is_missing=False)
    for number in range(3)
)


@st.composite
def volumes(draw: st.DrawFn) -> LogicalVolume:
    """Linear and striped segments on three physical volumes, none over another."""
    free, segments = [0, 0, 0], list[Segment]()
    for _ in range(draw(st.integers(1, 5))):
        chosen = draw(st.lists(st.sampled_from(range(3)), min_size=1, max_size=3, unique=True))
        each = draw(st.integers(1, 12)) * STRIPE
        gap = draw(st.integers(0, 3)) * STRIPE
        stripes = tuple((PLACES[number], free[number] + gap) for number in chosen)
        for number in chosen:
            free[number] += gap + each
        size = each * len(chosen)
        segments.append(Segment(size=size, stripes=stripes, stripe_size=size if len(chosen) == 1 else STRIPE))
    size = sum(one.size for one in segments)
    return LogicalVolume(name="v", uuid="v" * 32, size=size, type="linear", is_visible=True, segments=tuple(segments))


def place_of(volume: LogicalVolume, at: int) -> tuple[str, int]:
    """Where a byte of a volume lies, a byte at a time: LVM2, ``lib/striped/striped.c``."""
    for segment in volume.segments:
        if at < segment.size:
            count = len(segment.stripes)
            stripe, inside = divmod(at, STRIPE)
            row, column = divmod(stripe, count)
            place, start = segment.stripes[column if count > 1 else 0]
            return place.uuid, start + (row * STRIPE + inside if count > 1 else at)
        at -= segment.size
    raise AssertionError("outside")


@settings(deadline=None)
@given(volumes(), st.data())
def test_what_is_written_to_a_volume_is_where_lvm_would_put_it(volume: LogicalVolume, data: st.DataObject) -> None:
    disks: dict[str, BlockWriter] = {place.uuid: MemoryDisk(bytes(SIZE)) for place in PLACES}
    model = {uuid: bytearray(SIZE) for uuid in disks}
    writer = join_volume_for_writing(volume, disks)
    for number in range(1, 4):
        start = data.draw(st.integers(0, volume.size - 1))
        length = data.draw(st.integers(1, min(5000, volume.size - start)))
        is_zero = data.draw(st.booleans())
        written = bytes(length) if is_zero else bytes([number]) * length
        if is_zero:
            writer.zero(Extent(start, start + length))
        else:
            writer.write_at(start, written)
        for at in range(start, start + length):
            uuid, place = place_of(volume, at)
            model[uuid][place] = written[at - start]
    assert {uuid: disk.read_at(0, SIZE) for uuid, disk in disks.items()} == {
        uuid: bytes(one) for uuid, one in model.items()
    }
    assert writer.read_at(0, volume.size) == join_volume(volume, disks).read_at(0, volume.size)
    assert replace(volume, name="w").size == writer.size


@settings(deadline=None)
@given(
    st.sampled_from(["aes-xts-plain64", "aes-xts-plain", "aes-cbc-essiv:sha256", "aes-cbc-plain64", "aes-cbc-plain"]),
    st.sampled_from([512, 1024, 4096]), st.integers(0, 1 << 34), st.binary(min_size=64, max_size=64),
)  # fmt: skip
def test_what_is_encrypted_is_decrypted_to_the_same(name: str, sector_size: int, first: int, seed: bytes) -> None:
    cipher = SectorCipher(name, seed if "xts" in name else seed[:32], sector_size)
    plain = (seed * (3 * sector_size // 64))[: 3 * sector_size]
    sealed = cipher.encrypt(plain, first)
    assert cipher.decrypt(sealed, first) == plain
    assert sealed != plain
    if name == "aes-cbc-plain64":
        for number in range(3):
            vector = (first + number * sector_size // 512).to_bytes(16, "little")
            worker = Cipher(algorithms.AES(seed[:32]), modes.CBC(vector)).encryptor()
            part = slice(number * sector_size, (number + 1) * sector_size)
            assert sealed[part] == worker.update(plain[part]) + worker.finalize(), "as OpenSSL does"
