"""A made-up computer for the rescue program: its disks, its backups, and jobs that only say what they would.

Answers: "what do the screens show?" without disks and without waiting. The numbers are always the same, so that the
pages of the guide can be compared with what the program draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from stillframe.errors import StillframeError, TargetError, WrongKey
from stillframe.host.stacked_places import ClosedVolume
from stillframe.host.volume_places import How
from stillframe.rescue.places.found import Found, FoundRepository, FoundVolume
from stillframe.rescue.places.opened import Places
from stillframe.rescue.verbs.calls import Doing, Ended, Progress
from stillframe.rescue.verbs.records import R
from stillframe.rescue.world import World

GB: Final = 1_000_000_000
SECRET: Final = "correct horse"  # noqa: S105 - of backups that do not exist
_WINDOWS: Final = {"number": 3, "size": 480 * GB, "filesystem": "ntfs", "label": "Windows", "system": "Windows 11",
                   "bytes_used": 181 * GB, "in_system_backup": True}  # fmt: skip
_EFI: Final = {"number": 1, "size": GB // 10, "filesystem": "vfat", "label": "SYSTEM", "bytes_used": GB // 30,
               "in_system_backup": True}  # fmt: skip
DISKS: Final = [
    {"path": "/dev/nvme0n1", "size": 512 * GB, "model": "Samsung SSD 980", "serial": "S649NX0R",
     "partitions": [_EFI, _WINDOWS]},
    {"path": "/dev/sda", "size": 1000 * GB, "model": "WDC WD10EZEX", "serial": "WCC6Y5"},
    {"path": "/dev/sdb", "size": 2000 * GB, "model": "WD Elements 2621", "serial": "WX32D7",
     "partitions": [{"number": 1, "size": 2000 * GB, "filesystem": "exfat", "label": "BACKUP"}]},
    {"path": "/dev/sdc", "size": 64 * GB, "model": "SanDisk Ultra", "serial": "4C5300", "removable": True},
]  # fmt: skip
VOLUME: Final = FoundVolume(
    device="/dev/sdb1", disk="/dev/sdb", partition=1, filesystem="exfat", label="BACKUP", size=2000 * GB,
    free=1431 * GB, writable=True, external=True,
)  # fmt: skip
REPOSITORY: Final = FoundRepository(
    id="4a6f1c09e2d84f7b9c35a1d06b7e8f20", folder="/run/stillframe/places/1/sdb1/stillframe",
    where="BACKUP (/dev/sdb1), folder stillframe", volume=VOLUME, images=2,
)  # fmt: skip
CLOSED: Final = (
    ClosedVolume(kind="luks", id="c0ffee", name="STICK", members=("/dev/sdb1",), disks=("/dev/sdb",), size=465 * GB),
    ClosedVolume(
        kind="raid",
        id="1:2:3:4",
        name="1 nas:0",
        members=("/dev/sda1",),
        disks=("/dev/sda",),
        size=1000 * GB,
        missing=1,
    ),
    ClosedVolume(kind="lvm", id="v", name="house/backups", members=("/dev/sde",), disks=("/dev/sde",), size=200 * GB),
)
IMAGES: Final = [
    {"id": "7b20d1e4" * 4, "created": "2026-11-20T18:04:11Z", "machine": "annas-laptop", "machine_id": "m1", "name": "",
     "bytes_used": 178 * GB, "proof": "good", "rung": "read-back"},
    {"id": "3fa9c2d1" * 4, "created": "2026-11-26T18:02:40Z", "machine": "annas-laptop", "machine_id": "m1", "name": "",
     "bytes_used": 181 * GB, "proof": "good", "rung": "booted", "boots": True, "proofs": [{"screenshot": True}]},
]  # fmt: skip
_PICTURE: Final = (
    "In the image, 512 GB:",
    "  [1][3 Windows 480 GB                    ].",
    "On the target, 1 TB:",
    "  [1][3 Windows 480 GB                    ].....................................",
)
_PLAN: Final = {
    "words": [
        "Restore image 3fa9c2d1 of annas-laptop, 2026-11-26T18:02:40Z (good), disk 1, 512 GB, to",
        "  /dev/sda (disk), 1 TB, model WDC WD10EZEX, serial number WCC6Y5", "",
        "What will be done:",
        "  1. clear the partition table that is there, so that a half-done disk is never taken for a whole one",
        "  2. write partition 1: vfat, 'SYSTEM', 33.3 MB of 100 MB",
        "  3. write partition 3: ntfs, 'Windows', 181 GB of 480 GB",
        "  4. write boot code and what lies between partitions",
        "  5. write the partition table, its second copy at the end of the target", "", *_PICTURE,
    ],
    "bytes_to_read": 181 * GB, "bytes_expected": 6 * GB, "seconds_expected": 1500.0, "free_space": 1431 * GB,
}  # fmt: skip


_REPAIRED: Final = "partition 1: Windows' boot files for UEFI (71), and a new boot configuration"
_REPAIR: Final[dict[str, Any]] = {
    "words": [
        "Repair how this disk starts:", "  /dev/nvme0n1 (disk), 512 GB, model Samsung SSD 980, serial number S649NX0R",
        "", "Systems on it:", "  Windows 11 (partition 3): no whole way leads to it",
        "", "How it starts now:", "  no way was found",
        "", "What is broken:", "  1. by UEFI: nothing is there that starts a system",
        "", "What was repaired on a copy, and will be written:", f"  1. {_REPAIRED}",
        "  partition 1 (vfat): 34 MB in 80 places",
    ],
    "bytes_to_write": 34_000_000, "changes": [_REPAIRED],
}  # fmt: skip
HEALTH: Final[dict[str, Any]] = {
    "path": "/dev/sda", "size": 512 * GB, "model": "Old Disk", "condition": "failing",
    "verdict": "This disk reports 12 sectors it could not read: save what is on it now, then replace it.",
    "measures": [{"name": "sectors that could not be read", "value": 12, "means": "bad"}],
}  # fmt: skip


class MadeUpPlaces(Places):
    """Places that were found already."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self._found = found

    def search(self, say: Callable[[str], None] = lambda _: None, *, check: Callable[[], None] = lambda: None) -> Found:
        """What is there."""
        check()
        say("/dev/sdb1 BACKUP")
        return self._found

    def reopen(self, repository: FoundRepository, *, read_write: bool, secret: str = "") -> FoundRepository:
        """It is open."""
        del read_write, secret
        return repository

    def open_volume(self, volume: FoundVolume, how: How) -> str:
        """Where it would be."""
        del how
        return f"/run/stillframe/places/1/{volume.device.removeprefix('/dev/')}"

    def close_all(self, *, but: str = "") -> None:
        """Nothing is open."""


