"""The stand-alone reader against a repository that this file writes from ``docs/format/v1.md`` alone.

The expected disk is made here byte by byte; neither the product nor the reader has a hand in it. HKDF is written from
RFC 5869 with ``hmac``, so that the reader's key derivation meets a second implementation.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import hmac
import importlib.util
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import argon2.low_level
import blake3
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillframe.testing.loops import attach_loop, detach_loop

READER = Path(__file__).parents[2] / "tools" / "stillframe_reader.py"
CHUNK = 65_536
MIB = 1 << 20
PACK, INDEX, IMAGE, TOMBSTONE, SLOT = 1, 2, 3, 5, 7
FOLDERS = {PACK: "packs", INDEX: "index", IMAGE: "images", TOMBSTONE: "tombstones"}
UNUSED, ZERO, DATA, EXCLUDED, UNREADABLE = range(5)
PASSPHRASE = "Grüße, 2 ﬁsh"  # noqa: S105 - of a test; NFKC turns the ligature into two letters
SECRET = bytes(range(20))
IMAGE_ID = "ab" + "c0" * 15
Kinds = dict[int, int | bytes]


def load_reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stillframe_reader", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stillframe_reader"] = module
    spec.loader.exec_module(module)
    return module


reader = load_reader()


# --- A minimal writer ------------------------------------------------------------------------------------------------


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes: one round of RFC 5869."""
    return hmac.digest(hmac.digest(salt, key, "sha256"), info + b"\x01", "sha256")


def payload(data: bytes, *, compress: bool) -> bytes:
    stored = zstandard.compress(data) if compress else data
    return bytes([compress, 0, 0, 0]) + struct.pack("<I", len(data)) + stored


def recovery_key(secret: bytes) -> str:
    data = secret + hashlib.sha256(b"stillframe recovery key" + secret).digest()[:5]
    bits = "".join(f"{byte:08b}" for byte in data)
    letters = ["0123456789ABCDEFGHJKMNPQRSTVWXYZ"[int(bits[at : at + 5], 2)] for at in range(0, 200, 5)]
    return "-".join(["SF1", *("".join(letters[at : at + 5]) for at in range(0, 40, 5))])


