"""The shape of the code: sizes, names, who may ask for the platform, who may start programs, what imports what."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter import cli as import_linter

import stillframe

ROOT = Path(stillframe.__file__).parents[2]
SOURCE = ROOT / "src" / "stillframe"
FILES = sorted(path for path in SOURCE.rglob("*.py") if "reader" not in path.relative_to(SOURCE).parts)
PRODUCT = [path for path in FILES if "testing" not in path.parts]

FUNCTION_LINES_MAX = 40
MODULE_LINES_MAX = 400
PUBLIC_METHODS_MAX = 12
PARAMETERS_MAX = 6

NAMES_NOT_USED = re.compile(r"Manager|Helper|Util|Handler|Info(?![a-z])|Data(?![a-z])|^_?(Common|Core|Misc)")
MODULES_NOT_USED = re.compile(r"(^|_)(manager|helpers?|utils?|handlers?|info|data|common|core|misc)(_|$)")
BY_DESIGN = {
    "fs/fat:parse_fat_boot": "one flat list of checks in the order of the boot sector's fields",
    "jobs/backup:_make_manifest": "a manifest is gathered from all that a backup knows; each part is named at the call",
    "jobs/backup:_read_back": "hands the parts of one run on to read_back",
    "jobs/demo/story:_sum_up": "the last line of the story tells one figure of each chapter",
    "jobs/verify:_proof": "a proof is gathered from all that a verification knows",
}
"""``module:name``, each with its reason, of what may go beyond a limit."""

PLATFORM = re.compile(r"\bsys\.platform\b|\bos\.name\b|\bplatform\.(system|machine|uname)\b|import platform\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def place(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").as_posix()


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a module; asked for by many tests, parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    for node in nodes(path):
        if isinstance(node, Function):
            yield f"{place(path)}:{node.name}", node


def code_lines(path: Path) -> frozenset[int]:
    """Numbers of the lines that hold code: no comment, no blank line."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in layout:
            found.update(range(token.start[0], token.end[0] + 1))
    return frozenset(found)


def body_lines(node: Function, code: frozenset[int]) -> int:
    """Lines of code of a function: its head and its docstring do not count."""
    body = node.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        body = body[1:]
    if not body:
        return 0
    start = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))])
    return sum(start <= number <= (node.end_lineno or 0) for number in code)


@pytest.mark.parametrize("path", FILES, ids=place)
def test_functions_are_short(path: Path) -> None:
    tall = {n: f for n, f in functions(path) if (f.end_lineno or 0) - f.lineno >= FUNCTION_LINES_MAX}
    code = code_lines(path) if tall else frozenset()
    long = {name: body_lines(node, code) for name, node in tall.items()}
    assert {n: c for n, c in long.items() if c > FUNCTION_LINES_MAX and n not in BY_DESIGN} == {}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=place)
def test_functions_have_few_parameters(path: Path) -> None:
    counts = {}
    for name, node in functions(path):
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        counts[name] = sum(argument.arg not in {"self", "cls"} for argument in given)
    assert {n: c for n, c in counts.items() if c > PARAMETERS_MAX and n not in BY_DESIGN} == {}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_classes_have_few_public_methods(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.ClassDef):
            methods = [m.name for m in node.body if isinstance(m, Function) and not m.name.startswith("_")]
            assert len(methods) <= PUBLIC_METHODS_MAX, f"{node.name}: {methods}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_names_say_something(path: Path) -> None:
    assert not MODULES_NOT_USED.search(path.stem)
    classes = [node.name for node in nodes(path) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if NAMES_NOT_USED.search(name)] == []


@pytest.mark.parametrize("path", PRODUCT, ids=place)
def test_a_module_says_which_question_it_answers(path: Path) -> None:
    if path.name != "__init__.py":
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(docstring) > 20


def test_only_the_host_asks_which_system_this_is() -> None:
    asking = {place(path) for path in PRODUCT if PLATFORM.search(path.read_text())}
    assert {name for name in asking if not name.startswith("host/") and name != "block/syscalls"} == set()


def test_only_one_module_starts_programs() -> None:
    starting = set()
    for path in PRODUCT:
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "subprocess" for name in names):
                starting.add(place(path))
    assert starting <= {"host/run"}


def test_looking_into_an_image_does_not_load_what_saves_one() -> None:
    """Half of the time of a short command would be spent on it."""
    code = "import stillframe.cli.browsing, sys; print([name for name in sys.modules if 'stillframe.' in name])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "'stillframe.jobs.browsing'" in loaded
    assert "stillframe.capture" not in loaded
    assert "stillframe.jobs.backup" not in loaded


def test_nothing_below_the_command_line_prints_or_exits() -> None:
    found = set()
    for path in PRODUCT:
        for node in nodes(path):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"print", "sys.exit", "exit", "quit", "os._exit"}:
                    found.add(f"{place(path)}: {called}")
    ends_a_child = {
        f"host/{name}: os._exit" for name in ("apart", "attaching", "streamed", "live/watchdog")
    }  # never this process
    assert found == {"cli/main: sys.exit", "cli/main: os._exit"} | ends_a_child


def test_imports_point_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    settings = str(ROOT / "pyproject.toml")
    assert import_linter.lint_imports(config_filename=settings, cache_dir=str(tmp_path)) == 0
