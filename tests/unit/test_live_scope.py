"""How systemd is asked for a scope, and that a refusal of it stops nobody."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.host.live import scope
from stillframe.host.run import Finished


def test_the_call_names_the_process_and_its_scope() -> None:
    # After the signature, as systemd wants it: s name, s mode, a(sv) properties, a(sa(sv)) none.
    assert scope.scope_call(4711, "stillframe-watchdog-4711.scope") == (
        "busctl", "--system", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))",
        "stillframe-watchdog-4711.scope", "fail", "4",
        "PIDs", "au", "1", "4711",
        "Description", "s", "Stillframe: thaws file systems when a backup cannot",
        "CollectMode", "s", "inactive-or-failed",
        "TimeoutStopUSec", "t", "10000000",
        "0",
    )  # fmt: skip


def test_without_systemd_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Finished:
        raise AssertionError

    monkeypatch.setattr(scope, "run", never)
    monkeypatch.setattr(scope, "_RUNNING", str(tmp_path / "none"))
    assert not scope.move_into_scope(1)


@pytest.mark.parametrize("exit_code", [None, 0, 1])
def test_a_system_that_does_not_move_it_is_no_error(
    exit_code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(arguments: Sequence[str], **_: object) -> Finished:
        asked.append(tuple(arguments))
        if exit_code is None:
            raise MachineRefusal("no answer", hint="")
        return Finished(arguments=tuple(arguments), exit_code=exit_code, output=b"", errors=b"")

    monkeypatch.setattr(scope, "run", answer)
    monkeypatch.setattr(scope, "_RUNNING", str(tmp_path))
    monkeypatch.setattr(scope, "_MOVED_S", 0.05)
    assert not scope.move_into_scope(999_999_999)
    assert asked == [scope.scope_call(999_999_999, "stillframe-watchdog-999999999.scope")]
