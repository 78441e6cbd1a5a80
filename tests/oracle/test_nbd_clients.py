"""What we serve, as other programs see it: qemu-img, qemu-io, libnbd's tools, and libnbd itself."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.block import BlockReader, GuardedReader, MemoryDisk, ReadFault
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.file import open_file_reader
from stillframe.errors import DamagedError, MachineRefusal, TargetError, UsageError
from stillframe.events import Notice, RecordedEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.serve.nbd import Export, NbdServer, TlsFiles, nbd_server
from stillframe.testing.faulty_disk import FaultyDisk, PlannedFault

MIB = 1 << 20
SIZE = 24 * MIB + 1536


def run(*command: object, code: int = 0) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def disk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk file with holes."""
    path = tmp_path_factory.mktemp("nbd") / "disk.raw"
    choose = random.Random(1)
    with path.open("wb") as file:
        os.truncate(path, SIZE)
        for start, length in ((0, 3 * MIB), (8 * MIB, 5 * MIB), (20 * MIB, 65536), (SIZE - 4096, 4096)):
            file.seek(start)
            file.write(choose.randbytes(length))
    return path


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@contextlib.contextmanager
def serving(disk: BlockReader, socket: str, events: RecordedEvents | None = None) -> Iterator[NbdServer]:
    with nbd_server([Export(name="disk", disk=disk)], socket=socket, events=events) as server:
        yield server
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("nbd-")]
    assert left == []
    assert not os.path.exists(socket)


def test_other_programs_read_the_disk(disk_file: Path, socket_path: str, tmp_path: Path) -> None:
    with open_file_reader(str(disk_file)) as disk, serving(disk, socket_path) as server:
        uri = server.uri()
        assert os.stat(socket_path).st_mode & 0o777 == 0o600
        assert f"({SIZE} bytes)" in run("qemu-img", "info", uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, disk_file)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, tmp_path / "copy.qcow2")
        run("qemu-img", "compare", tmp_path / "copy.qcow2", disk_file)
        run("nbdcopy", uri, tmp_path / "copy.raw")
        assert (tmp_path / "copy.raw").read_bytes() == disk_file.read_bytes()
        run("nbdcopy", "--no-extents", "--connections=4", "--requests=64", uri, tmp_path / "again.raw")
        assert (tmp_path / "again.raw").read_bytes() == disk_file.read_bytes()
        assert "Permission denied" in run("qemu-io", "-f", "raw", "-c", "write 0 512", uri, code=1)
        assert server.findings == ()


def test_other_programs_see_what_can_be_done(disk_file: Path, socket_path: str) -> None:
    with open_file_reader(str(disk_file)) as disk, serving(disk, socket_path) as server:
        found = json.loads(run("nbdinfo", "--json", server.uri()))["exports"][0]
        assert (found["export-size"], found["is_read_only"], found["can_multi_conn"]) == (SIZE, True, True)
        assert (found["can_df"], found["can_trim"], found["contexts"]) == (True, False, ["base:allocation"])
        assert (found["block_size_minimum"], found["block_size_maximum"]) == (1, 32 * MIB)
        assert 'export="disk"' in run("nbdinfo", "--list", server.uri())
        assert "No such file" in run("nbdinfo", server.uri("another"), code=1)
        theirs = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", disk_file))
        ours = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri()))
        places = [[(e["start"], e["length"], e["zero"]) for e in extents] for extents in (theirs, ours)]
        assert places[0] == places[1]
        shown = json.loads(run("nbdinfo", "--map", "--json", server.uri()))
        assert [(e["offset"], e["length"], e["type"] == 3) for e in shown] == places[0]


