"""The screens, driven by keys in 80 x 24; what they show stands in the guide."""

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

import stillframe
from stillframe.errors import DeviceError, MachineRefusal, StillframeError
from stillframe.rescue.flows.menu import menu
from stillframe.rescue.pages.pages import LeaveFor, Option
from stillframe.rescue.pages.talk import Talk
from stillframe.rescue.places.found import FoundRepository
from stillframe.rescue.screens.app import RescueApp
from stillframe.rescue.screens.reading import Rows, bar, printable, wrap
from stillframe.testing.rescue_world import CLOSED, SECRET, MadeUpJobs, MadeUpPlaces, make_world

GUIDE = Path(stillframe.__file__).parents[2] / "docs" / "guide" / "rescue.md"
CONSOLE = re.compile(r"[\x20-\x7e]*")
Shots = dict[str, str]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TERM", "vt100")
    __import__("time").tzset()


def shot(app: RescueApp, *, size: tuple[int, int] = (80, 24)) -> str:
    """What the terminal shows."""
    lines = [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]
    assert len(lines) == size[1]
    for line in lines:
        assert len(line) <= size[0]
        assert CONSOLE.fullmatch(line), f"a character that a console font may not have: {line!r}"
    return re.sub(r"\S+( min \S+)? s so far", "5 min 08 s so far", "\n".join(lines)).rstrip()


