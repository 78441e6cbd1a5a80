"""Tests that are shared out among processes: each once, counted as by one process, and none left behind."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

RUNNER = Path(__file__).parents[2] / "tools" / "run_tests.py"
PLAIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:randomly")

JOURNAL = """
import os, signal, subprocess, sys, tempfile, time
import pytest

def note(word):
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"{os.getpid()} {word}\\n")

@pytest.fixture(scope="module")
def made():
    note("made")
    yield
    note("unmade")

@pytest.fixture(autouse=True)
def noted(request):
    note(request.node.nodeid.split("::")[1])
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tests", RUNNER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_tests"] = module
    spec.loader.exec_module(module)
    return module


class Suite:
    """Files of tests in a folder of their own, and the journal that they write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.txt"
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow: takes long\n  variants(n): some\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / f"test_{name}.py").write_text(JOURNAL + text)

    def start(self, *words: str, program: tuple[str, ...] = (str(RUNNER), "--processes", "3")) -> subprocess.Popen[str]:
        command = [sys.executable, *program, *PLAIN, f"--basetemp={self.folder / 'base'}", *words, str(self.folder)]
        return subprocess.Popen(
            command, cwd=self.folder, env=os.environ | {"JOURNAL": str(self.journal), "TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        with self.start(*words) as running:
            said, _ = running.communicate(timeout=120)
        return running.returncode, said

    def noted(self) -> list[tuple[int, str]]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


ORDINARY = """
@pytest.mark.parametrize("number", range(7))
def test_many(made, number):
    time.sleep(0.02)

@pytest.mark.slow
def test_long():
    raise AssertionError("it was not asked for")

def test_left_out():
    raise AssertionError("it was not asked for")

def test_skipped():
    pytest.skip("because")
"""


def test_each_test_is_run_once_and_counted_as_by_one_process(suite: Suite) -> None:
    for name in "abcde":
        suite.write(name, ORDINARY)
    suite.write("f", "def test_bad(capsys):\n    print('it said this')\n    assert len('four') == 5\n")
    chosen = ("-m", "not slow", "-k", "not left_out")
    with suite.start(*chosen, "--collect-only", "-q", program=("-m", "pytest")) as asked:
        listed = Counter(line.split("::")[1] for line in asked.communicate()[0].splitlines() if "::" in line)
    code, said = suite.run(*chosen, "--durations=2")
    noted = suite.noted()
    assert code == 1, said
    assert Counter(word for _, word in noted if word.startswith("test_")) == listed
    assert listed["test_many[3]"] == 5
    assert Counter(word for _, word in noted if "made" in word) == {"made": 5, "unmade": 5}, "a file stays together"
    assert "1 failed, 35 passed, 5 skipped, 10 deselected" in said
    assert "assert 4 == 5" in said
    assert "it said this" in said
    assert said.index("FAILED test_f.py::test_bad") > said.index("slowest 2 durations") > said.index("[100%]")


MEETING = """
def test_meets(tmp_path):
    assert not list(tmp_path.iterdir())
    for _ in range(1200):
        if len({line.split()[0] for line in open(os.environ["JOURNAL"])}) == 2:
            return
        time.sleep(0.05)
    raise AssertionError("nobody else is at work")
