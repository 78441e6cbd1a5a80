"""A Linux from the files of its volumes, in memory."""

import subprocess

import pytest

from stillframe.block import ReadFault
from stillframe.extents import Extent
from stillframe.systems import NamedTraces, join_linux, read_traces
from stillframe.systems.linux import parse_fstab, parse_release

RELEASE = b"""# a comment
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME='Debian GNU/Linux'
ID=debian
VERSION_ID="12"
VARIANT="It\\"s \\$5"
broken
LATER="no end
"""
FSTAB = b"""# /etc/fstab
UUID=aaaa / ext4 errors=remount-ro 0 1
uuid="bbbb" /boot/ ext2 defaults 0 2
LABEL=usr\t/usr\text4\tdefaults
/dev/sda9 none swap sw 0 0
UUID=cccc /home ext4 defaults
UUID=dddd / ext4 second
"""


class Files:
    """Files in memory."""

    def __init__(self, files: dict[str, bytes], broken: str = "") -> None:
        self.files = files
        self.broken = broken

    def list_names(self, path: str) -> tuple[str, ...]:
        below = path.rstrip("/") + "/"
        return tuple(dict.fromkeys(one[len(below) :].split("/")[0] for one in self.files if one.startswith(below)))

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        if path == self.broken:
            raise ReadFault("bytes are lost", extent=Extent(0, 1))
        raw = self.files.get(path)
        return None if raw is None else raw[offset : offset + size]


ROOT = Files({
    "/usr/lib/os-release": RELEASE, "/etc/fstab": FSTAB, "/etc/hostname": b"# name\nanna-laptop\n",
    "/etc/machine-id": b"0123456789abcdef0123456789abcdef\n", "/boot/vmlinuz-6.1.0-9-amd64": b"",
    "/boot/vmlinuz-6.1.0-18-amd64": b"", "/boot/vmlinuz-6.1.0-18-amd64.old": b"", "/boot/vmlinuz-0-rescue-abc": b"",
    "/lib/modules/6.1.0-18-amd64/modules.dep": b"", "/usr/lib/modules/6.1.0-9-amd64/x": b"",
})  # fmt: skip


def test_a_system_on_one_volume() -> None:
    system = join_linux(read_traces(ROOT), ())
    assert system is not None
    assert (system.name, system.version) == ("Debian GNU/Linux 12 (bookworm)", "12")
    assert (system.host, system.machine_id) == ("anna-laptop", "0123456789abcdef0123456789abcdef")
    assert system.kernels == ("6.1.0-9-amd64", "6.1.0-18-amd64")
    assert (system.root, system.elsewhere) == ("UUID=aaaa", ("/boot", "/usr"))


def test_kernels_and_the_name_may_lie_on_other_partitions() -> None:
    boot = read_traces(Files({"/vmlinuz-6.9.1": b"", "/loader/entries/a.conf": b"title A\nversion 6.10.2\n"}))
    usr = read_traces(Files({"/lib/os-release": RELEASE}))
    root = read_traces(Files({"/etc/fstab": FSTAB}))
    named = [
        NamedTraces(names=frozenset({"UUID=bbbb"}), traces=boot),
        NamedTraces(names=frozenset({"LABEL=usr"}), traces=usr),
    ]
    system = join_linux(root, named)
    assert system is not None
    assert (system.name, system.kernels) == ("Debian GNU/Linux 12 (bookworm)", ("6.9.1", "6.10.2"))
    assert join_linux(root, ()) is None
    assert join_linux(boot, named) is None
    assert join_linux(usr, named) is None


def test_a_home_is_no_system() -> None:
    home = Files({"/anna/letter.txt": b"", "/anna/etc/os-release": RELEASE, "/lost+found/x": b""})
    assert join_linux(read_traces(home), ()) is None


def test_what_cannot_be_read_is_a_notice_beside_the_rest() -> None:
    system = join_linux(read_traces(Files(ROOT.files, broken="/etc/hostname")), ())
    assert system is not None
    assert (system.name, system.host) == ("Debian GNU/Linux 12 (bookworm)", "")
    assert [(notice.code, notice.message) for notice in system.notices] == [
        ("system-not-read", "/etc/hostname: bytes are lost")
    ]


@pytest.mark.parametrize("name", ["PRETTY_NAME", "NAME", "ID", "VERSION_ID", "VARIANT"])
def test_fields_are_what_a_shell_takes_them_for(name: str) -> None:
    whole = b"\n".join(RELEASE.splitlines()[:6]).decode()
    said = subprocess.run(
        ["sh", "-c", f'{whole}\nprintf %s "${name}"'], capture_output=True, text=True, check=True
    ).stdout
    assert parse_release(whole)[name] == said
    assert "LATER" not in parse_release(RELEASE.decode())


def test_the_first_line_of_an_fstab_counts() -> None:
    mounts = parse_fstab(FSTAB.decode())
    assert mounts == {"/": "UUID=aaaa", "/boot": "UUID=bbbb", "/usr": "LABEL=usr", "/home": "UUID=cccc"}
