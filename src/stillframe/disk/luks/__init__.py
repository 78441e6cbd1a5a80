"""LUKS as it is written on disks, opened in memory without the device mapper.

``header`` says which version it is and compares its copies, ``header1`` and ``header2`` take them apart, ``keyslots``
turns a passphrase into the key, ``ciphers`` does sectors, ``plaintext`` reads a volume and writes a view of one,
``renaming`` gives it a new UUID.
"""

from stillframe.disk.luks.header import read_header
from stillframe.disk.luks.keyslots import find_key, is_key_of
from stillframe.disk.luks.plaintext import PlaintextReader, PlaintextWriter
from stillframe.disk.luks.records import LuksHeader, Segment
from stillframe.disk.luks.renaming import rename_luks

__all__ = [
    "LuksHeader",
    "PlaintextReader",
    "PlaintextWriter",
    "Segment",
    "find_key",
    "is_key_of",
    "read_header",
    "rename_luks",
]