"""


def test_files_are_run_beside_each_other_and_the_exit_code_says_that_all_passed(suite: Suite) -> None:
    suite.write("a", MEETING)
    suite.write("b", MEETING)
    code, said = suite.run("-v")
    assert (code, said.count("PASSED"), "2 passed" in said) == (0, 2, True), said
    assert suite.run("-k", "no_such_test")[0] == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_test_that_takes_its_process_along_has_failed_and_the_others_are_run(suite: Suite) -> None:
    text = (
        "def test_before(made): pass\ndef test_deadly(): os.kill(os.getpid(), signal.SIGKILL)\ndef test_after(): pass\n"
    )
    suite.write("a", text)
    suite.write("b", "def test_good(): pass\n")
    code, said = suite.run()
    assert code == 1
    assert "1 failed, 3 passed" in said
    assert "the process that ran test_a.py::test_deadly ended (signal 9)" in said
    assert "test_after" in [word for _, word in suite.noted()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_in_order(suite: Suite, number: signal.Signals) -> None:
    waits = "def test_waits(made):\n    note('waits')\n    time.sleep(600)\n\ndef test_not_reached(): pass\n"
    keeps = "    with pytest.raises(KeyboardInterrupt):\n        time.sleep(600)\n"  # as our own command line does
    suite.write("a", waits)
    suite.write("b", "def test_keeps(made):\n    note('waits')\n" + keeps + "\ndef test_not_reached(): pass\n")
    with suite.start() as running:
        deadline = time.monotonic() + 60
        while [word for _, word in suite.noted()].count("waits") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(number)
        said, _ = running.communicate(timeout=120)
    noted = suite.noted()
    assert running.returncode == pytest.ExitCode.INTERRUPTED, said
    assert "was running: test_a.py::test_waits" in said
    assert [word for _, word in noted].count("unmade") == 2
    assert "test_not_reached" not in [word for _, word in noted]
    for pid in {pid for pid, _ in noted}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_first_failure_ends_all_when_that_is_wished(suite: Suite) -> None:
    suite.write("a", "def test_bad(): assert False\n" + "\n".join(f"def test_{i}(): pass" for i in range(50)))
    suite.write("b", "def test_waits(made):\n    time.sleep(600)\n")
    code, said = suite.run("-x")
    assert code == 1
    assert "stopping after 1 failures" in said
    assert "1 failed" in said
    assert not [word for _, word in suite.noted() if re.fullmatch(r"test_\d+", word)]


def test_a_file_left_in_the_temporary_folder_fails_the_run(suite: Suite) -> None:
    suite.write("a", "def test_leaves(): os.close(tempfile.mkstemp(prefix='stray')[0])\n")
    suite.write("b", "def test_good(): pass\n")
    code, said = suite.run()
    assert code == 1
    assert "2 passed" in said
    assert re.search(r"left in \S+: stray", said)


def test_files_are_a_partition_of_the_tests_and_the_dearest_folders_come_first() -> None:
    paths = ["tests/unit/test_a.py", "tests/e2e/test_b.py", "tests/unit/test_a.py", "tests/oracle/test_c.py", "x.py"]
    groups = load().group_by_file(paths)
    assert groups == [[1], [3], [0, 2], [4]]
    assert sorted(index for group in groups for index in group) == list(range(len(paths)))


@pytest.mark.parametrize("times", [{0: 1}, {0: 1, 1: 2}, {0: 1, 1: 0}])
def test_a_test_that_was_not_run_once_is_named(times: dict[int, int]) -> None:
    processes = load().Processes(2)
    processes.times_run = times
    assert f"not run exactly once: b {times.get(1, 0)} times" in processes.trouble(["a", "b"])
    processes.times_run = {0: 1, 1: 1}
    processes.troubles.clear()
    assert not processes.trouble(["a", "b"])


@pytest.mark.parametrize(
    ("count", "wanted", "chosen"), [(7, 1, [0]), (7, 3, [0, 3, 6]), (7, 7, [*range(7)]), (2, 9, [0, 1])]
)
def test_of_variants_so_many_are_run_that_lie_evenly(suite: Suite, count: int, wanted: int, chosen: list[int]) -> None:
    shutil.copy(RUNNER.parents[1] / "tests" / "conftest.py", suite.folder)
    head = f"@pytest.mark.variants({wanted})\n@pytest.mark.parametrize('number', "
    slow = "pytest.param(-1, marks=pytest.mark.slow)"
    suite.write("a", f"{head}[*range({count}), {slow}])\ndef test_one(number): pass\n")
    suite.write("b", "def test_other(): pass\n")
    code, said = suite.run("-m", "not slow")
    assert code == 0, said
    assert sorted(word for _, word in suite.noted()) == [*(f"test_one[{number}]" for number in chosen), "test_other"]
