"""What is tried before the disaster: ``rescue check``, ``rescue rehearse``, ``rescue sheet``."""

import argparse
import os
from dataclasses import replace
from typing import Final

from stillframe.cli.call import REPOSITORY_VARIABLE, Call, running
from stillframe.cli.rescue_words import (
    check_fields,
    check_lines,
    rehearsal_fields,
    rehearsal_lines,
)
from stillframe.cli.starting import DOES_NOT_BOOT, UNCLEAR, machine_options
from stillframe.errors import UsageError
from stillframe.host.machine import machine
from stillframe.jobs.listing import find_image
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import folder_of, open_at, require_outside
from stillframe.repo.repository import Repository
from stillframe.rescue.noting import rescue_noted
from stillframe.rescue.places.shares import SCHEMES
from stillframe.rescue.trying.asking import ask_machine
from stillframe.rescue.trying.checking import check_medium, is_fit
from stillframe.rescue.trying.contents import open_medium
from stillframe.rescue.trying.rehearsing import Medium, RehearsalOptions, plan_rehearsal
from stillframe.rescue.trying.rehearsing import rehearse as walk_back
from stillframe.rescue.trying.sheet_file import gather_sheet, write_sheet

MISSING: Final = 3
_NO_MEDIUM: Final = "Make one with 'stillframe rescue build FILE.iso', or name it: '--medium FILE.iso'."

_OF_STICK: Final = "'stillframe rescue build FILE.iso' makes the same as a file in seconds; then '--medium FILE.iso'."


def check(call: Call) -> int:
    """Compare the medium with this computer."""
    options = call.options
    repository = options.repo or call.environment.get(REPOSITORY_VARIABLE, "")
    medium = open_medium(_medium(options))
    answers = check_medium(medium, ask_machine(_place_of(repository)))
    release = medium.modules.release
    fields, lines = check_fields(medium.path, release, answers), check_lines(medium.path, release, answers)
    call.screen.finish("rescue check", fields, lines)
    return 0 if is_fit(answers) else MISSING


def rehearse(call: Call) -> int:
    """Walk the way back in a virtual machine."""
    options, screen = call.options, call.screen
    medium = Medium(path=_medium(options))
    repository, secret = _open_and_remember(call)
    manifest = find_image(repository, options.image, machine_id=machine().id)
    wanted = RehearsalOptions(scratch=options.scratch, limit_s=float(options.limit), machine=machine_options(options))
    plan = plan_rehearsal(repository, manifest, medium, place=(call.folder, secret), options=wanted)
    screen.say(f"Rehearsing the way back of image {manifest.image[:8]} of {manifest.machine.name}.")
    with running(screen) as context:
        result = walk_back(repository, plan, context)
    screen.finish("rescue rehearse", rehearsal_fields(result), rehearsal_lines(result))
    return {"booted": 0, "failed": DOES_NOT_BOOT, "unclear": UNCLEAR}[result.outcome]


def sheet(call: Call) -> int:
    """Write the page to print."""
    options, screen = call.options, call.screen
    file = os.path.abspath(options.file)
    repository = call.open_repository()
    if options.with_recovery_key and repository.identity.encryption == "none":
        raise UsageError("this repository is not encrypted: it has no key", hint="Leave out '--with-recovery-key'.")
    require_outside(call.folder, file)
    fields = {"file": file, "repository": repository.identity.id, "recovery_key": options.with_recovery_key}
    if options.dry_run:
        screen.finish("rescue sheet", {"dry_run": True, **fields}, [f"The page would be written to {file}."])
        return 0
    facts = gather_sheet(repository, call.folder)
    write_sheet(repository, facts, file, with_key=options.with_recovery_key, owner=this_owner())
    lines = [f"Print {file}: open it in a browser. Keep the page with the rescue stick."]
    if options.with_recovery_key:
        lines = [
            f"Print {file}: open it in a browser. Then delete the file.",
            "The page has the recovery key: keep it where you keep money, and not with the disk that it opens.",
        ]
    screen.finish("rescue sheet", fields, lines)
    return 0


def _place_of(repository: str) -> str:
    """A folder, or the address of a share that the medium would open."""
    is_share = repository.partition("://")[0].lower() in SCHEMES
    return repository if is_share or not repository else folder_of(repository)


def _medium(options: argparse.Namespace) -> str:
    """The medium that was named, or the one that was built here last.

    Raises:
        UsageError: There is neither, or the one that was built here last is a stick, which is not looked into.
    """
    path: str = options.medium or rescue_noted().medium
    if not path:
        raise UsageError("no rescue medium is known", hint=_NO_MEDIUM)
    if not options.medium and path.startswith("/dev/"):
        raise UsageError(f"the medium that was built here last is a stick ({path}), and not a file", hint=_OF_STICK)
    if not os.path.exists(path):
        raise UsageError(f"there is no medium {path}", hint=_NO_MEDIUM)
    return path


def _open_and_remember(call: Call) -> tuple[Repository, str]:
    """The repository, and the secret that opened it: the medium must open it, too."""
    secrets, typed = call.secrets(), list[str]()
    ask = secrets.ask

    def remember(question: str) -> str:
        assert ask is not None
        typed.append(ask(question))
        return typed[-1]

    repository = open_at(call.folder, replace(secrets, ask=remember if ask else None))
    repository.box.events = call.screen
    if repository.identity.encryption == "none":
        return repository, ""
    return repository, typed[-1] if typed else secrets.given() or ""
