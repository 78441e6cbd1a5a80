"""Stillframe: an exact image of a whole computer, and the way back.

The house, from the ground up (imports only point down; ``pyproject.toml`` holds the rule):

``errors units extents events clock config`` know nothing above them. ``block`` and ``store`` are the two holes that
bytes go through. ``disk`` and ``fs`` say which bytes matter, ``host`` is this machine, ``repo`` says how bytes are
kept; these four do not know each other. ``capture`` says how a source holds still. ``jobs`` has one module per verb.
``cli`` is the front door.
"""

__version__ = "0.1.0.dev0"
