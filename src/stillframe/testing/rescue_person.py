"""A person at the rescue program: answers pages by their titles, without a screen.

Answers: "which pages come, and what do they say?" A page that was not expected fails the test, and so does an option
that cannot be chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stillframe.rescue.pages.pages import Ask, Choose, Flow, Page, Tell, TypeWord, Work
from stillframe.rescue.pages.talk import Talk
from stillframe.rescue.pages.working import Watch, do_work

BACK = "<back>"


@dataclass(slots=True)
class Person:
    """One person, and all that was shown."""

    begin: Callable[[], Flow]
    seen: list[Page] = field(default_factory=list)
    during: Callable[[Work], None] = lambda _page: None
    talk: Talk = field(init=False)

    def __post_init__(self) -> None:
        self.talk = Talk(self.begin)

    @property
    def page(self) -> Page:
        """The page that waits for an answer; work before it is done."""
        while isinstance(self.talk.page, Work):
            page = self.talk.page
            self.seen.append(page)
            self.during(page)
            self.talk.answer(do_work(page, Watch()))
        if self.talk.page is None:
            raise AssertionError("there is no page any more")
        return self.talk.page

    def answer(self, title: str, value: str = "") -> Page:
        """Answer the page with that title; the next page.

        Args:
            title: The beginning of the title that is expected.
            value: What is typed, or the beginning of the words of an option; ``BACK`` goes back.
        """
        page = self.page
        self.seen.append(page)
        if not page.title.startswith(title):
            raise AssertionError(f"expected the page {title!r}, got {page.title!r}: {' / '.join(page.lines)}")
        if value == BACK:
            self.talk.back()
        elif isinstance(page, Choose):
            self.talk.answer(_key(page, value))
        elif isinstance(page, Ask):
            self.talk.answer(value)
        elif isinstance(page, TypeWord):
            if value != page.word:
                raise AssertionError(f"the word is {page.word!r}")
            self.talk.answer(True)
        elif isinstance(page, Tell):
            self.talk.answer(None)
        return self.page

    def answers(self, pairs: Sequence[tuple[str, str]]) -> Page:
        """Answer several pages; the page after them."""
        for title, value in pairs:
            self.answer(title, value)
        return self.page


def _key(page: Choose, words: str) -> str:
    fitting = [option for option in page.options if words in option.words or words == option.key]
    if len(fitting) != 1:
        raise AssertionError(f"{words!r} is no one option of {[option.words for option in page.options]}")
    if fitting[0].refusal:
        raise AssertionError(f"{words!r} cannot be chosen: {fitting[0].refusal}")
    return fitting[0].key
