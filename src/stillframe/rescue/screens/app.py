"""The rescue program on a terminal: draws the page that is shown, and hands on what is answered.

Answers nothing itself: which page comes next is ``talk``'s, what it says the flows'. Work runs in a thread, which
starts jobs as processes of their own; the screen looks how far it is a few times a second.
"""

import time
from dataclasses import dataclass
from typing import ClassVar, Final

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Static

from stillframe.errors import Cancelled, MachineRefusal
from stillframe.host.talking import run_shown
from stillframe.rescue.answering.unattended import progress_words
from stillframe.rescue.pages.pages import Ask, Choose, Leave, LeaveFor, Option, Outcome, Page, Tell, TypeWord, Work
from stillframe.rescue.pages.talk import Talk
from stillframe.rescue.pages.working import Watch, do_work
from stillframe.rescue.screens.reading import Entry, Reading, Rows, bar, printable, wrap
from stillframe.units import format_duration

_LOOK_S: Final = 0.25
_SHELL: Final = ("/bin/bash", "-l")
_ROWS_MIN: Final = 6
_FRAME: Final = 4
"""Lines for title, keys and the blank ones beside them."""
_MARGIN: Final = 2
_CSS: Final = """
Screen { background: ansi_default; color: ansi_default; layout: vertical; overflow: hidden; }
#title { height: 1; width: 1fr; text-style: bold reverse; padding: 0 1; background: ansi_default; color: ansi_default; }
#middle { height: 1fr; padding: 1 1 0 1; }
#typing { height: 1; }
#question { width: auto; padding: 0 1 0 0; }
#working { height: 5; }
#keys { height: 1; width: 1fr; padding: 0 1; text-style: reverse; background: ansi_default; color: ansi_default; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """Work that is done now."""

    page: Work
    watch: Watch
    began: float


class RescueApp(App[LeaveFor]):
    """The screens.

    Args:
        talk: What is shown.
    """

    CSS = _CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("escape", "go_back", show=False, priority=True),
        Binding("pagedown", "turn(1)", show=False, priority=True),
        Binding("pageup", "turn(-1)", show=False, priority=True),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+q", "nothing", show=False, priority=True),
    ]

    def __init__(self, talk: Talk) -> None:
        super().__init__(ansi_color=True)
        self._talk = talk
        self._work: _Running | None = None
        self._asks_to_stop = False
        self._timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Everything that a page may need; a page shows some of it."""
        yield Static(id="title", markup=False)
        with Vertical(id="middle"):
            yield Reading(id="text")
            yield Static(id="working", markup=False)
            with Horizontal(id="typing"):
                yield Static(id="question", markup=False)
                yield Entry(id="entry")
            yield Rows(id="rows")
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        """Show the first page."""
        self._timer = self.set_interval(_LOOK_S, self._look)
        self._show(self._talk.page)

    def on_resize(self) -> None:
        """Give the list its room anew."""
        if isinstance(self._talk.page, Choose | Tell):
            self._share_room()
        else:
            self._fill()

    def _show(self, page: Page | None) -> None:
        if page is None:
            self.exit("leave")
            return
        if isinstance(page, Leave):
            self._leave(page)
            return
        self._asks_to_stop = False
        self.query_one("#title", Static).update(
            printable(f"{page.title}" if page.is_start else f"Stillframe: {page.title}")
        )
        lines = [*page.lines, *(["", *page.picture] if isinstance(page, TypeWord) else [])]
        self.query_one("#text", Reading).show(lines)
        self.query_one("#working").display = isinstance(page, Work)
        self.query_one("#typing").display = isinstance(page, Ask | TypeWord)
        rows = self.query_one("#rows", Rows)
        rows.display = isinstance(page, Choose | Tell)
        match page:
            case Choose():
                rows.show(page.options)
                self._share_room()
            case Tell():
                rows.show([Option(key="", words=page.next_words)])
                self._share_room()
            case Ask() | TypeWord():
                self._fill()
                self._show_typing(page)
            case Work():
                self._fill()
                self._start(page)
            case _:
                pass
        self._say_keys(page)

    def _share_room(self) -> None:
        """Text and list share the page: the list gets what it needs, the text at least its share."""
        text, rows = self.query_one("#text", Reading), self.query_one("#rows", Rows)
        room = max(self.size.height - _FRAME, _ROWS_MIN)
        wanted = text.line_count(max(self.size.width - _MARGIN, 10)) + 1
        height = max(min(rows.height_wanted, room - wanted), min(rows.height_wanted, max(room // 2, _ROWS_MIN)))
        rows.styles.height = max(height, 1)
        text.styles.height = min(wanted, room - height)
        rows.focus()

    def _fill(self) -> None:
        """Text takes what is there."""
        text = self.query_one("#text", Reading)
        text.styles.height = min(text.line_count(max(self.size.width - _MARGIN, 10)) + 1, self.size.height - _FRAME - 2)

    def _show_typing(self, page: Ask | TypeWord) -> None:
        question = page.question if isinstance(page, Ask) else f"Type the word '{page.word}' and press Enter:"
        self.query_one("#question", Static).update(printable(question))
        entry = self.query_one("#entry", Entry)
        entry.password = isinstance(page, Ask) and page.is_secret
        entry.value = page.given if isinstance(page, Ask) else ""
        entry.focus()

    def _say_keys(self, page: Page) -> None:
        back = "   Esc: back" if self._talk.can_go_back else ""
        if isinstance(page, Choose | Tell):
            words = f"Up/Down: choose   Enter: take it{back}"
        elif isinstance(page, Ask | TypeWord):
            words = f"Enter: go on{back}"
        else:
            words = "Esc: stop"
        more = "   PgDn/PgUp: read on" if self._is_long(page) else ""
        self.query_one("#keys", Static).update(words + more)

    def _is_long(self, page: Page) -> bool:
        picture = page.picture if isinstance(page, TypeWord) else ()
        return len(wrap([*page.lines, *picture], max(self.size.width - _MARGIN, 10))) > self.size.height // 2

    def on_rows_taken(self, message: Rows.Taken) -> None:
        """An option was chosen."""
        if self._work is None:
            self._show(self._talk.answer(message.key))

    def on_input_submitted(self, message: Entry.Submitted) -> None:
        """A line was typed."""
        page, typed = self._talk.page, message.value
        if isinstance(page, Ask):
            self.query_one("#entry", Entry).value = ""
            self._show(self._talk.answer(typed))
        elif isinstance(page, TypeWord):
            if typed.strip().lower() == page.word:
                self._show(self._talk.answer(True))
                return
            self.query_one("#entry", Entry).value = ""
            self.query_one("#keys", Static).update(f"That was not '{page.word}'. Nothing was done.   Esc: back")

    def action_go_back(self) -> None:
        """One page back; work is asked to stop."""
        if self._work is None:
            self._show(self._talk.back())
            return
        if self._work.page.stop_words and not self._asks_to_stop:
            self._asks_to_stop = True
            words = f"{self._work.page.stop_words} Stop: Esc once more.   Go on: any other key"
            self.query_one("#keys", Static).update(printable(words))
            return
        self._work.watch.stop.set()
        self.query_one("#keys", Static).update("Stopping after the piece that is at work ...")

    def action_interrupt(self) -> None:
        """Ctrl-C stops work as Esc does; a program that restores is not ended by one key."""
        if self._work is not None:
            self.action_go_back()
            return
        back = "   Esc: back" if self._talk.can_go_back else ""
        self.query_one("#keys", Static).update(f"Ctrl-C does not end this: leave by the menu.{back}")

    def action_turn(self, pages: int) -> None:
        """Read on, or back."""
        self.query_one("#text", Reading).turn(pages)

    def action_nothing(self) -> None:
        """A key that must not end the program."""

    def on_key(self) -> None:
        """Any other key means that work goes on."""
        if self._asks_to_stop and self._work is not None:
            self._asks_to_stop = False
            self._say_keys(self._work.page)

    def _start(self, page: Work) -> None:
        watch = Watch()
        self._work = _Running(page=page, watch=watch, began=time.monotonic())
        self._look()
        self.set_focus(None)

        def work() -> None:
            outcome = do_work(page, watch)
            self.call_from_thread(self._finish, page, outcome)

        self.run_worker(work, thread=True, exit_on_error=False)

    def _finish(self, page: Work, outcome: Outcome) -> None:
        self._work = None
        if isinstance(outcome.error, Cancelled) and not page.stop_words:
            self._talk.answer(outcome)
            self._show(self._talk.back())
            return
        self._show(self._talk.answer(outcome))

    def _look(self) -> None:
        """How far work is."""
        running = self._work
        if running is None:
            return
        progress = running.watch.progress
        passed = format_duration(time.monotonic() - running.began)
        lines = [progress.phase or "Working ...", bar(progress.done, progress.total)]
        lines += [progress_words(progress)] if progress.done else [""]
        self.query_one("#working", Static).update(printable("\n".join([*lines, f"{passed} so far"])))

    def _leave(self, page: Leave) -> None:
        if page.what != "shell":
            self.exit(page.what)
            return
        with self.suspend():
            try:
                run_shown(_SHELL)
            except MachineRefusal:
                run_shown(["sh"])
        self.refresh(layout=True)
        self._show(self._talk.answer(None))