def test_what_a_client_writes_is_read_by_another_and_the_disk_below_stays(socket_path: str, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(8 * MIB)
    below = MemoryDisk(content)
    with open_scratch(str(tmp_path), below.size) as changes:
        export = Export(name="disk", disk=below, writer=CopyOnWrite(below, changes))
        with nbd_server([export], socket=socket_path) as server:
            writes = [
                "write -P 7 1000 5000",
                "write -z 1M 1M",
                "write -z -u 3M 64k",
                "discard 2M 1M",
                "write -f -P 5 4M 512",
            ]
            many = [f"aio_write -P {n + 10} {5 * MIB + n * 65536} 64k" for n in range(16)]
            words = [word for command in [*writes, *many, "aio_flush", "flush"] for word in ("-c", command)]
            run("qemu-io", "-f", "raw", *words, server.uri())
            reads = [
                "read -P 7 1000 5000",
                "read -P 0 1M 1M",
                "read -P 0 2M 1M",
                "read -P 0 3M 64k",
                "read -P 5 4M 512",
            ]
            reads += [f"read -P {n + 10} {5 * MIB + n * 65536} 64k" for n in range(16)]
            said = run("qemu-io", "-f", "raw", *[word for command in reads for word in ("-c", command)], server.uri())
            assert "verification failed" not in said
            run("nbdcopy", server.uri(), tmp_path / "copy.raw")
    expected = bytearray(content)
    expected[1000:6000] = b"\7" * 5000
    expected[MIB : 3 * MIB] = bytes(2 * MIB)
    expected[3 * MIB : 3 * MIB + 65536] = bytes(65536)
    expected[4 * MIB : 4 * MIB + 512] = b"\5" * 512
    for number in range(16):
        expected[5 * MIB + number * 65536 : 5 * MIB + (number + 1) * 65536] = bytes([number + 10]) * 65536
    assert (tmp_path / "copy.raw").read_bytes() == expected
    assert below.contents == content


def test_a_failure_is_an_error_for_the_client_and_words_for_us(socket_path: str) -> None:
    events = RecordedEvents()
    fault = PlannedFault(extent=Extent(MIB, MIB + 512))
    with FaultyDisk(MemoryDisk(bytes(4 * MIB)), [fault]) as disk, serving(disk, socket_path, events) as server:
        assert "Input/output error" in run("qemu-io", "-r", "-f", "raw", "-c", "read 1M 4k", server.uri(), code=1)
        run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 2M 4k", server.uri())
        assert [(one.code, one.thing) for one in server.findings] == [("read-fault", "disk")]
        assert list(server.findings) == events.events


def test_what_could_not_be_saved_is_an_error_and_never_zeros(disk_file: Path, socket_path: str, tmp_path: Path) -> None:
    lost = ExtentSet.of(Extent(15 * MIB, 15 * MIB + 4096))  # in a hole of the file
    with open_file_reader(str(disk_file)) as disk:
        guarded = GuardedReader(disk, lost, words="could not be read when the image was made")
        with serving(guarded, socket_path) as server:
            run("qemu-io", "-r", "-f", "raw", "-c", "read 15M 512", server.uri(), code=1)
            run("qemu-io", "-r", "-f", "raw", "-c", "read 14M 1M", server.uri())
            run("nbdcopy", server.uri(), tmp_path / "copy.raw", code=1)
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(), tmp_path / "copy.raw", code=1)
            assert {one.message for one in server.findings} == {
                "byte 15728640 could not be read when the image was made"
            }


