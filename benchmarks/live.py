"""Time the tracked freeze on a busy file system: how long it is frozen, and how much slower the writer gets.

Usage (as root): live.py DIR [--runs N] [--filesystem ext4|xfs|btrfs] [--rate MB]

Makes a volume of 3 GiB in DIR on a loop device, with 1 GiB of files, and lets fio write to it at a given rate: first
alone, then while ``stillframe backup`` runs. Prints one line for each run, and the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}


def run(*command: str) -> str:
    """Run a program and return what it says."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def fio(folder: str, rate: int, seconds: int) -> list[str]:
    """The writer: random writes of 4 to 256 KiB, buffered, with a sync now and then."""
    return [
        "fio", "--name=w", f"--directory={folder}", "--size=600M", "--rw=randwrite", "--bsrange=4k-256k", "--fsync=200",
        f"--rate={rate}m", "--time_based", f"--runtime={seconds}", "--output-format=json",
    ]  # fmt: skip


def written(report: str) -> dict[str, float]:
    """MB a second, and the longest that one write took, in seconds."""
    job: dict[str, Any] = json.loads(report[report.index("{") :])["jobs"][0]["write"]
    return {"rate": job["bw_bytes"] / 1e6, "longest": job["clat_ns"]["max"] / 1e9}


def main() -> None:
    """Run the series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--filesystem", choices=MAKE, default="ext4")
    parser.add_argument("--rate", type=int, default=200)
    options = parser.parse_args()
    folder = Path(options.folder)
    image, mount, repository = folder / "live.img", folder / "live-mount", folder / "live-repository"
    mount.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(3 << 30)
    os.environ["STILLFRAME_PASSWORD"] = "bench"  # noqa: S105 - protects a repository that is deleted at once
    run(*MAKE[options.filesystem], str(image))
    device = run("losetup", "--find", "--show", str(image)).strip()
    run("mount", device, str(mount))
    held, alone, beside, longest = [], [], [], []
    try:
        for number in range(64):
            (mount / f"file{number}").write_bytes(os.urandom(16 << 20))
        for number in range(options.runs):
            before = written(run(*fio(str(mount), options.rate, 8)))
            writer = subprocess.Popen(fio(str(mount), options.rate, 8), stdout=subprocess.PIPE, text=True)
            run("rm", "-rf", str(repository))
            run(sys.executable, "-m", "stillframe", "init", str(repository))
            result = run(sys.executable, "-m", "stillframe", "backup", device, "--no-verify", "--json", "--repo",
                         str(repository)).splitlines()[-1]  # fmt: skip
            during = written(writer.communicate()[0])
            cost = json.loads(result)["held"]
            seconds, again = cost["seconds"], cost["bytes_again"] // 1_000_000
            held.append(seconds)
            alone.append(before["rate"])
            beside.append(during["rate"])
            longest.append(during["longest"])
            print(f"{number + 1}: frozen {seconds:.2f} s; writer {before['rate']:.0f} -> {during['rate']:.0f} MB/s, "
                  f"longest write {during['longest']:.2f} s; {again} MB read again")  # fmt: skip
    finally:
        run("umount", str(mount))
        run("losetup", "--detach", device)
        run("rm", "-rf", str(image), str(mount), str(repository))
    print(f"{options.filesystem}: frozen {statistics.median(held):.2f} s (median), {max(held):.2f} s (longest); writer "
          f"{statistics.median(alone):.0f} -> {statistics.median(beside):.0f} MB/s; longest write "
          f"{statistics.median(longest):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
