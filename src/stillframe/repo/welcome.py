"""What a repository says to the person who finds it: a page to read, and a program that needs nothing else of ours.

Answers: "what is this folder, and how do I get my data back without Stillframe?" Normative for the names:
``docs/format/v1.md``, section 2. These files are for people; nothing in the product ever reads them.
"""

import hashlib
from importlib import resources
from string import Template
from typing import Final

from stillframe.repo.identity import Identity
from stillframe.store import ObjectExists, Store, write_object

README_NAME: Final = "README.txt"
READER_NAME: Final = "reader/stillframe_reader.py"
SUMS_NAME: Final = "reader/SHA256SUMS"

_ENCRYPTION: Final = {
    "aes256": "AES-256; nobody reads the images without the passphrase or the recovery key",
    "none": "none; whoever has this folder can read everything in it",
}
_SECRET: Final = {
    "aes256": (
        "Both ways ask for the passphrase, or for the recovery key: the printed key\n"
        'that begins with "SF1-". Without one of them nobody can read the images.'
    ),
    "none": "None is needed: this repository is not encrypted. Keep it where strangers\ncannot reach it.",
}


def write_welcome(store: Store, identity: Identity) -> None:
    """Write the page, the reader and its checksum into a repository; files that are there already stay as they are.

    Args:
        store: The repository's store.
        identity: Of the repository.

    Raises:
        StorageFull, StorageError: As the store's.
    """
    reader = reader_program()
    digest = hashlib.sha256(reader).hexdigest()
    sums = f"{digest}  {READER_NAME.rpartition('/')[2]}\n".encode()  # as sha256sum(1) writes and checks it
    for name, contents in ((README_NAME, build_readme(identity)), (READER_NAME, reader), (SUMS_NAME, sums)):
        try:
            write_object(store, name, contents)
        except ObjectExists:
            continue


def build_readme(identity: Identity) -> bytes:
    """The page, with line ends that every system's editor shows right."""
    text = Template(_packaged("README.txt").decode()).substitute(
        id=identity.id, created=identity.created, format=identity.format,
        encryption=_ENCRYPTION[identity.encryption], secret=_SECRET[identity.encryption],
    )  # fmt: skip
    return text.replace("\n", "\r\n").encode()


def reader_program() -> bytes:
    """The stand-alone reader, as it lies in ``tools``."""
    return _packaged("stillframe_reader.py")


def _packaged(name: str) -> bytes:
    return resources.files("stillframe.repo").joinpath("reader", name).read_bytes()
