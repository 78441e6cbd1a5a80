"""The stand-alone reader and the product against objects of put keys that this file makes from the page alone."""

import hashlib
import hmac
import importlib.util
import io
import json
import struct
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillframe.errors import DamagedError
from stillframe.repo.format import ObjectType, object_name
from stillframe.repo.packs import PackWriter
from stillframe.repo.patches import Base, make_patch
from stillframe.repo.put.grants import revoke
from stillframe.repo.put.machine import PutBox
from stillframe.repo.records import build_record
from stillframe.repo.repository import Repository
from stillframe.repo.rows import build_table
from stillframe.repo.writing import ChunkNamer
from stillframe.store import LocalStore
from stillframe.testing.put_machines import PutSide, add_put_machine, forge, make_owned, put_bytes
from stillframe.testing.repositories import CHUNK_SIZE, BackupRun, Draft, chunk_bytes, make_owner, store_image
from stillframe.testing.sample_repository import PASSPHRASE

DRAFT = Draft(chunks=[1, None, 2, 3])
READER = Path(__file__).parents[2] / "tools" / "stillframe_reader.py"


def load_reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stillframe_reader_of_put_keys", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reader = load_reader()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (tmp_path / "password").write_text(PASSPHRASE)
    return folder


@pytest.fixture
def owned(folder: Path) -> Repository:
    return make_owned(LocalStore(str(folder)))


@pytest.fixture
def web(owned: Repository, tmp_path: Path) -> PutSide:
    return add_put_machine(owned, cache=tmp_path / "cache")


