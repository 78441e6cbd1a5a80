"""Stillframe's own part of the medium: the folders ``/stillframe`` and ``/stillframe-packages``.

Answers: "what is in it, and is it what runs here?" A Python environment for the Python of the medium's Debian with this
very program, compiled beforehand, and the person's settings. The packages that it needs, as they are installed here,
lie in a folder of their own, which changes seldom.

Sources: PEP 405 (``pyvenv.cfg``); PEP 552 (compiled files that are not compared with their source); pip's
``install --target``.
"""

import compileall
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

import stillframe
from stillframe.errors import StorageError
from stillframe.events import PhaseStarted
from stillframe.host.wheels import InstalledPackage, installed_packages, python_here, runs_like
from stillframe.rescue.medium.base import Step
from stillframe.rescue.medium.recipe import PYTHON
from stillframe.rescue.medium.settings import Settings

FOLDER: Final = "stillframe"
PACKAGES_FOLDER: Final = "stillframe-packages"
_SITE: Final = f"venv/lib/python{PYTHON[0]}.{PYTHON[1]}/site-packages"
_CONFIG: Final = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON[0]}.{PYTHON[1]}\n"
_PROGRAM: Final = "#!/stillframe/venv/bin/python3\nfrom stillframe.cli.main import run\n\nrun()\n"
_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "testing")
_PLATFORMS: Final = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
"""Of wheels that run with the C library of Debian 12, which is 2.36. Source: PEP 600."""
_PROJECT: Final = "stillframe"


def make_own(room: str, settings: Settings, step: Step) -> str:
    """Make the folder ``/stillframe`` in a room.

    Returns:
        The folder that holds it and nothing else.

    Raises:
        StorageError: There is no room for it.
    """
    step.events.emit(PhaseStarted(name="Stillframe: itself"))
    above = os.path.join(room, "own")
    own = os.path.join(above, FOLDER)
    try:
        package = os.path.join(own, _SITE, _PROJECT)
        shutil.copytree(os.path.dirname(stillframe.__file__), package, ignore=_LEFT_OUT)
        _compile(package, above)
        _write(own, f"{_SITE}/packages.pth", f"/{PACKAGES_FOLDER}\n".encode())
        _write(own, "venv/pyvenv.cfg", _CONFIG.encode())
        _write(own, "venv/bin/stillframe", _PROGRAM.encode(), mode=0o755)
        os.symlink("/usr/bin/python3", os.path.join(own, "venv/bin/python3"))
        _write(own, "version", f"{stillframe.__version__}\n".encode())
        for path, contents in settings.texts:
            _write(own, path, contents)
        for path, source in settings.copies:
            target = os.path.join(own, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise _full(error, own) from error
    return above


def make_packages(room: str, step: Step) -> str:
    """Make the folder ``/stillframe-packages`` in a room: what Stillframe needs of others, compiled.

    Returns:
        The folder that holds it and nothing else.

    Raises:
        MachineRefusal: A package is not here and could not be fetched.
        StorageError: There is no room for it.
    """
    step.events.emit(PhaseStarted(name="Stillframe: packages that it needs"))
    packages = installed_packages(_PROJECT)
    above = os.path.join(room, "packages")
    folder = os.path.join(above, PACKAGES_FOLDER)
    try:
        os.makedirs(folder)
        if runs_like(PYTHON) and all(package.is_portable for package in packages):
            _copy(packages, folder, step)
        else:
            _fetch(packages, folder, step)
        _compile(folder, above)
    except OSError as error:
        raise _full(error, folder) from error
    return above


def packages_digest() -> str:
    """Names what ``make_packages`` would make."""
    names = [(package.name, package.version, len(package.files)) for package in installed_packages(_PROJECT)]
    recipe = [names, PYTHON, python_here(), _PLATFORMS]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def _copy(packages: Iterable[InstalledPackage], folder: str, step: Step) -> None:
    for package in packages:
        step.check()
        for path, source in package.files:
            target = os.path.join(folder, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)


def _fetch(packages: Iterable[InstalledPackage], folder: str, step: Step) -> None:
    """From the package index of this machine: its own were made for another Python, or only for this machine."""
    step.events.emit(PhaseStarted(name="Stillframe: fetching its packages for the medium's Python"))
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
        "--target", folder, "--only-binary=:all:", "--implementation", "cp", "--python-version",
        f"{PYTHON[0]}.{PYTHON[1]}", *platforms, *(f"{package.name}=={package.version}" for package in packages),
    ]  # fmt: skip
    step.run(command, what="fetching Python packages for the medium")
    shutil.rmtree(os.path.join(folder, "bin"), ignore_errors=True)


def _compile(folder: str, above: str) -> None:
    """Compile for the medium's Python; where this one is another, the medium does it at each start, in memory."""
    if python_here() == PYTHON:
        compileall.compile_dir(
            folder, quiet=2, stripdir=above, prependdir="/", invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
        )


def _full(error: OSError, folder: str) -> StorageError:
    return StorageError(f"{error.filename or folder}: {error.strerror}", hint="Is the disk full?")


def _write(own: str, path: str, contents: bytes, *, mode: int = 0o644) -> None:
    target = Path(own, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(contents)
    target.chmod(mode)
