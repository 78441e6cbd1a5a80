"""The verb ``nbd`` from the command line: served, used by other programs, ended, gone on with."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stillframe.block.base import ExtentKind
from stillframe.testing.command_line import call

MIB = 1 << 20
PROGRAM = [sys.executable, "-c", "from stillframe.cli.main import run; run()"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A repository with an image of a disk file, and the disk file."""
    folder = tmp_path_factory.mktemp("nbd")
    disk = folder / "disk.raw"
    disk.write_bytes(random.Random(1).randbytes(9 * MIB) + bytes(5 * MIB) + random.Random(2).randbytes(2 * MIB))
    subprocess.run(["sfdisk", "-q", disk], input=b"label: dos\n1M,4M\n6M,6M\n", check=True, capture_output=True)
    assert call("init", folder / "repo", "--encryption", "none").exit_code == 0
    assert call("backup", disk, "-r", folder / "repo", "--no-verify").exit_code == 0
    return folder / "repo", disk


@contextmanager
def served(repo: Path, *words: object) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address, and the lines that the program said, the last of them once the block has ended."""
    command = [*PROGRAM, "nbd", "latest", "-r", str(repo), "--json", *map(str, words)]
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while not lines or lines[-1].get("code") != "nbd-ready":
                lines.append(json.loads(process.stdout.readline()))
                assert lines[-1]["type"] == "notice", lines
            yield lines[-1]["message"], lines
        finally:
            process.send_signal(signal.SIGTERM)
            lines += [json.loads(line) for line in process.stdout]
            process.wait(timeout=60)
        lines.append({"exit_code": process.returncode})


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def test_a_served_image_is_the_disk(saved: tuple[Path, Path], tmp_path: Path) -> None:
    repo, disk = saved
    with served(repo, "--socket", tmp_path / "s") as (uri, lines):
        assert uri == f"nbd+unix:///disk1?socket={tmp_path}/s"
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, disk)
        run("nbdcopy", uri, tmp_path / "copy.raw")
        assert (tmp_path / "copy.raw").read_bytes() == disk.read_bytes()
        found = json.loads(run("nbdinfo", "--map", "--json", uri))
        assert sum(extent["length"] for extent in found) == 16 * MIB
        assert any(extent["type"] == 3 for extent in found)
    result = lines[-2]
    assert (result["type"], result["uri"], result["size"], result["failures"]) == ("result", uri, 16 * MIB, 0)
    assert result["connections"] >= 3
    assert lines[-1] == {"exit_code": 0}
    assert not (tmp_path / "s").exists()


def test_a_partition_is_served_on_a_port(saved: tuple[Path, Path], tmp_path: Path) -> None:
    repo, disk = saved
    with served(repo, "--port", 0, "--partition", 2) as (uri, _):
        assert uri.startswith("nbd://127.0.0.1:")
        assert uri.endswith("/disk1-partition2")
        run("nbdcopy", uri, tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == disk.read_bytes()[6 * MIB : 12 * MIB]


def test_changes_are_thrown_away_or_kept(saved: tuple[Path, Path], tmp_path: Path) -> None:
    repo, disk = saved
    kept = tmp_path / "changes"
    write, read = ["-c", "write -P 9 3M 100k", "-c", "flush"], ["-c", "read -P 9 3M 100k"]
    with served(repo, "--socket", tmp_path / "s", "--writable") as (uri, lines):
        assert [line["code"] for line in lines] == ["changes-thrown-away", "nbd-ready"]
        run("qemu-io", "-f", "raw", *write, *read, uri)
    with served(repo, "--socket", tmp_path / "s", "--writable", "--keep", kept) as (uri, lines):
        assert [line["code"] for line in lines] == ["nbd-ready"]
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, disk)
        run("qemu-io", "-f", "raw", *write, uri)
    assert lines[-2]["kept"] == str(kept)
    with served(repo, "--socket", tmp_path / "s", "--writable", "--keep", kept) as (uri, _):
        assert "Pattern verification failed" not in run("qemu-io", "-f", "raw", *read, uri)
        run("nbdcopy", uri, tmp_path / "copy.raw")
    expected = bytearray(disk.read_bytes())
    expected[3 * MIB : 3 * MIB + 102400] = b"\x09" * 102400
    assert (tmp_path / "copy.raw").read_bytes() == expected
    refused = call(
        "nbd", "latest", "-r", repo, "--partition", 1, "--writable", "--keep", kept, "--socket", tmp_path / "s"
    )
    assert (refused.exit_code, "keeps changes to" in refused.errors) == (22, True)


def test_a_damaged_chunk_is_an_error_for_the_client_and_told(saved: tuple[Path, Path], tmp_path: Path) -> None:
    repo, _ = saved
    hurt = tmp_path / "repo"
    run("cp", "-r", repo, hurt)
    pack = max((path for path in (hurt / "packs").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(raw)
    with served(hurt, "--socket", tmp_path / "s") as (uri, lines):
        copied = subprocess.run(["nbdcopy", uri, tmp_path / "copy.raw"], capture_output=True, check=False)
        assert copied.returncode != 0
    assert any(line.get("type") == "finding" and line["code"] == "damaged" for line in lines)
    assert lines[-1] == {"exit_code": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep", "x"], "nobody may write"),
        (["--socket", "x", "--port", 1], "a socket has no host and no port"),
        (["--tls-cert", "x"], "TLS needs a certificate and its key"),
        (["--tls-clients", "x"], "TLS needs a certificate and its key"),
        (["--disk", 7], "there is no disk 7"),
        (["--partition", 7], "no partition 7"),
    ],
)
def test_what_cannot_be_is_refused(saved: tuple[Path, Path], words: list[object], said: str) -> None:
    done = call("nbd", "latest", "-r", saved[0], *words)
    assert (done.exit_code, said in done.errors) == (2, True), done.errors


def test_states_of_the_protocol_are_those_of_our_readers() -> None:
    from stillframe.serve.nbd.answers import _STATES

    assert set(_STATES) == set(ExtentKind)
