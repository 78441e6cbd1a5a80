"""Repositories on a share of a real server, mounted by this machine: SFTP, which needs no file system of the kernel.

SMB and NFS are tried from the medium, in ``tests/vm/test_vm_shares.py``: this machine's kernel may not have them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.errors import LoginRefused, MachineRefusal, RepositoryNotFound, StillframeError
from stillframe.host import volume_places
from stillframe.host.mounts import read_mounts
from stillframe.rescue.flows.menu import menu
from stillframe.rescue.pages.pages import Ask
from stillframe.rescue.places.opened import Places
from stillframe.rescue.places.shares import Address, parse_address
from stillframe.rescue.world import World
from stillframe.testing.command_line import call
from stillframe.testing.rescue_person import Person
from stillframe.testing.share_servers import PASSWORD, USER, ShareServers, serve_shares

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShareServers]:
    with serve_shares(tmp_path_factory.mktemp("s")) as made:
        assert call("init", made.export / "stillframe", "--encryption", "none").exit_code == 0
        (made.empty / "letters").mkdir()
        yield made


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"STILLFRAME_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setattr(volume_places, "_SSH", f"ssh -o UserKnownHostsFile={tmp_path}/known")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    with Places(folder=str(tmp_path / "places")) as made:
        yield made
    assert [mount.where for mount in read_mounts() if mount.where.startswith(str(tmp_path))] == []


def sftp(servers: ShareServers, folder: Path, *, user: str = USER, port: int = 0) -> Address:
    name = f"{user}@" if user else ""
    return parse_address(f"sftp://{name}127.0.0.1:{port or servers.ssh}{folder}")


def test_a_repository_on_a_server_is_found_by_its_id_and_read(servers: ShareServers, places: Places) -> None:
    address = sftp(servers, servers.export)
    (found,) = places.open_address(address, secret=PASSWORD)
    assert (found.where, found.encryption) == (f"{address.words}/stillframe", "none")
    assert not Path(found.folder, "new").exists()
    with pytest.raises(OSError, match="Read-only"):
        Path(found.folder, "new").touch()
    written = places.reopen(found, read_write=True, secret=PASSWORD)
    Path(written.folder, "new").touch()
    assert (servers.export / "stillframe" / "new").exists()
    (servers.export / "stillframe" / "new").unlink()


def test_a_share_without_a_repository_brings_none(servers: ShareServers, places: Places) -> None:
    assert places.open_address(sftp(servers, servers.empty), secret=PASSWORD) == ()


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("password", LoginRefused, "127.0.0.1 refuses kim: the password is wrong"),
        ("no password", LoginRefused, "127.0.0.1 refuses kim"),
        ("no name", LoginRefused, "lets nobody into"),
        ("folder", MachineRefusal, "has no folder"),
        ("port", MachineRefusal, "is there, but serves no SSH at port"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    servers: ShareServers, places: Places, what: str, kind: type[StillframeError], words: str
) -> None:
    address = sftp(
        servers, Path("/nowhere") if what == "folder" else servers.export, user="" if what == "no name" else USER,
        port=servers.nobody if what == "port" else 0,
    )  # fmt: skip
    secret = {"password": "wrong", "no password": "", "no name": ""}.get(what, PASSWORD)
    with pytest.raises(kind, match=words) as caught:
        places.open_address(address, secret=secret)
    assert caught.value.hint
    assert PASSWORD not in str(caught.value)


def test_a_server_with_another_key_than_before_is_not_believed(
    servers: ShareServers, places: Places, tmp_path: Path
) -> None:
    key = (servers.export.parent / "ssh" / "hostkey.pub").read_text().split()[1]
    forged = key[:-12] + ("A" * 12 if not key.endswith("A" * 12) else "B" * 12)
    (tmp_path / "known").write_text(f"[127.0.0.1]:{servers.ssh} ssh-ed25519 {forged}\n")
    with pytest.raises(MachineRefusal, match="is not the computer that it was"):
        places.open_address(sftp(servers, servers.export), secret=PASSWORD)


def test_a_folder_that_is_not_there_is_named(servers: ShareServers, places: Places) -> None:
    with pytest.raises((MachineRefusal, RepositoryNotFound), match="letters/none"):
        places.open_address(sftp(servers, servers.empty / "letters" / "none"), secret=PASSWORD)


def test_a_wrong_password_is_asked_for_once_more_and_not_the_whole_address(
    servers: ShareServers, tmp_path: Path
) -> None:
    world = World(places=Places(folder=str(tmp_path / "places")), is_installed=True)
    with world.places:
        person = Person(lambda: menu(world))
        page = person.answers(
            [("Stillframe", "Restore this computer"), ("Where are", "Somewhere else"),
             ("Where are", sftp(servers, servers.export).words), ("Password of the share", "wrong")]
        )  # fmt: skip
        assert isinstance(page, Ask)
        assert (page.title, page.given) == ("Who logs in there?", USER)
        assert "refuses kim" in page.lines[0]
        page = person.answers([("Who logs in there", USER), ("Password of the share", PASSWORD)])
        assert page.lines[0] == "There is no image in it.", "it was opened"
