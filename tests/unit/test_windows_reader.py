"""Raw reads of a shadow: alignment, the last sector of NTFS, and what a failure means."""

import mmap
from collections.abc import Iterator

import pytest

from stillframe.block import ReadFault
from stillframe.block.file import aligned_buffer
from stillframe.errors import DeviceError, MachineRefusal, StillframeError, UsageError
from stillframe.extents import Extent
from stillframe.host.windows import codes
from stillframe.host.windows.calls import Win32Failure
from stillframe.host.windows.reader import HandleReader, ntfs_size, open_handle_reader
from stillframe.testing.block_contract import contents
from stillframe.testing.windows_device import MemoryDevice, RefusedRange

SHADOW = r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7"
SIZE = 1 << 20
REFUSALS = [
    codes.ERROR_INVALID_PARAMETER,
    codes.ERROR_HANDLE_EOF,
    codes.ERROR_SECTOR_NOT_FOUND,
    codes.ERROR_ACCESS_DENIED,
    0,
]


def ntfs(size: int, *, sector_size: int = 512, outside: int = 1) -> bytes:
    """Bytes with a boot sector of NTFS that leaves ``outside`` sectors to the partition; its copy is at the end."""
    volume = bytearray(contents(size))
    boot = bytearray(contents(sector_size, seed=2))
    boot[3:11] = b"NTFS    "
    boot[0x0B:0x0D] = sector_size.to_bytes(2, "little")
    boot[0x28:0x30] = (size // sector_size - outside).to_bytes(8, "little")
    boot[510:512] = b"\x55\xaa"
    volume[:sector_size] = volume[-sector_size:] = boot
    return bytes(volume)


def refusing_last(volume: bytes, code: int, *, sector_size: int = 512, sectors: int = 1) -> MemoryDevice:
    tail = Extent(len(volume) - sectors * sector_size, len(volume))
    return MemoryDevice(volume, sector_size=sector_size, refused=(RefusedRange(extent=tail, code=code),))


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("code", REFUSALS)
def test_the_last_sector_of_ntfs_is_copied_from_the_first_when_it_is_refused(code: int, sector_size: int) -> None:
    volume = ntfs(SIZE, sector_size=sector_size)
    device = refusing_last(volume, code, sector_size=sector_size)
    with open_handle_reader(device, SHADOW, sector_size=sector_size) as reader:
        assert [notice.code for notice in reader.notices] == ["last-sector-copied"]
        assert reader.read_at(0, SIZE) == volume
        for start, length in ((SIZE - 1, 1), (SIZE - sector_size, sector_size), (SIZE - sector_size - 3, 7), (SIZE, 0)):
            assert reader.read_at(start, length) == volume[start : start + length]
        buffer = aligned_buffer(4 * sector_size)
        reader.read_into(SIZE - 4 * sector_size, buffer)
        assert buffer == volume[-4 * sector_size :]
    assert device.open_handles == 0
    assert codes.FSCTL_ALLOW_EXTENDED_DASD_IO in device.asked


def test_the_last_sector_is_read_when_it_can_be() -> None:
    volume = bytearray(ntfs(SIZE))
    volume[-1] ^= 0xFF  # not the copy that one would make
    with open_handle_reader(MemoryDevice(bytes(volume)), SHADOW, sector_size=512) as reader:
        assert reader.read_at(SIZE - 512, 512) == volume[-512:]
        assert reader.notices == ()


@pytest.mark.parametrize("outside", [0, 2, 2000])
def test_more_than_one_sector_outside_is_never_made_up(outside: int) -> None:
    volume = ntfs(SIZE, outside=outside)
    device = refusing_last(volume, codes.ERROR_INVALID_PARAMETER, sectors=max(outside, 1))
    with open_handle_reader(device, SHADOW, sector_size=512) as reader:
        assert reader.notices == ()
        with pytest.raises(ReadFault):
            reader.read_at(SIZE - 512, 512)


def test_another_file_system_is_never_made_up() -> None:
    device = refusing_last(contents(SIZE), codes.ERROR_INVALID_PARAMETER)
    with open_handle_reader(device, SHADOW, sector_size=512) as reader, pytest.raises(ReadFault):
        reader.read_at(SIZE - 512, 512)


def test_a_disk_with_a_bad_first_sector_is_opened() -> None:
    bad = RefusedRange(extent=Extent(0, 512), code=codes.ERROR_CRC)
    with open_handle_reader(MemoryDevice(ntfs(SIZE), refused=(bad,)), SHADOW, sector_size=512) as reader:
        with pytest.raises(ReadFault):
            reader.read_at(0, 512)
        assert reader.read_at(512, 512) == contents(SIZE)[512:1024]


def test_a_disk_of_one_sector_is_read() -> None:
    with open_handle_reader(MemoryDevice(bytes(512)), SHADOW, sector_size=512) as reader:
        assert reader.read_at(0, 512) == bytes(512)


@pytest.mark.parametrize("boot", [b"", bytes(512), b"\xeb\x52\x90NTFS    " + bytes(501)])
def test_what_is_no_boot_sector_of_ntfs_has_no_size(boot: bytes) -> None:
    assert ntfs_size(boot) is None


def test_short_reads_are_gone_on_with() -> None:
    volume = contents(SIZE)
    for most in (512, 1536, 4096 + 100):  # the last is no whole sector: its rest is asked for again
        with open_handle_reader(MemoryDevice(volume, read_size_max=most), SHADOW, sector_size=512) as reader:
            assert reader.read_at(100, 9000) == volume[100:9100]


def test_whole_sectors_go_straight_into_an_aligned_buffer() -> None:
    volume = contents(SIZE)
    device = MemoryDevice(volume)
    with open_handle_reader(device, SHADOW, sector_size=512) as reader:
        before, buffer = device.reads, aligned_buffer(SIZE)
        reader.read_into(0, buffer)
        assert (buffer == volume, device.reads - before) == (True, 1)
        shifted = memoryview(mmap.mmap(-1, SIZE + 1))[1:]
        reader.read_into(0, shifted)
        assert shifted == volume


@pytest.mark.parametrize("code", [*sorted(codes.SECTOR_ERRORS), codes.ERROR_HANDLE_EOF])
def test_a_bad_sector_is_a_read_fault_with_its_range(code: int) -> None:
    bad = RefusedRange(extent=Extent(8192, 8704), code=code)
    with open_handle_reader(MemoryDevice(contents(SIZE), refused=(bad,)), SHADOW, sector_size=512) as reader:
        with pytest.raises(ReadFault, match=f"Windows error {code}") as caught:
            reader.read_at(8000, 1000)
        assert caught.value.extent == Extent(8000, 9000)
        assert reader.read_at(0, 8192) == contents(SIZE)[:8192]


@pytest.mark.parametrize(
    ("code", "words"),
    [(codes.ERROR_NO_SUCH_DEVICE, "went away"), (codes.ERROR_FILE_INVALID, "went away"), (31, "reading at byte 0")],
)
def test_a_device_that_fails_as_a_whole_is_no_read_fault(code: int, words: str) -> None:
    class Gone(MemoryDevice):
        def read(self, handle: int, offset: int, buffer: memoryview) -> int:  # noqa: ARG002
            raise Win32Failure("ReadFile", code)

    device = Gone(contents(SIZE))
    with pytest.raises(DeviceError, match=words) as caught:
        open_handle_reader(device, SHADOW, sector_size=512)
    assert not isinstance(caught.value, ReadFault)
    assert device.open_handles == 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [(codes.ERROR_FILE_NOT_FOUND, UsageError), (codes.ERROR_ACCESS_DENIED, MachineRefusal),
     (codes.ERROR_SHARING_VIOLATION, MachineRefusal), (codes.ERROR_CRC, DeviceError)],
)  # fmt: skip
def test_a_device_that_cannot_be_opened(code: int, kind: type[StillframeError]) -> None:
    class Closed(MemoryDevice):
        def open_handle(self, path: str, *, unbuffered: bool) -> int:  # noqa: ARG002
            raise Win32Failure("CreateFileW", code)

    with pytest.raises(kind) as caught:
        open_handle_reader(Closed(b""), SHADOW, sector_size=512)
    assert caught.value.hint


def test_a_size_that_is_no_whole_sector_is_refused() -> None:
    device = MemoryDevice(bytes(512 * 9))
    with pytest.raises(DeviceError, match="no whole number of sectors"):
        open_handle_reader(device, SHADOW, sector_size=4096)
    assert device.open_handles == 0


def test_the_root_folder_of_a_shadow_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="is a folder"):
        open_handle_reader(MemoryDevice(b""), SHADOW + "\\", sector_size=512)


@pytest.fixture
def reader() -> Iterator[HandleReader]:
    with open_handle_reader(MemoryDevice(contents(SIZE)), SHADOW, sector_size=512) as opened:
        yield opened


def test_closing_twice_is_once(reader: HandleReader) -> None:
    reader.close()
    reader.close()


def test_ranges_outside_are_a_bug_of_the_caller(reader: HandleReader) -> None:
    with pytest.raises(ValueError, match="outside"):
        reader.read_at(SIZE, 1)
