"""A raw disk file: its bytes are the disk."""

from stillframe.block.file import FileReader
from stillframe.block.formats.mapped import RAW, DiskFile


def open_raw_disk(file: FileReader) -> DiskFile:
    """The file itself."""
    return DiskFile(file, format_name=RAW, files=[(file.path, file)])
