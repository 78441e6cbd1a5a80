"""The answers file: what it says, what is wrong in it by line, and where it comes from."""

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import stillframe
from stillframe.cli.arguments import build_parser
from stillframe.errors import UsageError
from stillframe.rescue.answering.answers import Answers, parse_answers
from stillframe.rescue.answering.finding import AnswerPlaces, find_answers, kernel_word, serial_lines

GUIDE = Path(stillframe.__file__).parents[2] / "docs" / "guide" / "rescue.md"


def parse(text: str) -> Answers:
    return parse_answers(text, where="rescue.toml")


def places(folder: Path) -> AnswerPlaces:
    return AnswerPlaces(
        command_line=str(folder / "cmdline"), firmware=str(folder / "fw"), medium=str(folder / "medium"),
        settings=str(folder / "settings"), labelled=lambda: [str(folder / "labelled")],
    )  # fmt: skip


def test_every_answers_file_of_the_guide_is_understood() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    assert {parse(block).verb for block in blocks} >= {"restore", "backup", "clone", "boot-repair"}


def test_options_of_a_restore_and_a_backup_are_those_of_the_command_line() -> None:
    answers = parse(
        "[restore]\nfit = true\ndelta = true\nwipe = true\nadapt = true\nnew-identity = true\nsalvage = true\n"
        'convert = "uefi"\ncontroller = ["8086:2922"]\ndrivers = "rst"\nleave-out = [4]\nresize = {3 = "max"}\n'
        'move = {5 = "keep"}\n'
    )
    assert answers.restore is not None
    options = build_parser().parse_args(["restore", "latest", "/dev/sdb", *answers.restore.options])
    flags = ("fit", "delta", "wipe", "adapt", "new_identity", "salvage")
    assert [name for name in flags if not getattr(options, name)] == []
    assert (options.convert, options.controller, options.drivers) == (("uefi", None), ["8086:2922"], "rst")
    assert (options.leave_out, options.resize, options.move) == ([4], [(3, "max")], [(5, "keep")])
    words = 'system = true\nname = "n"\nexclude = ["*.iso"]\nverify = false\nall-sectors = true'
    backup = parse(f"[backup]\n{words}").backup
    assert backup is not None
    options = build_parser().parse_args(["backup", "/dev/sda", *backup.options])
    assert (options.system, options.name, options.exclude, options.verify) == (True, "n", ["*.iso"], False)
    assert options.all_sectors
    clone = parse('[clone]\nsource = {serial = "a"}\ntarget = {serial = "b"}\nwipe = true\ndelta = true').clone
    assert clone is not None
    assert build_parser().parse_args(["clone", "/dev/sda", "/dev/sdb", *clone.options]).wipe
    assert build_parser().parse_args(["clone", "/dev/sda", "/dev/sdb", *clone.options]).delta
    repair = parse('[boot-repair]\nkeep-undo = "memory"\nadapt = true\ncontroller = ["8086:2922"]\ndrivers = "rst"')
    assert repair.boot_repair is not None
    options = build_parser().parse_args(["boot-repair", "/dev/sda", *repair.boot_repair.options])
    assert (options.adapt, options.controller, options.drivers) == (True, ["8086:2922"], "rst")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[restore]\nimage = "x"\ntarget = {serail = "a"}', "line 3: restore.target has no serail"),
        ('[restore.target]\n\nserail = "a"', "line 3: restore.target has no serail"),
        ('[backup]\nsources = [{serial = "a"}, {model = "b", sise = "c"}]', "line 2: backup.sources has no sise"),
        ("[bogus]\na = 1", "line 1: there is no section [bogus]"),
        ("\n\n[restore]\nfitt = true", "line 4: [restore] has no fitt"),
        ("[restore]\nfit = 3", "line 2: restore.fit: expected `bool`"),
        ('[restore]\ntarget = {size = "huge"}', "line 2: restore: not a size"),
        ('[after]\nthen = "explode"', "line 2: after.then"),
        ("[clone]\nsource = {}", "missing required field `target`"),
        ("[boot-repair]\nadapt = true", "missing required field `keep-undo`"),
        ('[boot-repair]\nkeep-undo = "memory"\ndisk = {serail = "a"}', "line 3: boot-repair.disk has no serail"),
        ('[clone]\n[boot-repair]\nkeep-undo = "memory"', "only one of clone, boot-repair"),
        ("[restore]\n[backup]\n", "only one of restore, backup"),
        ('[secret]\npassword = "a"\npassword-file = "b"', "both password and password-file"),
        ("a b", "is not TOML"),
        ("#" * 70_000, "longer than"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        parse(text)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse("[restore]\na = 1\nb = 2\n[nowhere]\n")
    assert all(word in caught.value.message for word in ("has no a", "has no b", "[nowhere]"))


def test_the_first_place_that_has_answers_wins(tmp_path: Path) -> None:
    assert find_answers(places(tmp_path)) is None
    (tmp_path / "labelled").mkdir()
    order = ["settings", "medium", "labelled/rescue.toml", "fw"]
    for number, name in enumerate(order):
        (tmp_path / name).write_text(f'[repository]\nid = "{number}"\n')
        found = find_answers(places(tmp_path))
        assert found is not None
        assert found.answers.repository.id == str(number)
    named = tmp_path / "named.toml"
    named.write_text('[repository]\nid = "named"\n')
    (tmp_path / "cmdline").write_text(f"quiet stillframe.answers={named} console=ttyS0,115200\n")
    found = find_answers(places(tmp_path))
    assert found is not None
    assert (found.where, found.answers.repository.id) == (str(named), "named")


def test_answers_that_cannot_be_had_or_are_wrong_are_not_replaced_by_others(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("[restore]\n")
    (tmp_path / "medium").write_text("[bogus]\n")
    with pytest.raises(UsageError, match="bogus"):
        find_answers(places(tmp_path))
    (tmp_path / "cmdline").write_text("stillframe.answers=/not/there\n")
    with pytest.raises(UsageError, match="no such file"):
        find_answers(places(tmp_path))


def test_a_secret_lies_beside_the_answers(tmp_path: Path) -> None:
    (tmp_path / "medium").write_text('[secret]\npassword-file = "pw"\nshare-password = "s"\n[restore]\n')
    with pytest.raises(UsageError, match="there is no pw"):
        find_answers(places(tmp_path))
    (tmp_path / "pw").write_text("correct horse\r\nrest")
    found = find_answers(places(tmp_path))
    assert found is not None
    assert (found.answers.secret.password, found.answers.secret.share_password) == ("correct horse", "s")
    assert found.answers.secret.password_file == ""


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/a.toml" else 404)
        self.end_headers()
        self.wfile.write(b'[restore]\nimage = "abcd"\n' if self.path == "/a.toml" else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_answers_come_from_a_web_server_after_the_network_is_up(tmp_path: Path, server: str) -> None:
    asked = list[str]()
    (tmp_path / "cmdline").write_text(f"stillframe.answers={server}/a.toml")
    where = AnswerPlaces(command_line=str(tmp_path / "cmdline"), bring_network=lambda: asked.append("up"))
    found = find_answers(where)
    assert found is not None
    assert found.answers.restore is not None
    assert (found.answers.restore.image, asked) == ("abcd", ["up"])
    (tmp_path / "cmdline").write_text(f"stillframe.answers={server}/none.toml")
    with pytest.raises(UsageError, match="cannot be had"):
        find_answers(where)


def test_words_of_the_kernel() -> None:
    assert kernel_word("a stillframe.answers=/x b stillframe.answers=/y") == "/y"
    assert kernel_word("quiet") == ""
    assert serial_lines("console=tty0 console=ttyS0,115200n8 console=ttyS0 quiet") == ("/dev/ttyS0",)
