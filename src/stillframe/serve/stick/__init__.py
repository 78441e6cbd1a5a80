"""A folder as a USB stick that does not exist: a FAT32 of which every byte is made when it is read.

Answers: "what would be at this offset of a disk that holds this folder?" Nothing is copied and nothing can be written.
"""

from stillframe.serve.stick.reader import open_stick

__all__ = ["open_stick"]