def read(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run the stand-alone reader."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = reader.main([str(folder), *words, "--password-file", str(folder.parent / "password")])
    return code, out.getvalue(), errors.getvalue()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869, one round."""
    return hmac.digest(hmac.digest(salt, key, "sha256"), info + b"\x01", "sha256")


def by_the_page(web: PutSide, kind: int, object_id: bytes, record: dict[str, object]) -> bytes:
    """An object of cipher 2 as section 17 says, with a key pair of the test."""
    credential = web.credential
    repository, machine, public = (bytes.fromhex(text) for text in (
        credential.repository, credential.machine, credential.public
    ))  # fmt: skip
    own = X25519PrivateKey.from_private_bytes(hashlib.sha256(object_id).digest())
    salt = own.public_key().public_bytes_raw()
    shared = own.exchange(X25519PublicKey.from_public_bytes(public))
    info = b"stillframe/v1/put-object" + repository + bytes([kind]) + machine + public
    key = hkdf(shared + bytes.fromhex(credential.secret), salt, info)
    head = struct.pack("<8sHBBI16s16s32s", b"STILLFRM", 1, kind, 2, 0, repository, object_id, salt)
    text = json.dumps(record).encode()
    packed = zstandard.ZstdCompressor().compress(text)
    payload = struct.pack("<B3xI", 1, len(text)) + packed
    additional = head[:48] + (80).to_bytes(8, "little") + bytes(32)
    trailer = AESGCM(key).encrypt((80).to_bytes(12, "big"), payload, additional)
    tail = struct.pack("<QIIQ", 80, len(trailer), 0, 80 + len(trailer) + 64)
    return head + trailer + tail + hashlib.sha256(head + trailer + tail).digest() + b"MRFLLITS"


def test_an_object_that_was_made_from_the_page_alone_is_opened(owned: Repository, web: PutSide, folder: Path) -> None:
    manifest = web.store_image(DRAFT)
    object_id = bytes(range(8)) + web.credential.machine_id[8:]
    record = json.loads(build_record(manifest)) | {"image": object_id.hex(), "sequence": 2}
    put_bytes(owned.box.store, object_name(ObjectType.IMAGE, object_id), by_the_page(web, 3, object_id, record))
    assert owned.image(object_id).manifest.sequence == 2
    code, out, _ = read(folder, "restore", object_id.hex(), str(folder.parent / "disk.raw"))
    assert (code, "no damage" in out) == (0, True)
    assert (folder.parent / "disk.raw").read_bytes()[1 << 20 :][: len(DRAFT.contents())] == DRAFT.contents()


def test_images_of_a_put_key_are_listed_verified_and_restored(owned: Repository, web: PutSide, folder: Path) -> None:
    other = store_image(owned, make_owner("anna"), Draft(chunks=[4])).manifest
    first, second = web.store_image(DRAFT), web.store_image(Draft(chunks=[1, 9]))
    code, out, errors = read(folder, "list")
    assert code == 0
    assert all(image.image in out for image in (other, first, second))
    assert web.credential.machine_name.name in out
    assert "missing" not in errors
    for image, draft in ((first, DRAFT), (second, Draft(chunks=[1, 9]))):
        target = folder.parent / image.image
        assert read(folder, "verify", image.image)[0] == 0
        assert read(folder, "restore", image.image, str(target))[0] == 0
        assert target.read_bytes()[1 << 20 :][: len(draft.contents())] == draft.contents()


@pytest.mark.parametrize("field", ["machine", "domain", "session", "image"])
def test_what_speaks_for_another_machine_is_left_out(owned: Repository, web: PutSide, folder: Path, field: str) -> None:
    real, mine = store_image(owned, make_owner("anna"), DRAFT).manifest, web.store_image(DRAFT)
    object_id = bytes(8) + web.credential.machine_id[8:]
    theirs = json.loads(build_record(real))
    record = json.loads(build_record(mine)) | {"image": object_id.hex()} | {field: theirs[field]}
    forge(web, ObjectType.IMAGE, json.dumps(record).encode(), object_id=object_id)
    code, out, errors = read(folder, "list")
    assert (code, object_id.hex() in out) == (3, False)
    assert object_id.hex() in errors
    assert real.image in out
    assert read(folder, "restore", object_id.hex(), str(folder.parent / "disk.raw"))[0] == 14


def test_a_put_key_indexes_and_ends_nothing_of_others(owned: Repository, web: PutSide, folder: Path) -> None:
    real = store_image(owned, make_owner("anna"), DRAFT).manifest
    tag, name = web.credential.machine_id[8:], web.credential.machine_name
    machine = {"id": name.id, "name": name.name}
    end = {"end": (bytes(8) + tag).hex(), "session": real.session, "machine": machine, "by": machine, "final": True}
    put_bytes(
        owned.box.store, object_name(ObjectType.SESSION_END, bytes(8) + tag), by_the_page(web, 12, bytes(8) + tag, end)
    )
    pack = next(iter(owned.stored_packs()))
    run = struct.pack("<II", 1, 0) + pack
    forge(web, ObjectType.INDEX, run)
    code, out, errors = read(folder, "list")
    assert (code, real.image in out) == (0, True)
    assert "speaks for another machine" in errors
    code, _, errors = read(folder, "verify", real.image)
    assert code == 0
    assert "names packs of others" in errors
    with pytest.raises(DamagedError):
        owned.box.read(ObjectType.SESSION_END, bytes(8) + tag)


def test_a_pack_of_a_put_key_serves_no_image_of_others(owned: Repository, web: PutSide, folder: Path) -> None:
    """The reader may have no BLAKE3, so it goes by whose pack it is."""
    web.store_image(DRAFT)
    pack = next(iter(owned.stored_packs())).hex()
    repository = reader.open_repository(str(folder), lambda **_: reader.passphrase_secret(PASSPHRASE))
    reader.ChunkReader(repository, web.credential.machine[16:])._pack(pack)
    for tag in ("", "ab" * 8):
        with pytest.raises(reader.Damaged, match="of another machine"):
            reader.ChunkReader(repository, tag)._pack(pack)


def test_a_patch_of_a_put_key_is_damage(owned: Repository, web: PutSide, folder: Path) -> None:
    """Its own packs and index runs may not even name one; the image that is whole beside it stays readable."""
    mine, base = web.store_image(DRAFT), chunk_bytes(1)
    box = PutBox(web.store, web.credential)
    namer, writer = ChunkNamer(owned, web.credential.machine_id), PackWriter(box, None)
    writer.add_patch(namer.name(chunk_bytes(9)), make_patch(Base(namer.name(base), base), chunk_bytes(9), 1), len(base))
    table = writer.finish()
    run = forge(web, ObjectType.INDEX, build_table(table))
    code, _, errors = read(folder, "verify", mine.image)
    assert code == 0
    assert f"index run {run.hex()} is left out" in errors
    assert "speaks of patches" in errors
    repository = reader.open_repository(str(folder), lambda **_: reader.passphrase_secret(PASSPHRASE))
    with pytest.raises(reader.Damaged, match="speaks of patches"):
        repository.read_payload(reader.PACK, table.packs[0].hex())
    chunks = reader.ChunkReader(repository, web.credential.machine[16:])
    chunks.load()
    chunks._table.add(build_table(table))  # as if the owner had taken the rows over
    with closing(chunks), pytest.raises(reader.Damaged, match="a put key made a patch"):
        chunks.read(namer.name(chunk_bytes(9)), 1, CHUNK_SIZE, None)


def test_what_comes_after_a_key_was_taken_away_does_not_count(
    owned: Repository, web: PutSide, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, put = web.store_image(DRAFT), web.open()
    revoke(owned, web.credential.machine, make_owner("dora").machine)
    monkeypatch.setattr("stillframe.repo.put.machine.Warnings.ends", lambda _self: ())
    run = BackupRun(put, web.owner, DRAFT)
    run.write_chunks()
    late = run.write_manifest()
    code, out, _ = read(folder, "list")
    assert (code, kept.image in out, late.image in out) == (0, True, False)
    assert read(folder, "restore", late.image, str(folder.parent / "disk.raw"))[0] == 10


def test_a_public_key_of_small_order_is_damage(owned: Repository, web: PutSide, folder: Path) -> None:
    image = web.store_image(DRAFT)
    path = folder / object_name(ObjectType.IMAGE, bytes.fromhex(image.image))
    raw = path.read_bytes()
    head = raw[:48] + bytes(32)
    path.write_bytes(head + raw[80:-40] + hashlib.sha256(head + raw[80:-40]).digest() + raw[-8:])
    code, _, errors = read(folder, "list")
    assert code == 3
    assert "no public key" in errors
    assert owned.images().images == ()
