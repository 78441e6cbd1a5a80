"""What the command line says: progress, JSON lines, tables, and that a label cannot steer the terminal."""

import io
import json

import pytest

from stillframe.cli.arguments import HelpShown, build_parser
from stillframe.cli.bar import Bar
from stillframe.cli.progress import JsonLines, Pace, PlainLines, event_fields, printable
from stillframe.cli.screen import Screen, Streams
from stillframe.cli.words import local_time, notice_lines, table
from stillframe.errors import Cancelled, UsageError
from stillframe.events import BytesMoved, Event, Finding, JobFinished, JobStarted, Notice, PhaseStarted
from stillframe.testing.command_line import Terminal

EVERY_EVENT: list[Event] = [
    JobStarted(verb="backup", what="/dev/sda", bytes_total=1000),
    BytesMoved(size=500),
    Notice(code="a-note", message="the volume is raw", hint="shut it down"),
    PhaseStarted(name="reading back"),
    Finding(code="bad", message="a chunk is gone", hint="again", thing="3fa9"),
    JobFinished(verb="backup", seconds=2.0),
]


class Watch:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_pace_tells_share_rate_and_time_left() -> None:
    watch = Watch()
    pace = Pace(watch)
    pace.begin(4_000_000)
    pace.move(1_000_000)
    watch.seconds += 10
    assert pace.words == "25 %  1 MB of 4 MB, 100 kB/s, 30 s left"


@pytest.mark.parametrize("done", [0, 5, 10, 11, 1000])
def test_pace_never_says_more_than_all_of_it(done: int) -> None:
    watch = Watch()
    pace = Pace(watch)
    pace.begin(10)
    pace.move(done)
    watch.seconds += 1
    assert int(pace.words.split(" ")[0]) == min(100, done * 10)


def test_pace_without_a_total_and_without_time() -> None:
    assert Pace(Watch()).words == "0 bytes, -"


def test_json_lines_add_up_to_every_byte_and_are_few() -> None:
    lines: list[str] = []
    watch = Watch()
    sink = JsonLines(lines.append, now=watch)
    sink.emit(JobStarted(verb="backup", what="x", bytes_total=10_000))
    for _ in range(10_000):
        sink.emit(BytesMoved(size=1))
        watch.seconds += 0.001
    sink.emit(JobFinished(verb="backup", seconds=10))
    moved = [json.loads(line) for line in lines if "bytes_moved" in line]
    assert sum(line["size"] for line in moved) == 10_000
    assert moved[-1]["done"] == moved[-1]["total"] == 10_000
    assert 30 <= len(moved) <= 50


def test_json_lines_keep_every_field_of_every_event() -> None:
    lines: list[str] = []
    sink = JsonLines(lines.append)
    for event in EVERY_EVENT:
        sink.emit(event)
    sink.close()
    types = [json.loads(line)["type"] for line in lines]
    assert set(types) == {"job_started", "bytes_moved", "notice", "phase_started", "finding", "job_finished"}
    found = json.loads(lines[types.index("finding")])
    assert found == {"type": "finding", "code": "bad", "message": "a chunk is gone", "hint": "again", "thing": "3fa9"}


def test_close_writes_what_is_held_back() -> None:
    lines: list[str] = []
    watch = Watch()
    sink = JsonLines(lines.append, now=watch)
    sink.emit(BytesMoved(size=1))
    sink.emit(BytesMoved(size=2))
    sink.close()
    sink.close()
    assert sum(json.loads(line)["size"] for line in lines) == 3


def test_plain_lines_tell_progress_every_few_seconds() -> None:
    lines: list[str] = []
    watch = Watch()
    sink = PlainLines(lines.append, now=watch)
    sink.emit(JobStarted(verb="backup", what="/dev/sda", bytes_total=100))
    for _ in range(100):
        sink.emit(BytesMoved(size=1))
        watch.seconds += 1
    sink.emit(JobFinished(verb="backup", seconds=100))
    assert lines[0].startswith("backup: /dev/sda")
    assert 5 <= sum(" left" in line for line in lines) <= 10
    assert lines[-1] == "backup: done in 1 min 40 s"


def test_plain_lines_tell_what_is_wrong_and_the_next_step() -> None:
    lines: list[str] = []
    for event in EVERY_EVENT:
        PlainLines(lines.append).emit(event)
    text = "\n".join(lines)
    for words in ("the volume is raw", "shut it down", "a chunk is gone", "again"):
        assert words in text


