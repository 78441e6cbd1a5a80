"""The verb that serves an image to other programs: ``nbd``."""

import os
import shlex
from collections.abc import Iterator

from stillframe.cli.call import Call, running
from stillframe.errors import UsageError
from stillframe.events import Notice
from stillframe.host.machine import machine
from stillframe.jobs.listing import find_image
from stillframe.jobs.serving import Served, ServeRequest, serve_image
from stillframe.serve.nbd import TlsFiles
from stillframe.serve.nbd.protocol import PORT
from stillframe.units import format_count, format_size


def nbd(call: Call) -> int:
    """Serve an image as a network block device until Ctrl-C."""
    request = _request(call)
    repository = call.open_repository()
    manifest = find_image(repository, call.options.image, machine_id=machine().id)

    def ready(served: Served) -> None:
        if call.screen.is_json:
            call.screen.emit(Notice(code="nbd-ready", message=served.uri, hint="Ctrl-C or SIGTERM ends it."))
        call.screen.say(*_ready_lines(served, request))

    with running(call.screen) as context:
        result = serve_image(repository, manifest, request, context, ready)
    fields = {
        "image": manifest.image, "uri": result.served.uri, "size": result.served.size,
        "connections": result.connections, "failures": result.failures, "kept": request.keep,
    }  # fmt: skip
    lines = [f"Ended after {format_count(result.connections, 'connection')}."]
    if result.failures:
        lines.append("Some reads failed: see above. 'stillframe verify' examines the image.")
    if request.keep:
        lines.append(f"What was written is in {request.keep}: the same command goes on with it.")
    call.screen.finish("nbd", fields, lines)
    return 3 if result.failures else 0


def _request(call: Call) -> ServeRequest:
    options = call.options
    if options.socket and (options.port is not None or options.host != "127.0.0.1"):
        raise UsageError("a socket has no host and no port", hint="Give either '--socket', or '--host' and '--port'.")
    if bool(options.tls_cert) != bool(options.tls_key) or (options.tls_clients and not options.tls_cert):
        raise UsageError("TLS needs a certificate and its key", hint="Give both '--tls-cert' and '--tls-key'.")
    tls = None
    if options.tls_cert:
        tls = TlsFiles(certificate=options.tls_cert, key=options.tls_key, clients=options.tls_clients)
    return ServeRequest(
        disk=options.disk, partition=options.partition, writable=options.writable, keep=options.keep,
        socket=options.socket, host=options.host, port=PORT if options.port is None else options.port, tls=tls,
    )  # fmt: skip


def _ready_lines(served: Served, request: ServeRequest) -> Iterator[str]:
    uri = shlex.quote(served.uri)
    yield f"Serving {served.description} ({format_size(served.size)}, {_how(request)}) at"
    yield f"  {served.uri}"
    yield "In another window, for example:"
    yield f"  qemu-img convert -p -f raw -O qcow2 {uri} disk.qcow2"
    yield f"  nbdfuse --readonly DIR/disk.img {uri}" if not request.writable else f"  nbdfuse DIR/disk.img {uri}"
    if request.tls is None:
        where = (
            f"-unix {shlex.quote(os.path.abspath(request.socket))}" if request.socket else _host_and_port(served.uri)
        )
        yield f"  sudo nbd-client -N {served.name} {where} /dev/nbd0"
    yield "Ctrl-C ends it."


def _how(request: ServeRequest) -> str:
    if not request.writable:
        return "read-only"
    return f"writable, changes are kept in {request.keep}" if request.keep else "writable, changes are thrown away"


def _host_and_port(uri: str) -> str:
    place = uri.partition("://")[2].partition("/")[0]
    host, _, port = place.rpartition(":")
    return f"{host.strip('[]')} {port}"
