"""The verbs that only look: ``disks``, ``images``, ``show``."""

from stillframe.cli.boot_words import boot_fields, boot_lines
from stillframe.cli.call import Call
from stillframe.cli.forgetting import show_forgotten
from stillframe.cli.image_results import image_fields, listed_fields, seen_disk_fields
from stillframe.cli.image_words import disk_lines, image_lines, image_table
from stillframe.cli.results import finding_fields
from stillframe.cli.words import local_time
from stillframe.host.machine import machine
from stillframe.jobs.inside.boot_of_image import follow_image
from stillframe.jobs.listing import find_image, list_images, look_at_image, save_screenshot
from stillframe.jobs.looking import look_at_disks
from stillframe.jobs.repositories import last_seen


def disks(call: Call) -> int:
    """Show disks and what is on them."""
    found = look_at_disks(call.options.source)
    lines = [line for seen in found.disks for line in (*disk_lines(seen), "")]
    read = [seen.facts.path for seen in found.disks if seen.disk is not None]
    start = boot_lines(found.boot, read, in_full=call.options.boot) if found.disks else ()
    fields = {"disks": [seen_disk_fields(seen) for seen in found.disks], "boot": boot_fields(found.boot, read)}
    call.screen.finish("disks", fields, [*lines, *start] if lines else ["No disk was found."])
    return 0


def images(call: Call) -> int:
    """List images."""
    if call.options.forgotten:
        return show_forgotten(call)
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
    lines, fields = image_lines(listed), image_fields(listed)
    if call.options.boot:
        boot, names = follow_image(repository, manifest), [f"disk {disk.number}" for disk in manifest.disks]
        lines += ["", *boot_lines(boot, names, in_full=True)]
        fields["boot"] = boot_fields(boot, names)
    if call.options.screenshot:
        proof = save_screenshot(repository, listed, call.options.screenshot)
        lines = [f"The screenshot of {local_time(proof.created)} is in {call.options.screenshot}.", "", *lines]
    call.screen.finish("show", fields, lines)
    return 0
