"""Windows played from a transcript: each call must be the next one, with exactly its arguments.

A transcript is JSON lines, one call each: ``call``, ``arguments``, and ``answer``. What an answer may be depends on the
call: bytes as ``{"hex": ...}``, a failure of Windows as ``{"error": code}`` (with the bytes for which there was room,
where there are more), a method of VSS as ``{"hresult": ..., "numbers": [...], "texts": [...], "snapshot": {...}}``,
Ctrl-C as ``{"interrupt": true}``. ``seconds`` is how long the call took, by the clock of the test.

The transcripts in ``tests/data/windows`` come from ``tools/windows_transcripts.py``, which writes them from Microsoft's
documentation. THEY WERE NOT RECORDED ON WINDOWS.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stillframe.errors import MachineRefusal
from stillframe.host.windows.calls import RegistryValue, Win32Failure
from stillframe.host.windows.com import ComAnswer, ComValue, Method, SnapshotFacts
from stillframe.testing.clocks import FakeClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One call and what came back."""

    call: str
    arguments: tuple[Any, ...] = ()
    answer: Any = None
    seconds: float = 0.0


def read_transcript(path: Path) -> tuple[Line, ...]:
    """Read a transcript; empty lines and lines that begin with ``#`` say nothing."""
    texts = (text for text in path.read_text("utf-8").splitlines() if text and not text.startswith("#"))
    return tuple(_parse_line(json.loads(text)) for text in texts)


def write_transcript(lines: Iterable[Line], *, title: str) -> str:
    """Write a transcript; the title stands above it."""
    texts = [f"# {title}"]
    for line in lines:
        record: dict[str, Any] = {"call": line.call, "arguments": list(line.arguments)}
        record |= {"answer": line.answer} if line.answer is not None else {}
        record |= {"seconds": line.seconds} if line.seconds else {}
        texts.append(json.dumps(record))
    return "\n".join(texts) + "\n"


class WindowsTranscript:
    """``WindowsCalls`` that replays. As a context manager it also wants every line to have been asked for."""

    def __init__(self, lines: Iterable[Line], *, clock: FakeClock | None = None) -> None:
        self._lines = tuple(lines)
        self._clock = clock
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if (error is None or not isinstance(error, AssertionError)) and self._next < len(self._lines):
            raise AssertionError(f"never asked: line {self._next + 1}, {self._lines[self._next]}") from error

    def open_handle(self, path: str, *, unbuffered: bool) -> int:
        """As recorded."""
        return int(self._play("open_handle", path, unbuffered))

    def close_handle(self, handle: int) -> None:
        """As recorded."""
        self._play("close_handle", handle)

    def device_io_control(self, handle: int, code: int, given: bytes, size: int) -> bytes:
        """As recorded; more bytes than there is room for is the failure that Windows gives."""
        answer = bytes.fromhex(self._play("device_io_control", handle, f"0x{code:08X}", given.hex(), size)["hex"])
        assert len(answer) <= size, f"line {self._next} of the transcript answers {len(answer)} bytes into {size}"
        return answer

    def read(self, handle: int, offset: int, buffer: memoryview) -> int:
        """As recorded."""
        found = bytes.fromhex(self._play("read", handle, offset, len(buffer))["hex"])
        buffer[: len(found)] = found
        return len(found)

    def find_volumes(self) -> tuple[str, ...]:
        """As recorded."""
        return tuple(self._play("find_volumes"))

    def volume_path_names(self, volume: str) -> tuple[str, ...]:
        """As recorded."""
        return tuple(self._play("volume_path_names", volume))

    def device_names(self) -> tuple[str, ...]:
        """As recorded."""
        return tuple(self._play("device_names"))

    def registry_values(self, key: str) -> tuple[RegistryValue, ...]:
        """As recorded."""
        found = self._play("registry_values", key)
        return tuple(RegistryValue(name=name, texts=tuple(texts)) for name, texts in found.items())

    def start_com(self) -> None:
        """As recorded."""
        self._play("start_com")

    def create_backup_components(self) -> int:
        """As recorded."""
        return int(self._play("create_backup_components"))

    def call_method(self, pointer: int, method: Method, arguments: tuple[ComValue, ...]) -> ComAnswer:
        """As recorded."""
        answer = self._play("call_method", pointer, str(method), *arguments)
        snapshot = answer.get("snapshot")
        return ComAnswer(
            hresult=int(answer["hresult"], 16),
            numbers=tuple(answer.get("numbers", ())),
            texts=tuple(answer.get("texts", ())),
            snapshot=SnapshotFacts(**snapshot) if snapshot else None,
        )

    def pause(self, seconds: float) -> None:
        """As recorded; the clock goes on."""
        self._play("pause", seconds)
        if self._clock is not None:
            self._clock.advance(timedelta(seconds=seconds))

    def _play(self, call: str, *arguments: object) -> Any:
        number = self._next + 1
        assert number <= len(self._lines), f"after the end: {call}{arguments}"
        line = self._lines[self._next]
        assert (call, arguments) == (line.call, line.arguments), f"line {number} is {line}, asked was {call}{arguments}"
        self._next += 1
        if self._clock is not None:
            self._clock.advance(timedelta(seconds=line.seconds))
        if isinstance(line.answer, Mapping):
            if "error" in line.answer:
                raise Win32Failure(call, line.answer["error"], bytes.fromhex(line.answer.get("hex", "")))
            if "refusal" in line.answer:
                raise MachineRefusal(line.answer["refusal"])
            if "interrupt" in line.answer:
                raise KeyboardInterrupt
        return line.answer


def _parse_line(record: dict[str, Any]) -> Line:
    return Line(
        call=record["call"],
        arguments=tuple(record["arguments"]),
        answer=record.get("answer"),
        seconds=record.get("seconds", 0.0),
    )
