"""Rewriting index runs: without packs that go, and fewer of them.

Answers: "how does the index come to say less?" New runs are durable before old ones are deleted, so that whoever reads
meanwhile finds every row at least once (``docs/format/v1.md``, section 13). It decides nothing: ``expire`` and
``repair`` do.
"""

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.repo.format import ObjectType
from stillframe.repo.objects import TornObject
from stillframe.repo.repository import Repository
from stillframe.repo.rows import Table
from stillframe.repo.sealing import make_id
from stillframe.repo.writing import join_tables, table_groups, write_run
from stillframe.store import ObjectMissing

_SMALL_ROWS: Final = 100_000
_SMALL_RUNS_MAX: Final = 8
"""More small runs than this are merged when the index is rewritten anyway."""


def drop_packs(repository: Repository, dead: Collection[bytes]) -> int:
    """Rewrite every index run that names one of these packs, and merge small runs on the way.

    Returns:
        Number of old runs that are gone.

    Torn runs are passed over. A damaged one stops it before anything is changed: its rows would be lost.

    Raises:
        DamagedError: A run is damaged.
    """
    dead = frozenset(dead)
    if not dead:
        return 0
    touched: list[bytes] = []
    small: list[bytes] = []
    for run_id in sorted(repository.box.ids(ObjectType.INDEX)):
        try:
            table = repository.read_run_strictly(run_id)
        except (TornObject, ObjectMissing):
            continue
        if not dead.isdisjoint(table.packs):
            touched.append(run_id)
        elif len(table.rows) < _SMALL_ROWS:
            small.append(run_id)
    if touched and len(small) > _SMALL_RUNS_MAX:
        touched += small
    write_tables(repository, (without_packs(repository.read_run_strictly(run_id), dead) for run_id in touched))
    for run_id in touched:
        repository.box.delete(ObjectType.INDEX, run_id)
    return len(touched)


def write_tables(repository: Repository, tables: Iterable[Table]) -> list[bytes]:
    """Write tables as few index runs; empty ones leave no trace. Durable on return; returns the ids of the runs."""
    written = []
    for group in table_groups(table for table in tables if table.packs):
        run_id = make_id()
        write_run(repository, run_id, join_tables(group))
        written.append(run_id)
    return written


def without_packs(table: Table, dead: Collection[bytes]) -> Table:
    """The same table without these packs and their rows."""
    living = np.array([pack not in dead for pack in table.packs], bool)
    packs = tuple(pack for pack, lives in zip(table.packs, living.tolist(), strict=True) if lives)
    kept = table.take(living[table.rows["pack"]])
    numbers = np.cumsum(living, dtype=np.uint32) - np.uint32(1)
    rows = kept.rows.copy()
    rows["pack"] = numbers[rows["pack"]]
    return Table.of(packs, rows, kept.bases)


def keep_rows(table: Table, kept: NDArray[np.bool_]) -> Table:
    """The same table with some of its rows. A pack that loses all stays named: somebody decided so."""
    return table.take(kept)