async def press(pilot: Pilot[LeaveFor], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        for _ in range(200):
            if pilot.app._work is None:  # type: ignore[attr-defined]
                break
            await asyncio.sleep(0.01)
        await pilot.pause()


async def write(pilot: Pilot[LeaveFor], text: str) -> None:
    await press(pilot, *("space" if char == " " else char for char in text), "enter")


def drive(app: RescueApp, steps: Callable[[Pilot[LeaveFor]], Awaitable[None]]) -> LeaveFor | None:
    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(run())
    return app.return_value


def make_app(jobs: MadeUpJobs, *, has_backups: bool = True) -> RescueApp:
    world = make_world(jobs, has_backups=has_backups)
    return RescueApp(Talk(lambda: menu(world)))


def take_shots() -> Shots:
    """Every screen of a restore and the first ones of a backup."""
    shots, gate = Shots(), threading.Event()
    jobs = MadeUpJobs()
    app = make_app(jobs)

    def hold() -> None:
        gate.wait(20)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        shots["menu"] = shot(app)
        await press(pilot, "enter")
        shots["backup"] = shot(app)
        await press(pilot, "escape", "2", "enter")
        shots["where"] = shot(app)
        await press(pilot, "enter")
        shots["unlock"] = shot(app)
        await write(pilot, SECRET)
        shots["images"] = shot(app)
        await press(pilot, "enter")
        shots["target"] = shot(app)
        await press(pilot, "2", "enter", "enter")
        shots["larger"] = shot(app)
        await press(pilot, "enter")
        shots["plan"] = shot(app)
        jobs.wait = hold
        for key in (*"restore", "enter"):
            await pilot.press(key)
        await pilot.pause(0.6)
        shots["work"] = shot(app)
        await pilot.press("escape")
        await pilot.pause()
        shots["stop"] = shot(app)
        await pilot.press("x")
        gate.set()
        await press(pilot, "x")
        shots["done"] = shot(app)

    drive(app, steps)
    locked = RescueApp(Talk(lambda: menu(make_world(MadeUpJobs(), has_backups=False, closed=CLOSED))))

    async def unlocking(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter")
        shots["closed"] = shot(locked)
        await press(pilot, "enter")
        shots["passphrase"] = shot(locked)

    drive(locked, unlocking)
    return shots


def test_the_guide_shows_what_the_screens_show() -> None:
    shots, text = take_shots(), GUIDE.read_text()
    for name, shown in shots.items():
        mark = f"<!-- screen: {name} -->\n```text\n"
        before, found, after = text.partition(mark)
        assert found, f"{GUIDE.name} has no screen {name}"
        kept, end, rest = after.partition("\n```\n")
        if os.environ.get("STILLFRAME_WRITE_GUIDE"):
            text = f"{before}{mark}{shown}{end}{rest}"
        else:
            assert kept == shown, name
    if os.environ.get("STILLFRAME_WRITE_GUIDE"):
        GUIDE.write_text(text)


def test_a_restore_asks_for_what_was_chosen_and_ends_with_a_restart() -> None:
    jobs = MadeUpJobs()

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        await write(pilot, SECRET)
        await press(pilot, "enter", "2", "enter", "down", "enter", "2", "enter")
        await write(pilot, "yes")
        assert not any("--yes" in words for words in jobs.asked)
        await write(pilot, "restore")
        await press(pilot, "enter")

    assert drive(make_app(jobs), steps) == "restart"
    image = "3fa9c2d1" * 4
    wanted = ("restore", image, "/dev/sda", "--adapt", "--fit", "--yes", "--repo")
    assert jobs.asked[-1][: len(wanted)] == wanted


def test_what_cannot_be_chosen_is_not_taken() -> None:
    jobs = MadeUpJobs()

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        await write(pilot, SECRET)
        await press(pilot, "enter", "3", "enter")
        assert "Onto which disk?" in shot(pilot.app)  # type: ignore[arg-type]
        assert "NOT POSSIBLE: the repository with the backups is on it" in shot(pilot.app)  # type: ignore[arg-type]
        assert "> 3" in shot(pilot.app)  # type: ignore[arg-type]

    drive(make_app(jobs), steps)
    assert not any(words[0] == "restore" for words in jobs.asked)


@pytest.mark.parametrize(
    ("error", "words"),
    [(DeviceError("/dev/sdb1 failed to read", hint="Is the disk still plugged in?"), "Is the disk still plugged in?")],
)
def test_an_error_is_a_sentence_and_a_way_on(error: StillframeError, words: str) -> None:
    jobs = MadeUpJobs(fails={"restore": error})
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        await write(pilot, SECRET)
        await press(pilot, "enter", "2", "enter", "enter", "enter")
        await write(pilot, "restore")
        assert words in shot(app)
        assert "Go on where it stopped" in shot(app)
        jobs.fails.clear()
        await press(pilot, "enter")
        assert "Restored" in shot(app)

    drive(app, steps)
    assert "--delta" in jobs.asked[-1]


def test_a_fault_of_ours_does_not_end_the_screens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    jobs = MadeUpJobs()
    app = make_app(jobs)

    def break_it() -> None:
        raise ZeroDivisionError("broken")

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        await write(pilot, SECRET)
        await press(pilot, "enter", "2", "enter", "enter", "enter")
        jobs.wait = break_it
        await write(pilot, "restore")
        assert "This is a bug in Stillframe: ZeroDivisionError: broken" in shot(app)

    drive(app, steps)


def test_nothing_found_says_what_to_do() -> None:
    app = make_app(MadeUpJobs(), has_backups=False)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter")
        assert "No backups were found" in shot(app)
        await press(pilot, "enter")
        assert "smb://NAME@SERVER/SHARE/FOLDER" in shot(app)
        await write(pilot, "nonsense")
        assert "'nonsense' is no place" in shot(app)

    drive(app, steps)


def test_text_is_wrapped_and_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\u2026") == "a\\x1b[2Jb..."
    assert wrap(["  a long line of words", ""], 10) == ["  a long", "  line of", "  words", ""]
    assert bar(1, 2) == f"[{'#' * 25}{'.' * 25}]"
    assert bar(5, 0) == ""


def test_a_long_list_shows_what_is_marked() -> None:
    class Holder(RescueApp):
        pass

    app = Holder(Talk(lambda: menu(make_world(MadeUpJobs()))))

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        rows = app.query_one("#rows", Rows)
        rows.show([Option(key=str(number), words=f"line {number}") for number in range(100)])
        rows.styles.height = 10
        await pilot.pause()
        assert "more below" in shot(app)
        await pilot.press("end")
        await pilot.pause()
        assert "> " in shot(app)
        assert "line 99" in shot(app)
        assert "more above" in shot(app)

    drive(app, steps)


def test_disks_say_how_they_are() -> None:
    jobs = MadeUpJobs()
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "6", "enter")
        assert "This disk reports 12 sectors it could not read" in shot(app)
        assert "sectors that could not be read: 12" in shot(app)
        await press(pilot, "enter")
        assert "Back up this computer" in shot(app)

    drive(app, steps)
    assert jobs.asked == [("health",)]


def test_a_copy_onto_a_smaller_disk_is_made_to_fit() -> None:
    jobs = MadeUpJobs()
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "4", "enter", "enter")
        page = shot(app)
        number = next(line.strip(" >").split()[0] for line in page.splitlines() if "/dev/sdc" in line)
        await press(pilot, number, "enter")
        assert "This is going to be done" in shot(app)
        await write(pilot, "clone")
        assert "Copied" in shot(app)

    drive(app, steps)
    assert jobs.asked[-1] == ("clone", "/dev/nvme0n1", "/dev/sdc", "--fit", "--yes")


def test_ctrl_c_leaves_nothing_half_done_and_says_how_to_leave() -> None:
    jobs, gate = MadeUpJobs(), threading.Event()
    app = make_app(jobs)

    def hold() -> None:
        gate.wait(20)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "ctrl+c")
        assert "Ctrl-C does not end this" in shot(app)
        assert "Restore this computer" in shot(app)
        await press(pilot, "2", "enter", "enter", "ctrl+c")
        assert "Unlock the backups" in shot(app)
        assert "Esc: back" in shot(app)
        await write(pilot, SECRET)
        await press(pilot, "enter", "2", "enter", "enter", "enter")
        jobs.wait = hold
        for key in (*"restore", "enter"):
            await pilot.press(key)
        await pilot.pause(0.3)
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert "The disk is not complete then" in shot(app)
        assert app._work is not None
        assert not app._work.watch.stop.is_set(), "one Ctrl-C asks, as Esc does"
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert app._work.watch.stop.is_set()
        assert "Stopping after the piece" in shot(app)
        gate.set()
        await press(pilot, "x")

    assert drive(app, steps) is None, "Ctrl-C never ends the program"


