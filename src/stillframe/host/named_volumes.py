"""The volumes of this machine by the names that tables of a Linux use.

Answers: "is there a volume of this name on any disk that is plugged in?" By ``blkid``, which reads every disk anew.

Source: blkid(8) (``--match-token``, ``--cache-file``; exit code 2: nothing was found).
"""

from typing import Final

from stillframe.errors import MissingProgram
from stillframe.host.run import run

_TAGS: Final = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
_LIMIT_S: Final = 120.0


def find_named(name: str) -> tuple[str, ...]:
    """The devices with a name such as ``UUID=...``; none for names that are no tags, and where nobody can tell.

    Raises:
        MachineRefusal: It took too long.
    """
    if not name.startswith(_TAGS):
        return ()
    command = ["blkid", "--cache-file", "/dev/null", "--match-token", name, "--output", "device"]
    try:
        done = run(command, timeout_s=_LIMIT_S)
    except MissingProgram:
        return ()
    return tuple(done.text.split()) if done.exit_code == 0 else ()
