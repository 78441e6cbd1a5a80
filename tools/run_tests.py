#!/usr/bin/env python3
"""Runs pytest with the tests shared out among processes: ``tools/run_tests.py [--processes N] PYTEST_ARGUMENTS``.

Answers: "do all tests pass, in less time?" The tests are collected once; then this process forks, and each child takes
one file of tests after the other until none is left. Their reports come back here, so what pytest shows, counts and
writes is what one process would have shown, and so is the exit code. A child has a single thread, as code that forks
and opens namespaces demands. That each test is run exactly once is counted, not assumed.

A child that dies fails the test that it ran, and another takes its place. Ctrl-C and SIGTERM end all of them, each in
order. Each child has a temporary folder of its own; a file that is left there fails the run. With one process, or where
a debugger is asked for, this is plain pytest. Warnings that are no errors do not come back from the children; in this
project every warning is an error.
"""

import argparse
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
DEAREST_FIRST: Final = (
    "e2e", "oracle", "property", "faults", "contract", "test_rescue_screens.py", "test_rescue_start.py",
)  # fmt: skip
"""Folders whose files take longest, and such files. They are begun first, so that no long one is left for the end."""

TIME_TO_END_S: Final = 60.0
INTERRUPTED: Final = 130

Group = list[int]
"""Tests of one file, by their place among all tests, in the order in which they are run."""


def group_by_file(paths: list[str]) -> list[Group]:
    """Tests of one file together, because they share what is made for them; the dearest folders first."""
    groups: dict[str, Group] = {}
    for index, path in enumerate(paths):
        groups.setdefault(path, []).append(index)

    def rank(path: str) -> int:
        parts = Path(path).parts
        return next((place for place, name in enumerate(DEAREST_FIRST) if name in parts), len(DEAREST_FIRST))

    return [groups[path] for path in sorted(groups, key=rank)]


@dataclass(kw_only=True, eq=False)
class Child:
    """One process that runs tests, as its parent sees it."""

    pid: int
    pidfd: int
    line: "Connection[Any, Any]"
    folder: str  # for its temporary files
    given: deque[int] = field(default_factory=deque)  # and not finished
    running: int | None = None
    finished: list[tuple[int, list[Any]]] = field(default_factory=list)  # with their reports; not shown yet
    said_all: bool = False


class Processes:
    """The plugin: takes the place of pytest's loop over the tests."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.children: list[Child] = []
        self.waiting: deque[Group] = deque()
        self.times_run: dict[int, int] = {}
        self.troubles: list[str] = []
        self.ending = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Share out the tests; ``None`` where pytest's own loop is what is wanted."""
        option = session.config.option
        if self.count < 2 or option.collectonly or option.usepdb or option.trace or session.testsfailed:
            return None
        self.waiting.extend(group_by_file([item.nodeid.split("::")[0] for item in session.items]))
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # noqa: SLF001 - made once, for all
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored, where a shell put us behind with "&"
        gc.collect()
        gc.freeze()  # ten thousand tests, at which each child would look again whenever it looks for garbage
        try:
            for _ in range(min(self.count, len(self.waiting))):
                self.start(session)
            while self.children and not (session.shouldfail or session.shouldstop):
                self.listen(session)
        finally:
            self.end(session)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        trouble = session.shouldfail or self.trouble([item.nodeid for item in session.items])
        if trouble:
            session.shouldfail = trouble  # shown by pytest in its last lines
            raise session.Failed(trouble)
        return True

    def start(self, session: pytest.Session) -> None:
        """Fork one child."""
        ours, theirs = Pipe()
        folder = tempfile.mkdtemp(prefix="stillframe-test-")
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for line in (ours, *(child.line for child in self.children)):
                line.close()
            live(session, theirs, folder)
        theirs.close()
        with contextlib.suppress(OSError):  # the child does it too: whoever comes first
            os.setpgid(pid, pid)
        self.children.append(Child(pid=pid, pidfd=os.pidfd_open(pid), line=ours, folder=folder))

    def listen(self, session: pytest.Session, *, timeout_s: float | None = None) -> None:
        """Hear what some children have to say, and bury those that are dead."""
        ready = wait([place for child in self.children for place in (child.line, child.pidfd)], timeout_s)
        for child in list(self.children):
            try:
                while child.line in ready and child.line.poll():
                    self.hear(session, child, *child.line.recv())
            except (EOFError, OSError):  # it is dead, perhaps in the midst of a word
                self.bury(session, child)
            else:
                if child.pidfd in ready and child.line not in ready:
                    self.bury(session, child)

    def hear(self, session: pytest.Session, child: Child, kind: str, content: Any) -> None:
        """Take one message."""
        if kind == "next":
            group = self.waiting.popleft() if self.waiting else []
            child.given.extend(group)
            child.line.send(group)
        elif kind == "begins":
            child.running = content
        elif kind == "done":
            child.running = None
            child.given.remove(content[0])
            child.finished.append(content)
            following = session.items[child.given[0]].path if child.given else None
            if following != session.items[content[0]].path or session.config.option.verbose > 0:
                self.show(session, child)
        elif kind == "trouble":
            self.troubles.append(content)
        else:
            child.said_all = True

    def show(self, session: pytest.Session, child: Child) -> None:
        """Hand reports on to pytest, test by test; those of a file together, so that its dots stand in one line."""
        hook = session.config.hook
        for index, reports in child.finished:
            item = session.items[index]
            self.times_run[index] = self.times_run.get(index, 0) + 1
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for raw in reports:
                report = hook.pytest_report_from_serializable(config=session.config, data=raw)
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        child.finished.clear()

    def bury(self, session: pytest.Session, child: Child) -> None:
        """A child is dead: in order, or in the midst of a test, which has failed then."""
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        self.children.remove(child)
        child.line.close()
        os.close(child.pidfd)
        if not self.ending and not (child.said_all and code == 0):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            if child.running is None:
                self.troubles.append(f"a process of the tests ended between two tests ({how})")
            else:
                child.given.remove(child.running)
                child.finished.append((child.running, [report_of_death(session, child.running, how)]))
        self.show(session, child)
        self.require_empty(child.folder)
        if child.given and not self.ending:
            self.waiting.appendleft(list(child.given))
        if self.waiting and child.running is not None:
            self.start(session)

    def require_empty(self, folder: str) -> None:
        """Note what a child left in its folder; it stays, for somebody may have mounted something there."""
        try:
            os.rmdir(folder)
        except OSError:
            self.troubles.append(f"left in {folder}: {', '.join(sorted(os.listdir(folder)))}")

    def end(self, session: pytest.Session) -> None:
        """End the children that are left: each in order, or else at once."""
        self.ending = True
        self.waiting.clear()
        for child in self.children:
            if child.running is not None:
                sys.stderr.write(f"\nwas running: {session.items[child.running].nodeid}")
            os.killpg(child.pid, signal.SIGINT)
        deadline = time.monotonic() + TIME_TO_END_S
        try:
            while self.children and time.monotonic() < deadline:
                self.listen(session, timeout_s=1)
        finally:
            for child in self.children:
                os.killpg(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)

    def trouble(self, names: list[str]) -> str:
        """What went wrong beside the tests themselves: above all, a test that was not run exactly once."""
        wrong = [(name, times) for index, name in enumerate(names) if (times := self.times_run.get(index, 0)) != 1]
        if wrong:
            self.troubles.append(f"{len(wrong)} tests were not run exactly once: {wrong[0][0]} {wrong[0][1]} times")
        return "; ".join(self.troubles)