def test_a_folder_shows_it_as_a_file(disk_file: Path, socket_path: str, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with (
        open_file_reader(str(disk_file)) as disk,
        serving(disk, socket_path) as server,
        subprocess.Popen(["nbdfuse", "--readonly", mounted / "disk.img", server.uri()]) as process,
    ):
        try:
            _wait_until((mounted / "disk.img").exists)
            run("cmp", mounted / "disk.img", disk_file)
        finally:
            run("fusermount3", "-u", mounted)
            process.wait(timeout=30)


LIBNBD = """
import sys, nbd
uri = sys.argv[1]
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_size() == 2 << 20 and h.is_read_only()
h.set_strict_mode(0)
def refused(call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        return error.errno
    raise SystemExit("was not refused")
assert h.pread(0, 5) == bytearray()
for offset in (2 << 20, (2 << 20) - 1, 1 << 63, (1 << 64) - 2):
    assert refused(h.pread, 2, offset) == "EINVAL", offset
assert refused(h.pread, 33 << 20, 0) in ("EINVAL", "ERANGE")
assert refused(h.pwrite, b"x", 0) == "EPERM"
assert refused(h.trim, 512, 0) == "EPERM"
assert refused(h.zero, 512, 0) == "EPERM"
h.cache(1 << 20, 0)
h.flush()
assert bytes(h.pread(3, 7, nbd.CMD_FLAG_DF)) == b"\\x01" * 3
h.shutdown()
"""


def test_numbers_outside_the_disk_are_refused(socket_path: str) -> None:
    with serving(MemoryDisk(b"\1" * (2 * MIB)), socket_path) as server:
        run("/usr/bin/python3", "-c", LIBNBD, server.uri())


def certificates(folder: Path) -> TlsFiles:
    """A certificate of our own making for localhost; the lines of the guide."""
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
    )  # fmt: skip
    return TlsFiles(certificate=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def test_with_tls_nobody_gets_in_without(disk_file: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    shutil.copy(files.certificate, trusted / "ca-cert.pem")
    events = RecordedEvents()
    with (
        open_file_reader(str(disk_file)) as disk,
        nbd_server([Export(name="disk", disk=disk)], port=0, tls=files, events=events) as server,
    ):
        assert server.uri().startswith("nbds://127.0.0.1:")
        tls = f"driver=nbd,host=127.0.0.1,port={server.port},export=disk,tls-creds=c"
        given = f"tls-creds-x509,id=c,endpoint=client,dir={trusted}"
        run("nbdcopy", f"{server.uri()}?tls-certificates={trusted}", tmp_path / "copy.raw")
        assert (tmp_path / "copy.raw").read_bytes() == disk_file.read_bytes()
        said = run(
            "qemu-img", "compare", "--object", given, "--image-opts", tls, f"driver=raw,file.filename={disk_file}"
        )
        assert "identical" in said
        run("nbdinfo", f"nbd://127.0.0.1:{server.port}/disk", code=1)
        assert server.findings == ()
        assert {event.code for event in events.events if isinstance(event, Notice)} <= {"nbd-client"}


def test_clients_without_the_right_certificate_are_sent_away(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    clients = TlsFiles(certificate=files.certificate, key=files.key, clients=files.certificate)
    trusted, known = tmp_path / "trusted", tmp_path / "known"
    for folder in (trusted, known):
        folder.mkdir()
        shutil.copy(files.certificate, folder / "ca-cert.pem")
    shutil.copy(files.certificate, known / "client-cert.pem")
    shutil.copy(files.key, known / "client-key.pem")
    with nbd_server([Export(name="d", disk=MemoryDisk(bytes(MIB)))], port=0, tls=clients) as server:
        run("nbdcopy", f"{server.uri()}?tls-certificates={trusted}", "null:", code=1)
        run("nbdcopy", f"{server.uri()}?tls-certificates={known}", "null:")


def test_a_socket_that_was_left_behind_is_replaced_and_a_live_one_is_not(socket_path: str) -> None:
    disk = MemoryDisk(bytes(MIB))
    with serving(disk, socket_path), pytest.raises(TargetError, match="another program answers"):
        nbd_server([Export(name="d", disk=disk)], socket=socket_path).__enter__()
    run("python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({socket_path!r})")
    with serving(disk, socket_path) as server:
        run("nbdinfo", server.uri())
    Path(socket_path).write_text("a letter")
    with pytest.raises(TargetError, match="is no socket"):
        nbd_server([Export(name="d", disk=disk)], socket=socket_path).__enter__()
    assert Path(socket_path).read_text() == "a letter"


def test_addresses_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    export = Export(name="d", disk=MemoryDisk(bytes(MIB)))
    with pytest.raises(UsageError, match="too long"):
        nbd_server([export], socket=str(tmp_path / ("s" * 120))).__enter__()
    with pytest.raises(UsageError, match="is not there"):
        nbd_server([export], socket=str(tmp_path / "none" / "s")).__enter__()
    with pytest.raises(UsageError, match="no address"):
        nbd_server([export], host="not a host", port=0).__enter__()
    with nbd_server([export], port=0) as server, pytest.raises(MachineRefusal, match="cannot be listened on"):
        nbd_server([export], port=server.port).__enter__()
    with pytest.raises(UsageError, match="TLS cannot be set up"):
        nbd_server([export], port=0, tls=TlsFiles(certificate="/nowhere", key="/nowhere")).__enter__()
    with pytest.raises(UsageError, match="two disks have the name 'd'"):
        nbd_server([export, export], port=0).__enter__()


def _wait_until(is_so: object) -> None:
    deadline = time.monotonic() + 30
    while not (callable(is_so) and is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_errors_of_an_image_reach_the_client_too(socket_path: str) -> None:
    class Damaged(MemoryDisk):
        def read_at(self, offset: int, length: int) -> bytes:
            if offset:
                raise DamagedError("chunk 1234 is lost", hint="Look.")
            if length == 7:
                raise ReadFault("bad", extent=Extent(0, 1))
            return super().read_at(offset, length)

    with serving(Damaged(bytes(MIB)), socket_path) as server:
        run("qemu-io", "-r", "-f", "raw", "-c", "read 64k 4k", server.uri(), code=1)
        assert [one.message for one in server.findings] == ["chunk 1234 is lost"]
