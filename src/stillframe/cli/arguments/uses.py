"""The verbs that use a stored image: its files, a folder, a network disk, a machine, other formats.

Answers: "what can a person do with an image without restoring it?" One function for each room.
"""

from collections.abc import Callable
from typing import Final

from stillframe.cli.arguments import files
from stillframe.cli.arguments.words import Verbs

ADDERS: Final[tuple[Callable[[Verbs], None], ...]] = (files.add_ls, files.add_find, files.add_get)
"""In the order of the help."""