class Writer:
    def __init__(self, folder: Path, encryption: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder, self.repository_id = folder, self.random.randbytes(16)
        self.master = self.random.randbytes(32) if encryption != "none" else bytes(32)
        self.domain = self.random.randbytes(16)
        identity: dict[str, Any] = {
            "magic": "stillframe-repository",
            "format": "v1",
            "id": self.repository_id.hex(),
        }
        identity |= {"created": "2026-01-01T00:00:00Z", "chunk_size": CHUNK, "features": [], "later": {}}
        self.identity = json.dumps(identity | {"encryption": encryption}).encode()
        folder.mkdir(parents=True)
        (folder / "stillframe.json").write_bytes(self.identity)
        (folder / "stillframe-copy.json").write_bytes(self.identity)
        self.packs: dict[str, list[bytes]] = {}
        self.elsewhere: set[bytes] = set()
        self.new_pack()

    def new_pack(self) -> None:
        self.pack_header, self.pack_body, self.rows = self.header(PACK, self.random.randbytes(16)), b"", list[bytes]()
        self.bases: dict[bytes, bytes] = getattr(self, "bases", {})  # by the row of the patch, without its pack

    def header(self, kind: int, object_id: bytes) -> bytes:
        start = struct.pack("<8sHBBI", b"STILLFRM", 1, kind, 1, 0)
        return start + self.repository_id + object_id + self.random.randbytes(32)

    def seal(self, header: bytes, at: int, subject: bytes, plain: bytes, key: bytes | None = None) -> bytes:
        info = b"stillframe/v1/object" + self.repository_id + header[10:11]
        cipher = AESGCM(key or hkdf(self.master, header[48:], info))
        return cipher.encrypt(at.to_bytes(12, "big"), plain, header[:48] + struct.pack("<Q", at) + subject)

    def write(self, header: bytes, body: bytes, trailer: bytes, name: str = "") -> Path:
        footer = struct.pack("<QIIQ", 80 + len(body), len(trailer), 0, 80 + len(body) + len(trailer) + 64)
        covered = header + (b"" if header[10] == PACK else body) + trailer + footer
        name = name or f"{FOLDERS[header[10]]}/{header[32:33].hex()}/{header[32:48].hex()}"
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        whole = header + body + trailer + footer + hashlib.sha256(covered).digest() + b"MRFLLITS"
        (self.folder / name).write_bytes(whole)
        return self.folder / name

    def write_plain(self, kind: int, object_id: bytes, data: bytes, *, compress: bool = True) -> Path:
        header = self.header(kind, object_id)
        return self.write(header, b"", self.seal(header, 80, bytes(32), payload(data, compress=compress)))

    def write_slot(self, kind: str, *, commit: bool = True) -> None:
        slot_id = self.random.randbytes(16)
        header = self.header(SLOT, slot_id)
        salt, repository_id = header[48:], self.repository_id
        password = "Grüße, 2 fish".encode()
        kek = hkdf(SECRET, salt, b"stillframe/v1/recovery" + repository_id)
        if kind == "passphrase":
            kek = argon2.low_level.hash_secret_raw(password, salt, 1, 8192, 2, 32, argon2.low_level.Type.ID, 0x13)
        commitment = hkdf(kek, salt, b"stillframe/v1/commitment" + repository_id).hex()
        commitment = commitment if commit else "00" * 32
        record = {"kind": kind, "label": "", "created": "2026-01-01T00:00:00Z", "commitment": commitment}
        body = json.dumps(record | {"time_cost": 1, "memory_kib": 8192, "lanes": 2}).encode()
        key = hkdf(kek, salt, b"stillframe/v1/slot" + repository_id)
        inner = {"master": self.master.hex(), "identity": hashlib.sha256(self.identity).hexdigest()}
        plain = payload(json.dumps(inner).encode(), compress=False)
        trailer = self.seal(header, 80 + len(body), hashlib.sha256(body).digest(), plain, key)
        for suffix in "ab":
            self.write(header, body, trailer, f"keys/{slot_id.hex()}.{suffix}")

    def chunk_id(self, plain: bytes) -> bytes:
        key = hkdf(self.master, bytes(32), b"stillframe/v1/chunk-id" + self.repository_id + self.domain)
        return blake3.blake3(plain, key=key).digest()

    def add(self, plain: bytes, kind: int = 0, chunk_id: bytes | None = None) -> bytes:
        chunk_id, packed = chunk_id or self.chunk_id(plain), zstandard.compress(plain)
        if chunk_id in self.elsewhere:
            return chunk_id
        codec = len(packed) < len(plain) * 31 // 32
        at = 80 + len(self.pack_body)
        sealed = self.seal(self.pack_header, at, chunk_id, packed if codec else plain)
        self.pack_body += sealed
        row = chunk_id + struct.pack("<III", 0, at, len(sealed)) + struct.pack("<I", len(plain))[:3]
        self.rows.append(row + bytes([kind * 16 + codec]))
        return chunk_id

    def add_patch(self, plain: bytes, base: bytes, base_id: bytes | None = None) -> bytes:
        """Sections 6 and 9: one frame with the base before it, which says its size and ends with a checksum."""
        chunk_id, at = self.chunk_id(plain), 80 + len(self.pack_body)
        prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        made = zstandard.ZstdCompressor(level=5, dict_data=prefix, write_checksum=True, write_dict_id=False)
        sealed = self.seal(self.pack_header, at, chunk_id, made.compress(plain))
        self.pack_body += sealed
        row = chunk_id + struct.pack("<III", 0, at, len(sealed)) + struct.pack("<I", len(plain))[:3] + bytes([0x21])
        self.rows.append(row)
        self.bases[row[:32] + row[36:]] = base_id or self.chunk_id(base)
        return chunk_id

    def bases_of(self, rows: list[bytes]) -> bytes:
        return b"".join(self.bases[row[:32] + row[36:]] for row in rows if row[47] >> 4 == 2)

    def finish_pack(self) -> Path:
        rows = b"".join(self.rows) + self.bases_of(self.rows)
        listing = struct.pack("<II", 1, len(self.rows)) + self.pack_header[32:48] + rows
        at = 80 + len(self.pack_body)
        trailer = self.seal(self.pack_header, at, bytes(32), payload(listing, compress=True))
        path = self.write(self.pack_header, self.pack_body, trailer)
        self.packs[path.name] = self.rows
        self.new_pack()
        return path

    def write_index(self) -> None:
        rows = [
            row[:32] + struct.pack("<I", number) + row[36:]
            for number, pack_rows in enumerate(self.packs.values())
            for row in pack_rows
        ]
        head = struct.pack("<II", len(self.packs), len(rows)) + b"".join(map(bytes.fromhex, self.packs))
        rows.sort()
        self.write_plain(INDEX, self.random.randbytes(16), head + b"".join(rows) + self.bases_of(rows))

    def node(self, level: int, entries: list[tuple[int, bytes]]) -> tuple[int, bytes]:
        kinds = {kind for kind, _ in entries}
        if len(kinds) == 1 and kinds != {DATA}:
            return kinds.pop(), b""
        head = struct.pack("<4sBBH", b"SFMN", 1, level, len(entries)) + bytes(kind for kind, _ in entries)
        return DATA, self.add(head + b"".join(chunk_id for _, chunk_id in entries), kind=1)

    def block_map(self, size: int, contents: Kinds) -> dict[str, Any]:
        """Write a map; chunks that ``contents`` does not name are unused."""
        level, entries = 0, list[tuple[int, bytes]]()
        for chunk in range(-(-size // CHUNK)):
            content = contents.get(chunk, UNUSED)
            entries.append((DATA, self.add(content)) if isinstance(content, bytes) else (content, b""))
        while True:
            entries = [self.node(level, entries[at : at + 1024]) for at in range(0, len(entries), 1024)]
            if len(entries) == 1:
                return {"size": size, "kind": entries[0][0], "id": entries[0][1].hex()}
            level += 1


# --- The disk --------------------------------------------------------------------------------------------------------

DISK_SIZE = 80 * MIB + 1536
FIRST = (MIB + 512, 70 * MIB + 512)  # start and size: two levels of map, a short last chunk, starts within a chunk
SECOND = (72 * MIB, 3 * MIB)


class Made(NamedTuple):
    folder: Path
    disk: bytes
    writer: Writer


def make_repository(folder: Path, encryption: str, patch_base: str = "", **extra: Any) -> Made:
    """Write a repository with one image of one disk; ``disk`` is what must come back.

    With ``patch_base`` the first chunk is a patch, whose base is ``whole``, a ``patch``, or not there.
    """
    writer = Writer(folder, encryption, seed=7)
    rng = random.Random(1)
    disk = bytearray(DISK_SIZE)
    first: Kinds = {0: rng.randbytes(CHUNK), 5: b"text " * 13107 + b"!", 1030: rng.randbytes(CHUNK), 7: ZERO}
    first[FIRST[1] // CHUNK] = rng.randbytes(512)
    if patch_base:
        plain = first[0]
        assert isinstance(plain, bytes)
        base = plain[:1000] + b"as it was before" + plain[1016:]
        chunk_id = writer.add_patch(plain, base)
        writer.elsewhere = {chunk_id}
        if patch_base == "whole":
            writer.add(base)
        elif patch_base == "patch":
            writer.add_patch(base, plain)
    second: Kinds = {0: ZERO, 1: EXCLUDED, 2: UNREADABLE, 3: rng.randbytes(CHUNK), 4: rng.randbytes(CHUNK)}
    table, end, straddling = rng.randbytes(CHUNK), rng.randbytes(1536), rng.randbytes(512)
    # Beside 512 bytes of the gap this chunk has bytes of partition 1, which a reader must not write.
    outside: Kinds = {0: table, MIB // CHUNK: straddling + b"\xee" * (CHUNK - 512), 80 * MIB // CHUNK: end}
    disk[:CHUNK], disk[-1536:], disk[MIB : MIB + 512] = table, end, straddling
    for start, contents in ((FIRST[0], first), (SECOND[0], second)):
        for chunk, content in contents.items():
            if isinstance(content, bytes):
                disk[start + chunk * CHUNK : start + chunk * CHUNK + len(content)] = content
    partitions = []
    for number, ((start, size), contents) in enumerate(((FIRST, first), (SECOND, second)), 1):
        blocks = writer.block_map(size, contents)
        partitions.append({"number": number, "start": start, "size": size, "blocks": blocks})
    writer.finish_pack()
    whole = {"number": 1, "size": DISK_SIZE, "scheme": "gpt", "partitions": partitions}
    whole["outside"] = writer.block_map(DISK_SIZE, outside)
    writer.finish_pack()
    writer.write_index()
    record = {"version": 1, "image": IMAGE_ID, "features": [], "sequence": 1, "machine": {"id": "m", "name": "box\x1b"}}
    record |= {"domain": writer.domain.hex(), "chunk_size": CHUNK, "disks": [whole], "created": "now"} | extra
    writer.write_plain(IMAGE, bytes.fromhex(IMAGE_ID), json.dumps(record).encode())
    if encryption != "none":
        writer.write_slot("recovery")
        writer.write_slot("passphrase")
    return Made(folder, bytes(disk), writer)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_repository(tmp_path_factory.mktemp("reader") / "encrypted", "aes256")


@pytest.fixture
def made(pristine: Made, tmp_path: Path) -> Made:
    """Give a copy that a test may harm."""
    shutil.copytree(pristine.folder, tmp_path / "repo")
    writer = copy.copy(pristine.writer)
    writer.folder, writer.packs = tmp_path / "repo", dict(writer.packs)
    writer.new_pack()
    return pristine._replace(folder=tmp_path / "repo", writer=writer)


def run(made: Made, *arguments: str | Path, secret: str | None = recovery_key(SECRET)) -> int:
    key = [] if secret is None else ["--recovery-key", secret]
    code: int = reader.main([str(made.folder), *map(str, arguments), *key])
    return code


def restore(made: Made, target: Path, *more: str) -> int:
    return run(made, "restore", IMAGE_ID, target, *more)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def the_files(made: Made, kind: int) -> list[Path]:
    return sorted((made.folder / FOLDERS[kind]).glob("*/*"))


# --- What comes back -------------------------------------------------------------------------------------------------


def test_a_disk_comes_back_with_the_recovery_key(pristine: Made, tmp_path: Path) -> None:
    assert restore(pristine, tmp_path / "disk") == 0
    assert (tmp_path / "disk").read_bytes() == pristine.disk
    assert int(subprocess.check_output(["du", "--block-size=1", tmp_path / "disk"]).split()[0]) < 4 * MIB


def test_a_disk_comes_back_with_the_passphrase(pristine: Made, tmp_path: Path) -> None:
    (tmp_path / "word").write_text(PASSPHRASE + "\r\n", encoding="utf-8-sig")
    code = run(pristine, "restore", "abc0", tmp_path / "disk", "--password-file", tmp_path / "word", secret=None)
    assert code == 0
    assert (tmp_path / "disk").read_bytes() == pristine.disk


@pytest.mark.parametrize("library", ["zstandard", "pyzstd"])
@pytest.mark.parametrize("base_kind", ["whole", "patch", "none"])
def test_a_patch_comes_back_through_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base_kind: str, library: str
) -> None:
    if library != "zstandard":
        pytest.importorskip(library)
    monkeypatch.setattr(reader, "import_first", only(library))
    reader.zstd_library.cache_clear()
    made = make_repository(tmp_path / "repo", "none", patch_base=base_kind)
    code = run(made, "restore", IMAGE_ID, tmp_path / "disk", secret=None)
    reader.zstd_library.cache_clear()
    got = (tmp_path / "disk").read_bytes()
    if base_kind == "whole":
        assert code == 0
        assert got == made.disk
        return
    assert code == 3
    place = slice(FIRST[0], FIRST[0] + CHUNK)
    assert got[: place.start] + made.disk[place] + got[place.stop :] == made.disk
    assert not any(got[place])
    said = capsys.readouterr().err
    assert "a patch, whose base" in said
    assert f"bytes [{place.start}, {place.stop})" in said


def only(library: str) -> Callable[..., Any]:
    """An import of Zstandard that finds one library only."""
    libraries = {"compression.zstd", "backports.zstd", "pyzstd", "zstandard"}

    def import_first(*names: str) -> Any:
        wanted = [name for name in names if name == library or name not in libraries]
        return importlib.import_module(wanted[0]) if wanted else None

    return import_first


def test_a_disk_comes_back_without_encryption(tmp_path: Path) -> None:
    made = make_repository(tmp_path / "repo", "none")
    assert run(made, "restore", IMAGE_ID, tmp_path / "disk", secret=None) == 0
    assert (tmp_path / "disk").read_bytes() == made.disk


@pytest.mark.parametrize(("number", "place"), [("1", FIRST), ("2", SECOND)])
def test_one_partition_comes_back_alone(pristine: Made, tmp_path: Path, number: str, place: tuple[int, int]) -> None:
    assert restore(pristine, tmp_path / "part", "--partition", number) == 0
    assert (tmp_path / "part").read_bytes() == pristine.disk[place[0] : sum(place)]


def test_the_file_runs_alone(pristine: Made, tmp_path: Path) -> None:
    shutil.copy(READER, tmp_path / "alone.py")
    (tmp_path / "key").write_text(recovery_key(SECRET).lower().replace("1", "i") + "\n")
    words = [
        sys.executable,
        "-I",
        str(tmp_path / "alone.py"),
        str(pristine.folder),
        "--recovery-key-file",
        str(tmp_path / "key"),
    ]
    done = subprocess.run([*words, "verify", IMAGE_ID], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    imports = [
        node for node in ast.walk(ast.parse(READER.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    roots = {(getattr(node, "module", None) or node.names[0].name).split(".")[0] for node in imports}
    assert roots - sys.stdlib_module_names == {"cryptography"}


def test_list_and_show_name_the_image_and_print_no_control_characters(
    pristine: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pristine, "list") == 0
    assert run(pristine, "show", IMAGE_ID) == 0
    out = capsys.readouterr().out
    assert IMAGE_ID in out
    assert f"partition 2: bytes [{SECOND[0]}, {sum(SECOND)})" in out
    assert "box?" in out
    assert "\x1b" not in out


def test_without_index_runs_the_trailers_of_the_packs_are_read(made: Made, tmp_path: Path) -> None:
    shutil.rmtree(made.folder / "index")
    assert restore(made, tmp_path / "disk") == 0
    assert (tmp_path / "disk").read_bytes() == made.disk


def test_a_run_that_leaves_rows_out_is_made_up_for_by_the_trailers(made: Made, tmp_path: Path) -> None:
    shutil.rmtree(made.folder / "index")
    packs = made.writer.packs
    listing = struct.pack("<II", len(packs), 0) + b"".join(map(bytes.fromhex, packs))
    made.writer.write_plain(INDEX, bytes(16), listing, compress=False)
    assert restore(made, tmp_path / "disk") == 0
    assert (tmp_path / "disk").read_bytes() == made.disk


def test_a_chunk_whose_id_is_not_its_hash_is_refused(made: Made) -> None:
    plain = bytes(CHUNK)
    made.writer.rows.clear()
    wrong = made.writer.add(plain, chunk_id=bytes(32))
    made.writer.finish_pack()
    chunks = reader.ChunkReader(reader.Repository(str(made.folder), made.writer.repository_id, made.writer.master))
    chunks.load()
    key = hkdf(
        made.writer.master, bytes(32), b"stillframe/v1/chunk-id" + made.writer.repository_id + made.writer.domain
    )
    assert chunks.read(wrong, CHUNK, CHUNK, None) == plain
    with pytest.raises(reader.Damaged, match="BLAKE3"):
        chunks.read(wrong, CHUNK, CHUNK, key)
    chunks.close()


# --- Secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [recovery_key(bytes(20)), "SF1-" + "0" * 40, "nonsense", None])
def test_a_wrong_key_is_refused(pristine: Made, tmp_path: Path, secret: str | None) -> None:
    assert run(pristine, "restore", IMAGE_ID, tmp_path / "disk", secret=secret) == 12
    assert not (tmp_path / "disk").exists()


def test_a_wrong_passphrase_is_refused(pristine: Made, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("guess")
    assert run(pristine, "list", "--password-file", tmp_path / "word", secret=None) == 12


def test_a_slot_that_does_not_commit_to_the_secret_stays_shut(made: Made) -> None:
    shutil.rmtree(made.folder / "keys")
    made.writer.write_slot("recovery", commit=False)
    assert run(made, "list") == 12
    made.writer.write_slot("recovery")
    assert run(made, "list") == 0


def test_a_single_damaged_copy_of_identity_or_slot_does_no_harm(made: Made) -> None:
    size = (made.folder / "stillframe.json").stat().st_size
    for at in range(0, size, 7):
        shutil.copy(made.folder / "stillframe-copy.json", made.folder / "stillframe.json")
        flip(made.folder / "stillframe.json", at)
        assert run(made, "list") == 0
    for slot in (made.folder / "keys").glob("*.a"):
        flip(slot, 100)
    assert run(made, "list") == 0
    for slot in (made.folder / "keys").glob("*.b"):
        flip(slot, -70)
    assert run(made, "list") == 12


def test_encryption_cannot_be_turned_off_behind_the_owner(made: Made) -> None:
    for name in ("stillframe.json", "stillframe-copy.json"):
        changed = (made.folder / name).read_bytes().replace(b"aes256", b"none")
        (made.folder / name).write_bytes(changed)
    assert run(made, "list") == 12
    assert run(made, "list", secret=None) == 12
    shutil.rmtree(made.folder / "keys")
    assert run(made, "list") == 12


def test_a_changed_identity_file_is_noticed(made: Made) -> None:
    for name in ("stillframe.json", "stillframe-copy.json"):
        changed = (made.folder / name).read_bytes().replace(b"65536", b"131072")
        (made.folder / name).write_bytes(changed)
    assert run(made, "list") == 14


# --- Damage ----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_chunk_is_named_and_the_rest_comes_back(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_id = next(iter(made.writer.packs))
    flip(made.folder / "packs" / pack_id[:2] / pack_id, 80 + 40)
    assert restore(made, tmp_path / "disk") == 3
    expected = bytearray(made.disk)
    expected[FIRST[0] : FIRST[0] + CHUNK] = bytes(CHUNK)
    assert (tmp_path / "disk").read_bytes() == expected
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("damaged")]
    assert len(lines) == 1
    assert f"pack {pack_id} offset 80" in lines[0]
    assert f"[{FIRST[0]}, {FIRST[0] + CHUNK})" in lines[0]
    assert run(made, "verify", IMAGE_ID) == 3


def test_a_second_copy_of_a_chunk_heals(made: Made, tmp_path: Path) -> None:
    pack_id, rows = next(iter(made.writer.packs.items()))
    assert made.writer.add(made.disk[FIRST[0] : FIRST[0] + CHUNK]) == rows[0][:32]
    made.writer.finish_pack()
    flip(made.folder / "packs" / pack_id[:2] / pack_id, 80)
    assert restore(made, tmp_path / "disk") == 0
    assert (tmp_path / "disk").read_bytes() == made.disk


def test_a_missing_pack_is_reported(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = made.writer.packs
    (made.folder / "packs" / last[:2] / last).unlink()
    assert restore(made, tmp_path / "disk") == 3
    assert "not there" in capsys.readouterr().err
    expected = bytearray(DISK_SIZE)
    for start, size in (FIRST, SECOND):
        expected[start : start + size] = made.disk[start : start + size]
    assert (tmp_path / "disk").read_bytes() == expected
    (made.folder / "packs" / first[:2] / first).unlink()
    assert run(made, "verify", IMAGE_ID) == 3


def test_no_flipped_bit_of_a_pack_is_returned_as_good_data(made: Made, tmp_path: Path) -> None:
    packs = the_files(made, PACK)
    rng = random.Random(5)
    for turn in range(24):
        path = rng.choice(packs)
        before = path.read_bytes()
        flip(path, rng.choice([rng.randrange(len(before)), rng.randrange(80), -rng.randrange(1, 200)]))
        assert restore(made, tmp_path / f"disk{turn}") == 3
        restored = (tmp_path / f"disk{turn}").read_bytes()
        for at in range(0, DISK_SIZE, 512):
            piece = restored[at : at + 512]
            assert piece in (made.disk[at : at + 512], bytes(len(piece)))
        (tmp_path / f"disk{turn}").unlink()
        path.write_bytes(before)


def test_every_flipped_bit_of_a_manifest_is_found(made: Made, tmp_path: Path) -> None:
    (manifest,) = the_files(made, IMAGE)
    good = manifest.read_bytes()
    for at in range(0, len(good), 5):
        flip(manifest, at)
        assert restore(made, tmp_path / "disk") == 14
        assert not (tmp_path / "disk").exists()
        manifest.write_bytes(good)


def test_objects_under_another_name_are_refused(made: Made, tmp_path: Path) -> None:
    (manifest,) = the_files(made, IMAGE)
    other = manifest.with_name("ab" + "00" * 15)
    shutil.copy(manifest, other)
    assert run(made, "restore", other.name, tmp_path / "disk") == 14
    assert run(made, "list") == 3
    packs = the_files(made, PACK)
    contents = [pack.read_bytes() for pack in packs]
    packs[0].write_bytes(contents[1])
    assert run(made, "verify", IMAGE_ID) == 3


def test_a_manifest_of_another_repository_is_refused(made: Made, tmp_path: Path) -> None:
    other = Writer(tmp_path / "other", "aes256", seed=8)
    (manifest,) = the_files(made, IMAGE)
    shutil.copy(other.write_plain(IMAGE, bytes.fromhex(IMAGE_ID), b"{}"), manifest)
    assert run(made, "show", IMAGE_ID) == 14


def test_a_torn_manifest_is_ignored_by_list(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest,) = the_files(made, IMAGE)
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert run(made, "list") == 0
    assert IMAGE_ID not in capsys.readouterr().out


def test_unknown_features_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_repository(tmp_path / "repo", "none", features=["parity"])
    assert run(made, "restore", IMAGE_ID, tmp_path / "disk", secret=None) == 13
    assert "parity" in capsys.readouterr().err


def test_a_forgotten_image_is_hidden(made: Made) -> None:
    record = {"tombstone": "00" * 16, "images": [{"image": IMAGE_ID, "machine": "m", "sequence": 1}], "packs": []}
    made.writer.write_plain(TOMBSTONE, bytes(16), json.dumps(record).encode())
    assert run(made, "show", IMAGE_ID) == 10


def test_a_missing_image_of_a_machine_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_repository(tmp_path / "repo", "none", sequence=3)
    assert run(made, "list", secret=None) == 0
    assert "nobody forgot, from #1" in capsys.readouterr().err


def test_a_frame_that_grows_beyond_its_plain_length_is_refused() -> None:
    bomb = zstandard.compress(bytes(256 * MIB))
    with pytest.raises(reader.Damaged):
        reader.decode(1, bomb, CHUNK)


@pytest.mark.parametrize(
    "node",
    [
        b"",
        b"SFMN\x01\x00\x02\x00\x02\x02" + bytes(32),
        b"SFMN\x01\x00\x02\x00\x05\x00",
        b"SFMN\x01\x01\x02\x00\x00\x00",
        b"SFMN\x01\x00\x03\x00\x00\x00\x00",
        b"SFMN\x02\x00\x02\x00\x00\x00",
        b"SFMN\x01\x00\x02\x00\x00\x00\x00",
    ],
)
def test_a_malformed_node_is_damage(node: bytes) -> None:
    with pytest.raises(reader.Damaged):
        reader.parse_node(node, 0, 2)


HEADER = struct.pack("<8sHBBI16s16s32s", b"STILLFRM", 1, IMAGE, 1, 0, b"r" * 16, b"o" * 16, bytes(32))


@pytest.mark.parametrize(("at", "found"), [(0, 14), (8, 13), (10, 14), (11, 13), (12, 14), (16, 14), (32, 14)])
def test_every_field_of_a_header_is_checked(at: int, found: int) -> None:
    reader.check_header(HEADER, IMAGE, b"r" * 16, b"o" * 16)
    with pytest.raises(reader.ReaderError) as caught:
        reader.check_header(HEADER[:at] + b"\x7f" + HEADER[at + 1 :], IMAGE, b"r" * 16, b"o" * 16)
    assert caught.value.exit_code == found


def row(chunk_id: bytes, *, pack: int = 0, plain: int = CHUNK, kind: int = 0) -> bytes:
    return chunk_id + struct.pack("<III", pack, 80, 100) + struct.pack("<I", plain)[:3] + bytes([kind])


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        struct.pack("<II", 0, 1),
        struct.pack("<II", 1, 0) + bytes(17),
        struct.pack("<II", 1, 1) + bytes(16) + row(bytes(32), pack=1),
        struct.pack("<II", 1, 0) + b"x" * 16,
        struct.pack("<II", 2, 0) + bytes(32),
        struct.pack("<II", 65_537, 0) + bytes(65_537 * 16),
        struct.pack("<II", 1, 1) + bytes(16) + row(bytes(32), kind=33),
        struct.pack("<II", 1, 1) + bytes(16) + row(bytes(32), kind=33) + bytes(31),
        struct.pack("<II", 1, 1) + bytes(16) + row(bytes(32), kind=33) + bytes(64),
        struct.pack("<II", 1, 1) + bytes(16) + row(bytes(32)) + bytes(32),
    ],
)
def test_malformed_rows_are_damage(listing: bytes) -> None:
    with pytest.raises(reader.Damaged):
        reader.ChunkTable().add(listing, only_pack="00" * 16)


def test_rows_are_found_whatever_their_order_and_patches_with_their_bases() -> None:
    rng = random.Random(3)
    ids = [rng.randbytes(32) for _ in range(2000)]
    table = reader.ChunkTable()
    for part in (ids[:1500], ids[500:]):
        rows = b"".join(row(chunk_id, plain=4_194_304 if chunk_id is ids[7] else CHUNK) for chunk_id in part)
        table.add(struct.pack("<II", 1, len(part)) + bytes(16) + rows)
    patches, other = sorted(rng.randbytes(32) for _ in range(2)), rng.randbytes(32)
    rows = row(patches[0], kind=33) + row(other, kind=49) + row(patches[1], kind=33, pack=1)
    table.add(struct.pack("<II", 2, 3) + b"p" * 16 + b"r" * 16 + rows + b"a" * 32 + b"b" * 32)
    table.add(struct.pack("<II", 1, 1) + b"q" * 16 + row(patches[0]))
    assert all([found.chunk_id for found in table.find(chunk_id)] == [chunk_id] for chunk_id in ids)
    assert table.find(ids[7])[0].plain_size == 4_194_304
    assert table.find(other) == []  # of a kind that nobody knows
    assert [found.base for found in table.find(patches[0])] == [b"", b"a" * 32]  # what is whole comes first
    assert [found.base for found in table.find(patches[1])] == [b"b" * 32]
    assert table.find(bytes(32)) == []


def a_disk(**changed: Any) -> dict[str, Any]:
    part = {"number": 1, "start": 100, "size": 50, "blocks": {"size": 50, "kind": 0, "id": ""}}
    disk: dict[str, Any] = {"number": 1, "size": 1000, "outside": {"size": 1000, "kind": 1, "id": ""}}
    disk["partitions"] = [part | changed]
    return disk


@pytest.mark.parametrize(
    "changed",
    [
        {"start": 951},
        {"start": -1},
        {"size": True},
        {"blocks": {"size": 51, "kind": 0, "id": ""}},
        {"blocks": {"size": 50, "kind": 2, "id": "00"}},
        {"blocks": {"size": 50, "kind": 5, "id": ""}},
        {"blocks": None},
        {"number": "1"},
    ],
)
def test_a_malformed_disk_is_damage(changed: dict[str, Any]) -> None:
    assert reader.parse_disk(a_disk()).size == 1000
    with pytest.raises(reader.Damaged):
        reader.parse_disk(a_disk(**changed))


def test_lists_have_their_limits() -> None:
    disk = a_disk()
    disk["partitions"] *= 1024
    assert len(reader.parse_disk(disk).partitions) == 1024
    disk["partitions"] = disk["partitions"] + disk["partitions"][:1]
    with pytest.raises(reader.Damaged):
        reader.parse_disk(disk)


def test_overlapping_partitions_are_not_written_over_each_other() -> None:
    disk = a_disk()
    disk["partitions"] *= 2
    with pytest.raises(reader.Damaged, match="overlap"):
        reader.disk_volumes(reader.parse_disk(disk))


@pytest.mark.parametrize("size", [32_768, 65_537, 98_304, 8_388_608, "65536", None])
def test_a_chunk_size_that_the_page_does_not_allow_is_damage(size: object) -> None:
    with pytest.raises(reader.Damaged):
        reader.parse_chunk_size({"chunk_size": size})


def test_a_manifest_that_says_it_is_another_image_is_refused(made: Made) -> None:
    (manifest,) = the_files(made, IMAGE)
    record = {"version": 1, "image": "00" * 16, "domain": "00" * 16, "chunk_size": CHUNK, "disks": [a_disk()]}
    made.writer.write_plain(IMAGE, bytes.fromhex(manifest.name), json.dumps(record).encode())
    assert run(made, "show", IMAGE_ID) == 14
    record["image"] = IMAGE_ID
    made.writer.write_plain(IMAGE, bytes.fromhex(manifest.name), json.dumps(record).encode())
    assert run(made, "show", IMAGE_ID) == 0


# --- Targets ---------------------------------------------------------------------------------------------------------


def test_an_existing_target_is_refused_unless_forced(pristine: Made, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\xff" * 9 * CHUNK)
    assert restore(pristine, tmp_path / "disk") == 22
    assert (tmp_path / "disk").read_bytes() == b"\xff" * 9 * CHUNK
    assert restore(pristine, tmp_path / "disk", "--force") == 0
    assert (tmp_path / "disk").read_bytes() == pristine.disk


def test_no_repository_is_exit_code_10(tmp_path: Path) -> None:
    assert reader.main([str(tmp_path), "list"]) == 10
    assert reader.main([str(tmp_path / "nowhere"), "list"]) == 10


@pytest.mark.root
def test_a_device_that_is_too_small_is_refused_and_stays_as_it_is(pristine: Made, tmp_path: Path) -> None:
    (tmp_path / "backing").write_bytes(b"\xff" * MIB)
    device = attach_loop(tmp_path / "backing")
    try:
        assert restore(pristine, Path(device), "--force") == 22
    finally:
        detach_loop(device)
    assert (tmp_path / "backing").read_bytes() == b"\xff" * MIB


@pytest.mark.root
def test_a_forced_device_gets_zeros_where_the_image_has_zeros(pristine: Made, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * (DISK_SIZE + 512))
    device = attach_loop(backing)
    try:
        assert restore(pristine, Path(device)) == 22
        assert restore(pristine, Path(device), "--force") == 0
    finally:
        detach_loop(device)
    found = backing.read_bytes()
    start = SECOND[0]
    assert found[start : start + 5 * CHUNK] == pristine.disk[start : start + 5 * CHUNK]
    assert found[start + 5 * CHUNK : start + 6 * CHUNK] == b"\xff" * CHUNK
    assert found[:CHUNK] == pristine.disk[:CHUNK]
    assert found[DISK_SIZE - 1536 :] == pristine.disk[-1536:] + b"\xff" * 512
