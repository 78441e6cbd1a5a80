"""Programs of this machine that are not installed, and their Debian packages.

Answers: "what is missing for this work, and what is to be typed so that it is there?" On Debian and Ubuntu root may
have it installed; elsewhere it is only said.
"""

from collections.abc import Callable, Iterable
from typing import Final

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.host.linux import is_root
from stillframe.host.run import find_program, package_of, run_watched

_INSTALL: Final = ("apt-get", "install", "-y", "-q", "--no-install-recommends")


def missing_packages(programs: Iterable[str]) -> tuple[str, ...]:
    """Debian packages of the programs that are not there."""
    return tuple(dict.fromkeys(package_of(name) or name for name in programs if not _is_there(name)))


def may_install() -> bool:
    """Whether ``install_packages`` can do anything here."""
    return is_root() and _is_there("apt-get")


def install_line(packages: Iterable[str]) -> str:
    """What a person types to install them."""
    return f"sudo apt-get install {' '.join(packages)}"


def install_packages(packages: Iterable[str], *, check: Callable[[], None]) -> None:
    """Install Debian packages.

    Args:
        packages: Their names.
        check: Asked several times a second; what it raises stops it.

    Raises:
        MachineRefusal: They were not installed; the hint is the line to type.
    """
    names = tuple(packages)
    done = run_watched(["env", "DEBIAN_FRONTEND=noninteractive", *_INSTALL, *names], check=check)
    if done.exit_code:
        lines = done.errors.decode("utf-8", "replace").strip().splitlines()[-3:]
        said = "; ".join(line.strip() for line in lines) or "it gave no reason"
        raise MachineRefusal(
            f"the packages {' '.join(names)} could not be installed: {said}",
            hint=f"Try 'sudo apt-get update', then '{install_line(names)}'.",
        )


def _is_there(program: str) -> bool:
    try:
        find_program(program)
    except MissingProgram:
        return False
    return True
