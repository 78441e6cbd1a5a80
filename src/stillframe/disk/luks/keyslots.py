"""From a passphrase to the key of a volume, and whether a key is the right one.

Answers: "does this open the volume?" A slot is opened as LUKS says: the passphrase is stretched, the slot's area
decrypted, the key put together from its pieces, and compared with its digest. Keys are returned and kept nowhere.

Source: LUKS1 On-Disk Format Specification 1.2.3, sections 2.4 (anti-forensic splitting) and 4.3 (master key recovery);
LUKS2 On-Disk Format Specification 1.1.1, sections 3.2 and 3.4.
"""

import hashlib
import hmac
from functools import partial

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw

from stillframe.block import BlockReader
from stillframe.disk.luks.ciphers import SectorCipher
from stillframe.disk.luks.records import SECTOR, Argon2, KeySlot, LuksHeader, Pbkdf2
from stillframe.errors import MachineRefusal
from stillframe.hanging import Underway, reach


def find_key(volume: BlockReader, header: LuksHeader, passphrase: bytes) -> bytes | None:
    """The key of a volume; ``None`` when no slot opens with this passphrase. Takes seconds for each slot.

    Args:
        volume: The volume, from its header on.
        header: What ``read_header`` read of it.
        passphrase: As it is typed or lies in a key file.

    Raises:
        MachineRefusal: No slot opens, and for one of them this machine has too little memory.
        ReadFault: The device failed.
    """
    refusal: MachineRefusal | None = None
    for slot in header.slots:
        try:
            key = _open_slot(volume, slot, passphrase)
        except MachineRefusal as error:
            refusal = error
            continue
        if is_key_of(header, key):
            return key
    if refusal is not None:
        raise refusal
    return None


def is_key_of(header: LuksHeader, key: bytes) -> bool:
    """Whether a key is that of a volume."""
    digest = header.digest
    return hmac.compare_digest(_stretch(digest.derivation, key, len(digest.digest)), digest.digest)


def _open_slot(volume: BlockReader, slot: KeySlot, passphrase: bytes) -> bytes:
    """What a slot holds when the passphrase is right, and noise when it is not."""
    area_key = _stretch(slot.derivation, passphrase, slot.area_key_size)
    sectors = -(-slot.key_size * slot.stripes // SECTOR)
    encrypted = volume.read_at(slot.area.start, sectors * SECTOR)
    pieces = SectorCipher(slot.cipher, area_key, SECTOR).decrypt(encrypted, 0)
    return _merge(pieces, slot)


def _stretch(derivation: Pbkdf2 | Argon2, secret: bytes, size: int) -> bytes:
    if isinstance(derivation, Pbkdf2):
        name = _python_name(derivation.hash)
        return hashlib.pbkdf2_hmac(name, secret, derivation.salt, derivation.iterations, size)
    kind = Type.I if derivation.kind == "argon2i" else Type.ID
    cost = (derivation.passes, derivation.memory_kib, derivation.lanes)
    try:
        hashing = partial(hash_secret_raw, secret, derivation.salt, *cost, size, kind, 0x13)
        return reach(hashing, Underway("opening a key slot", "LUKS"))  # made slow on purpose: out of Ctrl-C's way
    except HashingError as error:
        raise MachineRefusal(
            f"a key slot of LUKS asks for {derivation.memory_kib} KiB of memory: {error}",
            hint="Unlock it on a machine with more memory, or make the image without '--unlock'.",
        ) from error


def _merge(pieces: bytes, slot: KeySlot) -> bytes:
    """Put a key together that was split: section 2.4 of LUKS1, ``AFmerge``."""
    size, merged = slot.key_size, bytes(slot.key_size)
    for start in range(0, size * slot.stripes, size):
        mixed = _xor(merged, pieces[start : start + size])
        is_last = start == size * (slot.stripes - 1)
        merged = mixed if is_last else _diffuse(mixed, slot.split_hash)
    return merged


def _diffuse(data: bytes, name: str) -> bytes:
    """Each piece of a hash's size becomes the hash of its number and itself; the last is cut short."""
    new, size = _python_name(name), hashlib.new(_python_name(name)).digest_size
    parts = (data[start : start + size] for start in range(0, len(data), size))
    found = [hashlib.new(new, number.to_bytes(4, "big") + part).digest() for number, part in enumerate(parts)]
    return b"".join(found)[: len(data)]


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def _python_name(name: str) -> str:
    return name.replace("sha3-", "sha3_")
