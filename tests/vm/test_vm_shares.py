"""The medium restores from real servers: SMB, NFS and SFTP, with answers that a web server hands out.

One machine with three empty disks, each restored from another server. What goes wrong is a sentence, and the next run
goes on. The servers are programs of this machine, reached through QEMU's own network at 10.0.2.2.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from stillframe.testing.built_media import build_medium
from stillframe.testing.command_line import call
from stillframe.testing.debian_guest import make_disk
from stillframe.testing.linux_disks import LinuxDisk, make_linux_disk, tree_of
from stillframe.testing.medium_machine import RunningMedium, start_medium
from stillframe.testing.share_servers import GROUP, PASSWORD, USER, ShareServers, serve_shares
from stillframe.testing.virtual_machine import Drive
from stillframe.testing.web_folder import served

pytestmark = [pytest.mark.root, pytest.mark.vm]
LIMIT_S = 1800
HOST = "10.0.2.2"
CARD = "52-54-00-12-34-56"
PASSPHRASE = "four words on paper"  # noqa: S105 - of a test
DISKS = ("one", "two", "three")


def restore_answers(where: str, disk: str, *, repository: str = "", password: str = "") -> str:
    named = f'id = "{repository}"\n' if repository else ""
    return (
        f"[repository]\nwhere = '{where}'\n{named}[secret]\npassword = '{PASSPHRASE}'\nshare-password = '{password}'\n"
        f'[restore]\ntarget = {{ serial = "{disk}" }}\n'
    )


def carried_out(running: RunningMedium, answers: str) -> dict[str, Any]:
    """The verdict of answers that are given to a running medium."""
    script = (
        f"cat > /run/answers.toml <<'END'\n{answers}END\nstillframe rescue start --answers /run/answers.toml --json"
    )
    return verdict_in(running.ask(script, limit_s=LIMIT_S))


def verdict_in(said: str) -> dict[str, Any]:
    lines = [line for line in said.splitlines() if line.startswith('{"type":"result"')]
    assert lines, said[-3000:]
    return dict(json.loads(lines[-1])["verdict"])


def faults(servers: ShareServers) -> dict[str, tuple[str, str, str]]:
    """What can go wrong, and what is said: address, password of the share, words."""
    smb = f"{HOST}:{servers.smb}"
    return {
        "wrong password": (f"smb://{USER}@{smb}/backups", "wrong", f"{HOST} refuses {USER}: the password is wrong"),
        "no name": (f"smb://{smb}/backups", "", "lets nobody into backups without a name"),
        "no such share": (f"smb://{USER}@{smb}/letters", PASSWORD, "has no share called letters"),
        "no such folder": (f"smb://{USER}@{smb}/backups/x y", PASSWORD, "there is no folder"),
        "SMB 1": (f"smb://{USER}@{HOST}:{servers.old_smb}/backups", PASSWORD, "does not speak SMB 2 or 3"),
        "a share for guests without a repository": (f"smb://{smb}/my%20empty%20one", "", "there is no repository at"),
        "nobody there": (
            f"smb://{USER}@{HOST}:{servers.nobody}/x",
            PASSWORD,
            f"serves no SMB at port {servers.nobody}",
        ),
        "no such name": (f"smb://{USER}@nowhere.invalid/x", PASSWORD, "no computer called nowhere.invalid is known"),
        "no such export": (f"nfs://{HOST}:{servers.nfs}/letters", "", "serves no folder /letters by NFS"),
        "NFS without a repository": (f"nfs://{HOST}:{servers.nfs}/empty", "", "there is no repository at"),
        "NFS for nobody": (f"nfs://{HOST}:{servers.nfs}/squashed", "", "may not be read: folder stillframe"),
        "wrong SFTP password": (
            f"sftp://{USER}@{HOST}:{servers.ssh}{servers.export}",
            "wrong",
            "the password is wrong",
        ),
        "no SFTP folder": (f"sftp://{USER}@{HOST}:{servers.ssh}/nowhere", PASSWORD, "has no folder /nowhere"),
    }


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> LinuxDisk:
    return make_linux_disk(tmp_path_factory.mktemp("linux") / "linux.img")


def make_repository(servers: ShareServers, linux: LinuxDisk, folder: Path) -> str:
    """A repository with an image of the disk, in the folder that the servers share; its id."""
    (folder / "passphrase").write_text(PASSPHRASE)
    where = servers.export / "stillframe"
    words = ("--password-file", folder / "passphrase")
    assert call("init", where, *words).exit_code == 0
    assert call("backup", linux.path, "--repo", where, *words).exit_code == 0
    return str(json.loads((where / "stillframe.json").read_text())["id"])


@pytest.mark.slow
def test_a_computer_comes_back_from_each_kind_of_server(
    linux: LinuxDisk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, asked = tmp_path_factory.mktemp("m"), list[str]()
    (folder / "web" / CARD).mkdir(parents=True)
    (folder / "servers").mkdir()
    files = [make_disk(folder / f"{name}.img", linux.path.stat().st_size) for name in DISKS]
    drives = [Drive(file=file, serial=name) for file, name in zip(files, DISKS, strict=True)]
    medium = build_medium(folder, "--wifi")
    with serve_shares(folder / "servers", is_guest=True) as servers, served(folder / "web", asked) as port:
        number = make_repository(servers, linux, folder)
        smb = f"smb://{GROUP};{USER}@{HOST}:{servers.smb}/backups"
        first_answers = restore_answers(smb, "one", password=PASSWORD) + '[after]\nreport = "/run/verdict"\n'
        (folder / "web" / CARD / "rescue.toml").write_text(first_answers)
        word = f"stillframe.answers=http://{HOST}:{port}/{{mac}}/rescue.toml"
        with start_medium(medium.machine(folder, word, disks=drives)) as running:
            # Not from the serial line, on which letters come twice when this machine is busy.
            said = running.ask("while [ ! -s /run/verdict ]; do sleep 1; done; cat /run/verdict", limit_s=LIMIT_S)
            first = json.loads(said)
            print(first)  # noqa: T201 - pytest -s shows it
            assert (first["ok"], first["repository"]) == (True, number)
            assert f"GET /{CARD}/rescue.toml HTTP/1.1" in asked
            assert "the answers hold a secret and came by http" in first["notices"][0]
            assert "can't create" not in running.said, "live-boot's settings for ifupdown"
            nfs = f"nfs://{HOST}:{servers.nfs}/backups"
            sftp = f"sftp://{USER}@{HOST}:{servers.ssh}{servers.export}"
            for where, disk, password in ((nfs, "two", ""), (sftp, "three", PASSWORD)):
                verdict = carried_out(running, restore_answers(where, disk, repository=number[:8], password=password))
                print(where, verdict)  # noqa: T201
                assert verdict["ok"], f"{verdict}\n{running.ask('dmesg | tail -n 20', limit_s=LIMIT_S)}"
            other = list[str]()
            for what, (where, password, words) in faults(servers).items():
                verdict = carried_out(running, restore_answers(where, "one", password=password))
                print(f"{what}: {verdict['message']} / {verdict['hint']}")  # noqa: T201
                if verdict["ok"] or words not in verdict["message"] or not verdict["hint"]:
                    other.append(f"{what}: expected {words!r}, got {verdict}")
            assert other == []
            without_cable(running, smb)
            backup_over_smb(running, smb, servers, folder)
            left = running.ask(
                "findmnt -rno FSTYPE; systemctl is-enabled iwd nvmf-autoconnect.service; cat /proc/cmdline"
            )
    assert not {"cifs", "nfs4", "fuse.sshfs"} & set(left.split()), "all shares are closed again"
    assert "masked" in left.split()
    assert "enabled" in left.split()
    expected = tree_of(linux)
    for file in files:
        assert tree_of(linux, file) == expected, file.name


def without_cable(running: RunningMedium, where: str) -> None:
    """The cable is out while a share is opened: a sentence; and it works again when the cable is in."""
    answers = restore_answers(where, "one", password=PASSWORD)
    running.ask(
        f"cat > /run/cable.toml <<'END'\n{answers}END\n"
        'systemd-run --quiet sh -c \'while [ "$(cat /sys/class/net/e*/carrier)" = 1 ]; do sleep 1; done; sleep 5; '
        "stillframe rescue start --answers /run/cable.toml --json > /run/cable.out 2>&1; touch /run/cable.done'",
        limit_s=LIMIT_S,
    )
    running.set_cable(is_in=False)
    with pytest.raises(AssertionError, match="nobody answers"):
        running.ask("true", limit_s=60)
    running.set_cable(is_in=True)
    said = running.ask("while [ ! -e /run/cable.done ]; do sleep 1; done; cat /run/cable.out", limit_s=LIMIT_S)
    verdict = verdict_in(said)
    print(verdict)  # noqa: T201
    assert "the network did not come up: no cable" in verdict["message"]
    assert "Put the network cable in" in verdict["hint"]


def backup_over_smb(running: RunningMedium, where: str, servers: ShareServers, folder: Path) -> None:
    """What the medium writes onto a share is whole, as this machine reads it."""
    answers = (
        f"[repository]\nwhere = '{where}'\n[secret]\npassword = '{PASSPHRASE}'\nshare-password = '{PASSWORD}'\n"
        '[backup]\nsources = [{ serial = "one" }]\nname = "from the medium"\n'
    )
    verdict = carried_out(running, answers)
    print(verdict)  # noqa: T201
    assert verdict["ok"], verdict
    checked = call(
        "verify", verdict["image"], "--repo", servers.export / "stillframe", "--password-file", folder / "passphrase",
    )  # fmt: skip
    assert checked.exit_code == 0, checked.output