@dataclass(slots=True)
class MadeUpJobs:
    """Jobs that say what was made up, and note what they were asked for.

    Attributes:
        asked: The commands.
        wait: Called while a restore, a backup or a clone is at work.
        fails: What a verb raises instead.
        nothing_broken: A boot repair finds nothing to do.
    """

    asked: list[tuple[str, ...]] = field(default_factory=list)
    wait: Callable[[], None] = lambda: None
    fails: dict[str, StillframeError] = field(default_factory=dict)
    nothing_broken: bool = False

    def __call__(self, words: Sequence[str], kind: type[R], doing: Doing, *, secret: str | None = None) -> Ended[R]:
        """As ``call_job``."""
        self.asked.append(tuple(words))
        verb = words[0]
        if verb in ("images", "show", "restore", "backup", "ls", "get") and secret != SECRET:
            raise WrongKey("no key slot opens with this passphrase", hint="Try again, or use the printed recovery key.")
        if verb in self.fails and "--dry-run" not in words:
            raise self.fails[verb]
        if verb in ("restore", "clone") and "/dev/sdc" in words and "--fit" not in words:
            raise TargetError("the partitions need 512 GB, the target has 64 GB", hint="Choose a larger disk.")
        if verb in ("restore", "clone", "backup") and "--dry-run" not in words:
            doing.show(Progress(phase="partition 3", done=54 * GB, total=181 * GB, seconds=308.0))
            self.wait()
        if verb == "boot-repair" and self.nothing_broken:
            return Ended(result=msgspec.convert({"words": ["Nothing is broken, as far as its bytes say."]}, kind))
        return Ended(result=msgspec.convert(_said(words), kind))


def _said(words: Sequence[str]) -> dict[str, Any]:
    """The result of a verb."""
    if "--dry-run" in words:
        return _REPAIR if words[0] == "boot-repair" else _PLAN
    said: dict[str, dict[str, Any]] = {
        "disks": {"disks": DISKS},
        "images": {"images": IMAGES},
        "show": {"disks": [DISKS[0] | {"number": 1}]},
        "restore": {"target": words[2] if len(words) > 2 else "", "bytes_written": 181 * GB, "seconds": 1032.0},
        "clone": {"target": "/dev/sda", "bytes_written": 181 * GB, "seconds": 1032.0},
        "backup": {"image": "91c4aa02" * 4, "bytes_read": 181 * GB, "bytes_added": 6 * GB, "seconds": 1320.0,
                   "read_back": {"ok": True}},
        "verify": {"ok": True},
        "health": {"disks": [HEALTH]},
        "boot-repair": {
            "disk": words[1] if len(words) > 1 else "", "bytes_written": 34_000_000, "seconds": 2.0,
            "changes": [_REPAIRED], "undo_file": words[-1],
        },
    }  # fmt: skip
    return said[words[0]]


def make_world(jobs: MadeUpJobs, *, has_backups: bool = True, closed: Sequence[ClosedVolume] = ()) -> World:
    """The made-up computer, started from the rescue medium."""
    found = Found(volumes=(VOLUME,), repositories=(REPOSITORY,) if has_backups else (), closed=tuple(closed))
    return World(places=MadeUpPlaces(found), medium="/dev/sdd", run=jobs)