@pytest.mark.variants(1)
@pytest.mark.parametrize("sizes", [[(132, 43), (80, 24)], [(40, 12), (132, 43)]])
def test_every_page_is_drawn_anew_when_the_terminal_gets_another_size(sizes: list[tuple[int, int]]) -> None:
    app = make_app(MadeUpJobs())
    keys = [
        ("Back up this computer", ("2", "enter")), ("Where are the backups?", ("enter",)),
        ("Unlock the backups", (*(("space" if char == " " else char) for char in SECRET), "enter")),
        ("Which state do you want back?", ("enter",)), ("Onto which disk?", ("2", "enter", "enter")),
        ("The disk is larger", ("enter",)), ("This is going to be done", ()),
    ]  # fmt: skip

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        before = ""
        for title, pressed in keys:
            for size in sizes:
                await pilot.resize_terminal(*size)
                await pilot.pause()
                shown = shot(app, size=size)
                assert title[:16] in shown, (title, size, shown)
                assert shown.rstrip().splitlines()[-1].strip(), "the line with the keys"
            if sizes[-1] == (80, 24):
                assert shown != before
            before = shown
            await press(pilot, *pressed)

    drive(app, steps)


def test_a_page_is_the_same_at_a_size_however_the_terminal_came_to_it() -> None:
    jobs = MadeUpJobs()
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        for pressed in ((), ("2", "enter"), ("enter",)):
            await press(pilot, *pressed)
            first = shot(app)
            for size in ((132, 43), (80, 24)):
                await pilot.resize_terminal(*size)
                await pilot.pause()
            assert shot(app) == first

    drive(app, steps)


