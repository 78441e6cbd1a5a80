"""What is known of an installed operating system.

Answers: "which system is this, on which computer, and what does it start with?"
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from stillframe.events import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledSystem:
    """An operating system that was found on a volume. What is not known is empty.

    Attributes:
        family: Of which kind.
        name: As people say it: ``Debian GNU/Linux 12 (bookworm)``, ``Windows 11 Pro 23H2``.
        version: Linux: ``VERSION_ID``; Windows: ``23H2``, ``Service Pack 3``, or ``5.1``.
        build: Windows: build and update, ``22631.3007``.
        architecture: Of the processor it is made for: ``x86-64``, ``x86``, ``arm64`` and the like.
        edition: Windows: ``Professional``; Linux: the ``VARIANT_ID``.
        host: The computer's name.
        machine_id: Linux: what systemd calls the machine.
        kernels: Linux: the versions that are installed, the newest last.
        root: Linux: what ``/etc/fstab`` mounts as ``/``.
        elsewhere: Linux: folders of the system that are partitions of their own, such as ``/boot``.
        notices: What could not be read.
    """

    family: Literal["linux", "windows"]
    name: str
    version: str = ""
    build: str = ""
    edition: str = ""
    architecture: str = ""
    host: str = ""
    machine_id: str = ""
    kernels: tuple[str, ...] = ()
    root: str = ""
    elsewhere: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


class SystemFiles(Protocol):
    """The files of a volume, as far as recognising a system needs them. Paths are written from the root, with ``/``."""

    def list_names(self, path: str) -> tuple[str, ...]:
        """The names in a folder; none when there is no such folder.

        Raises:
            StillframeError: It cannot be read.
        """
        ...

    def read_file(self, path: str, offset: int, size: int) -> bytes | None:
        """At most ``size`` bytes of a regular file; ``None`` when there is no such file.

        Raises:
            StillframeError: It cannot be read.
        """
        ...


class SizedFiles(SystemFiles, Protocol):
    """The same, for whoever asks for sizes before he reads."""

    def file_size(self, path: str) -> int | None:
        """Bytes of a regular file; ``None`` when there is no such file.

        Raises:
            StillframeError: What leads there cannot be read.
        """
        ...
