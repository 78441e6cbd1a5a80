"""Why a share cannot be opened: real sockets, and what mount.cifs, mount.nfs and ssh said to real servers."""

import socket

import pytest

from stillframe.errors import LoginRefused, MachineRefusal
from stillframe.host.share_faults import NetworkShare, require_server, share_refusal

SMB = NetworkShare(kind="cifs", source="//nas/backups", user="kim")
GUEST = NetworkShare(kind="cifs", source="//nas/backups")
NFS = NetworkShare(kind="nfs", source="nas:/export/kim")
SFTP = NetworkShare(kind="sshfs", source="nas:/srv/kim", user="kim")
MANUAL = b"\nRefer to the mount.cifs(8) manual page (e.g. man mount.cifs) and kernel log messages (dmesg)\n"


@pytest.mark.parametrize(
    ("share", "said", "words", "is_login"),
    [
        (SMB, b"mount error(13): Permission denied" + MANUAL, "nas refuses kim: the password is wrong", True),
        (GUEST, b"mount error(13): Permission denied" + MANUAL, "nas lets nobody into backups without a name", True),
        (SMB, b"mount error(127): Key has expired" + MANUAL, "nas refuses kim", True),
        (SMB, b"mount error(2): No such file or directory" + MANUAL, "nas has no share called backups", False),
        (SMB, b"mount error(6): No such device or address" + MANUAL, "nas has no share called backups", False),
        (SMB, b"mount error(112): Host is down" + MANUAL, "nas does not speak SMB 2 or 3", False),
        (SMB, b"mount error(5): Input/output error" + MANUAL, "//nas/backups cannot be opened: mount error(5)", False),
        (NFS, b"mount.nfs: access denied by server while mounting nas:/export/kim\n",
         "nas does not let this computer use /export/kim", False),
        (NFS, b"mount.nfs: mounting nas:/export/kim failed, reason given by server: No such file or directory\n",
         "nas serves no folder /export/kim by NFS", False),
        (NFS, b"mount.nfs: Protocol not supported\n", "cannot be opened: mount.nfs: Protocol not supported", False),
        (SFTP, b"kim@nas: Permission denied (publickey,password).\nread: Connection reset by peer\n",
         "nas refuses kim: the password is wrong, or there is no right to /srv/kim", True),
        (SFTP, b"Host key verification failed.\nread: Connection reset by peer\n",
         "nas is not the computer that it was", False),
        (SFTP, b"kim@nas:/srv/kim: No such file or directory\n", "nas has no folder /srv/kim", False),
        (SFTP, b"kex_exchange_identification: read: Connection reset by peer\n", "at nas is no SSH", False),
        (SFTP, b"subsystem request failed on channel 0\n", "serves no files by SFTP", False),
        (SFTP, b"", "no reason was given", False),
    ],
)  # fmt: skip
def test_what_programs_say_becomes_a_sentence_with_a_way_on(
    share: NetworkShare, said: bytes, words: str, is_login: bool
) -> None:
    error = share_refusal(share, said)
    assert words in error.message
    assert "Refer to" not in error.message
    assert error.hint
    assert isinstance(error, LoginRefused) == is_login


def shared_at(port: int, server: str = "127.0.0.1") -> NetworkShare:
    return NetworkShare(kind="cifs", source=f"//{server}/x", port=port)


def test_a_server_that_is_there_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        share = shared_at(listening.getsockname()[1])
        assert require_server(share) == share


def test_a_port_where_nobody_listens(unused_port: int) -> None:
    with pytest.raises(MachineRefusal, match=f"127.0.0.1 is there, but serves no SMB at port {unused_port}") as caught:
        require_server(shared_at(unused_port))
    assert "SERVER:PORT" in caught.value.hint


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_server_that_does_not_answer() -> None:
    """A full queue: the kernel drops what comes to connect, as a computer does that is switched off."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port, waiting = deaf.getsockname()[1], [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(MachineRefusal, match=r"did not answer within 0.3 seconds") as caught:
            require_server(shared_at(port), timeout_s=0.3, is_plugged=lambda: True)
        assert "switched on" in caught.value.hint
        with pytest.raises(MachineRefusal) as caught:
            require_server(shared_at(port), timeout_s=0.3, is_plugged=lambda: False)
        assert "No network cable" in caught.value.hint
        for one in waiting:
            one.close()


def test_no_way_and_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineRefusal, match=r"no computer called nowhere\.invalid is known"):
        require_server(shared_at(1, "nowhere.invalid"))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(MachineRefusal, match=r"there is no way to 127\.0\.0\.1: Network is unreachable"):
        require_server(shared_at(1))


def test_a_short_name_may_be_one_of_the_local_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, list[str]()

    def known(name: str, port: int, *_: object, **__: object) -> object:
        asked.append(name)
        if name != "nas.local":
            raise socket.gaierror(-2, "Name or service not known")
        return real("127.0.0.1", port)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        share = NetworkShare(kind="sshfs", source="nas:/nas", port=listening.getsockname()[1])
        assert require_server(share).source == "nas.local:/nas"
    assert asked[:2] == ["nas", "nas.local"]


@pytest.mark.parametrize(
    ("share", "server", "folder"),
    [
        (SMB, "nas", "backups"), (NFS, "nas", "/export/kim"), (SFTP, "nas", "/srv/kim"),
        (NetworkShare(kind="nfs", source="[fd00::1]:/x"), "fd00::1", "/x"),
    ],
)  # fmt: skip
def test_what_a_share_is_of(share: NetworkShare, server: str, folder: str) -> None:
    assert (share.server, share.folder) == (server, folder)
