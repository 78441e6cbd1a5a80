"""The verbs that only look: ``disks``, ``images``, ``show``."""

from stillframe.cli.call import Call
from stillframe.cli.image_results import image_fields, listed_fields, seen_disk_fields
from stillframe.cli.image_words import disk_lines, image_lines, image_table
from stillframe.cli.results import finding_fields
from stillframe.cli.words import local_time
from stillframe.host.machine import machine
from stillframe.jobs.listing import find_image, list_images, look_at_image, save_screenshot
from stillframe.jobs.looking import look_at_disks
from stillframe.jobs.repositories import last_seen


def disks(call: Call) -> int:
    """Show disks and what is on them."""
    found = look_at_disks(call.options.source)
    lines = [line for seen in found for line in (*disk_lines(seen), "")]
    call.screen.finish("disks", {"disks": [seen_disk_fields(seen) for seen in found]}, lines or ["No disk was found."])
    return 0


def images(call: Call) -> int:
    """List images."""
    repository = call.open_repository()
    listing = list_images(repository, machine_id=None if call.options.all else machine().id)
    last_seen(repository).note(listed.manifest for listed in listing.images)
    for finding in listing.findings:
        call.screen.emit(finding)
    fields = {
        "images": [listed_fields(listed) for listed in listing.images],
        "others": listing.others,
        "findings": finding_fields(listing.findings),
    }
    lines = image_table(listing.images) if listing.images else ["No image of this machine is here."]
    if listing.others:
        lines.append(f"{listing.others} more of other machines: 'stillframe images --all'.")
    call.screen.finish("images", fields, lines)
    return 0


def show(call: Call) -> int:
    """Show one image in full."""
    repository = call.open_repository()
    manifest = find_image(repository, call.options.image, machine_id=machine().id)
    listed = look_at_image(repository, manifest)
    lines = image_lines(listed)
    if call.options.screenshot:
        proof = save_screenshot(repository, listed, call.options.screenshot)
        lines = [f"The screenshot of {local_time(proof.created)} is in {call.options.screenshot}.", "", *lines]
    call.screen.finish("show", image_fields(listed), lines)
    return 0
