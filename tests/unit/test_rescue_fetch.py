"""Answers from a web server: a real one, that is late, busy, cut off, too long, or points elsewhere."""

import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, UsageError
from stillframe.rescue.answering.fetching import Computer, Fetching, fetch_answers, this_computer
from stillframe.rescue.answering.finding import AnswerPlaces, find_answers

TEXT = '[restore]\nimage = "abcd"\n'
CARD = Computer(card="52-54-00-12-34-56", serial="S/N 7")


class Server(http.server.ThreadingHTTPServer):
    """Answers each path with what a test put there, one after the other; the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.asked: list[str] = []

    def put(self, path: str, *answers: tuple[int, dict[str, str], bytes]) -> str:
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        waiting = self.server.answers.get(self.path, [(404, {}, b"")])
        code, headers, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield web
        web.shutdown()
        thread.join()


def how(
    patience_s: float = 0.0, *, bring_network: Callable[[], None] = lambda: None, computer: Computer = CARD
) -> Fetching:
    return Fetching(bring_network=bring_network, computer=lambda: computer, patience_s=patience_s, step_s=0.01)


def ok(text: str = TEXT, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return 200, headers, text.encode()


def test_a_busy_server_and_a_late_network_are_waited_for(server: Server) -> None:
    tries, said = list[int](), list[str]()

    def bring_network() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise MachineRefusal("the network did not come up: no cable (eth0)", hint="Put it in.")

    address = server.put("/a.toml", (503, {}, b""), ok())
    fetching = Fetching(bring_network=bring_network, say=said.append, patience_s=30, step_s=0.01)
    assert fetch_answers(address, fetching) == (address, TEXT)
    assert (len(tries), server.asked) == (4, ["/a.toml"] * 2)
    assert said == [f"Waiting for the answers at {address}: the network did not come up: no cable (eth0)"]


def test_what_does_not_come_in_time_is_a_sentence_with_its_reason(server: Server) -> None:
    def no_cable() -> None:
        raise MachineRefusal("the network did not come up: no cable (eth0)", hint="Put it in, at both ends.")

    with pytest.raises(UsageError, match="cannot be had: the network did not come up: no cable") as caught:
        fetch_answers("http://10.0.0.1/a.toml", how(bring_network=no_cable))
    assert caught.value.hint == "Put it in, at both ends."
    with pytest.raises(UsageError, match="the server says 503"):
        fetch_answers(server.put("/busy", (503, {}, b"")), how())
    server.server_close()
    began = time.monotonic()
    with pytest.raises(UsageError, match="cannot be had: Connection refused"):
        fetch_answers(f"http://127.0.0.1:{server.server_port}/a", how(0.2))
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(("code", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (401, "401 Unauthorized")])
def test_what_the_server_does_not_have_is_not_asked_for_again(server: Server, code: int, words: str) -> None:
    address = server.put("/a", (code, {}, b""))
    with pytest.raises(UsageError, match=f"the server says {words}") as caught:
        fetch_answers(address, how(60))
    assert server.asked == ["/a"]
    assert caught.value.hint


def test_half_an_answer_is_none(server: Server) -> None:
    """What is missing at the end could be the target."""
    cut = ok(**{"Content-Length": str(len(TEXT) + 20)})
    with pytest.raises(UsageError, match="cut off"):
        fetch_answers(server.put("/cut", cut), how())
    assert fetch_answers(server.put("/then", cut, ok()), how(30))[1] == TEXT


def test_a_long_answer_and_one_that_is_no_text_are_refused(server: Server) -> None:
    assert len(fetch_answers(server.put("/just", ok("#" * 65_536)), how())[1]) == 65_536
    with pytest.raises(UsageError, match="longer than"):
        fetch_answers(server.put("/long", ok("#" * 65_537)), how(60))
    with pytest.raises(UsageError, match="is not text"):
        fetch_answers(server.put("/bytes", (200, {}, b"\xff\xfe\0")), how(60))
    assert server.asked == ["/just", "/long", "/bytes"]


@pytest.mark.parametrize(
    "address", ["http://kim:hunter2@nas/a.toml", "http://kim@nas/a.toml", "http:///a", "http://nas:x/a"]
)
def test_a_secret_in_an_address_and_what_is_none_are_refused_before_anything_is_asked(address: str) -> None:
    def never() -> None:
        raise AssertionError

    with pytest.raises(UsageError) as caught:
        fetch_answers(address, how(60, bring_network=never))
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_one_address_serves_a_fleet(server: Server) -> None:
    server.put("/52-54-00-12-34-56/S%2FN%207.toml", ok())
    address = f"http://127.0.0.1:{server.server_port}/{{mac}}/{{serial}}.toml"
    filled, text = fetch_answers(address, how())
    assert (filled, text) == (address.replace("{mac}", CARD.card).replace("{serial}", "S%2FN%207"), TEXT)
    with pytest.raises(UsageError, match=r"nothing is known for \{name\}"):
        fetch_answers(f"{address}{{name}}", how())
    for none in (Computer(card="", serial="x"), Computer(card="52-54-00-12-34-56", serial="")):
        with pytest.raises(UsageError, match=r"there is no \{(mac|serial)\} of this computer"):
            fetch_answers(address, how(60, computer=none))


def test_the_card_by_which_the_firmware_started_counts() -> None:
    assert this_computer("quiet BOOTIF=01-52-54-00-AB-CD-EF").card == "52-54-00-ab-cd-ef"


def test_answers_with_a_secret_over_http_carry_a_warning(server: Server, tmp_path: Path) -> None:
    def found(text: str) -> tuple[str, ...]:
        address = server.put("/a.toml", ok(text))
        (tmp_path / "cmdline").write_text(f"quiet stillframe.answers={address}\n")
        answers = find_answers(AnswerPlaces(command_line=str(tmp_path / "cmdline"), patience_s=0))
        assert answers is not None
        return tuple(notice.code for notice in answers.notices)

    for secret in (
        '[secret]\npassword = "x"\n',
        '[secret]\nshare-password = "x"\n',
        '[network]\nwifi-password = "x"\n',
    ):
        assert found(f"{TEXT}{secret}") == ("secret-over-http",)
    assert found(TEXT) == ()


def test_https_is_trusted_by_its_certificate_only_and_never_left_for_http(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    plain = server.put("/a.toml", ok())
    address = plain.replace("http:", "https:")
    with pytest.raises(UsageError, match="cannot be trusted: self-signed certificate") as caught:
        fetch_answers(address, how(60))
    assert "clock" in caught.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
    assert fetch_answers(address, how()) == (address, TEXT)
    server.put("/moved", (302, {"Location": plain}, b""))
    with pytest.raises(UsageError, match="less safe"):
        fetch_answers(address.replace("a.toml", "moved"), how(60))


def test_a_server_may_point_elsewhere_but_not_into_files(server: Server) -> None:
    address = server.put("/moved", (302, {"Location": "/a.toml"}, b""))
    server.put("/a.toml", ok())
    assert fetch_answers(address, how())[1] == TEXT
    server.put("/file", (302, {"Location": "file:///etc/passwd"}, b""))
    with pytest.raises(UsageError, match="not allowed"):  # urllib's own words
        fetch_answers(address.replace("moved", "file"), how(60))
