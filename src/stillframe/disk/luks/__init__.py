"""LUKS as it is written on disks, opened in memory without the device mapper.

``header`` says which version it is and compares its copies, ``header1`` and ``header2`` take them apart, ``keyslots``
turns a passphrase into the key, ``ciphers`` decrypts sectors, ``plaintext`` reads a volume. Nothing here writes.
"""

from stillframe.disk.luks.header import read_header
from stillframe.disk.luks.keyslots import find_key, is_key_of
from stillframe.disk.luks.plaintext import PlaintextReader
from stillframe.disk.luks.records import LuksHeader, Segment

__all__ = ["LuksHeader", "PlaintextReader", "Segment", "find_key", "is_key_of", "read_header"]
