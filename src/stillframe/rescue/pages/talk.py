"""The order of pages: what was answered, what comes next, and the way back.

Answers: "which page is shown now?" A flow is plain code that yields pages and decides by their answers alone. So going
back is to run it once more with all answers but the last; nothing has to be undone, because nothing that cannot be
repeated is done between two pages.
"""

from collections.abc import Callable
from typing import Any

from stillframe.rescue.pages.pages import Flow, Page, Work


class Talk:
    """One person at one flow.

    Args:
        begin: Makes the flow from its start.
    """

    def __init__(self, begin: Callable[[], Flow]) -> None:
        self._begin = begin
        self._answers: list[tuple[Page, Any]] = []
        self._flow = begin()
        self.page: Page | None = next(self._flow, None)

    def answer(self, value: Any) -> Page | None:
        """Answer the page that is shown; the next page, ``None`` when there is none."""
        if self.page is None:
            return None
        self._answers.append((self.page, value))
        self.page = self._send(value)
        if self.page is not None and self.page.is_start:
            self._restart([])
        return self.page

    def back(self) -> Page | None:
        """The page before; where there is no way back, the page that is shown."""
        if not self.can_go_back:
            return self.page
        answers = list(self._answers)
        while answers:
            page, _ = answers.pop()
            if not isinstance(page, Work):
                break
        self._restart(answers)
        return self.page

    @property
    def can_go_back(self) -> bool:
        """Whether there is a page before this one."""
        if self.page is None or self.page.is_final:
            return False
        for page, _ in reversed(self._answers):
            if page.is_final:
                return False
            if not isinstance(page, Work):
                return True
        return False

    def _restart(self, answers: list[tuple[Page, Any]]) -> None:
        self._flow.close()
        self._answers, self._flow = answers, self._begin()
        self.page = next(self._flow, None)
        for _, value in answers:
            self.page = self._send(value)

    def _send(self, value: Any) -> Page | None:
        try:
            return self._flow.send(value)
        except StopIteration:
            return None
