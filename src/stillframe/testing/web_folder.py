"""A folder by HTTP, as a guest fetches pieces and answers from it.

Answers: "where does a machine of a test fetch a file over the network?" A guest reaches it through QEMU's own network.
"""

import http.server
import threading
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path


@contextmanager
def served(folder: Path, asked: MutableSequence[str] | None = None) -> Iterator[int]:
    """Serve a folder; the port on this machine.

    Args:
        folder: What is served.
        asked: Gets what was asked for; without it that is printed.
    """

    class FolderOverHttp(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: object) -> None:  # noqa: A002 - named so there
            if asked is None:
                super().log_message(format, *words)
            else:
                asked.append(str(words[0]))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(FolderOverHttp, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
