"""``rescue start``: answers are carried out once, by one terminal, and end as they say; ``ui`` wants a terminal."""

import json
from pathlib import Path

import pytest

from stillframe.cli import rescue_screens
from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.rescue.answering.answers import Answers, parse_answers
from stillframe.rescue.answering.finding import FoundAnswers
from stillframe.rescue.answering.unattended import Verdict
from stillframe.rescue.places.opened import Places
from stillframe.rescue.world import World
from stillframe.testing.command_line import call

GOOD = Verdict(verb="restore", ok=True, exit_code=0, message="all is well", facts={"target": "/dev/sdb"})
BAD = Verdict(verb="restore", ok=False, exit_code=22, message="the target is too small", hint="Choose a larger one.")


class Machine:
    """What a start does here: which answers, how they end, and what becomes of the power."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.report = folder / "serial"
        self.report.touch()
        self.runs, self.power, self.shown = 0, list[str](), list[tuple[str, ...]]()
        self.verdict, self.again, self.notices = GOOD, list[bool](), tuple[Notice, ...]()
        self.closed_after, self.worlds = list[tuple[int, int]](), list[World]()
        monkeypatch.setattr(Places, "close_all", self.close)
        self.text = "[restore]\n"
        monkeypatch.setattr(rescue_screens, "_RUN", str(folder / "run"))
        (folder / "cmdline").write_text("quiet")
        monkeypatch.setattr(rescue_screens, "_COMMAND_LINE", str(folder / "cmdline"))
        monkeypatch.setattr(rescue_screens, "_find", self.find)
        monkeypatch.setattr(rescue_screens, "carry_out", self.carry_out)
        monkeypatch.setattr(rescue_screens, "change_power", self.power.append)
        monkeypatch.setattr(rescue_screens, "_screens", self.show)

    def find(self, _call: object, _world: World, *, is_again: bool) -> FoundAnswers | None:
        self.again.append(is_again)
        if not self.text:
            return None
        answers = parse_answers(self.text, where="here")
        return FoundAnswers(where="here", folder="", answers=answers, notices=self.notices)

    def close(self, *_: object, **__: object) -> None:
        self.closed_after.append((self.runs, len(self.shown)))

    def carry_out(self, _world: World, _answers: Answers, _say: object) -> Verdict:
        self.runs += 1
        return self.verdict

    def show(self, _call: object, world: World, notes: tuple[str, ...]) -> int:
        self.worlds.append(world)
        self.shown.append(notes)
        return 0

    @property
    def said(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.report.read_text().splitlines() if line]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_passphrases_of_encrypted_disks_come_from_files(machine: Machine, tmp_path: Path) -> None:
    machine.text = "[unlock]\n"
    (tmp_path / "typed").write_text("a pass phrase\r\n")
    (tmp_path / "key").write_bytes(b"\xff\x00key")
    words = ("--unlock-file", tmp_path / "typed", "--unlock-file", tmp_path / "key")
    assert call("rescue", "start", *words).exit_code == 0
    (world,) = machine.worlds
    secrets = [secret.encode("utf-8", "surrogateescape") for secret in world.volume_secrets]
    assert secrets == [b"a pass phrase", b"a pass phrase\r\n", b"\xff\x00key"]
    assert world.opens_closed
    assert call("rescue", "start", "--unlock-file", tmp_path / "none").exit_code == 2


def test_what_answers_opened_is_closed_before_the_screens_are_shown(machine: Machine) -> None:
    machine.verdict = BAD
    assert call("rescue", "start").exit_code == 0
    assert machine.closed_after[0] == (1, 0), "answers were carried out, and nothing was shown"
    assert machine.shown


def test_answers_are_carried_out_once_and_the_verdict_is_a_line_of_json(machine: Machine) -> None:
    machine.text = f'[restore]\n[after]\nthen = "poweroff"\nreport = "{machine.report}"\n'
    assert call("rescue", "start").exit_code == 0
    assert (machine.runs, machine.power, machine.shown) == (1, ["shutdown"], [])
    assert machine.said == [
        {"type": "verdict", "verb": "restore", "ok": True, "exit_code": 0, "message": "all is well", "hint": "",
         "target": "/dev/sdb"}
    ]  # fmt: skip
    call("rescue", "start")
    assert (machine.runs, machine.shown) == (1, [()])
    assert machine.again == [False, True], "a web server is not waited for once more"


def test_what_is_to_be_known_of_the_answers_stands_in_the_verdict(machine: Machine) -> None:
    machine.notices = (Notice(code="secret-over-http", message="others can read it", hint="Use https."),)
    done = call("rescue", "start")
    assert "others can read it" in done.errors
    assert json.loads(done.output.splitlines()[-1])["notices"] == ["others can read it"]


@pytest.mark.parametrize(
    ("on_failure", "power"), [("screens", []), ("poweroff", ["shutdown"]), ("restart", ["restart"])]
)
def test_a_failure_ends_as_the_answers_say(machine: Machine, on_failure: str, power: list[str]) -> None:
    machine.verdict = BAD
    machine.text = f'[restore]\n[after]\nthen = "poweroff"\non-failure = "{on_failure}"\nreport = "{machine.report}"\n'
    assert call("rescue", "start").exit_code == 0
    assert machine.power == power
    assert machine.closed_after[0] == (1, 0), "no share is held open when the screens come"
    assert machine.said[0]["exit_code"] == 22
    shown = [line for notes in machine.shown for line in notes]
    assert ("The target is too small." in shown) == (not power)
    assert ("Choose a larger one." in shown) == (not power)


def test_wrong_answers_are_a_verdict_and_then_the_screens(machine: Machine) -> None:
    machine.text = "[bogus]\n"
    done = call("rescue", "start")
    assert (done.exit_code, machine.runs) == (0, 0)
    assert json.loads(done.output)["exit_code"] == 2
    assert any("there is no section [bogus]" in line for line in machine.shown[0])


def test_answers_without_a_verb_settle_things_for_the_screens(machine: Machine) -> None:
    machine.text = '[repository]\nwhere = "nfs://nas/x"\n'
    assert call("rescue", "start").exit_code == 0
    assert (machine.runs, machine.shown) == (0, [()])


def test_a_second_terminal_says_that_the_first_is_at_it(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with rescue_screens._lock(str(tmp_path / "run" / "answers.lock")) as is_ours:
        assert is_ours
        assert call("rescue", "start").exit_code == 0
    assert machine.runs == 0
    assert "another screen" in machine.shown[0][0]


@pytest.mark.parametrize("text", ["", '[repository]\nwhere = "nfs://nas/x"\n'])
def test_two_terminals_without_anything_to_carry_out_say_nothing_of_it(
    machine: Machine, tmp_path: Path, text: str
) -> None:
    machine.text = text
    (tmp_path / "run").mkdir()
    with rescue_screens._lock(str(tmp_path / "run" / "answers.lock")):
        assert call("rescue", "start").exit_code == 0
    assert machine.shown == [()]


def test_without_a_terminal_the_screens_are_an_error() -> None:
    for words in (["ui"], ["ui", "--json"]):
        done = call(*words)
        assert done.exit_code == UsageError.exit_code
        assert "need a terminal" in done.output + done.errors


def test_without_textual_the_screens_are_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stillframe.rescue.screens.app", None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    done = call("ui", typed=[])
    assert done.exit_code == 20
    assert "textual" in done.errors
