"""What LVM and the kernel say of logical volumes, as records.

Answers: "which volumes are there, which of them are ours, and how full is this snapshot or pool?" Pure functions of
text.

Source: lvs(8), lvmreport(7) (fields, ``--reportformat json``), lvm(8) (names and tags); LVM2
lib/activate/dev_manager.c, build_dm_uuid; Linux Documentation/admin-guide/device-mapper/snapshot.rst and
thin-provisioning.rst (status lines).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.blocks import BlockNode
from stillframe.host.linux import DeviceNumber
from stillframe.host.machine import ProcessIdentity

COLUMNS: Final = (
    "lv_uuid", "lv_name", "vg_uuid", "vg_name", "lv_size", "lv_layout", "lv_role", "origin", "pool_lv", "lv_tags",
    "data_percent", "metadata_percent", "lv_kernel_major", "lv_kernel_minor", "lv_merging", "vg_free",
    "vg_extent_size", "vg_shared", "vg_clustered",
)  # fmt: skip
"""What is asked of ``lvs``."""
TAG: Final = "stillframe"
"""What every snapshot of ours is tagged with."""
_OWNER: Final = re.compile(r"stillframe-owner=(?P<boot>[0-9a-f]{32})\.(?P<pid>\d{1,10})\.(?P<start>\d{1,20})")
_NAME: Final = re.compile(r"stillframe-[0-9a-f]{8}")
_MAPPED: Final = "LVM-"
_HINT: Final = "Is LVM newer than this program? 'lvs' shows what there is."


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """One logical volume.

    Attributes:
        uuid: Its own, without dashes.
        name: In its group.
        group: Name of the volume group.
        group_uuid: The group's, without dashes.
        size: Bytes; of a classic snapshot the room for what changes.
        layout: What it is made of: ``linear``, ``striped``, ``thin``, ``pool``, ...
        role: What it is for: ``public``, ``origin``, ``snapshot``, ``thicksnapshot``, ...
        origin: Name of the volume that it is a snapshot of, else empty.
        pool: Name of its thin pool, else empty.
        tags: As somebody has set them.
        data_percent: How full a snapshot or a pool is; ``None`` where LVM does not say.
        metadata_percent: The same of a pool's metadata.
        number: The device; ``None`` while it is not active.
        is_merging: A snapshot is being merged into it.
        group_free: Bytes of the group that no volume has.
        extent_size: Bytes in which the group hands out room.
        is_shared: Other machines use the group too.
    """

    uuid: str
    name: str
    group: str
    group_uuid: str
    size: int
    layout: frozenset[str]
    role: frozenset[str]
    origin: str
    pool: str
    tags: frozenset[str]
    data_percent: float | None
    metadata_percent: float | None
    number: DeviceNumber | None
    is_merging: bool
    group_free: int
    extent_size: int
    is_shared: bool

    @property
    def full_name(self) -> str:
        """As LVM's commands take it."""
        return f"{self.group}/{self.name}"

    @property
    def mapped_uuid(self) -> str:
        """What the kernel's device is known by."""
        return f"{_MAPPED}{self.group_uuid}{self.uuid}"

    @property
    def owner(self) -> ProcessIdentity | None:
        """The process that made this snapshot; ``None`` unless name, both tags and role say that it is one of ours."""
        owners = [match for match in map(_OWNER.fullmatch, self.tags) if match is not None]
        ours = _NAME.fullmatch(self.name) is not None and TAG in self.tags and "snapshot" in self.role
        if not ours or len(owners) != 1:
            return None
        return ProcessIdentity(
            boot_id=owners[0]["boot"], pid=int(owners[0]["pid"]), start_time=int(owners[0]["start"])
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How full a snapshot or a thin pool is. ``fault`` is empty while it is good; it never becomes good again."""

    percent: float
    fault: str = ""


def is_logical_volume(node: BlockNode) -> bool:
    """Whether a device was made by LVM; what kind of volume it is, only ``lvs`` knows."""
    return node.mapped_uuid.startswith(_MAPPED)


def owner_tag(process: ProcessIdentity) -> str:
    """The tag that names the process that a snapshot belongs to."""
    return f"stillframe-owner={process.boot_id}.{process.pid}.{process.start_time}"


def parse_report(text: str) -> tuple[LogicalVolume, ...]:
    """Parse what ``lvs --reportformat json --units b --nosuffix -o COLUMNS`` prints.

    Raises:
        MachineRefusal: It is not of that form: nobody may guess what LVM has.
    """
    try:
        reports = json.loads(text)["report"]
        return tuple(_volume(row) for report in reports for row in report.get("lv", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MachineRefusal(f"what lvs printed is not understood ({error!r})", hint=_HINT) from error


def parse_filling(text: str) -> Filling:
    """Parse what ``dmsetup status`` prints for a snapshot or a thin pool.

    A snapshot that is full says ``Invalid`` or ``Overflow`` instead of numbers; a pool ``out_of_data_space``, ``ro``
    or ``Fail`` instead of ``rw``.

    Raises:
        MachineRefusal: It is no line of either.
    """
    fields = text.split()
    target, rest = (fields[2], fields[3:]) if len(fields) > 3 else ("", [])
    if target == "snapshot":  # <sectors used>/<sectors> <of them metadata>, or one word
        return _snapshot_filling(rest)
    if target == "thin-pool":  # <transaction> <metadata> <data> <held root> <mode> ..., or one word
        return _pool_filling(rest)
    raise MachineRefusal(f"what dmsetup printed is not understood: {text.strip()[:80]!r}", hint=_HINT)


def _snapshot_filling(fields: list[str]) -> Filling:
    percent = _percent(fields[0])
    return Filling(percent=100.0, fault=fields[0]) if percent is None else Filling(percent=percent)


def _pool_filling(fields: list[str]) -> Filling:
    if len(fields) < 5:
        return Filling(percent=100.0, fault=" ".join(fields))
    metadata, blocks = _percent(fields[1]), _percent(fields[2])
    fault = "" if fields[4] == "rw" and metadata is not None and blocks is not None else fields[4]
    return Filling(percent=max(metadata or 0.0, blocks or 0.0), fault=fault)


def _percent(text: str) -> float | None:
    used, slash, total = text.partition("/")
    if not slash or not used.isdecimal() or not total.isdecimal() or int(total) == 0:
        return None
    return 100 * int(used) / int(total)


def _volume(row: Mapping[str, str]) -> LogicalVolume:
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    return LogicalVolume(
        uuid=row["lv_uuid"].replace("-", ""), name=row["lv_name"], group=row["vg_name"],
        group_uuid=row["vg_uuid"].replace("-", ""), size=int(row["lv_size"]), layout=_words(row["lv_layout"]),
        role=_words(row["lv_role"]), origin=row["origin"], pool=row["pool_lv"], tags=_words(row["lv_tags"]),
        data_percent=_number(row["data_percent"]), metadata_percent=_number(row["metadata_percent"]),
        number=DeviceNumber(major, minor) if major >= 0 and minor >= 0 else None,
        is_merging=_is_set(row["lv_merging"]), group_free=int(row["vg_free"]),
        extent_size=int(row["vg_extent_size"]), is_shared=_is_set(row["vg_shared"]) or _is_set(row["vg_clustered"]),
    )  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def _is_set(text: str) -> bool:
    """A yes or no of LVM's: a word or a number, as its ``report/binary_values_as_numeric`` says (lvmreport(7))."""
    return text not in ("", "unknown", "0", "-1")


def _number(text: str) -> float | None:
    return float(text) if text else None
