"""Wishes of a person for a restore: what each partition is to become, and which of them cannot be together.

Answers: "can all of this be meant?" Two wishes that contradict each other are refused by both of their names, before
anything is looked at. Pure.
"""

from collections.abc import Iterator

from stillframe.errors import UsageError
from stillframe.jobs.restoring.plan import RestoreOptions
from stillframe.repo.records import StoredDisk


def check_wishes(disk: StoredDisk, options: RestoreOptions) -> None:
    """Refuse wishes that contradict each other, or that are about partitions that are not there.

    Raises:
        UsageError: With both of them, or with the partition.
    """
    for first, second in _together(options):
        raise UsageError(f"'{first}' and '{second}' cannot be meant together", hint="Leave one of them out.")
    have = [part.number for part in disk.partitions]
    listed = ", ".join(map(str, have))
    for number in (*sorted(options.leave_out), *sorted(options.moves), *sorted(options.wishes), *options.added):
        if number not in have:
            raise UsageError(
                f"there is no partition {number}; there are {listed}",
                hint="'stillframe show IMAGE' or 'stillframe disks DISK' lists them.",
            )
    if options.leave_out:
        _check_left_out(disk, options.leave_out)
    if options.moves and disk.scheme == "none":
        raise UsageError("a disk without a partition table has nothing to move", hint="Restore it without '--move'.")


def _together(options: RestoreOptions) -> Iterator[tuple[str, str]]:
    """Pairs of options that contradict each other, as they were typed."""
    for number in sorted(options.leave_out):
        if number in options.wishes:
            yield f"--leave-out {number}", f"--resize {number}=..."
        if number in options.moves:
            yield f"--leave-out {number}", f"--move {number}=..."
        if number in options.added:
            yield f"--leave-out {number}", f"--partition {number}:new"
    if options.adapt:
        yield from (("--adapt", f"--partition {number}:new") for number in options.added)
    if options.partition is not None:
        only = f"--partition {options.partition}" + (f":{options.onto}" if options.onto is not None else "")
        others = [("--leave-out", options.leave_out), ("--move", options.moves), ("--resize", options.wishes)]
        yield from ((only, word) for word, wishes in others if wishes)
        yield from ((only, "--adapt"),) if options.adapt else ()
        yield from ((only, f"--partition {number}:new") for number in options.added)
    if options.convert is not None:
        what = f"--convert {options.convert.starts_by}"
        yield from ((what, f"--partition {options.partition}") for _ in range(options.partition is not None))
        yield from ((what, f"--partition {number}:new") for number in options.added)
        yield from ((what, f"--move {number}=...") for number in sorted(options.moves))
        asked = [("--adapt", options.adapt), ("--new-identity", options.new_identity)]
        yield from ((what, word) for word, is_asked in asked if is_asked)
    if options.added:
        strange = [("--move", options.moves), ("--resize", options.wishes)]
        for word, wishes in strange:
            yield from (
                (f"--partition {options.added[0]}:new", f"{word} {number}=...")
                for number in sorted(wishes)
                if number not in options.added
            )
        if options.leave_out:
            yield f"--partition {options.added[0]}:new", f"--leave-out {min(options.leave_out)}"


def _check_left_out(disk: StoredDisk, gone: frozenset[int]) -> None:
    if disk.scheme == "none":
        raise UsageError("a disk without a partition table has nothing to leave out", hint="Restore it as a whole.")
    stay = [part for part in disk.partitions if part.number not in gone]
    if not stay:
        raise UsageError("nothing is left when all partitions are left out", hint="Keep one of them.")
    lowest = min((part.number for part in disk.partitions if part.logical and part.number in gone), default=0)
    after = next((part.number for part in stay if part.logical and lowest and part.number > lowest), None)
    if after is not None:
        raise UsageError(
            f"without the logical partition {lowest}, partition {after} would become {after - 1}: numbers of logical "
            "partitions have no gaps",
            hint=f"Leave out those behind it too, or make it very small ('--resize {lowest}=...').",
        )
