"""The documentation says what the program does: errors, verbs, and every command line in it."""

import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import stillframe
from stillframe.cli.arguments import build_parser, verb_parsers
from stillframe.cli.main import _VERBS, function_name
from stillframe.errors import RepositoryError, StillframeError

ROOT = Path(stillframe.__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guide").glob("*.md"), *ROOT.glob("README.md")])
NEVER_RAISED = {StillframeError, RepositoryError}


def all_modules() -> list[str]:
    found = pkgutil.walk_packages(stillframe.__path__, "stillframe.")
    skipped = ("stillframe.testing", "stillframe.repo.reader")
    return [module.name for module in found if not module.name.startswith(skipped)]


def error_classes() -> dict[str, type[StillframeError]]:
    for name in all_modules():
        importlib.import_module(name)
    waiting, found = [StillframeError], set[type[StillframeError]]()
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    ours = {kind for kind in found - NEVER_RAISED if kind.__module__.startswith("stillframe.")}
    return {kind.__name__: kind for kind in ours if not kind.__module__.startswith("stillframe.testing")}


def documented_errors() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \| (\d+) \| (.+?) \| (.+) \|$", _read("errors.md"), re.MULTILINE)
    return {row[1]: [row[0], *row[2:]] for row in rows}


def commands() -> list[tuple[str, str]]:
    """Every line of a shell block that calls the program, and where it is."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines = (line.strip().removeprefix("sudo ") for line in block.replace("\\\n", " ").splitlines())
            found += [(page.name, line) for line in lines if line.startswith("stillframe ")]
    return found


def test_every_error_is_documented_with_its_code_exit_code_and_meaning() -> None:
    documented = documented_errors()
    classes = error_classes()
    assert set(documented) == set(classes)
    for name, kind in classes.items():
        meaning = (kind.__doc__ or "").splitlines()[0]
        assert documented[name][:3] == [kind.code, str(kind.exit_code), meaning]
        assert len(documented[name][3]) > 4


def test_codes_of_errors_are_unique() -> None:
    codes = [kind.code for kind in error_classes().values()]
    assert len(codes) == len(set(codes))


def test_every_exit_code_of_an_error_is_in_the_table_of_exit_codes() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \| [^|]", _read("errors.md"), re.MULTILINE)}
    assert {kind.exit_code for kind in error_classes().values()} | {0, 1, 3} <= listed


def test_the_help_of_each_verb_is_in_the_reference() -> None:
    page = _read("cli.md")
    for name, parser in verb_parsers().items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert parser.format_help().strip() in section, f"docs/cli.md, section {name}: its help has changed"


def test_the_reference_has_no_section_for_a_verb_that_does_not_exist() -> None:
    sections = re.findall(r"^## (.+)$", _read("cli.md").partition("\n# The verbs\n")[2], re.MULTILINE)
    assert sections == list(verb_parsers())


def test_every_verb_has_a_function() -> None:
    for name, module in _VERBS.items():
        assert callable(getattr(importlib.import_module(f"stillframe.cli.{module}"), function_name(name)))
    assert set(_VERBS) == {name.split()[0] for name in verb_parsers()}


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_line_in_the_documentation_parses(page: str, line: str) -> None:
    command = re.split(r" (?:\||&&|>|2>) ", line)[0]
    arguments = shlex.split(command, comments=True)[1:]
    assert build_parser().parse_args(arguments).verb in _VERBS, page


def test_the_documentation_has_examples() -> None:
    assert len(commands()) > 30


def test_every_verb_that_a_hint_names_exists() -> None:
    verbs = set(verb_parsers()) | set(_VERBS)
    for path in sorted((ROOT / "src").rglob("*.py")):
        if "testing" in path.parts or "reader" in path.parts:
            continue
        for word in re.findall(r"['`]stillframe ([a-z]+(?:-[a-z]+)*)", path.read_text()):
            assert word in verbs, f"{path.name} names the verb {word}"


def _read(name: str) -> str:
    return (ROOT / "docs" / name).read_text()
