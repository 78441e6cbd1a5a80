"""How time and memory grow with the disk: repositories of simulated disks from 1 GiB to 16 TiB.

Usage: python benchmarks/scale.py [--sizes 1G 16G 256G 1T 4T 16T] [--work FOLDER] [--only FIGURE...]

For each size a repository is made by the product's own code: block maps, index runs, manifests, packs with header,
trailer and footer. Only the contents of chunks are not there: their ids are noise, and their places in the packs are
holes, which nothing measured here reads. Chunks of 256 KiB, all of the disk in use, no chunk twice, so this is the
largest index that a disk of that size can have. Two images: the second is the first a day later, with a hundredth of
the leaves of its map new. 16 TiB take about 16 GB of FOLDER.

Every figure comes from a process of its own that opens the repository as the program does; ``RssAnon`` (memory that
only more memory can replace) and ``RssFile`` (mapped pages, which the system takes away when it needs room) are apart,
and both are the highest of samples twenty times a second, so they hold Python and its libraries too.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from stillframe.cli.main import main as stillframe
from stillframe.clock import rfc3339
from stillframe.events import NoEvents
from stillframe.repo.blockmap import FANOUT, UNUSED, Kind, MapBuilder, MapRoot, iter_spans
from stillframe.repo.check import check_repository
from stillframe.repo.expire_plan import plan_expire
from stillframe.repo.format import HEADER_SIZE, TAG_SIZE, Footer, ObjectType, build_payload, object_name
from stillframe.repo.keys import Cost
from stillframe.repo.map_difference import differing_bytes
from stillframe.repo.records import MachineName, Manifest, StoredDisk, StoredPartition, build_record, stored_map
from stillframe.repo.repository import CHUNK_SIZE, Repository, create_repository, open_repository
from stillframe.repo.rows import ROW, EntryKind, Ids, Rows, Table, build_table, ids_array, sort_rows
from stillframe.repo.sealing import make_id
from stillframe.repo.session import Owner, begin_session
from stillframe.repo.writing import ImageWriter, write_run
from stillframe.store import LocalStore
from stillframe.units import format_size, parse_size

SIZES: Final = ("1G", "16G", "256G", "1T", "4T", "16T")
SECRET: Final = "scale"  # noqa: S105 - guards nothing
CHEAP: Final = Cost(time_cost=1, memory_kib=8192, lanes=1)
OWNER: Final = Owner(
    machine=MachineName(id="11" * 16, name="scale"),
    boot_id="scale",
    process="1",
    is_alive=lambda _boot, _process: False,
)
PER_PACK: Final = 256
LEAVES_PER_RUN: Final = 960
DAY_SHARE: Final = 100
WORDS: Final = {
    "first_open_s": "first opening: the index is read, s",
    "open_s": "opening again: the index is mapped, s",
    "unchanged_s": "an unchanged backup, without reading and hashing, s",
    "empty_s": "a backup of an empty disk of that size, s",
    "difference_s": "where two images differ, s",
    "check_s": "check, s",
    "expire_s": "plan of an expiry, nothing to do, s",
    "forget_s": "plan of an expiry that lets the first image go, s",
    "first_open_bytes": "first opening: memory, MB",
    "open_bytes": "opening again: memory, MB",
    "unchanged_bytes": "unchanged backup: memory, MB",
    "empty_bytes": "empty disk: memory, MB",
    "difference_bytes": "where two images differ: memory, MB",
    "check_bytes": "check: memory, MB",
    "expire_bytes": "plan of an expiry: memory, MB",
    "forget_bytes": "plan that lets an image go: memory, MB",
    "open_mapped_bytes": "opening again: mapped, MB",
    "expire_mapped_bytes": "plan of an expiry: mapped, MB",
}


class Builder:
    """Makes one repository."""

    def __init__(self, folder: str, size: int) -> None:
        self._folder = folder
        self._count = size // CHUNK_SIZE
        self._rng = np.random.default_rng(self._count)
        self._repository = create_repository(LocalStore(f"{folder}/repo"), passphrase=SECRET, cost=CHEAP)
        self._session = begin_session(self._repository, OWNER, "backup")
        self._writer = ImageWriter(self._session, domain=bytes(16), level=None)
        self._lane = self._writer.lane()
        self._previous = ""

    def build(self) -> None:
        """Both images, and all that they stand on."""
        seeds = np.arange(-(-self._count // FANOUT))
        roots = [self._store_map(seeds)]
        later = seeds.copy()
        later[::DAY_SHARE] += len(seeds)  # every hundredth leaf is another one
        roots.append(self._store_map(later, known=len(seeds)))
        self._lane.close()
        self._writer.flush()
        for number, root in enumerate(roots, 1):
            self._write_image(root, number)
        self._session.end()

    def _store_map(self, seeds: np.ndarray, known: int = 0) -> MapRoot:
        builder = MapBuilder(self._count * CHUNK_SIZE, CHUNK_SIZE, self._store_node)
        fresh: list[Ids] = []
        for number, seed in enumerate(seeds.tolist()):
            count = min(FANOUT, self._count - number * FANOUT)
            ids = np.random.default_rng(seed).integers(0, 1 << 64, (count, 4), np.uint64)
            builder.add_leaf(np.full(count, Kind.DATA, np.uint8), ids.tobytes())
            if seed >= known:
                fresh.append(ids)
            if len(fresh) == LEAVES_PER_RUN:
                self._store_chunks(np.concatenate(fresh))
                fresh = []
        if fresh:
            self._store_chunks(np.concatenate(fresh))
        return builder.finish()

    def _store_node(self, raw: bytes) -> bytes:
        node_id = self._writer.namer.name(raw)
        if not self._writer.known([node_id])[0]:
            self._lane.add(node_id, raw, EntryKind.NODE)
        return node_id

    def _store_chunks(self, ids: Ids) -> None:
        rows = np.zeros(len(ids), ROW)
        rows["id"], rows["sealed"] = ids, CHUNK_SIZE + TAG_SIZE
        rows["plain"] = CHUNK_SIZE
        rows["offset"] = HEADER_SIZE + (np.arange(len(ids)) % PER_PACK) * (CHUNK_SIZE + TAG_SIZE)
        packs = [self._write_pack(rows[first : first + PER_PACK]) for first in range(0, len(rows), PER_PACK)]
        rows["pack"] = np.arange(len(rows)) // PER_PACK
        write_run(self._repository, make_id(), sort_rows(Table(tuple(packs), rows)))

    def _write_pack(self, rows: Rows) -> bytes:
        """A pack whose chunks are a hole, with all that says where they would be."""
        box, pack_id = self._repository.box, make_id()
        header = box.new_header(ObjectType.PACK, pack_id)
        head, offset = header.build(), int(rows["offset"][-1]) + CHUNK_SIZE + TAG_SIZE
        trailer = box.seal(header).close(build_payload(build_table(Table((pack_id,), rows))), offset=offset)
        footer = Footer.over(head, trailer, trailer_offset=offset, trailer_size=len(trailer))
        path = Path(self._folder, "repo", object_name(ObjectType.PACK, pack_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", buffering=0) as file:
            file.write(head)
            os.pwrite(file.fileno(), trailer + footer.build(), offset)
        return pack_id

    def _write_image(self, root: MapRoot, number: int) -> None:
        moment = rfc3339(self._repository.clock.now() + timedelta(days=number - 9))
        partition = StoredPartition(
            number=1, index=0, start=1 << 20, size=root.size, blocks=stored_map(root), consistency="offline", map="used"
        )
        disk = StoredDisk(
            number=1, path="/dev/sda", size=root.size + (2 << 20), sector_size=512, scheme="gpt",
            outside=stored_map(MapRoot(root.size + (2 << 20), UNUSED)), partitions=(partition,),
        )  # fmt: skip
        image = make_id()
        manifest = Manifest(
            image=image.hex(), program="0", created=moment, finished=moment, machine=OWNER.machine, name="scale",
            kind="full", sequence=number, previous=self._previous, domain="00" * 16, chunk_size=CHUNK_SIZE,
            session=self._session.id, bytes_total=root.size, bytes_used=root.size, bytes_read=root.size, bytes_added=0,
            disks=(disk,),
        )  # fmt: skip
        self._previous = self._repository.box.write(ObjectType.IMAGE, image, build_record(manifest)).hex()


def opened(folder: str) -> Repository:
    """As the program opens it."""
    return open_repository(LocalStore(f"{folder}/repo"), where=folder, secret=SECRET, cache_folder=f"{folder}/cache")


def measure_open(folder: str) -> None:
    """Open, and load the index."""
    index = opened(folder).load_index()
    assert index.contains(ids_array(bytes(32 * 1024))).sum() == 0


def measure_unchanged(folder: str) -> None:
    """What a backup does with the ids of chunks it has read: are they there? and the map, whose nodes are all there."""
    repository = opened(folder)
    manifest = repository.images().images[-1].manifest
    session = begin_session(repository, OWNER, "backup")
    writer = ImageWriter(session, domain=bytes(16), level=None)
    reader = repository.reader(writer.index)

    def store_node(raw: bytes) -> bytes:
        node_id = writer.namer.name(raw)
        assert writer.known([node_id])[0]
        return node_id

    stored = manifest.disks[0].partitions[0].blocks.root()
    builder = MapBuilder(stored.size, CHUNK_SIZE, store_node)
    for span in iter_spans(stored, CHUNK_SIZE, reader.read_node):
        assert span.leaf is not None
        assert writer.known([span.leaf.ids[at : at + 32] for at in range(0, len(span.leaf.ids), 32)]).all()
        builder.add_leaf(span.leaf.kinds, span.leaf.ids)
    assert builder.finish() == stored
    session.end()


def measure_difference(folder: str) -> None:
    """Compare the maps of the two images, as ``diff`` and what is made from an older image do."""
    repository = opened(folder)
    first, second = (image.manifest.disks[0].partitions[0].blocks.root() for image in repository.images().images)
    found = differing_bytes(first, second, repository.reader(repository.load_index()), chunk_size=CHUNK_SIZE)
    assert found.size >= first.size // DAY_SHARE - FANOUT * CHUNK_SIZE


def measure_check(folder: str) -> None:
    """The whole check, which opens every pack."""
    report = check_repository(opened(folder), events=NoEvents())
    assert report.ok, report.findings[:3]


def measure_expire(folder: str) -> None:
    """A plan when nothing is to go."""
    plan = plan_expire(opened(folder))
    assert plan.is_empty, plan


def measure_forget(folder: str) -> None:
    """A plan that lets the first image go."""
    repository = opened(folder)
    first = repository.images().images[0].manifest.image
    plan = plan_expire(repository, forget=[first])
    assert plan.forget
    assert plan.dead_packs or plan.repack


def measure_empty(folder: str) -> None:
    """The program's own backup of a disk file that is one hole, into a repository of its own."""
    place, size = f"{folder}/empty", json.loads(Path(folder, "size.json").read_text(encoding="utf-8"))
    if not os.path.exists(place):
        with open(f"{folder}/empty.raw", "wb") as file:
            file.truncate(min(size, (16 << 40) - (1 << 20)))  # the largest file of ext4 is a block short of 16 TiB
        assert stillframe(["init", place, "--encryption", "none", "--json"]) == 0
    assert stillframe(["backup", f"{folder}/empty.raw", "--repo", place, "--json", "--no-verify"]) == 0


