"""Images that partclone made become images here, and come back as the volumes they were made from."""

import bz2
import gzip
import lzma
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from stillframe.block.formats.partclone import PartcloneStream
from stillframe.capture.foreign import ImportOptions, find_importable
from stillframe.errors import DiskFormatError
from stillframe.testing.command_line import call, init_own
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import PARTCLONE_AT_ONCE

pytestmark = pytest.mark.usefixtures("own_temporary")
MIB = 1 << 20
MAKERS: dict[str, tuple[str, ...]] = {
    "extfs": ("mkfs.ext4", "-q", "-F"),
    "ntfs": ("mkfs.ntfs", "-q", "-F", "-f"),
    "fat": ("mkfs.fat", "-F", "16"),
    "exfat": ("mkfs.exfat",),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
SLOW = {"xfs", "btrfs", "exfat"}
SIZES = {"xfs": 320 * MIB, "btrfs": 128 * MIB}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": bz2.compress,
}


def make_volume(kind: str, path: Path) -> Path:
    """A volume of a file system, with 3 MiB of a file where that is easily put there."""
    path.touch()
    os.truncate(path, SIZES.get(kind, 48 * MIB))
    options: tuple[str, ...] = ()
    if kind in {"extfs", "btrfs"}:
        tree = path.with_suffix(".tree")
        tree.mkdir()
        (tree / "letter").write_bytes(os.urandom(3 * MIB))
        options = ("-d", str(tree)) if kind == "extfs" else ("--rootdir", str(tree))
    run_tool(*MAKERS[kind], *options, str(path))
    return path


def clone(kind: str, volume: Path, image: Path, *options: str) -> bytes:
    log = image.with_suffix(".log")
    run_tool(
        f"partclone.{kind}", "-c", *PARTCLONE_AT_ONCE, "-L", str(log), *options, "-s", str(volume), "-o", str(image)
    )
    return image.read_bytes()


def restored_by_partclone(image: Path, target: Path) -> bytes:
    log = image.with_suffix(".log")
    run_tool("partclone.restore", *PARTCLONE_AT_ONCE, "-C", "-W", "-L", str(log), "-s", str(image), "-O", str(target))
    return target.read_bytes()


def contents(path: Path) -> bytes:
    with find_importable(str(path), ImportOptions()) as found:
        assert found.format_name == "partclone"
        reader = found.sources[0].reader
        return reader.read_at(0, reader.size)


