"""Encrypted volumes made, filled and read by cryptsetup and QEMU, without the device mapper.

Answers: "where does a test get a volume of LUKS with files in it, and what does another program see in one?" cryptsetup
encrypts in user space what it re-encrypts offline, unless it runs as root: then it wants the device mapper. So it runs
as another user here, who may read the files of root. QEMU writes version 1, always in user space.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stillframe.testing.tools import run_tool

MIB: Final = 1 << 20
HEAD_SIZE: Final = 8 * MIB
"""Bytes that cryptsetup puts in front of what it encrypts in place: half of what it is given for it."""
PASSPHRASE: Final = "kein Rauschen"  # noqa: S105 - of volumes that tests make
_NOT_ROOT: Final = (
    "setpriv", "--reuid", "65534", "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override", "cryptsetup",
)  # fmt: skip
CHEAP_PBKDF2: Final = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
CHEAP_ARGON2: Final = ("--pbkdf-force-iterations", "4", "--pbkdf-memory", "16384", "--pbkdf-parallel", "2")


def cryptsetup(*words: str, secret: str = PASSPHRASE, more: str = "") -> str:
    """What cryptsetup prints; the passphrase, and a second one where it wants one, come by its input."""
    return _run("cryptsetup", *words, secret=secret, more=more)


def opens(volume: Path, secret: str) -> bool:
    """Whether cryptsetup says that a passphrase opens a volume."""
    command = ("cryptsetup", "open", "--test-passphrase", str(volume))
    return subprocess.run(command, input=secret, text=True, capture_output=True, check=False).returncode == 0  # noqa: S603 a test's tool


def encrypt2(plain: Path, target: Path, *words: str, tail: int = 0, label: str = "") -> None:
    """Encrypt a file as LUKS2: a header of 8 MiB, then the file, then what fills it up.

    Args:
        plain: What is encrypted; whole sectors.
        target: The volume.
        words: As ``cryptsetup reencrypt --encrypt`` takes them.
        tail: Bytes behind it.
        label: Of the volume.
    """
    size = plain.stat().st_size
    run_tool("cp", "--sparse=always", str(plain), str(target))
    os.truncate(target, size + 2 * HEAD_SIZE)
    words = words or CHEAP_PBKDF2
    full = ("reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "16M", *words, "-q", "--disable-locks")
    _run(*_NOT_ROOT, *full, str(target), secret=PASSPHRASE)
    os.truncate(target, HEAD_SIZE + size + tail)
    if label:
        cryptsetup("config", "--label", label, str(target))


def decrypt2(volume: Path, target: Path, size: int) -> Path:
    """What cryptsetup finds in a volume of LUKS2: its first ``size`` bytes, decrypted."""
    copy = target.with_name(f"{target.name}.volume")
    run_tool("cp", "--sparse=always", str(volume), str(copy))
    header = target.with_name(f"{target.name}.header")
    words = ("reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", str(header), "-q", "--disable-locks")
    _run(*_NOT_ROOT, *words, str(copy), secret=PASSPHRASE)
    os.truncate(copy, size)
    header.unlink()
    return copy.rename(target)


def encrypt1(plain: Path, target: Path, *words: str) -> None:
    """Encrypt a file as LUKS1 behind 2 MiB: the header is cryptsetup's, the rest QEMU's.

    Args:
        plain: What is encrypted; whole sectors.
        target: The volume.
        words: As ``cryptsetup luksFormat`` takes them.
    """
    with target.open("wb") as file:
        file.truncate(2 * MIB + plain.stat().st_size)
    cryptsetup("luksFormat", "--type", "luks1", "--offset", "4096", "-q", *(words or CHEAP_PBKDF2), str(target))
    into = f"driver=luks,key-secret=s,file.filename={target}"
    _qemu("convert", "-n", "-f", "raw", str(plain), "--target-image-opts", into)


def decrypt1(volume: Path, target: Path) -> Path:
    """What QEMU finds in a volume of LUKS1."""
    source = f"driver=luks,key-secret=s,file.filename={volume}"
    _qemu("convert", "--image-opts", source, "-O", "raw", str(target))
    return target


def edit_json(volume: Path, change: Callable[[Any], object], *, copies: tuple[int, ...] = (0, 1)) -> None:
    """Change what the copies of a LUKS2 header say, with checksums that are right.

    Source: LUKS2 On-Disk Format Specification 1.1.1, section 2.1.
    """
    with volume.open("r+b") as file:
        size = int.from_bytes(file.read(16)[8:], "big")
        for copy in copies:
            file.seek(copy * size)
            raw = bytearray(file.read(size))
            record = json.loads(raw[4096:].split(b"\0")[0])
            change(record)
            raw[4096:] = json.dumps(record).encode().ljust(size - 4096, b"\0")
            raw[448:512] = bytes(64)
            raw[448:480] = hashlib.sha256(raw).digest()
            file.seek(copy * size)
            file.write(raw)


def volume_key(volume: Path, folder: Path) -> bytes:
    """The key of a volume by cryptsetup."""
    kept = folder / "volume-key"
    cryptsetup("luksDump", "--dump-volume-key", "--volume-key-file", str(kept), "-q", str(volume))
    key = kept.read_bytes()
    kept.unlink()
    return key


def _run(*command: str, secret: str, more: str = "") -> str:
    done = subprocess.run(command, input=secret + more, text=True, capture_output=True, check=False)  # noqa: S603 a test's tool
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _qemu(verb: str, *words: str) -> None:
    run_tool("qemu-img", verb, "--object", f"secret,id=s,data={PASSPHRASE}", *words)
