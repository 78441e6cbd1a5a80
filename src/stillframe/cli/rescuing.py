"""The verb ``rescue``: which of its words, and where it is carried out.

Answers: "who does this word of 'rescue'?" A module is loaded when its word is asked for.
"""

import importlib
from typing import Final, cast

from stillframe.cli.call import Call, Verb

_WORDS: Final = {"start": "rescue_screens"}
"""In which module of ``cli`` a word is; its function there has the word's name."""


def rescue(call: Call) -> int:
    """Carry out one word about the rescue medium."""
    word = call.options.rescue_verb
    module = importlib.import_module(f"stillframe.cli.{_WORDS[word]}")
    return cast("Verb", getattr(module, word))(call)
