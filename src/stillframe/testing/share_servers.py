"""Real servers of shares on high ports of this machine: Samba, NFS-Ganesha and OpenSSH.

Answers: "does a place on such a server work?" Each runs in namespaces of its own, with a user ``kim`` known only there,
and ends when the block ends. Nothing of this machine's settings is changed. Root is needed.

Source: smb.conf(5), smbpasswd(8); ganesha-config(8), ganesha-export-config(8); sshd_config(5); unshare(1).
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillframe.testing.tools import run_tool

USER: Final = "kim"
PASSWORD: Final = "pass word, with %"  # noqa: S105 - of a user that only these servers know
GROUP: Final = "OFFICE"
_READY_S: Final = 60.0
_STEP_S: Final = 0.1
_NAMESPACES: Final = ("unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc")
_PRELUDE: Final = """\
set -e
cd "$1"
mount -t tmpfs none /run
mkdir -p /run/sshd /run/samba
mount --bind passwd /etc/passwd
mount --bind shadow /etc/shadow
"""
_SMB: Final = """\
[global]
  server role = standalone server
  workgroup = {group}
  smb ports = {port}
  interfaces = lo
  bind interfaces only = yes
  server min protocol = {least}
  server max protocol = {most}
  map to guest = bad user
  load printers = no
  disable spoolss = yes
  log file = {state}/log
  pid directory = {state}
  lock directory = {state}
  state directory = {state}
  cache directory = {state}
  private dir = {state}
  ncalrpc dir = {state}/ncalrpc
  passdb backend = tdbsam:{state}/passdb.tdb
[backups]
  path = {export}
  read only = no
  valid users = {user}
[my empty one]
  path = {empty}
  guest ok = yes
  force user = {user}
"""
_SMB_START: Final = """\
printf '%s\\n%s\\n' "$2" "$2" | smbpasswd -c {settings} -s -a {user} >/dev/null
exec smbd -F --no-process-group -s {settings}
"""
_NFS: Final = """\
NFS_CORE_PARAM {{
  Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSV4 {{ RecoveryRoot = "{state}"; Lease_Lifetime = 60; Graceless = true; }}
NFS_KRB5 {{ Active_krb5 = false; }}
LOG {{ Default_Log_Level = WARN; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /backups; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Protocols = 4; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 2; Path = {export}; Pseudo = /squashed; Access_Type = RO; Squash = Root_Squash; SecType = sys;
  Protocols = 4; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 3; Path = {empty}; Pseudo = /empty; Access_Type = RO; Squash = No_Root_Squash; SecType = sys;
  Protocols = 4; FSAL {{ Name = VFS; }} }}
"""
_SSH: Final = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {state}/hostkey
UsePAM no
PasswordAuthentication yes
PermitRootLogin yes
PidFile none
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareServers:
    """Servers that run.

    Attributes:
        export: The folder that is shared: ``/backups`` of SMB and NFS, and its own path by SFTP.
        empty: Another, without a repository: ``my empty one`` of SMB, for guests, ``/empty`` of NFS.
        smb: Port of Samba, with SMB 3 only.
        old_smb: Port of Samba, with SMB 1 only.
        nfs: Port of NFS 4. ``/squashed`` is the exported folder for those that are not root there.
        ssh: Port of SSH.
        nobody: A port where nothing listens.
    """

    export: Path
    empty: Path
    smb: int
    old_smb: int
    nfs: int
    ssh: int
    nobody: int


@contextmanager
def serve_shares(folder: Path, *, is_guest: bool = False) -> Iterator[ShareServers]:
    """Serve two folders while the block runs.

    Args:
        folder: An empty folder for all that is needed.
        is_guest: Only what a virtual machine can use is served too: SMB and NFS, which this kernel need not know.
    """
    ports = _free_ports(5)
    made = ShareServers(
        export=folder / "export", empty=folder / "empty", smb=ports[0], old_smb=ports[1], nfs=ports[2], ssh=ports[3],
        nobody=ports[4],
    )  # fmt: skip
    for one in (made.export, made.empty):
        one.mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ssh(folder / "ssh", made))
        if is_guest:
            stack.enter_context(_smb(folder / "smb", made, port=made.smb, least="SMB3", most="SMB3"))
            stack.enter_context(_smb(folder / "old", made, port=made.old_smb, least="NT1", most="NT1"))
            stack.enter_context(_nfs(folder / "nfs", made))
        yield made


@contextmanager
def _ssh(state: Path, made: ShareServers) -> Iterator[None]:
    _prepare(state)
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(state / "hostkey"))
    (state / "settings").write_text(_SSH.format(port=made.ssh, state=state))
    with _running(state, f"exec /usr/sbin/sshd -D -e -f {state}/settings\n", made.ssh):
        yield


@contextmanager
def _smb(state: Path, made: ShareServers, *, port: int, least: str, most: str) -> Iterator[None]:
    _prepare(state)
    settings = state / "settings"
    settings.write_text(
        _SMB.format(
            group=GROUP, port=port, least=least, most=most, state=state, user=USER, export=made.export, empty=made.empty
        )
    )
    with _running(state, _SMB_START.format(settings=settings, user=USER), port):
        yield


@contextmanager
def _nfs(state: Path, made: ShareServers) -> Iterator[None]:
    _prepare(state)
    (state / "settings").write_text(_NFS.format(port=made.nfs, state=state, export=made.export, empty=made.empty))
    start = f"exec ganesha.nfsd -F -f {state}/settings -L {state}/log -p {state}/pid\n"
    with _running(state, start, made.nfs):
        yield


def _prepare(state: Path) -> None:
    """A folder with the users of this machine, and one more, whom nobody else sees."""
    state.mkdir()
    code = run_tool("openssl", "passwd", "-6", PASSWORD).strip()
    home = f"{USER}:x:0:0::/:/bin/sh\n"
    (state / "passwd").write_text(Path("/etc/passwd").read_text() + home)
    (state / "shadow").write_text(f"root:*:19000:0:99999:7:::\n{USER}:{code}:19000:0:99999:7:::\n")
    (state / "shadow").chmod(0o600)


@contextmanager
def _running(state: Path, start: str, port: int) -> Iterator[None]:
    (state / "start.sh").write_text(_PRELUDE + start)
    with (state / "said").open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - made here
            [*_NAMESPACES, "sh", str(state / "start.sh"), str(state), PASSWORD],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _READY_S
        while not _listens(port):
            assert process.poll() is None, (state / "said").read_text(errors="replace")
            assert time.monotonic() < deadline, (state / "said").read_text(errors="replace")
            time.sleep(_STEP_S)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
