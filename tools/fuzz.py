#!/usr/bin/env python3
"""Feeds damaged samples to every ``fuzz_*(data: bytes)`` function of ``tests/property`` for some time.

Answers: "does some disk make a parser fail otherwise than with an error of ours, or not end?" Samples are small disks,
volumes and disk files that other tools make, random bytes, and the beginnings of samples; each is changed in a few
places. What fails is kept in ``fuzz-found/``. It does not measure coverage.
"""

import argparse
import importlib.util
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
FOUND = ROOT / "fuzz-found"
LIMIT_S = 20
MIB = 1 << 20
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
TABLES = {
    "gpt": "label: gpt\nstart=64, size=512\nstart=1024, size=512\n",
    "mbr": "label: dos\nstart=64, size=512, type=7\nstart=1024, size=2048, type=5\nstart=1100, size=64\n",
}
VOLUMES = {
    "ext4": (2 * MIB, ["mkfs.ext4", "-q", "-F"]),
    "ntfs": (2 * MIB, ["mkfs.ntfs", "-F", "-Q", "-q"]),
    "fat12": (MIB, ["mkfs.fat", "-F", "12"]),
    "fat16": (5 * MIB, ["mkfs.fat", "-F", "16", "-s", "1"]),
    "exfat": (MIB, ["mkfs.exfat", "-b", "65536"]),
    "swap": (MIB, ["mkswap", "-q"]),
}

DISK_FILES = ("qcow2", "qcow2 -c", "vpc", "vhdx", "vmdk", "vmdk -o subformat=streamOptimized", "vdi")
DISK_FILE_MAX = 9 * MIB

Target = Callable[[bytes], None]


def load_targets(only: str) -> dict[str, Target]:
    """Every ``fuzz_*`` function by name."""
    found: dict[str, Target] = {}
    for path in sorted((ROOT / "tests" / "property").glob("test_*.py")):
        if "def fuzz_" not in path.read_text():
            continue
        spec = importlib.util.spec_from_file_location(f"fuzzed_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        found |= {f"{path.stem}.{name}": getattr(module, name) for name in vars(module) if name.startswith("fuzz_")}
    return {name: target for name, target in found.items() if only in name}


def make_samples() -> list[bytes]:
    """Small disks and volumes as other tools make them, and disk files of other programs."""
    samples = [b""]
    with tempfile.TemporaryDirectory(prefix="stillframe-fuzz-") as folder:
        for name, script in TABLES.items():
            path = sparse(Path(folder) / name, 2 * MIB)
            run_tool(["sfdisk", "--quiet"], path, given=script)
            samples.append(path.read_bytes())
        for name, (size, command) in VOLUMES.items():
            path = sparse(Path(folder) / name, size)
            run_tool(command, path)
            samples.append(path.read_bytes())
        for form in DISK_FILES:
            kind, *options = form.split()
            made = Path(folder) / "made"
            run_tool(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, str(Path(folder) / "swap")], made)
            samples.append(made.read_bytes()[:DISK_FILE_MAX])
    return samples


def run_tool(command: list[str], path: Path, *, given: str = "") -> None:
    """Run a tool that must succeed on a file."""
    subprocess.run([*command, path], input=given.encode(), check=True, capture_output=True)  # noqa: S603


def sparse(path: Path, size: int) -> Path:
    """An empty file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def iter_mutants(samples: list[bytes], source: random.Random) -> Iterator[bytes]:
    """Samples with a few places changed, mostly near the beginning or where bytes are; without end."""
    while True:
        choice = source.randrange(8)
        if choice == 0:
            yield source.randbytes(source.choice((1, 64, 512, 4096)))
            continue
        data = bytearray(source.choice(samples))
        if choice == 1 and data:
            del data[source.randrange(len(data)) :]
        for _ in range(source.randrange(1, 12) if data else 0):
            limit = min(len(data), source.choice((512, 4096, 1 << 16, len(data))))
            place = source.randrange(limit)
            width = source.choice((1, 2, 4, 8))
            value = source.choice((source.choice(EDGES), source.getrandbits(8 * width)))
            data[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, "little")[: len(data) - place]
        yield bytes(data)


def too_long(_number: int, _frame: FrameType | None) -> None:
    """Turn a hang into a failure."""
    raise TimeoutError(f"it did not end within {LIMIT_S} seconds")


def fuzz(targets: dict[str, Target], *, seconds: float, seed: int) -> int:
    """Feed all targets in turn until the time is over; the number of failures, of each target the first only."""
    samples, source = make_samples(), random.Random(seed)  # noqa: S311
    signal.signal(signal.SIGALRM, too_long)
    deadline, count, failed = time.monotonic() + seconds, 0, set[str]()
    for data in iter_mutants(samples, source):
        for name in targets.keys() - failed:
            signal.alarm(LIMIT_S)
            try:
                targets[name](data)
            except Exception:  # noqa: BLE001 - whatever arises is what we look for
                failed.add(name)
                FOUND.mkdir(exist_ok=True)
                (FOUND / f"{name}-{seed}.bin").write_bytes(data)
                print(f"FOUND by {name}, kept in {FOUND / name}-{seed}.bin\n{traceback.format_exc()}")
            finally:
                signal.alarm(0)
            count += 1
        if time.monotonic() > deadline or len(failed) == len(targets):
            break
    print(f"{len(targets)} functions, {count} calls, seed {seed}: {len(failed)} failed")
    return len(failed)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000, help="repeats a run")
    parser.add_argument("--only", default="", help="functions whose name contains this")
    options = parser.parse_args()
    targets = load_targets(options.only)
    if not targets:
        raise SystemExit("there is no such function")
    return 1 if fuzz(targets, seconds=options.seconds, seed=options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