@pytest.fixture(scope="module")
def ext(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An image of an ext4 volume, and the volume as partclone itself restores it."""
    folder = tmp_path_factory.mktemp("ext")
    volume, image, target = make_volume("extfs", folder / "volume"), folder / "image", folder / "target"
    clone("extfs", volume, image)
    target.touch()
    os.truncate(target, volume.stat().st_size)
    return image, restored_by_partclone(image, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in MAKERS]
)
def test_a_volume_is_what_partclone_restores(kind: str, tmp_path: Path) -> None:
    volume = make_volume(kind, tmp_path / "volume")
    clone(kind, volume, tmp_path / "image")
    target = tmp_path / "target"
    target.touch()
    os.truncate(target, volume.stat().st_size)
    expected = restored_by_partclone(tmp_path / "image", target)
    assert contents(tmp_path / "image") == expected


@pytest.mark.parametrize(
    "options", [("-a0",), ("-k7",), *(pytest.param(one, marks=pytest.mark.slow) for one in (("-k1",), ("-k3", "-K")))]
)
def test_every_way_of_checksums(options: tuple[str, ...], ext: tuple[Path, bytes], tmp_path: Path) -> None:
    clone("extfs", ext[0].with_name("volume"), tmp_path / "image", *options)
    assert contents(tmp_path / "image") == ext[1]


def test_a_raw_copy_by_partclone(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(os.urandom(5 * MIB + 512))
    clone("imager", volume, tmp_path / "image")
    found = contents(tmp_path / "image")
    assert found == volume.read_bytes()


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_compressed_and_in_parts(packing: str, parts: int, ext: tuple[Path, bytes], tmp_path: Path) -> None:
    packed = PACKERS[packing](ext[0].read_bytes())
    step = -(-len(packed) // parts)
    names = [f"sda1.ext4-ptcl-img.x.a{letter}" for letter in "abc"[:parts]] if parts > 1 else ["image"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(packed[number * step : (number + 1) * step])
    assert contents(tmp_path / names[0]) == ext[1]


def test_a_missing_part_is_named(ext: tuple[Path, bytes], tmp_path: Path) -> None:
    whole = ext[0].read_bytes()
    for number, letter in enumerate("abc"):
        (tmp_path / f"image.a{letter}").write_bytes(whole[number * len(whole) // 3 : (number + 1) * len(whole) // 3])
    (tmp_path / "image.ab").unlink()
    with pytest.raises(DiskFormatError, match=r"image\.ab is missing"):
        contents(tmp_path / "image.aa")
    (tmp_path / "image.ac").unlink()
    with pytest.raises(DiskFormatError, match=r"ends at block \d+") as caught:
        contents(tmp_path / "image.aa")
    assert ".ab" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (60, "the header should have"),
        (300, "the bitmap of used blocks"),
        (-5000, "used blocks up to block"),
    ],
)
def test_one_wrong_byte_is_found_and_named(place: int, words: str, ext: tuple[Path, bytes], tmp_path: Path) -> None:
    raw = bytearray(ext[0].read_bytes())
    raw[place] ^= 1
    (tmp_path / "image").write_bytes(raw)
    with pytest.raises(DiskFormatError, match=words):
        contents(tmp_path / "image")


@pytest.mark.parametrize("packing", ["none", "gz", "zst"])
def test_a_cut_image_is_an_error(packing: str, ext: tuple[Path, bytes], tmp_path: Path) -> None:
    packed = PACKERS[packing](ext[0].read_bytes())
    (tmp_path / "image").write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(DiskFormatError, match=r"ends at|cannot be expanded"):
        contents(tmp_path / "image")


def test_lz4_and_the_old_version_are_refused_with_what_to_do(tmp_path: Path) -> None:
    # Source: "LZ4 Frame Format Description", "Magic Number": 0x184D2204, little-endian.
    (tmp_path / "image.lz4").write_bytes((0x184D2204).to_bytes(4, "little") + bytes(100))
    with pytest.raises(DiskFormatError, match="lz4") as caught:
        contents(tmp_path / "image.lz4")
    assert "lz4 -d" in caught.value.hint
    (tmp_path / "old").write_bytes(b"partclone-image" + b"EXTFS".ljust(15, b"\0") + b"0001" + bytes(5000))
    with pytest.raises(DiskFormatError, match="0001") as caught:
        contents(tmp_path / "old")
    assert "partclone.restore" in caught.value.hint


def test_only_our_own_errors_come_out_of_random_headers(ext: tuple[Path, bytes]) -> None:
    whole = ext[0].read_bytes()[:200]

    class Endless:
        def __init__(self, head: bytes) -> None:
            self.head = head

        def read(self, size: int) -> bytes:
            found, self.head = self.head[:size], self.head[size:]
            return found

    for place in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0xFF
        stream = PartcloneStream(Endless(bytes(spoiled)), name="x")
        with pytest.raises(DiskFormatError):
            stream.expand(stream.read_head(), lambda _offset, _data: None)


def test_imported_and_restored_it_is_the_volume(
    ext: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_own(tmp_path, monkeypatch)
    done = call("import", ext[0], "--json")
    assert done.exit_code == 0, done.output
    target = tmp_path / "back"
    assert call("restore", done.result["image"], target).exit_code == 0
    assert target.read_bytes() == ext[1]
    assert not list(Path(tempfile.gettempdir()).iterdir())
    run_tool("e2fsck", "-fn", str(target))


def test_a_folder_is_refused_and_its_files_are_named(tmp_path: Path) -> None:
    for name in ("sda1.ext4-ptcl-img.gz.aa", "sda1.ext4-ptcl-img.gz.ab", "sda2.ntfs-ptcl-img.zst"):
        (tmp_path / name).write_bytes(b"x")
    refused = call("import", tmp_path)
    assert refused.exit_code == 2
    assert "sda1.ext4-ptcl-img.gz.aa, " in refused.errors
    assert "sda2.ntfs-ptcl-img.zst" in refused.errors
    assert ".ab" not in refused.errors
