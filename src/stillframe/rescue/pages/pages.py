"""The pages that a person is shown: what each says, and what can be answered.

Answers: "what is asked now?" Records only: ``flows`` make them, ``talk`` keeps their order, ``screens`` draw them.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Literal

from stillframe.errors import StillframeError
from stillframe.rescue.verbs.calls import Doing

LeaveFor = Literal["shell", "restart", "switch-off", "leave"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What all pages have.

    Attributes:
        title: The line at the top.
        lines: What will happen, in short sentences.
        is_final: There is no way back from here: something was done.
        is_start: The first page of all.
    """

    title: str
    lines: tuple[str, ...] = ()
    is_final: bool = False
    is_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One choice. With a refusal it is shown with the reason, and cannot be chosen."""

    key: str
    words: str
    detail: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose(Page):
    """One of several; answered with its key."""

    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Page):
    """A line to type; answered with it. A secret is not shown."""

    question: str
    is_secret: bool = False
    given: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeWord(Page):
    """The plan, and the word that has to be typed; answered with ``True``."""

    word: str
    picture: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell(Page):
    """Something to read; answered with nothing."""

    next_words: str = "go on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How work ended: what it brought, or its error."""

    value: Any = None
    error: StillframeError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Page):
    """Something that takes a while; answered with its ``Outcome``.

    Attributes:
        do: The work. It runs in a thread of its own.
        stop_words: What it means to stop it; empty where that does no harm.
    """

    do: Callable[[Doing], Any]
    stop_words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Page):
    """Go somewhere else: to a shell, or out of here; answered with nothing by whoever comes back."""

    what: LeaveFor


Flow = Generator[Page, Any, None]
"""Pages in their order; each is answered by what is sent. It decides by the answers alone, so it can be repeated."""

Step = Generator[Page, Any, Any]
"""A part of a flow, which brings something."""

BACK: Final = "Esc"
"""The key that leads back."""
