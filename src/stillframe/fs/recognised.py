"""Volumes that are known by name and stored whole: containers, RAID members, and file systems whose maps are not read.

Answers: "what is this, if it is none of the file systems read here?" One table of signatures for those that have a
fixed place, and a function for each of the few that do not. It reads nothing but signatures, labels and UUIDs, and
proves nothing: every map is the whole partition.

``ContainerVolumes`` must be asked before any file system: the superblock of an ext4 in a RAID 1 lies where it would lie
without one. ``ForeignFilesystems`` are asked after all others.

Source: util-linux ``libblkid/src/superblocks/*.c``; the specification that a layout comes from stands beside it.
"""

import hashlib
import itertools
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader
from stillframe.events import Notice
from stillframe.fs.base import LeftOutFile, UsedMap, Volume, raw_map
from stillframe.fs.hfs_plus import HEADER_OFFSET, find_hfs_plus

_HEAD_SIZE: Final = 72 * 1024
"""Every signature of the table lies in these first bytes."""
_SECTOR: Final = 512

_RAID_MAGIC: Final = bytes.fromhex("fc4e2ba9")  # MD_SB_MAGIC 0xa92b4efc, Linux include/uapi/linux/raid/md_p.h
_ZFS_UBERBLOCK: Final = (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C))  # OpenZFS uberblock_impl.h
_ZFS_LABEL_SIZE: Final = 256 * 1024
_HFS_UUID_SEED: Final = bytes.fromhex("b3e20f39f29211d697a400306543ecac")  # libblkid hfs.c, hash_init
_ISO_SECTOR: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Where a type of volume can be told from, in bytes from the start of the volume.

    Attributes:
        filesystem: As ``blkid``'s TYPE.
        offset: Where ``magic`` lies.
        magic: What lies there.
        uuid_at: Where the 16 bytes of a binary UUID lie; 0 when there are none.
        label_at: Where the label lies; 0 when there is none.
        label_size: Bytes of the label's field.
        encoding: Of the label.
    """

    filesystem: str
    offset: int
    magic: bytes
    uuid_at: int = 0
    label_at: int = 0
    label_size: int = 0
    encoding: str = "utf-8"


_CONTAINER_SIGNATURES: Final = (
    # Linux include/uapi/linux/raid/md_p.h, struct mdp_superblock_1: versions 1.1 and 1.2
    Signature(
        filesystem="linux_raid_member",
        offset=0,
        magic=_RAID_MAGIC + b"\1\0\0\0",
        uuid_at=16,
        label_at=32,
        label_size=32,
    ),
    Signature(
        filesystem="linux_raid_member",
        offset=4096,
        magic=_RAID_MAGIC + b"\1\0\0\0",
        uuid_at=4112,
        label_at=4128,
        label_size=32,
    ),
    # [MS] BitLocker: the boot sector's OEM name; libbde, "BitLocker Drive Encryption format", section 3
    Signature(filesystem="BitLocker", offset=3, magic=b"-FVE-FS-"),
    # The same on a removable disk, "BitLocker To Go": a FAT boot sector with the GUID of BitLocker; libbde, section 3.3
    Signature(filesystem="BitLocker", offset=424, magic=bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")),
    # Linux drivers/md/bcache/bcache_ondisk.h, struct cache_sb
    Signature(
        filesystem="bcache",
        offset=4096 + 24,
        magic=bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"),
        uuid_at=4096 + 40,
    ),
)

_FOREIGN_SIGNATURES: Final = (
    # Microsoft ReFS boot sector (libfsrefs, "Resilient File System format", section 2)
    Signature(filesystem="ReFS", offset=0, magic=b"\0\0\0ReFS\0"),
    # Apple File System Reference, nx_superblock_t
    Signature(filesystem="apfs", offset=32, magic=b"NXSB", uuid_at=72),
    # Linux include/linux/f2fs_fs.h, struct f2fs_super_block, at 1 KiB
    Signature(
        filesystem="f2fs",
        offset=1024,
        magic=bytes.fromhex("1020f5f2"),
        uuid_at=1024 + 108,
        label_at=1024 + 124,
        label_size=1024,
        encoding="utf-16-le",
    ),
    # Linux fs/squashfs/squashfs_fs.h, struct squashfs_super_block
    Signature(filesystem="squashfs", offset=0, magic=b"hsqs"),
    # Linux fs/erofs/erofs_fs.h, struct erofs_super_block, at 1 KiB
    Signature(
        filesystem="erofs",
        offset=1024,
        magic=bytes.fromhex("e2e1f5e0"),
        uuid_at=1024 + 48,
        label_at=1024 + 64,
        label_size=16,
    ),
    # Linux fs/jfs/jfs_superblock.h, at 32 KiB
    Signature(filesystem="jfs", offset=32768, magic=b"JFS1", uuid_at=32768 + 136, label_at=32768 + 152, label_size=16),
    # Linux fs/reiserfs/reiserfs.h, struct reiserfs_super_block, at 64 KiB, versions 3.6 and with another journal
    Signature(
        filesystem="reiserfs",
        offset=65536 + 52,
        magic=b"ReIsEr2Fs",
        uuid_at=65536 + 84,
        label_at=65536 + 100,
        label_size=16,
    ),
    Signature(
        filesystem="reiserfs",
        offset=65536 + 52,
        magic=b"ReIsEr3Fs",
        uuid_at=65536 + 84,
        label_at=65536 + 100,
        label_size=16,
    ),
)

_ADVICE: Final = {
    "crypto_LUKS": "Back up from inside the running system, where the volume is open, for a small image.",
    "BitLocker": "Back up from inside the running Windows, or unlock the volume first, for a small image.",
    "LVM2_member": "Name the logical volumes as sources for a small image.",
    "linux_raid_member": "Name the assembled array as the source for a small image.",
}

Probe = Callable[[bytes, BlockReader], Volume | None]


class _RecognisedVolumes:
    """Volumes that a list of probes knows by name."""

    _probes: tuple[Probe, ...] = ()
    _signatures: tuple[Signature, ...] = ()

    def identify(self, reader: BlockReader) -> Volume | None:
        """What the volume is; ``None`` when no signature fits."""
        head = reader.read_at(0, min(reader.size, _HEAD_SIZE))
        for signature in self._signatures:
            if head[signature.offset : signature.offset + len(signature.magic)] == signature.magic:
                return _volume_of(signature, head)
        for probe in self._probes:
            volume = probe(head, reader)
            if volume is not None:
                return volume
        return None

    def used_map(self, reader: BlockReader) -> UsedMap:
        """The whole partition."""
        volume = self.identify(reader)
        name = volume.filesystem if volume is not None else "unknown"
        notice = Notice(
            code="fs-stored-whole",
            message=f"This version does not read which bytes of {name} are in use; the volume is stored whole.",
            hint=_ADVICE.get(name, "Nothing needs to be done; the image is complete."),
        )
        return raw_map(reader, notice)

    def left_out(self, reader: BlockReader) -> tuple[LeftOutFile, ...]:
        """Nothing: the contents are not read."""
        del reader
        return ()


def _volume_of(signature: Signature, head: bytes) -> Volume:
    label = head[signature.label_at : signature.label_at + signature.label_size]
    identity = head[signature.uuid_at : signature.uuid_at + 16] if signature.uuid_at else b""
    return Volume(
        filesystem=signature.filesystem,
        label=_text(label, signature.encoding),
        uuid=_uuid_text(identity),
    )


def _probe_luks(head: bytes, reader: BlockReader) -> Volume | None:
    """Source: LUKS1 On-Disk Format 1.2.3, section 2.1; LUKS2 On-Disk Format 1.1.1, section 2.1."""
    del reader
    if head[:6] != b"LUKS\xba\xbe" or head[6:8] not in (b"\0\1", b"\0\2"):
        return None
    label = _text(head[24:72]) if head[7] == 2 else ""
    return Volume(filesystem="crypto_LUKS", label=label, uuid=_text(head[168:208]))


def _probe_lvm2(head: bytes, reader: BlockReader) -> Volume | None:
    """Source: LVM2 ``lib/label/label.h`` (``struct label_header``), ``lib/format_text/layout.h`` (``pv_header``)."""
    del reader
    for place in range(0, 4 * _SECTOR, _SECTOR):
        label = head[place : place + _SECTOR]
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            start = int.from_bytes(label[20:24], "little")
            letters = label[start : start + 32].decode("ascii", "replace")
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            parts = [letters[first:end] for first, end in itertools.pairwise(cuts)]
            return Volume(filesystem="LVM2_member", uuid="-".join(parts) if len(letters) == 32 else "")
    return None


def _probe_raid_at_end(head: bytes, reader: BlockReader) -> Volume | None:
    """Source: Linux ``drivers/md/md.c``, ``super_1_load`` (1.0) and ``calc_dev_sboffset`` (0.90); ``md_p.h``."""
    del head
    if reader.size < 1 << 17:
        return None
    sectors = reader.size // _SECTOR
    place = (sectors - 16) // 8 * 8 * _SECTOR
    block = reader.read_at(place, 256)
    if block[:8] == _RAID_MAGIC + b"\1\0\0\0" and int.from_bytes(block[144:152], "little") * _SECTOR == place:
        return Volume(filesystem="linux_raid_member", label=_text(block[32:64]), uuid=_uuid_text(block[16:32]))
    old = reader.read_at(reader.size // 65536 * 65536 - 65536, 256)
    for order in ("little", "big"):  # 0.90 is in the byte order of the machine that made it
        words = [int.from_bytes(old[at : at + 4], order) for at in (0, 4, 20, 52, 56, 60)]
        if words[0] == int.from_bytes(_RAID_MAGIC, "little") and words[1] == 0:
            identity = b"".join(word.to_bytes(4, "big") for word in words[2:])
            return Volume(filesystem="linux_raid_member", uuid=_uuid_text(identity))
    return None


def _probe_zfs(head: bytes, reader: BlockReader) -> Volume | None:
    """Four labels of 256 KiB, two at either end, each with uberblocks in its upper half.

    The pool's name and number are in a packed list that is not read here. Source: OpenZFS
    ``include/sys/vdev_impl.h``, ``include/sys/uberblock_impl.h``.
    """
    del head
    size = reader.size // _ZFS_LABEL_SIZE * _ZFS_LABEL_SIZE
    if size < 4 * _ZFS_LABEL_SIZE:
        return None
    labels = (0, _ZFS_LABEL_SIZE, size - 2 * _ZFS_LABEL_SIZE, size - _ZFS_LABEL_SIZE)
    found = 0
    for place in labels:
        ring = reader.read_at(place + _ZFS_LABEL_SIZE // 2, _ZFS_LABEL_SIZE // 2)
        found += sum(ring[at : at + 8] in _ZFS_UBERBLOCK for at in range(0, len(ring), 1024))
    return Volume(filesystem="zfs_member") if found >= 4 else None  # libblkid zfs.c, ZFS_WANT


def _probe_hfs_plus(head: bytes, reader: BlockReader) -> Volume | None:
    """Its label lies in the catalog, which is not read. Source: Apple Technical Note TN1150; libblkid ``hfs.c``."""
    place = HEADER_OFFSET
    if head[place : place + 2] == b"BD":  # an HFS wrapper, which may hold an HFS+
        if head[place + 124 : place + 126] not in (b"H+", b"HX"):
            return Volume(filesystem="hfs")
        block_size = int.from_bytes(head[place + 20 : place + 24], "big")
        first_sector = int.from_bytes(head[place + 28 : place + 30], "big")
        first_block = int.from_bytes(head[place + 126 : place + 128], "big")
        place = first_sector * _SECTOR + first_block * block_size + 1024
    header = find_hfs_plus(reader, place)
    if header is None:
        return None
    identity = header.identity
    digest = bytearray(hashlib.md5(_HFS_UUID_SEED + identity, usedforsecurity=False).digest())
    digest[6] = 0x30 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return Volume(filesystem="hfsplus", uuid=_uuid_text(bytes(digest)) if any(identity) else "")


def _probe_iso9660(head: bytes, reader: BlockReader) -> Volume | None:
    """The label of the primary descriptor; its UUID is a date. Source: ECMA-119 section 8.4; libblkid ``iso9660.c``."""
    del reader
    block = head[16 * _ISO_SECTOR : 17 * _ISO_SECTOR]
    if block[:7] != b"\1CD001\1":
        return None
    changed = block[830:846] if block[830:846] != b"0" * 16 else block[813:829]
    digits = changed.decode("ascii", "replace")
    cuts = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 16))
    date = "-".join(digits[first:end] for first, end in cuts) if digits.isdigit() and digits.strip("0") else ""
    return Volume(filesystem="iso9660", label=_text(block[40:72]), uuid=date, block_size=_ISO_SECTOR)


class ContainerVolumes(_RecognisedVolumes):
    """LUKS, BitLocker, LVM2, md RAID, bcache and ZFS: members of something larger, asked before any file system."""

    _signatures = _CONTAINER_SIGNATURES
    _probes = (_probe_luks, _probe_lvm2, _probe_raid_at_end, _probe_zfs)


class ForeignFilesystems(_RecognisedVolumes):
    """ReFS, APFS, HFS+, F2FS, ISO 9660 and others whose maps are not read, asked after all others."""

    _signatures = _FOREIGN_SIGNATURES
    _probes = (_probe_hfs_plus, _probe_iso9660)


def _text(raw: bytes, encoding: str = "utf-8") -> str:
    return raw.decode(encoding, "replace").split("\0")[0].rstrip()


def _uuid_text(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw)) if len(raw) == 16 and any(raw) else ""
