"""The verb that shows an image as a folder: ``mount``."""

import shlex
from collections.abc import Iterator

from stillframe.cli.call import Call, running
from stillframe.cli.results import notice_fields
from stillframe.events import Notice
from stillframe.host.machine import machine
from stillframe.jobs.inside.replayed import STALE
from stillframe.jobs.listing import find_image
from stillframe.jobs.mounting import MountedImage, mount_image

SKIPPED = 3
"""The exit code when something was skipped or may be out of date: ``docs/errors.md``."""


def mount(call: Call) -> int:
    """Show an image as a folder until it is unmounted."""
    repository = call.open_repository()
    manifest = find_image(repository, call.options.image, machine_id=machine().id)

    def ready(mounted: MountedImage) -> None:
        if call.screen.is_json:
            call.screen.emit(Notice(code="mounted", message=mounted.place, hint="Ctrl-C, SIGTERM or umount ends it."))
        call.screen.say(*_ready_lines(mounted))

    with running(call.screen) as context:
        result = mount_image(repository, manifest, call.options.folder, context, ready, repository_folder=call.folder)
    mounted = result.mounted
    fields = {
        "image": manifest.image, "folder": mounted.place, "files": list(mounted.files),
        "folders": list(mounted.folders), "notices": notice_fields(mounted.notices), "failures": result.failures,
    }  # fmt: skip
    lines = [f"{mounted.place} is an empty folder again."]
    if result.failures:
        lines.append("Some reads failed: see above. 'stillframe verify' examines the image.")
    call.screen.finish("mount", fields, lines)
    is_stale = any(notice.code == STALE for notice in mounted.notices)
    return SKIPPED if result.failures or is_stale else 0


def _ready_lines(mounted: MountedImage) -> Iterator[str]:
    yield f"The image is in {mounted.place} now, read-only:"
    for name in mounted.folders:
        yield f"  {name}/  its files: look at them, and copy what you need"
    for name in mounted.files:
        yield f"  {name}"
    yield f"To end it: Ctrl-C here, or 'umount {shlex.quote(mounted.place)}'. Nothing you do there changes the image."
