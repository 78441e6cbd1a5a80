"""All names of a volume at once, as arrays: what a file system's own tables say of its files.

Answers: "which files are in which folders, and how large are they?" for counting. A parser that meets anything that it
does not understand raises, so that somebody slower may look: a listing is whole or there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

NAMES_MAX: Final = 10_000_000
"""More names than a walk looks at; it bounds the memory."""

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One element per name in a folder; what belongs to the file system itself is not among them.

    Attributes:
        root: Number of the root folder, which has no name here.
        parents: Number of the folder that the name is in. It may be one that no name leads to.
        numbers: Number of the file; names with one number are one file.
        is_folder, is_file: Neither for links and devices.
        sizes: Bytes of the file's main contents; -1 where nothing says how many.
        links: How many names the file has, as it says itself.
        folder_names: The bytes of the name of each folder, in the order of ``is_folder``'s true elements.
        encoding: Of ``folder_names``.
    """

    root: int
    parents: Numbers = field(repr=False)
    numbers: Numbers = field(repr=False)
    is_folder: Flags = field(repr=False)
    is_file: Flags = field(repr=False)
    sizes: Numbers = field(repr=False)
    links: Numbers = field(repr=False)
    folder_names: Sequence[bytes] = field(repr=False)
    encoding: str = "utf-8"


def find_places(sorted_numbers: Numbers, wanted: Numbers) -> Numbers:
    """Where each wanted number stands in a sorted array; -1 where it is not in it."""
    if not len(sorted_numbers):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(sorted_numbers, wanted), len(sorted_numbers) - 1)
    return np.where(sorted_numbers[places] == wanted, places, -1)
