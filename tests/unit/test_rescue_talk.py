"""The order of pages: answers, the way back, and work that is done once."""

from pathlib import Path

import pytest

from stillframe.errors import UsageError
from stillframe.rescue.pages.pages import Ask, Choose, Flow, Leave, Option, Outcome, Page, Tell, Work
from stillframe.rescue.pages.talk import Talk
from stillframe.rescue.pages.working import Watch, do_work

MENU = Choose(title="menu", is_start=True, options=(Option(key="a", words="A"), Option(key="leave", words="B")))


def flow() -> Flow:
    choice = yield MENU
    if choice == "leave":
        yield Leave(title="", what="leave")
        return
    name = yield Ask(title="name", question="?")
    outcome = yield Work(title="work", do=lambda _doing: name.upper())
    again = yield Ask(title=f"again {outcome.value}", question="?")
    yield Tell(title="written", lines=(again,), is_final=True)
    yield Ask(title="after", question="?")
    yield Tell(title="end")
    yield MENU


def step(talk: Talk, answer: object) -> Page:
    page = talk.answer(answer)
    while isinstance(page, Work):
        page = talk.answer(do_work(page, Watch()))
    assert page is not None
    return page


def test_pages_come_in_order_and_work_is_an_answer() -> None:
    talk = Talk(flow)
    assert talk.page == MENU
    assert not talk.can_go_back
    assert step(talk, "a").title == "name"
    assert step(talk, "x").title == "again X"
    assert talk.answer("y") == Tell(title="written", lines=("y",), is_final=True)


def test_back_goes_past_work_to_the_question_before_it() -> None:
    talk = Talk(flow)
    step(talk, "a")
    step(talk, "x")
    page = talk.back()
    assert page is not None
    assert page.title == "name"
    assert step(talk, "z").title == "again Z"
    talk.back()
    talk.back()
    assert talk.page == MENU
    assert not talk.can_go_back
    assert talk.back() == MENU


def test_nothing_goes_back_over_what_was_done() -> None:
    talk = Talk(flow)
    for answer in ("a", "x", "y"):
        step(talk, answer)
    assert not talk.can_go_back
    assert step(talk, None).title == "after"
    assert not talk.can_go_back
    assert step(talk, "z").title == "end"
    assert talk.can_go_back
    assert talk.back() == Ask(title="after", question="?")
    step(talk, "z")
    assert step(talk, None) == MENU
    assert not talk.can_go_back


def test_a_talk_ends() -> None:
    talk = Talk(flow)
    assert talk.answer("leave") == Leave(title="", what="leave")
    assert talk.answer(None) is None
    assert talk.answer("x") is None
    assert talk.back() is None


def test_an_error_of_ours_is_an_outcome_and_so_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fails(_doing: object) -> None:
        raise UsageError("wrong", hint="right")

    outcome = do_work(Work(title="", do=fails), Watch())
    assert (outcome.error and outcome.error.message) == "wrong"
    bug = do_work(Work(title="", do=lambda _doing: 1 // 0), Watch())
    assert bug.error is not None
    assert "bug in Stillframe: ZeroDivisionError" in bug.error.message
    assert isinstance(bug, Outcome)
    (kept,) = tmp_path.iterdir()
    assert "ZeroDivisionError" in kept.read_text()
