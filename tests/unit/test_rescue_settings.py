"""What may be put onto a rescue medium, and that a secret never is."""

import os
import tomllib
from pathlib import Path

import pytest

from stillframe.errors import UsageError
from stillframe.rescue.medium.settings import SettingWishes, read_settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh2cz3ZzEdBvMTaAyWeQ2dO0cO2xXq3cP0l1aTzQF5J kim@desk\n"
NETWORK = "[Match]\nName=en*\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.1\n"


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_nothing_is_put_onto_a_medium_unless_asked_for() -> None:
    settings = read_settings(SettingWishes())
    assert (settings.texts, settings.copies, settings.steps) == ((), (), ())


def test_each_setting_has_its_place(tmp_path: Path) -> None:
    drivers = tmp_path / "drivers" / "disk"
    drivers.mkdir(parents=True)
    written(drivers, "iastor.inf", "[Version]\n")
    written(drivers, "iastor.sys", "MZ")
    settings = read_settings(
        SettingWishes(
            answers=written(tmp_path, "a.toml", '[restore]\nimage = "latest"\n'), repository="smb://nas/backup",
            networks=(written(tmp_path, "office.network", NETWORK),), drivers=str(drivers.parent),
            ssh_key=written(tmp_path, "id.pub", KEY), keyboard="de-latin1",
        )
    )  # fmt: skip
    texts = dict(settings.texts)
    answers = tomllib.loads(texts["settings/rescue.toml"].decode())
    assert answers == {"restore": {"image": "latest"}, "repository": {"where": "smb://nas/backup"}}
    assert texts["settings/network/office.network"].decode() == NETWORK
    assert texts["settings/ssh/authorized_keys"].decode() == KEY
    assert dict(settings.copies) == {f"drivers/disk/{one.name}": str(one) for one in drivers.iterdir()}
    assert settings.keyboard == "de-latin1"
    assert len(settings.steps) == 4


@pytest.mark.parametrize("where", ["/mnt/disk/backup", r'C:\a "quoted" Ü', "sftp://kim@nas/srv/backup"])
def test_the_place_of_a_repository_is_kept_to_the_letter(where: str) -> None:
    (contents,) = dict(read_settings(SettingWishes(repository=where)).texts).values()
    assert tomllib.loads(contents.decode()) == {"repository": {"where": where}}


@pytest.mark.parametrize(
    "text",
    [
        '[secret]\npassword = "x"\n', '[secret]\npassword-file = "/x"\n', "[secret]\n", 'password = "x"\n',
        '[repository]\nPassphrase = "x"\n', '[[network]]\nwifi-password = "x"\n', '[network.wifi]\npsk = "x"\n',
        '[unlock]\npassword-file = "/x"\n', '[unlock]\npassword = "x"\n',
        '[repository]\nwhere = "smb://kim:x@nas/backup"\n', 'places = ["sftp://kim:x@nas/"]\n',
    ],
)  # fmt: skip
def test_answers_with_a_secret_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a (secret|password)") as refused:
        read_settings(SettingWishes(answers=written(tmp_path, "rescue.toml", text)))
    assert "never holds a secret" in refused.value.hint
    assert "x" not in refused.value.message.split("'")[1:2]


def test_a_place_with_a_password_is_refused() -> None:
    with pytest.raises(UsageError, match="--repo holds a password"):
        read_settings(SettingWishes(repository="smb://kim:hunter2@nas/backup"))


def test_two_places_of_the_repository_are_refused(tmp_path: Path) -> None:
    answers = written(tmp_path, "rescue.toml", '[repository]\nwhere = "/a"\n')
    with pytest.raises(UsageError, match="both say where"):
        read_settings(SettingWishes(answers=answers, repository="/b"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rescue.toml", "[restore\n", "is not TOML"),
        ("rescue.toml", "", "cannot be read"),
        ("big.toml", "#" * (1 << 20) + "\n", "more than 1 MiB"),
    ],
)
def test_answers_that_are_none_are_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, text)
    if not text:
        os.unlink(path)
    with pytest.raises(UsageError, match=words):
        read_settings(SettingWishes(answers=path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("office.conf", NETWORK), ("office.network", "[Match]\nName=en*\n"), ("office.network", "no sections"),
        ("office.network", "[Network]\nDHCP=yes\n"), ("office.network", "\xff" * 3),
    ],
)  # fmt: skip
def test_a_file_that_is_no_network_is_refused(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="no file of a network"):
        read_settings(SettingWishes(networks=(str(path),)))


def test_a_network_with_a_key_in_it_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.network", f"{NETWORK}[WireGuard]\nPrivateKey=abc\n")
    with pytest.raises(UsageError, match="holds a secret"):
        read_settings(SettingWishes(networks=(path,)))


@pytest.mark.parametrize("text", ["-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "hello\n", "", f"{KEY}\nnot a key\n"])
def test_what_is_no_public_key_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"private key|no public keys"):
        read_settings(SettingWishes(ssh_key=written(tmp_path, "key", text)))


def test_a_folder_without_drivers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.inf file"):
        read_settings(SettingWishes(drivers=str(tmp_path)))
    with pytest.raises(UsageError, match="no folder"):
        read_settings(SettingWishes(drivers=str(tmp_path / "none")))


@pytest.mark.parametrize("name", ["de fr", "../de", "DE", "de;reboot", "x" * 40])
def test_what_is_no_keyboard_does_not_reach_the_kernels_line(name: str) -> None:
    with pytest.raises(UsageError, match="no keyboard"):
        read_settings(SettingWishes(keyboard=name))
