"""Whose image an imported one is, and how another kind of source comes in."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.capture.foreign import Importable, ImportOptions, find_importable
from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.extents import Extent
from stillframe.jobs.backup import BackupOptions
from stillframe.jobs.importing import apply_import, imported_machine, plan_import
from stillframe.store import MemoryStore
from stillframe.testing.disk_builder import fill_with_noise
from stillframe.testing.job_runs import job_context, make_repository, memory_source
from stillframe.testing.repositories import make_owner

MADE = datetime(2019, 5, 4, 3, 2, 1, tzinfo=UTC)


def found_at(path: str, machine_name: str = "") -> Importable:
    """Two disks of another program."""
    disks = [MemoryDisk(bytes(1 << 20)) for _ in range(2)]
    for number, disk in enumerate(disks):
        fill_with_noise(disk, Extent(0, 1 << 18), seed=number)
    sources = tuple(memory_source(disk, path=f"{path}/{number}") for number, disk in enumerate(disks))
    return Importable(
        path=path, format_name="Other", sources=sources, machine_name=machine_name, made=MADE,
        notices=(Notice(code="other", message="one more thing"),),
    )  # fmt: skip


def test_a_machine_is_known_by_where_it_lies_and_what_it_is_called() -> None:
    owner = make_owner()
    other = replace(owner, machine=replace(owner.machine, id="7" * 32))
    ids = [
        imported_machine(found, who).id
        for who in (owner, other)
        for found in (found_at("/a/x"), found_at("/b/x"), found_at("/a/x", "PC1"))
    ]
    assert len(set(ids)) == 6
    assert owner.machine.id not in ids
    assert imported_machine(found_at("/a/x"), owner).id == ids[0]
    assert imported_machine(found_at("/a/x/"), owner).name == "x (imported)"
    assert imported_machine(found_at("/a/x", "PC1"), owner).name == "PC1 (imported)"
    assert len(imported_machine(found_at("/a/" + "n" * 255), owner).name) <= 200


def test_every_disk_of_what_was_found_is_in_the_image_and_so_are_its_facts() -> None:
    repository, found, owner = make_repository(MemoryStore()), found_at("/a/x", "PC1"), make_owner()
    plan = plan_import(repository, found, BackupOptions(), owner)
    manifest = apply_import(repository, found, plan, job_context(owner)).manifest
    (stored,) = repository.images().images
    assert stored.manifest == manifest
    assert [disk.path for disk in manifest.disks] == ["/a/x/0", "/a/x/1"]
    assert manifest.machine == imported_machine(found, owner)
    assert manifest.imported is not None
    assert (manifest.imported.format, manifest.imported.path) == ("Other", "/a/x")
    assert manifest.imported.made == "2019-05-04T03:02:01Z"
    assert "one more thing" in [notice.message for notice in manifest.notices]
    again = apply_import(repository, found, plan_import(repository, found, BackupOptions(), owner), job_context(owner))
    assert (again.manifest.kind, again.manifest.sequence) == ("incremental", 2)


def test_the_first_finder_that_knows_it_opens_it(tmp_path: Path) -> None:
    wanted, asked = found_at("/a/x"), list[str]()

    def not_mine(path: str, _: ImportOptions) -> Importable | None:
        asked.append(path)
        return None

    def mine(_path: str, _: ImportOptions) -> Importable | None:
        return wanted

    assert find_importable("/a/x", ImportOptions(), finders=(not_mine, mine)) is wanted
    assert asked == ["/a/x"]
    with pytest.raises(UsageError, match="nothing that can be imported"):
        find_importable(str(tmp_path), ImportOptions(), finders=(not_mine,))
