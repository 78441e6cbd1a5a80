"""The files of a volume, by The Sleuth Kit: what temporary files cost, what a pattern names, whose bytes are lost.

``tree`` answers and ``walk`` goes through folders; ``sleuthkit`` is the edge to the C library and ``support`` says
which volumes it reads rightly; ``patterns`` is the language of ``--exclude``; ``temporary`` knows the folders that may
be emptied; ``names`` turns names into text and back.
"""

from stillframe.fs.files.patterns import Pattern, parse_pattern
from stillframe.fs.files.tree import FileTree, LostFile, TemporaryFolder, open_files
from stillframe.fs.files.walk import Found

__all__ = ["FileTree", "Found", "LostFile", "Pattern", "TemporaryFolder", "open_files", "parse_pattern"]