@pytest.mark.variants(1)
@pytest.mark.parametrize("verb", ["images", "show", "disks"])
def test_a_stick_that_is_pulled_out_while_choosing_is_a_sentence_and_a_way_back(verb: str) -> None:
    jobs = MadeUpJobs()
    app = make_app(jobs)
    error = DeviceError("/dev/sdb1 failed to read", hint="Is the disk still plugged in?")

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        if verb == "images":
            jobs.fails[verb] = error
        await write(pilot, SECRET)
        if verb != "images":
            jobs.fails[verb] = error
            await press(pilot, "enter")
        assert "/dev/sdb1 failed to read" in shot(app)
        assert "Is the disk still plugged in?" in shot(app)
        jobs.fails.clear()
        await press(pilot, "enter")
        assert "failed to read" not in shot(app)

    drive(app, steps)


def test_a_stick_that_is_gone_before_it_is_opened_is_a_sentence() -> None:
    class Gone(MadeUpPlaces):
        def reopen(self, repository: FoundRepository, *, read_write: bool, secret: str = "") -> FoundRepository:
            del repository, read_write, secret
            raise MachineRefusal("/dev/sdb1 is not there any more", hint="Was it unplugged? Plug it in again.")

    world = make_world(MadeUpJobs())
    world.places = Gone(world.places.search())
    app = RescueApp(Talk(lambda: menu(world)))

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "2", "enter", "enter")
        await write(pilot, SECRET)
        assert "/dev/sdb1 is not there any more." in shot(app)
        assert "Plug it in again" in shot(app)
        await press(pilot, "enter")
        assert "Look again" in shot(app)

    drive(app, steps)


def test_a_copy_that_stopped_goes_on() -> None:
    jobs = MadeUpJobs(fails={"clone": DeviceError("/dev/sda failed to write", hint="Is it plugged in?")})
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "4", "enter", "enter", "2", "enter", "enter")
        await write(pilot, "clone")
        assert "The copy is not complete" in shot(app)
        assert "/dev/sda failed to write" in shot(app)
        jobs.fails.clear()
        await press(pilot, "enter")
        assert "Copied" in shot(app)

    drive(app, steps)
    assert jobs.asked[-1][-2:] == ("--delta", "--yes")


def test_a_repair_shows_what_it_would_write_and_where_the_way_back_goes() -> None:
    jobs = MadeUpJobs()
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "5", "enter")
        assert "Which disk does not start?" in shot(app)
        await press(pilot, "enter", "enter")
        assert "Where is what was there kept?" in shot(app)
        assert "NO way back" in shot(app)
        await press(pilot, "enter")
        assert "by UEFI: nothing is there that starts a system" in shot(app)
        await write(pilot, "repair")
        assert "Repaired" in shot(app)
        assert "stillframe-undo-nvme0n1-" in shot(app)

    drive(app, steps)
    plan, done = (words for words in jobs.asked if words[0] == "boot-repair")
    assert plan == ("boot-repair", "/dev/nvme0n1", "--dry-run")
    assert done[:4] == ("boot-repair", "/dev/nvme0n1", "--yes", "--keep-undo")
    assert done[4].endswith(".undo")


def test_a_disk_with_nothing_broken_leads_back() -> None:
    jobs = MadeUpJobs(nothing_broken=True)
    app = make_app(jobs)

    async def steps(pilot: Pilot[LeaveFor]) -> None:
        await press(pilot, "5", "enter", "enter", "down", "enter")
        assert "Nothing is broken" in shot(app)
        await press(pilot, "enter")
        assert "Which disk does not start?" in shot(app)

    drive(app, steps)
    assert jobs.asked[-1] == ("boot-repair", "/dev/nvme0n1", "--adapt", "--dry-run")