def test_the_bar_draws_every_event_and_goes_away() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    for event in EVERY_EVENT:
        bar.emit(event)
    bar.emit(JobStarted(verb="verify", what="x"))
    bar.emit(BytesMoved(size=1))
    bar.close()
    bar.close()
    assert "a chunk is gone" in terminal.getvalue()


def test_the_bar_does_not_take_brackets_for_colours() -> None:
    terminal = Terminal()
    Bar(terminal).emit(Notice(code="x", message="label [red]data[/red]"))
    assert "[red]data[/red]" in terminal.getvalue()


def test_a_label_cannot_steer_the_terminal() -> None:
    output = io.StringIO()
    screen = Screen(Streams(input=io.StringIO(), output=output, errors=io.StringIO()), json=False)
    screen.say("label \x1b[2J\x07 \u202egnp.exe", "two\nlines")
    assert "\x1b" not in output.getvalue()
    assert "\x07" not in output.getvalue()
    assert "\u202e" not in output.getvalue()
    assert output.getvalue().count("\n") == 3


@pytest.mark.parametrize("text", ["plain", "Größe 3 TB", "日本語"])
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_events_on_the_bar_cannot_steer_the_terminal_either() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    bar.emit(JobStarted(verb="backup", what="disk\x1b]0;owned\x07", bytes_total=4))
    bar.emit(Notice(code="x", message="label \x1b]0;owned\x07"))
    bar.close()
    assert "\x1b]0;" not in terminal.getvalue()


def test_a_table_has_its_columns_under_each_other() -> None:
    lines = table(("id", "size"), [("a", "1 MB"), ("long", "10 MB")], right=(1,))
    assert lines == ["id     size", "a      1 MB", "long  10 MB"]


def test_a_notice_is_told_once() -> None:
    notice = Notice(code="x", message="m", hint="h")
    assert notice_lines([notice, notice]) == ["Note: m\n      h"]


def test_a_time_that_is_none_is_shown_as_it_is() -> None:
    assert local_time("2026-02-31T25:00:00Z") == "2026-02-31T25:00:00Z"


def test_every_event_has_a_type() -> None:
    assert all(event_fields(event)["type"] for event in EVERY_EVENT)


@pytest.mark.parametrize(
    ("typed", "yes", "expected"),
    [("restore\n", False, None), ("RESTORE \n", False, None), ("yes\n", False, Cancelled), ("", False, Cancelled),
     ("", True, None)],
)  # fmt: skip
def test_a_destructive_verb_needs_its_word(typed: str, yes: bool, expected: type[Exception] | None) -> None:
    screen = Screen(Streams(input=Terminal(typed), output=io.StringIO(), errors=Terminal()), json=False)
    if expected is None:
        screen.confirm("Sure?", "restore", yes=yes)
    else:
        with pytest.raises(expected):
            screen.confirm("Sure?", "restore", yes=yes)


@pytest.mark.parametrize("json_mode", [True, False])
def test_nobody_is_asked_where_nobody_is(json_mode: bool) -> None:
    given = Terminal("restore\n") if json_mode else io.StringIO("restore\n")
    screen = Screen(Streams(input=given, output=io.StringIO(), errors=Terminal()), json=json_mode)
    with pytest.raises(UsageError):
        screen.confirm("Sure?", "restore", yes=False)


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "images --nonsense", "restore latest x --partition a",
     "restore latest x --partition 1:", "expire --keep-last -1", "expire --max-size many", "backup d --kind huge",
     "init", "key", "key add --yes", "images --al"],
)  # fmt: skip
def test_what_cannot_be_understood_is_our_own_error(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_parser().parse_args(line.split())
    assert caught.value.hint


@pytest.mark.parametrize(("text", "expected"), [("2", (2, None)), ("2:3", (2, 3)), ("2:new", (2, "new"))])
def test_a_choice_of_a_partition(text: str, expected: tuple[int, int | str | None]) -> None:
    assert build_parser().parse_args(["restore", "latest", "x", "--partition", text]).partition == [expected]


def test_help_never_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        build_parser().parse_args(["backup", "--help"])
    assert "SOURCE" in capsys.readouterr().out