MEASURED: Final[dict[str, Callable[[str], None]]] = {
    "open": measure_open, "unchanged": measure_unchanged, "difference": measure_difference, "check": measure_check,
    "expire": measure_expire, "forget": measure_forget, "empty": measure_empty,
}  # fmt: skip


@contextlib.contextmanager
def sampled(peaks: dict[str, int]) -> Iterator[None]:
    """The highest RssAnon and RssFile of this process while the block runs."""
    ended = threading.Event()

    def look() -> None:
        while True:
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                name, _, rest = line.partition(":")
                if name in ("RssAnon", "RssFile"):
                    peaks[name] = max(peaks.get(name, 0), int(rest.split()[0]) << 10)
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure_here(name: str, folder: str) -> dict[str, float]:
    """One figure, in this process."""
    peaks: dict[str, int] = {}
    began = time.perf_counter()
    with sampled(peaks), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        MEASURED[name](folder)
    seconds, busy = time.perf_counter() - began, time.process_time()
    return {
        f"{name}_s": seconds,
        f"{name}_cpu": busy,
        f"{name}_bytes": peaks["RssAnon"],
        f"{name}_mapped_bytes": peaks["RssFile"],
    }


def measure(name: str, folder: str, limit_s: float) -> dict[str, float]:
    """One figure, in a process of its own; empty when it takes too long."""
    command = [sys.executable, __file__, "--measure", name, "--work", folder]
    environment = {
        **os.environ,
        "STILLFRAME_STATE_DIR": f"{folder}/state",
        "STILLFRAME_CACHE_DIR": f"{folder}/cache-empty",
    }
    try:
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        print(f"  {name}: more than {limit_s:.0f} s, given up", flush=True)
        return {}
    except subprocess.CalledProcessError as error:
        print(f"  {name}: ended with {error.returncode}", flush=True)
        return {}
    found: dict[str, float] = json.loads(told.stdout)
    seconds, busy, size, mapped = (found[f"{name}_{word}"] for word in ("s", "cpu", "bytes", "mapped_bytes"))
    words = f"{seconds:.3g} s ({busy:.3g} s of a processor), {size / 1e6:.0f} MB, mapped {mapped / 1e6:.0f} MB"
    print(f"  {name}: {words}", flush=True)
    return found


