"""What a new repository says to the person who finds it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.repo.identity import Identity
from stillframe.repo.keys import Cost
from stillframe.repo.repository import create_repository
from stillframe.repo.welcome import README_NAME, build_readme, reader_program, write_welcome
from stillframe.store import LocalStore, MemoryStore, write_object

ROOT = Path(__file__).parents[2]
CHEAP = Cost(time_cost=1, memory_kib=8192, lanes=1)


def make_identity(encryption: str) -> Identity:
    record = {"encryption": encryption, "format": "v1", "id": "ab" * 16, "created": "2026-03-01T08:30:00Z"}
    return Identity(chunk_size=1 << 18, **record)  # type: ignore[arg-type]


def test_packaged_reader_is_the_one_in_tools() -> None:
    assert reader_program() == (ROOT / "tools" / "stillframe_reader.py").read_bytes()


def test_names_are_those_of_the_format_page() -> None:
    store = MemoryStore()
    write_welcome(store, make_identity("aes256"))
    page = (ROOT / "docs" / "format" / "v1.md").read_text()
    names = {stored.name for stored in store.list("")}
    assert names == {"README.txt", "reader/stillframe_reader.py", "reader/SHA256SUMS"}
    assert all(f"`{name}`" in page for name in names)


@pytest.mark.parametrize(("encryption", "words"), [("aes256", "SF1-"), ("none", "not encrypted")])
def test_page_says_what_opens_it(encryption: str, words: str) -> None:
    text = build_readme(make_identity(encryption)).decode()
    assert words in text
    assert "ab" * 16 in text
    assert "$" not in text


@pytest.mark.parametrize("encryption", ["aes256", "none"])
def test_page_is_readable_everywhere(encryption: str) -> None:
    page = build_readme(make_identity(encryption))
    assert page.isascii()
    assert page.count(b"\n") == page.count(b"\r\n")
    assert max(map(len, page.splitlines())) <= 88


def test_checksum_is_what_sha256sum_checks(tmp_path: Path) -> None:
    write_welcome(LocalStore(str(tmp_path)), make_identity("none"))
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "reader", check=True)
    assert hashlib.sha256(reader_program()).hexdigest() in (tmp_path / "reader" / "SHA256SUMS").read_text()


def test_what_is_there_stays() -> None:
    store = MemoryStore()
    write_object(store, README_NAME, b"a person's own words")
    write_welcome(store, make_identity("none"))
    write_welcome(store, make_identity("none"))
    assert store.read(README_NAME) == b"a person's own words"


def test_reader_in_the_repository_opens_it(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    store = LocalStore(str(folder))
    repository = create_repository(store, passphrase="two fish", cost=CHEAP)  # noqa: S106 - of a test
    write_welcome(store, repository.identity)
    secret = tmp_path / "secret"
    secret.write_text("two fish\n")
    listed = subprocess.run(
        [sys.executable, folder / "reader" / "stillframe_reader.py", folder, "list", "--password-file", secret],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert json.loads((folder / "stillframe.json").read_text())["id"] == repository.identity.id
