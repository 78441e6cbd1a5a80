"""Sectors of dm-crypt, decrypted and encrypted many at a time.

Answers: "what do these encrypted sectors hold, and how are these bytes encrypted?" AES in the modes that cryptsetup
uses: XTS, and CBC with the number of the sector, plain or encrypted (ESSIV). All blocks of AES go through one call, and
what the mode adds is done on whole arrays: blocks decrypt alone in both modes. CBC encrypts block by block, of all
sectors at once.

Source: IEEE 1619-2007, section 5 (XTS); Linux ``drivers/md/dm-crypt.c`` (``crypt_iv_plain_gen``,
``crypt_iv_plain64_gen``, ``crypt_iv_essiv_gen``; numbers count sectors of 512 bytes); C. Fruhwirth, "New Methods in
Hard Disk Encryption", section 4 (ESSIV).
"""

import hashlib
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from stillframe.disk.luks.records import SECTOR, refused

Words = NDArray[np.uint64]

_BLOCK: Final = 16
_KEY_SIZES: Final = {
    "aes-xts-plain64": (32, 64),
    "aes-xts-plain": (32, 64),
    "aes-cbc-essiv:sha256": (16, 24, 32),
    "aes-cbc-plain64": (16, 24, 32),
    "aes-cbc-plain": (16, 24, 32),
}


def require_cipher(where: str, name: str, key_size: int) -> str:
    """A cipher that is read here.

    Raises:
        DiskFormatError: It is another one, or its key is not as long as it needs.
    """
    sizes = _KEY_SIZES.get(name.lower())
    if sizes is None:
        raise refused(where, f"a cipher of {', '.join(_KEY_SIZES)}", name)
    if key_size not in sizes:
        raise refused(where, f"a key of {' or '.join(map(str, sizes))} bytes for {name}", key_size)
    return name.lower()


class SectorCipher:
    """Decrypts and encrypts whole sectors.

    Args:
        name: A cipher that ``require_cipher`` took, and
        key: its key.
        sector_size: Bytes that were encrypted in one go, a multiple of 512.
    """

    def __init__(self, name: str, key: bytes, sector_size: int) -> None:
        mode, self._iv = name.split("-")[1:]
        self._is_xts = mode == "xts"
        half = len(key) // 2
        self._key, self._tweak_key = (key[:half], key[half:]) if self._is_xts else (key, hashlib.sha256(key).digest())
        self._sector_size = sector_size

    def decrypt(self, encrypted: bytes, first: int) -> bytes:
        """Decrypt sectors that follow each other.

        Args:
            encrypted: A whole number of sectors.
            first: Number of the first one, in sectors of 512 bytes.
        """
        blocks, numbers = self._blocks(encrypted, first)
        return self._xts(blocks, numbers, encrypt=False) if self._is_xts else self._open_cbc(blocks, numbers)

    def encrypt(self, plain: bytes, first: int) -> bytes:
        """Encrypt sectors that follow each other; arguments as of ``decrypt``."""
        blocks, numbers = self._blocks(plain, first)
        return self._xts(blocks, numbers, encrypt=True) if self._is_xts else self._close_cbc(blocks, numbers)

    def _blocks(self, sectors: bytes, first: int) -> tuple[Words, Words]:
        """The blocks of AES of each sector, and the number of each sector."""
        count = len(sectors) // self._sector_size
        blocks = np.frombuffer(sectors, np.uint64).reshape(count, -1, 2)
        return blocks, np.arange(count, dtype=np.uint64) * np.uint64(self._sector_size // SECTOR) + np.uint64(first)

    def _xts(self, blocks: Words, numbers: Words, *, encrypt: bool) -> bytes:
        masks = _masks(_aes(self._tweak_key, self._vectors(numbers), encrypt=True), blocks.shape[1])
        return (_aes(self._key, blocks ^ masks, encrypt=encrypt) ^ masks).tobytes()

    def _open_cbc(self, blocks: Words, numbers: Words) -> bytes:
        before = np.concatenate((self._chain_starts(numbers)[:, None, :], blocks[:, :-1, :]), axis=1)
        return (_aes(self._key, blocks, encrypt=False) ^ before).tobytes()

    def _close_cbc(self, blocks: Words, numbers: Words) -> bytes:
        closed, before = np.empty_like(blocks), self._chain_starts(numbers)
        for number in range(blocks.shape[1]):
            before = closed[:, number, :] = _aes(self._key, blocks[:, number, :] ^ before, encrypt=True)
        return closed.tobytes()

    def _chain_starts(self, numbers: Words) -> Words:
        vectors = self._vectors(numbers)
        return _aes(self._tweak_key, vectors, encrypt=True) if self._iv.startswith("essiv") else vectors

    def _vectors(self, numbers: Words) -> Words:
        """For each sector its number as a block of AES; ``plain`` has only 32 bits of it."""
        vectors = np.zeros((len(numbers), 2), np.uint64)
        vectors[:, 0] = numbers & np.uint64(0xFFFFFFFF) if self._iv == "plain" else numbers
        return vectors


def _aes(key: bytes, blocks: Words, *, encrypt: bool) -> Words:
    """Blocks of AES, each for itself: what chains them is the mode's, which is done above."""
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - a part of XTS and CBC
    worker = cipher.encryptor() if encrypt else cipher.decryptor()
    return np.frombuffer(worker.update(blocks.tobytes()), np.uint64).reshape(blocks.shape)


def _masks(tweaks: Words, count: int) -> Words:
    """For each sector its tweak, and the next ones by multiplying with x in GF(2^128): one step for all sectors."""
    masks = np.empty((len(tweaks), count, 2), np.uint64)
    low, high = tweaks[:, 0].copy(), tweaks[:, 1].copy()
    one, top, reduction = np.uint64(1), np.uint64(63), np.uint64(0x87)
    for number in range(count):
        masks[:, number, 0], masks[:, number, 1] = low, high
        carry = high >> top
        high = high << one | low >> top
        low = low << one ^ carry * reduction
    return masks