def measure_size(text: str, folder: str, limit_s: float, names: Sequence[str]) -> dict[str, Any]:
    """All figures for one size."""
    size = parse_size(text)
    began = time.perf_counter()
    Path(folder, "size.json").write_text(str(size), encoding="utf-8")
    Builder(folder, size).build()
    row: dict[str, Any] = {"size": f"{text[:-1]} {text[-1]}iB", "chunks": size // CHUNK_SIZE}
    row["build_s"] = time.perf_counter() - began
    row["repository_bytes"] = sum(path.stat().st_blocks * 512 for path in Path(folder, "repo").rglob("*"))
    print(f"{row['size']}: made in {row['build_s']:.0f} s, {format_size(row['repository_bytes'])}", flush=True)
    first = measure("open", folder, limit_s)
    row |= {f"first_{name}": value for name, value in first.items()}
    for name in names:
        row |= measure(name, folder, limit_s)
    return row


def main() -> None:
    """Measure each size and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="SIZE")
    parser.add_argument("--work", default=None, help="a folder with room: 1 GB for each TiB")
    parser.add_argument("--json", default="docs/performance/scale.json")
    parser.add_argument("--limit-s", type=float, default=1800, help="give a figure up after so many seconds")
    parser.add_argument("--only", nargs="+", choices=list(MEASURED), default=list(MEASURED), metavar="FIGURE")
    parser.add_argument("--measure", choices=sorted(MEASURED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_here(options.measure, options.work)))
        return
    rows: list[dict[str, Any]] = []
    for text in options.sizes:
        folder = tempfile.mkdtemp(prefix="stillframe-scale-", dir=options.work)
        try:
            rows.append(measure_size(text, folder, options.limit_s, options.only))
        finally:
            shutil.rmtree(folder)
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps({"words": WORDS, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
