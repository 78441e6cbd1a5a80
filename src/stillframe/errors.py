"""Every error Stillframe raises on purpose, in one tree. Families say who must act.

::

    StillframeError
    |- UsageError              2    the person: the command or a setting is wrong
    |- RepositoryError
    |  |- RepositoryNotFound  10    the person: another path, or plug the disk in
    |  |- Locked              11    the person: wait, another run is at work
    |  |- WrongKey            12    the person: another passphrase
    |  |  `- PutOnly          12    somebody with the passphrase: a put key reads nothing
    |  |- UnsupportedFormat   13    the person: a newer Stillframe
    |  `- DamagedError        14    the repository: check, then repair
    |- MachineRefusal         20    this machine: a privilege, a program or a feature is missing
    |  |- SourceInUse         20    the source is mounted read-write
    |  |- Disturbed           20    a source in use could not be held still
    |  |  |- ThawedEarly      20    somebody else thawed it
    |  |  `- Unseen           20    it is not proven that every write was seen
    |  |- HookFailed          20    a program of the person's failed before the freeze
    |  |- LoginRefused        20    another computer refuses a name and its password
    |  |- Retired             20    the machine was retired from the repository
    |  `- MissingProgram      20    a program must be installed
    |- DiskFormatError        21    the bytes on a disk are not what the format says
    |- TargetError            22    the target is wrong, mounted or too small
    |- DeviceError            23    a device failed
    |- StorageError           30    the repository's storage failed
    |  `- StorageFull         30    or has no room
    `- Cancelled             130    the person pressed Ctrl-C

An error names the thing, the place, what was expected, what was found (``message``), and the next step (``hint``).
Exit codes 0 (success), 1 (our own bug) and 3 (finished with something skipped) are not errors of this tree.
``docs/errors.md`` is compared with these classes by a test.
"""

from typing import ClassVar


class StillframeError(Exception):
    """The root. Never raised itself."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(StillframeError):
    """The command or a setting cannot be carried out as written."""

    code = "usage"
    exit_code = 2


class RepositoryError(StillframeError):
    """Something about the repository. Never raised itself."""


class RepositoryNotFound(RepositoryError):
    """There is no repository, or no such image, where one was expected."""

    code = "not-found"
    exit_code = 10


class Locked(RepositoryError):
    """Another run is at work there."""

    code = "locked"
    exit_code = 11


class WrongKey(RepositoryError):
    """No key slot opens with what was given."""

    code = "wrong-key"
    exit_code = 12


class PutOnly(WrongKey):
    """A put key adds images and reads none, or this one may add no more."""

    code = "put-only"


class UnsupportedFormat(RepositoryError):
    """The repository needs a feature or a version that this program does not know."""

    code = "unsupported-format"
    exit_code = 13


class DamagedError(RepositoryError):
    """Stored bytes are missing or are not what was written."""

    code = "damaged"
    exit_code = 14


class MachineRefusal(StillframeError):
    """This machine cannot or will not do that."""

    code = "refused"
    exit_code = 20


class SourceInUse(MachineRefusal):
    """The source is mounted read-write, so its bytes change while they are read."""

    code = "source-in-use"


class Disturbed(MachineRefusal):
    """A source in use was written while it was held still, or not every write was seen."""

    code = "disturbed"


class ThawedEarly(Disturbed):
    """A file system did not stay frozen: another program thawed it, or the watchdog did."""

    code = "thawed-early"


class Unseen(Disturbed):
    """It is not proven that every write to a source in use was seen, also when all of it was read once more."""

    code = "writes-unseen"


class HookFailed(MachineRefusal):
    """A program that was to run before the sources are held still failed, or did not end in time."""

    code = "hook-failed"


class LoginRefused(MachineRefusal):
    """Another computer does not let that name in with that password, or not into that share."""

    code = "login-refused"


class Retired(MachineRefusal):
    """This machine was retired from the repository."""

    code = "machine-retired"


class MissingProgram(MachineRefusal):
    """A program that is needed is not installed."""

    code = "missing-program"


class DiskFormatError(StillframeError):
    """Bytes on a disk break the rules of their own format."""

    code = "disk-format"
    exit_code = 21


class TargetError(StillframeError):
    """The target is the wrong one, is in use, is too small, or has changed since it was shown."""

    code = "target"
    exit_code = 22


class DeviceError(StillframeError):
    """A disk failed to read or to write."""

    code = "device"
    exit_code = 23


class StorageError(StillframeError):
    """The place where the repository lies failed."""

    code = "storage"
    exit_code = 30


class StorageFull(StorageError):
    """The place where the repository lies has no room."""

    code = "storage-full"


class Cancelled(StillframeError):
    """The person stopped the run."""

    code = "cancelled"
    exit_code = 130