def report_of_death(session: pytest.Session, index: int, how: str) -> Any:
    """The report of a test that took its process along."""
    item = session.items[index]
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"the process that ran {item.nodeid} ended ({how})",
        when="call",
    )
    return session.config.hook.pytest_report_to_serializable(config=session.config, report=report)


def live(session: pytest.Session, line: "Connection[Any, Any]", folder: str) -> NoReturn:
    """A child: run what is given, and end without anything that the parent does at its end."""
    code = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which ends each child once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        take_leave(session.config)
        code = work(session, line)
        if code == 0:
            line.send(("end", None))
    except BaseException:  # noqa: BLE001 - the last that can be said of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def take_leave(config: pytest.Config) -> None:
    """Leave to the parent what is the parent's: the screen, and the file in which output is caught."""
    config.pluginmanager.unregister(name="terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()


class Recorder:
    """In a child, keeps the reports of a test, where pytest would have shown them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.reports: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep one."""
        self.reports.append(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def take(self) -> list[Any]:
        """All since the last time."""
        taken, self.reports = self.reports, []
        return taken


def work(session: pytest.Session, line: "Connection[Any, Any]") -> int:
    """Run one file after the other; the exit code."""
    recorder = Recorder(session.config)
    session.config.pluginmanager.register(recorder)

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        session.shouldstop = "interrupted"  # should a test take the exception for itself, as our command line does
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        for index, following in iter_given(line):
            line.send(("begins", index))
            nextitem = None if following is None else session.items[following]
            session.config.hook.pytest_runtest_protocol(item=session.items[index], nextitem=nextitem)
            line.send(("done", (index, recorder.take())))
            if session.shouldfail or session.shouldstop:
                break
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        session._setupstate.teardown_exact(None)  # noqa: SLF001 - as pytest's own end of a session
    try:
        session.config._ensure_unconfigure()  # noqa: SLF001 - raises what was left open and is noticed only now
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        line.send(("trouble", f"at the end of a process: {error!r}"))
    return 0


def iter_given(line: "Connection[Any, Any]") -> Iterator[tuple[int, int | None]]:
    """Tests as the parent gives them, each with the one that follows; that one says which fixtures may stay."""
    queue: deque[int] = deque()
    while True:
        if len(queue) < 2:
            line.send(("next", None))
            queue.extend(line.recv())
        if not queue:
            return
        index = queue.popleft()
        yield index, queue[0] if queue else None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="as many as processors")
    options, arguments = parser.parse_known_args()
    sys.path[0] = str(ROOT)  # as "python -m pytest" in this folder has it
    return pytest.main(arguments, plugins=[Processes(options.processes)])


if __name__ == "__main__":
    sys.exit(main())
