"""Where the program begins and ends.

Answers: "which verb, and with which exit code does it end?" Every error of ours becomes words and its exit code; any
other exception is our bug, says so, and leaves its traceback in a file. The only place that ends the process.
"""

import argparse
import contextlib
import gc
import importlib
import keyword
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from typing import Final, NoReturn, cast

from stillframe.cli.arguments import HelpShown, build_parser
from stillframe.cli.call import Call, Verb
from stillframe.cli.screen import Screen, Streams
from stillframe.errors import Cancelled, StillframeError, UsageError
from stillframe.hanging import is_any_left

_VERBS: Final = {
    "disks": "looking",
    "images": "looking",
    "show": "looking",
    "init": "keeping",
    "key": "keeping",
    "recovery-kit": "keeping",
    "parity": "parity",
    "backup": "saving",
    "restore": "returning",
    "clone": "cloning",
    "boot-repair": "mending",
    "verify": "caring",
    "check": "caring",
    "repair": "caring",
    "forget": "caring",
    "machines": "machines",
    "retire": "machines",
    "expire": "caring",
    "export": "exporting",
    "import": "exchanging",
    "diff": "comparing",
    "demo": "showing",
    "bench": "benching",
    "nbd": "serving",
    "mount": "mounting",
    "ls": "browsing",
    "find": "browsing",
    "get": "browsing",
    "run": "starting",
    "prove": "starting",
    "rescue": "rescuing",
    "health": "health",
    "ui": "rescue_screens",
}
"""In which module a verb is; ``function_name`` is its function there. A module is loaded when its verb is asked for."""

_BROKEN_PIPE: Final = 141
"""What a shell reports for a program that SIGPIPE ended: whoever read the output has gone."""


def run() -> NoReturn:
    """The program ``stillframe``."""
    gc.disable()  # until all is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads for matrices: there are none here
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # A verb that heeds it does so in its own way (``call.running``); else it ends the program as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = main(sys.argv[1:])
    if code == Cancelled.exit_code or is_any_left():
        _leave(code)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.exit(code)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_BROKEN_PIPE)


def _leave(code: int) -> NoReturn:
    """End the process though a thread may hang, for which the interpreter would wait. What matters is closed by now."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str], streams: Streams | None = None) -> int:
    """Carry out one command line.

    Args:
        arguments: Without the program's name.
        streams: Where it reads and writes; the process's own by default.

    Returns:
        The exit code, as ``docs/errors.md`` lists them.
    """
    streams = streams or Streams(input=sys.stdin, output=sys.stdout, errors=sys.stderr)
    screen = Screen(streams, json="--json" in arguments, debug="--debug" in arguments)
    try:
        return _carry_out(arguments, screen, streams)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


def _carry_out(arguments: Sequence[str], screen: Screen, streams: Streams) -> int:
    """The verb's exit code, or the error's; errors are told."""
    try:
        with contextlib.redirect_stdout(streams.output):
            options = build_parser().parse_args(arguments)
        verb = _find_verb(options)
        if not gc.isenabled():
            gc.freeze()  # what is loaded stays: nobody looks for garbage in it
            gc.enable()
        return verb(Call(options=options, screen=screen, environment=os.environ))
    except HelpShown:
        return 0
    except StillframeError as error:
        screen.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        stopped = Cancelled("stopped on request", hint="Run it again when you like.")
        screen.fail(stopped)
        return stopped.exit_code
    except BrokenPipeError:
        raise
    except Exception:  # noqa: BLE001 - whatever else arises is a bug of ours, and is told as one
        where = _keep_traceback()
        screen.fail_by_bug(
            f"this is a bug in Stillframe: {_last_line()}",
            f"Please report it with the file {where}. '--debug' shows the same here.",
        )
        return 1


def function_name(verb: str) -> str:
    """The function that carries a verb out; a word that Python keeps for itself has ``_`` behind it."""
    name = verb.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _find_verb(options: argparse.Namespace) -> Verb:
    module = importlib.import_module(f"stillframe.cli.{_VERBS[options.verb]}")
    function = getattr(module, function_name(options.verb), None)
    if function is None:
        raise UsageError(f"there is no verb {options.verb}", hint="'stillframe --help' lists the verbs.")
    return cast("Verb", function)


def _keep_traceback() -> str:
    """Write the traceback where it can be found; the words that say where."""
    text = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {sys.version}\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="stillframe-bug-", suffix=".txt", delete=False) as file:
            file.write(text)
            return file.name
    except OSError as error:
        return f"that could not be written ({error.strerror})"


def _last_line() -> str:
    return traceback.format_exc(limit=0).strip().splitlines()[-1]
