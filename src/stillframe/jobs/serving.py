"""The verb ``nbd``: a disk or a partition of an image as a network block device.

Answers: "may another program use this image as a disk, and where do its changes go?" The image is never written to:
changes go to a file that is thrown away, or to one that is kept.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader, BlockWriter
from stillframe.block.copy_on_write import CopyOnWrite, open_scratch
from stillframe.block.kept_overlay import open_overlay
from stillframe.block.overlay_format import Subject
from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.jobs.context import JobContext
from stillframe.jobs.exposing import ExposedDisk, expose
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.serve.nbd import Export, NbdServer, TlsFiles, nbd_server

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """What is to be served, and where.

    Attributes:
        disk: Number of the disk; ``None`` is the only one.
        partition: Number of the partition; ``None`` is the whole disk.
        writable: Whether clients may write.
        keep: A file that keeps what they write; empty throws it away at the end.
        socket: Path of a Unix socket; empty listens on ``host`` and ``port``.
        host: Address.
        port: TCP port; 0 takes any that is free.
        tls: Makes TLS mandatory.
    """

    disk: int | None = None
    partition: int | None = None
    writable: bool = False
    keep: str = ""
    socket: str = ""
    host: str = "127.0.0.1"
    port: int = 10809
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is being served.

    Attributes:
        uri: Where clients find it.
        name: Of the export.
        size: Bytes.
        description: Which part of which image it is, in words.
    """

    uri: str
    name: str
    size: int
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """What happened while it was served: how many clients came, and how many different failures they met."""

    served: Served
    connections: int
    failures: int


def serve_image(
    repository: Repository, manifest: Manifest, request: ServeRequest, context: JobContext,
    ready: Callable[[Served], None],
) -> ServeResult:  # fmt: skip
    """Serve until the run is asked to stop.

    Args:
        repository: Where the image is.
        manifest: The image.
        request: What and where.
        context: ``cancel`` ends it; failures of clients go to ``events``.
        ready: Called once, when clients may connect.

    Raises:
        UsageError: There is no such disk, partition or address.
        TargetError: The socket or the file for changes is another's.
        DamagedError: The file for changes is not what was written, or the image cannot be opened.
    """
    with open_server(repository, manifest, request, context) as (served, server):
        ready(served)
        context.cancel.wait()
    return ServeResult(served=served, connections=server.connections, failures=len(server.findings))


@contextmanager
def open_server(
    repository: Repository, manifest: Manifest, request: ServeRequest, context: JobContext
) -> Iterator[tuple[Served, NbdServer]]:
    """Serve while the block runs; arguments and errors as ``serve_image``."""
    if request.keep and not request.writable:
        raise UsageError("there are no changes to keep: nobody may write", hint="Add '--writable'.")
    exposed = expose(repository, manifest).disk(request.disk)
    disk = exposed.reader if request.partition is None else exposed.partition(request.partition).reader
    with ExitStack() as stack:
        writer = stack.enter_context(_writer(disk, exposed, manifest, request)) if request.writable else None
        export = Export(
            name=_name(exposed, request.partition), disk=disk, writer=writer,
            description=_description(manifest, exposed, request.partition),
        )  # fmt: skip
        server = stack.enter_context(
            nbd_server(
                [export], socket=request.socket or None, host=request.host, port=request.port, tls=request.tls,
                events=context.events,
            )
        )  # fmt: skip
        for notice in _notices(request):
            context.events.emit(notice)
        yield (
            Served(uri=server.uri(), name=export.name, size=disk.size, description=export.description),
            server,
        )  # fmt: skip


@contextmanager
def _writer(
    disk: BlockReader, exposed: ExposedDisk, manifest: Manifest, request: ServeRequest
) -> Iterator[BlockWriter]:
    if not request.keep:
        with open_scratch(tempfile.gettempdir(), disk.size) as changes:
            yield CopyOnWrite(disk, changes)
        return
    subject = Subject(
        image=bytes.fromhex(manifest.image), disk=exposed.stored.number, partition=request.partition or 0,
        size=disk.size,
    )  # fmt: skip
    with open_overlay(request.keep, disk, subject) as overlay:
        yield overlay


def _notices(request: ServeRequest) -> Iterator[Notice]:
    if request.writable and not request.keep:
        yield Notice(
            code="changes-thrown-away", message="what is written is thrown away at the end",
            hint="'--keep FILE' keeps it.",
        )  # fmt: skip
    if request.socket or request.host in LOOPBACK:
        return
    if request.tls is None:
        yield Notice(
            code="served-openly",
            message=f"whoever reaches {request.host} can read this disk, and the network sees its contents",
            hint="Use '--socket' and ssh, or '--tls-cert', '--tls-key' and '--tls-clients'.",
        )
    elif not request.tls.clients:
        yield Notice(
            code="served-openly", message=f"whoever reaches {request.host} can read this disk",
            hint="'--tls-clients' lets in only those with a certificate.",
        )  # fmt: skip


def _name(exposed: ExposedDisk, partition: int | None) -> str:
    return f"disk{exposed.stored.number}" + (f"-partition{partition}" if partition is not None else "")


def _description(manifest: Manifest, exposed: ExposedDisk, partition: int | None) -> str:
    part = f", partition {partition}" if partition is not None else ""
    return f"{manifest.machine.name}, {manifest.created}: disk {exposed.stored.number}{part} of {manifest.image[:8]}"
