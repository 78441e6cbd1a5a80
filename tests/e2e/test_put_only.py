"""A machine with a put key, from the command line: it adds, reads nothing, and nothing stored is readable."""

import json
import os
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.host.machine import machine
from stillframe.testing.command_line import Outcome, call

MIB = 1 << 20
PASSPHRASE = "several words of mine"  # noqa: S105 - guards nothing
FILE_NAME, CONTENT = "payroll-of-everybody.txt", b"what nobody else may read, again and again. "
HOST = "server-of-the-house"
WORDS = {"label": "web-frontend-7", "name": "nightly-series", "comment": "before-the-move"}


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    for name in ("NEW_PASSWORD", "REPO", "PUT_KEY"):
        monkeypatch.delenv(f"STILLFRAME_{name}", raising=False)
    monkeypatch.setenv("STILLFRAME_PASSWORD", PASSPHRASE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An ext4 of 24 MiB with one telling file."""
    folder, path = tmp_path / "files", tmp_path / "disk.raw"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(CONTENT * (2 * MIB // len(CONTENT)))
    path.write_bytes(b"")
    os.truncate(path, 24 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-L", "ledger", "-d", folder, path], check=True)
    return path


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    assert call("init", folder, "--parity").exit_code == 0
    return folder


@pytest.fixture
def key(repo: Path, tmp_path: Path) -> Path:
    file = tmp_path / "web.key"
    made = call("key", "add", "--put-only", file, "--label", WORDS["label"], "--repo", repo, "--json")
    assert (made.exit_code, made.result["label"]) == (0, WORDS["label"])
    return file


def put(monkeypatch: pytest.MonkeyPatch, key: Path, *words: object) -> Outcome:
    """A call on a machine that has the put key, and no passphrase."""
    with monkeypatch.context() as here:
        here.delenv("STILLFRAME_PASSWORD")
        here.setenv("STILLFRAME_PUT_KEY", str(key))
        return call(*words)


def backup(monkeypatch: pytest.MonkeyPatch, key: Path, source: Path, repo: Path, *words: object) -> Outcome:
    return put(monkeypatch, key, "backup", source, "--repo", repo, "--json", *words)


def test_there_and_back(source: Path, repo: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    planned = backup(monkeypatch, key, source, repo, "--dry-run")
    assert (planned.exit_code, planned.result["kind"]) == (0, "full")
    first = backup(monkeypatch, key, source, repo)
    assert (first.exit_code, first.result["read_back"]) == (0, {"ok": True, "whole": False})
    again = backup(monkeypatch, key, source, repo, "--kind", "incremental")
    assert again.result["bytes_added"] == 0
    assert [notice["code"] for notice in again.result["notices"]] == ["no-baseline"]
    image = again.result["image"]
    shown = call("images", "--all", "--repo", repo, "--json").result["images"]
    assert [one["id"] for one in shown] == [first.result["image"], image]
    assert {one["machine"] for one in shown} == {_machine_name(key)} or all(
        _machine_name(key) in str(one) for one in shown
    )
    assert call("verify", image, "--repo", repo).exit_code == 0
    target = tmp_path / "restored.raw"
    assert call("restore", image, target, "--yes", "--repo", repo).exit_code == 0
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)
    assert call("get", f"{image}:1/{FILE_NAME}", tmp_path / "out", "--repo", repo).exit_code == 0
    found = tmp_path / "out"
    file = found / FILE_NAME if found.is_dir() else found
    assert file.read_bytes() == CONTENT * (2 * MIB // len(CONTENT))
    assert call("check", "--repo", repo, "--json").result["ok"] is True


def _machine_name(key: Path) -> str:
    credential = json.loads(key.read_text())
    return f"{credential['label']} [put {credential['machine'][16:24]}]"


READING = (
    ("images",), ("show", "latest"), ("verify", "latest"), ("restore", "latest", "no.raw", "--yes"), ("check",),
    ("repair",), ("expire", "--yes"), ("forget", "latest", "--yes"), ("key", "list"), ("ls", "latest"),
    ("find", "latest", "x"), ("machines",), ("retire", "x", "--yes"), ("recovery-kit", "no.txt"), ("parity", "status"),
    ("export", "latest", "no.raw"), ("key", "add", "--put-only", "no.key"),
)  # fmt: skip


def test_whatever_reads_is_refused(repo: Path, key: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for words in READING:
        for refused in (
            put(monkeypatch, key, *words, "--repo", repo, "--json"),
            call(*words, "--put-key", key, "--repo", repo, "--json"),
        ):
            assert (refused.exit_code, refused.result["code"]) == (12, "put-only"), words
            assert "passphrase or the recovery key" in refused.result["hint"]
    assert not list(tmp_path.glob("no.*"))


def test_a_passphrase_that_is_given_comes_first(repo: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_PUT_KEY", str(key))
    assert call("images", "--repo", repo).exit_code == 0
    monkeypatch.delenv("STILLFRAME_PASSWORD")
    assert call("images", "--repo", repo).exit_code == 12


def test_what_makes_no_sense_together_is_refused(
    repo: Path, key: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(PASSPHRASE)
    both = call("backup", source, "--put-key", key, "--password-file", tmp_path / "password", "--repo", repo)
    assert both.exit_code == 2
    assert put(monkeypatch, key, "backup", source, "--prove", "--repo", repo).exit_code == 12
    assert call("backup", source, "--put-key", tmp_path / "password", "--repo", repo).exit_code == 2
    assert call("backup", source, "--put-key", tmp_path / "none", "--repo", repo).exit_code == 2
    inside = call("key", "add", "--put-only", repo / "x.key", "--repo", repo)
    assert (inside.exit_code, (repo / "x.key").exists()) == (2, False)
    before = key.read_bytes()
    assert call("key", "add", "--put-only", key, "--repo", repo).exit_code == 2
    assert key.read_bytes() == before
    open_one = tmp_path / "open"
    monkeypatch.delenv("STILLFRAME_PASSWORD")
    assert call("init", open_one, "--encryption", "none").exit_code == 0
    refused = call("key", "add", "--put-only", tmp_path / "y.key", "--repo", open_one)
    assert (refused.exit_code, (tmp_path / "y.key").exists()) == (2, False)


def test_a_key_that_was_taken_away_adds_nothing(
    repo: Path, key: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = backup(monkeypatch, key, source, repo).result["image"]
    tag = json.loads(key.read_text())["machine"][16:24]
    planned = call("key", "remove", tag, "--dry-run", "--repo", repo, "--json")
    assert (planned.exit_code, planned.result["label"]) == (0, WORDS["label"])
    removed = call("key", "remove", tag, "--yes", "--repo", repo, "--json")
    assert (removed.exit_code, removed.result["images"]) == (0, 1)
    refused = backup(monkeypatch, key, source, repo)
    assert (refused.exit_code, refused.result["code"]) == (12, "put-only")
    listed = call("key", "list", "--repo", repo, "--json").result["keys"]
    assert [(one["kind"], one.get("removed")) for one in listed] == [("passphrase", None), ("put-only", True)]
    assert call("verify", image, "--repo", repo).exit_code == 0
    assert call("check", "--repo", repo, "--json").result["ok"] is True


def test_nothing_that_is_stored_is_readable(
    repo: Path, key: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of every file, after everything that leaves a record: names, texts, contents, secrets."""
    here = replace(machine(), name=HOST)
    monkeypatch.setattr("stillframe.jobs.owner.machine", lambda: here)
    marks = ("--name", WORDS["name"], "--comment", WORDS["comment"], "--compression", "none")
    mine = call("backup", source, "--repo", repo, "--json", *marks).result["image"]
    theirs = backup(monkeypatch, key, source, repo, *marks).result["image"]
    for image in (mine, theirs):
        assert call("verify", image, "--repo", repo).exit_code == 0
    assert call("parity", "renew", "--repo", repo).exit_code == 0
    assert call("forget", theirs, "--yes", "--repo", repo).exit_code == 0
    assert call("expire", "--undelete-days", "0", "--repo", repo, "--yes").exit_code == 0
    credential = json.loads(key.read_text())
    secrets = [bytes.fromhex(credential[name]) for name in ("secret", "chunks", "public")]
    texts = [*WORDS.values(), HOST, FILE_NAME, "ledger", PASSPHRASE, str(source)]
    texts += [credential[name] for name in ("secret", "chunks", "public")]
    needles = [text.encode() for text in texts] + [PASSPHRASE.encode("utf-16-le"), CONTENT, *secrets]
    files = [path for path in repo.rglob("*") if path.is_file() and "reader" not in path.relative_to(repo).parts]
    assert {path.relative_to(repo).parts[0] for path in files} >= {
        "packs", "index", "images", "proofs", "tombstones", "parity", "grants", "warnings", "keys", "settings",
    }  # fmt: skip
    for path in files:
        raw = path.read_bytes()
        found = [needle for needle in needles if needle and needle in raw]
        assert not found, f"{path.relative_to(repo)} shows {found}"
        if path.relative_to(repo).parts[0] in ("packs", "images", "index", "grants", "warnings", "tombstones"):
            longest = max((len(run) for run in re.findall(rb"[ -~]{6,}", raw[80:-64])), default=0)
            assert longest < 24, path  # chance makes short runs of letters; no text is that short


def test_a_thief_needs_the_table_to_learn_of_chunks(
    repo: Path, key: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the machine keeps beside the repository holds ids and places, no names, and is for its user alone."""
    first = backup(monkeypatch, key, source, repo).result["bytes_added"]
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        raw = path.read_bytes()
        assert not any(word.encode() in raw for word in (*WORDS.values(), FILE_NAME, PASSPHRASE))
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    shutil.rmtree(tmp_path / "cache")
    assert backup(monkeypatch, key, source, repo).result["bytes_added"] == first > 0
