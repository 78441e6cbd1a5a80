"""Files of a system whose root is a folder here: a mounted volume that may be changed.

Answers: "what does ``/etc/fstab`` of that system say, and write this into it." Links are followed as that system would
follow them, so nothing outside of its root is ever read or written.

Source: path_resolution(7); Linux ``include/linux/namei.h`` (at most 40 links in a path).
"""

import os
import stat
from typing import Final

from stillframe.errors import MachineRefusal

NAMES_MAX: Final = 100_000
"""Names of a folder that are given."""
_LINKS_MAX: Final = 40
_HINT: Final = "Is its file system full, or damaged? 'df' and 'fsck' tell."


class RootFiles:
    """The files of a system. Paths are those of that system."""

    def __init__(self, root: str) -> None:
        self.root: Final = root

    def place(self, path: str) -> str:
        """Where a path of that system is on this machine, all links followed; it need not exist.

        Raises:
            MachineRefusal: Links lead in a circle.
        """
        waiting, here, links = path.split("/")[::-1], list[str](), 0
        while waiting:
            name = waiting.pop()
            if name == "..":
                here[-1:] = []
            elif name not in ("", "."):
                found = os.path.join(self.root, *here, name)
                if not os.path.islink(found):
                    here.append(name)
                    continue
                links += 1
                if links > _LINKS_MAX:
                    raise MachineRefusal(f"{path}: its links lead in a circle", hint="Look at them with 'ls -l'.")
                target = os.readlink(found)
                here = [] if target.startswith("/") else here
                waiting += target.split("/")[::-1]
        return os.path.join(self.root, *here)

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder."""
        try:
            return tuple(sorted(os.listdir(self.place(path)))[:NAMES_MAX])
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise _fault(path, error) from error

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a regular file; ``None`` when there is no such file."""
        if not self.is_file(path):
            return None
        try:
            with open(self.place(path), "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise _fault(path, error) from error

    def is_file(self, path: str) -> bool:
        """Whether it is a regular file."""
        return os.path.isfile(self.place(path))

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(self.place(path))

    def is_program(self, path: str) -> bool:
        """Whether it is a file that may be executed."""
        place = self.place(path)
        return os.path.isfile(place) and bool(os.stat(place).st_mode & stat.S_IXUSR)

    def change_time(self, path: str) -> tuple[int, int]:
        """What tells whether a file is another one since: its number, and when it was changed."""
        found = os.stat(self.place(path))
        return found.st_ino, found.st_mtime_ns

    def write_file(self, path: str, contents: bytes) -> None:
        """Make a file, or replace what it holds; owner and permissions of one that is there stay, folders are made.

        Raises:
            MachineRefusal: The volume is full or cannot be written.
        """
        place = self.place(path)
        try:
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            with open(place, "r+b" if os.path.exists(place) else "xb") as file:
                file.write(contents)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _fault(path, error) from error

    def write_private(self, path: str, contents: bytes) -> None:
        """Make a file that only root may read, as what it holds may be a secret.

        Raises:
            MachineRefusal: The volume is full or cannot be written.
        """
        self.write_file(path, b"")
        os.chmod(self.place(path), 0o600)
        self.write_file(path, contents)

    def remove_file(self, path: str) -> None:
        """Remove a file; nothing happens when there is none."""
        try:
            os.unlink(self.place(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _fault(path, error) from error


def _fault(path: str, error: OSError) -> MachineRefusal:
    return MachineRefusal(f"{path} of the restored system: {error.strerror}", hint=_HINT)
