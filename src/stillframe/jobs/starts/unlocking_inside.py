"""The keys of encrypted volumes on a disk that is about to be written: for what is changed on it afterwards.

Answers: "which passphrase opens which encrypted volume of this image, or of this disk?" Also of those that lie in LVM
or RAID. Passphrases come from files or from the person, as for a backup (``unlocking``); keys stay in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NoReturn

from stillframe.block import BlockReader
from stillframe.block.base import Buffer, WrappedReader
from stillframe.capture.unlocking import VolumeKey
from stillframe.disk import Layout
from stillframe.errors import UsageError, WrongKey
from stillframe.extents import Extent
from stillframe.jobs.exposing import expose
from stillframe.jobs.restoring.plan import RestorePlan, outside_reader, stored_layout
from stillframe.jobs.saving.unlocking import Unlocking, ask_until_it_opens, read_secrets
from stillframe.jobs.starts.volume_stack import LuksLayer, open_stack
from stillframe.repo.repository import Repository

Look = Callable[[Sequence[VolumeKey]], Sequence[LuksLayer]]
"""The encrypted volumes that these keys leave locked."""


def unlock_image(repository: Repository, plan: RestorePlan, wanted: Unlocking) -> tuple[VolumeKey, ...]:
    """Find the keys of what will be written; arguments and errors as ``unlock_disk``."""
    if not wanted.is_wanted:
        return ()
    disk = expose(repository, plan.manifest).disk(plan.source_disk.number)
    layout = stored_layout(disk.stored, outside_reader(repository, plan.manifest, disk.stored))
    kept = [part.number for part in plan.source_disk.partitions]
    return unlock_disk(disk.reader, layout, kept, wanted)


def unlock_disk(
    disk: BlockReader, layout: Layout, numbers: Sequence[int] | None, wanted: Unlocking
) -> tuple[VolumeKey, ...]:
    """Find the keys of the encrypted volumes on a disk.

    Args:
        disk: The disk; it is only read.
        layout: Its partitions.
        numbers: Which of them are looked into; ``None`` for all.
        wanted: What the person asked for.

    Raises:
        UsageError: There is nothing that could be unlocked, a file cannot be read, or there is nobody to ask.
        WrongKey: A passphrase opens none of them. Nothing was written.
        MachineRefusal: A key slot asks for more memory than this machine has.
    """
    if not wanted.is_wanted:
        return ()
    wanted.require_person()
    view = _Unwritten(disk)

    def look(keys: Sequence[VolumeKey]) -> Sequence[LuksLayer]:
        return open_stack(view, layout, numbers, keys).locked

    if not look(()):
        raise UsageError(
            "no encrypted volume is there that could be unlocked: '--unlock' opens LUKS", hint="Leave it out."
        )
    keys = list[VolumeKey]()
    for path in wanted.files:
        if not _try_all(look, tuple(read_secrets(path)), keys):
            raise WrongKey(
                f"what is in {path} opens no key slot of {', nor of '.join(one.word for one in look(keys))}",
                hint="Is it the passphrase of another disk? Nothing was written.",
            )
    if wanted.asks and wanted.ask is not None:
        _ask_for_all(look, keys, wanted.ask)
    return tuple(keys)


def _try_all(look: Look, secrets: Iterable[bytes], keys: list[VolumeKey]) -> bool:
    """Whether these secrets open something; what one of them uncovers is tried too."""
    found, candidates = False, tuple(secrets)
    while True:
        new = [key for lock in look(keys) for secret in candidates if (key := lock.opens(secret)) is not None]
        if not new:
            return found
        keys += new
        found = True


def _ask_for_all(look: Look, keys: list[VolumeKey], ask: Callable[[str], str]) -> None:
    """Ask for every volume that is not open; what was typed for one is tried for all.

    Raises:
        WrongKey: What was typed did not open one, three times.
    """
    passed = set[str]()
    while (lock := next((one for one in look(keys) if one.word not in passed), None)) is not None:
        refusal = WrongKey(
            f"the passphrase opens no key slot of {lock.word}",
            hint="Nothing was written. Without '--unlock' what is in it comes back as it was.",
        )
        question = f"Passphrase of {lock.word}, or Enter alone to leave what is in it as it is: "
        secret = ask_until_it_opens(ask, lock.word, question, partial(_opens, lock, keys), refusal)
        if secret:
            _try_all(look, (secret,), keys)
        else:
            passed.add(lock.word)


def _opens(lock: LuksLayer, keys: list[VolumeKey], secret: bytes) -> bool:
    """Whether a passphrase opens a volume, whose key is noted."""
    key = lock.opens(secret)
    keys += [key] if key is not None else []
    return key is not None


class _Unwritten(WrappedReader):
    """A reader where a writer is wanted that nobody writes to."""

    def write_at(self, offset: int, data: bytes | Buffer) -> None:  # noqa: ARG002 - the names are the seam's
        """Never called."""
        _never()

    def zero(self, extent: Extent) -> None:  # noqa: ARG002
        """Never called."""
        _never()

    def flush(self) -> None:
        """Nothing was written."""


def _never() -> NoReturn:
    raise ValueError("a disk that is only looked at was written to")
