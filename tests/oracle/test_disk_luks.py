"""LUKS read in memory: the same bytes and the same keys as cryptsetup and QEMU find, and a refusal for what is not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.block.file import open_file_reader
from stillframe.disk.luks import PlaintextReader, find_key, is_key_of, read_header
from stillframe.errors import DiskFormatError
from stillframe.testing.block_contract import contents
from stillframe.testing.volumes_luks import (
    CHEAP_ARGON2,
    CHEAP_PBKDF2,
    HEAD_SIZE,
    PASSPHRASE,
    cryptsetup,
    edit_json,
    encrypt1,
    encrypt2,
    opens,
    volume_key,
)

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 2 * MIB + 4096
SECRET = PASSPHRASE.encode()
OTHER = "another one"
VARIANTS = {
    "argon2id": ("--pbkdf", "argon2id", *CHEAP_ARGON2),
    "argon2i-4096": ("--pbkdf", "argon2i", *CHEAP_ARGON2, "--sector-size", "4096"),
    "sha512-2048-xts-256": (*CHEAP_PBKDF2, "--hash", "sha512", "--sector-size", "2048", "--key-size", "256"),
    "sha1-essiv": (*CHEAP_PBKDF2, "--hash", "sha1", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"),
    "cbc-1024": (*CHEAP_PBKDF2, "--cipher", "aes-cbc-plain64", "--key-size", "192", "--sector-size", "1024"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("luks") / "plain"
    path.write_bytes(contents(SIZE, seed=7))
    return path


@pytest.fixture(scope="module")
def sealed(plain: Path) -> Path:
    encrypt2(plain, plain.with_name("sealed"))
    return plain.with_name("sealed")


def copy_of(volume: Path, folder: Path) -> Path:
    copy = folder / "volume"
    copy.write_bytes(volume.read_bytes())
    return copy


def decrypted(volume: Path, secret: bytes = SECRET) -> bytes:
    with open_file_reader(str(volume)) as reader:
        header = read_header(reader)
        assert header is not None
        key = find_key(reader, header, secret)
        assert key is not None
        plain = PlaintextReader(reader, header.segment, key)
        return plain.read_at(0, plain.size)


def refusal(volume: Path) -> str:
    with open_file_reader(str(volume)) as reader, pytest.raises(DiskFormatError) as raised:
        read_header(reader)
    assert raised.value.hint
    return raised.value.message


@pytest.mark.parametrize("words", VARIANTS.values(), ids=VARIANTS)
def test_what_cryptsetup_encrypted_is_read(plain: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    volume = tmp_path / "volume"
    encrypt2(plain, volume, *words)
    assert decrypted(volume) == plain.read_bytes()


VARIANTS_1 = {
    "xts": ("--hash", "sha256"),
    "essiv": ("--hash", "sha1", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"),
    "cbc": ("--hash", "sha512", "--cipher", "aes-cbc-plain64", "--key-size", "128"),
    "xts-plain": ("--cipher", "aes-xts-plain", "--key-size", "256"),
}


@pytest.mark.parametrize("words", VARIANTS_1.values(), ids=VARIANTS_1)
def test_what_qemu_encrypted_is_read(plain: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    volume = tmp_path / "volume"
    encrypt1(plain, volume, *CHEAP_PBKDF2, *words)
    assert decrypted(volume) == plain.read_bytes()


@pytest.mark.parametrize("version", ["luks1", "luks2"])
def test_each_slot_gives_the_key_that_cryptsetup_has(tmp_path: Path, version: str) -> None:
    volume = tmp_path / "volume"
    volume.touch()
    os.truncate(volume, 17 * MIB)
    cryptsetup("luksFormat", "--type", version, "-q", *CHEAP_PBKDF2, "--hash", "sha256", str(volume))
    added = ("luksAddKey", *CHEAP_PBKDF2, "-q", "--key-file", "-", "--keyfile-size", str(len(SECRET)), str(volume), "-")
    cryptsetup(*added, more=OTHER)
    with open_file_reader(str(volume)) as reader:
        header = read_header(reader)
        assert header is not None
        assert [slot.number for slot in header.slots] == [0, 1]
        key = volume_key(volume, tmp_path)
        assert [find_key(reader, header, one) for one in (SECRET, OTHER.encode(), b"wrong")] == [key, key, None]
        assert is_key_of(header, key)
        assert not is_key_of(header, bytes(len(key)))
    cryptsetup("luksKillSlot", "-q", str(volume), "0", secret=OTHER)
    assert not opens(volume, PASSPHRASE)
    with open_file_reader(str(volume)) as reader:
        header = read_header(reader)
        assert header is not None
        assert find_key(reader, header, SECRET) is None


def test_a_volume_that_is_not_of_luks_is_none(plain: Path) -> None:
    with open_file_reader(str(plain)) as reader:
        assert read_header(reader) is None


def test_one_damaged_copy_of_the_header_is_enough(plain: Path, sealed: Path, tmp_path: Path) -> None:
    volume = copy_of(sealed, tmp_path)
    for place in (5000, 16384 + 5000):
        with volume.open("r+b") as file:
            file.seek(place)
            file.write(b"\xa5")
        if place == 5000:
            assert opens(volume, PASSPHRASE)
            volume = copy_of(sealed, tmp_path)  # cryptsetup has mended it
            with volume.open("r+b") as file:
                file.seek(place)
                file.write(b"\xa5")
            assert decrypted(volume) == plain.read_bytes()
    assert "checksum" in refusal(volume)


def test_a_change_of_encryption_that_is_under_way_is_refused(sealed: Path, tmp_path: Path) -> None:
    volume = copy_of(sealed, tmp_path)
    cryptsetup("reencrypt", "--init-only", "--force-offline-reencrypt", "-q", *CHEAP_PBKDF2, str(volume))
    assert "requirements" in refusal(volume)


def _segment(**fields: object) -> Callable[[Any], object]:
    return lambda record: record["segments"]["0"].update(fields)


def _slot(part: str, **fields: object) -> Callable[[Any], object]:
    return lambda record: record["keyslots"]["0"][part].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_segment(integrity={"type": "hmac(sha256)", "journal_encryption": "none"}), "integrity"),
        (_segment(encryption="twofish-xts-plain64"), "twofish-xts-plain64"),
        (_segment(encryption="aes-xts-plain64be"), "aes-xts-plain64be"),
        (_segment(type="linear"), "linear"),
        (_segment(sector_size=513), "513"),
        (_segment(offset="16384", size="4096"), "behind its key slots"),
        (_segment(offset="0"), "inside"),
        (_segment(size="99999999999"), "inside"),
        (_segment(flags=["in-reencryption"]), "in-reencryption"),
        (_segment(offset="-1"), "JSON of LUKS2"),
        (lambda record: record["segments"].update({"1": record["segments"]["0"]}), "one encrypted segment"),
        (lambda record: record["config"].update(requirements={"mandatory": ["new"]}), "found new"),
        (lambda record: record["digests"]["0"].update(iterations=1 << 40), "iterations"),
        (lambda record: record["digests"].clear(), "one digest"),
        (_slot("kdf", iterations=1 << 31), "iterations"),
        (_slot("kdf", type="argon2id", time=4, memory=1 << 23, cpus=4), "KiB of memory"),
        (_slot("kdf", type="argon2id", time=1 << 20, memory=1 << 20, cpus=4), "passes"),
        (_slot("kdf", type="scrypt"), "scrypt"),
        (_slot("kdf", hash="whirlpool"), "whirlpool"),
        (_slot("af", stripes=1 << 30), "stripes"),
        (_slot("area", offset="99999999999"), "bytes between"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(
    sealed: Path, tmp_path: Path, change: Callable[[Any], object], words: str
) -> None:
    volume = copy_of(sealed, tmp_path)
    edit_json(volume, lambda _: None)
    assert decrypted(volume)  # the copies are whole when nothing was changed in them
    edit_json(volume, change)
    assert words in refusal(volume)


def test_copies_that_disagree_are_refused(sealed: Path, tmp_path: Path) -> None:
    volume = copy_of(sealed, tmp_path)
    edit_json(volume, _segment(iv_tweak="8"), copies=(1,))
    assert "two copies that agree" in refusal(volume)
    volume = copy_of(sealed, tmp_path)
    edit_json(volume, lambda record: record.update(tokens={"0": {"type": "x", "keyslots": []}}), copies=(1,))
    assert "equally new" in refusal(volume)


def test_an_iv_tweak_and_a_fixed_size_are_followed(plain: Path, sealed: Path, tmp_path: Path) -> None:
    """What was encrypted under the numbers from 8 on is what lies 8 sectors further."""
    volume = copy_of(sealed, tmp_path)
    edit_json(volume, _segment(iv_tweak="8", offset=str(HEAD_SIZE + 4096), size=str(MIB)))
    assert decrypted(volume) == plain.read_bytes()[4096 : 4096 + MIB]


def test_a_version_1_whose_numbers_leave_the_volume_is_refused(plain: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    encrypt1(plain, volume)
    whole = volume.read_bytes()
    for at, new, words in (  # LUKS1 On-Disk Format 1.2.3, section 2.2
        (104, bytes(4), "inside"), (104, b"\xff" * 4, "inside"), (108, b"\0\0\1\0", "bytes of a key"),
        (8, b"serpent\0", "serpent-xts-plain64"), (72, b"ripemd160\0", "ripemd160"), (164, bytes(4), "iterations"),
        (208 + 4, b"\xff" * 4, "iterations"), (208 + 40, b"\0\xff\0\0", "between"), (208 + 44, b"\xff" * 4, "stripes"),
    ):  # fmt: skip
        volume.write_bytes(whole[:at] + new + whole[at + len(new) :])
        assert words in refusal(volume)
