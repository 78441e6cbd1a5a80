"""Talking to a running QEMU: its machine protocol, JSON lines over a Unix socket.

Answers: "how is this virtual machine, what is on its screen, what is in its memory?" and presses its power button.
Every answer has a time limit.

Source: QEMU 7.2, docs/interop/qmp-spec.txt and the QMP reference manual (qapi/*.json).
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from stillframe.errors import MachineRefusal
from stillframe.host.run import Running

TIMEOUT_S: Final = 30.0
_CONNECT_S: Final = 30.0
_LINE_MAX: Final = 16 << 20
_HINT: Final = (
    "Without a desktop, or without QEMU's window (Debian: sudo apt install qemu-system-gui), use '--display vnc'. Else "
    "look at the memory that is free here."
)


class QmpConnection:
    """A connection to one machine. ``connect`` makes it. For one thread."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._rest = b""
        self.events: Final[Counter[str]] = Counter()
        """How often each event came: ``RESET``, ``SHUTDOWN``, ``GUEST_PANICKED``, ..."""

    def greet(self) -> None:
        """Take the greeting and leave the mode of negotiation."""
        self._read_answer(time.monotonic() + TIMEOUT_S)
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Carry out a command; returns its answer.

        Raises:
            MachineRefusal: QEMU refused, did not answer in time, or has gone.
        """
        line = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise _gone(error) from error
        answer = self._read_answer(time.monotonic() + TIMEOUT_S)
        if "error" in answer:
            raise MachineRefusal(f"QEMU refused {command}: {answer['error'].get('desc', '')}", hint=_HINT)
        return answer.get("return")

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes that the guest has read from, and written to, all its disks since it was started."""
        stats = [one["stats"] for one in self.execute("query-blockstats") if one.get("qdev")]
        return sum(one["rd_bytes"] for one in stats), sum(one["wr_bytes"] for one in stats)

    def bytes_written(self, device: str) -> int:
        """Bytes that the guest has written to one disk, by the id of its device."""
        for one in self.execute("query-blockstats"):
            if device in one.get("qdev", "").split("/"):
                return int(one["stats"]["wr_bytes"])
        return 0

    def read_memory(self, start: int, size: int, scratch: str) -> bytes:
        """Bytes of its physical memory, by way of a file that is made and removed."""
        self.execute("pmemsave", val=start, size=size, filename=scratch)
        return _take_file(scratch)

    def read_screen(self, scratch: str) -> bytes:
        """Its screen as a PPM picture, by way of a file that is made and removed."""
        self.execute("screendump", filename=scratch)
        return _take_file(scratch)

    def press_power_button(self) -> None:
        """What a person does who presses the button shortly: the guest decides what follows."""
        self.execute("system_powerdown")

    def _read_answer(self, deadline: float) -> dict[str, Any]:
        while True:
            answer = parse_line(self._read_line(deadline))
            if "event" not in answer:
                return answer
            self.events[str(answer["event"])] += 1

    def _read_line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise MachineRefusal("QEMU did not answer in time", hint=_HINT) from error
            except OSError as error:
                raise _gone(error) from error
            if not more or len(self._rest) > _LINE_MAX:
                raise _gone(None)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextmanager
def connect(path: str, running: Running) -> Iterator[QmpConnection]:
    """Connect to a QEMU that was just started; it makes its socket first.

    Raises:
        MachineRefusal: It ended, or made none in time; its last words are in the message.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise MachineRefusal("this system has no Unix sockets", hint="Virtual machines are started on Linux.")
    with socket.socket(family, socket.SOCK_STREAM) as connected:
        deadline = time.monotonic() + _CONNECT_S
        while True:
            try:
                connected.connect(path)
                break
            except OSError as error:
                code = running.wait(0.05)
                if code is not None or time.monotonic() > deadline:
                    said = running.last_words() or "it gave no reason"
                    raise MachineRefusal(f"QEMU did not start: {said}", hint=_HINT) from error
        connection = QmpConnection(connected)
        try:
            connection.greet()
        except MachineRefusal as error:
            if running.wait(1.0) is None:
                raise
            raise MachineRefusal(f"QEMU did not start: {running.last_words() or error.message}", hint=_HINT) from error
        yield connection


def parse_line(line: bytes) -> dict[str, Any]:
    """One line of the protocol.

    Raises:
        MachineRefusal: It is no JSON object.
    """
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise MachineRefusal(f"QEMU said {line[:80]!r}, which is no JSON", hint=_HINT) from error
    if not isinstance(answer, dict):
        raise MachineRefusal(f"QEMU said {line[:80]!r}, which is no answer", hint=_HINT)
    return answer


def _take_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
        os.unlink(path)
    except OSError as error:
        raise MachineRefusal(f"{path}, which QEMU wrote, cannot be read: {error.strerror}", hint=_HINT) from error
    return data


def _gone(error: OSError | None) -> MachineRefusal:
    return MachineRefusal(f"QEMU has gone{f': {error.strerror}' if error else ''}", hint=_HINT)
