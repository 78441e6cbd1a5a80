"""The verbs that make a repository and keep its keys: ``init``, ``key``, ``recovery-kit``."""

import os

from stillframe.cli.call import Call
from stillframe.cli.words import local_time, table
from stillframe.errors import UsageError
from stillframe.jobs.keys import (
    add_key,
    add_put_key,
    find_key,
    list_keys,
    list_put_keys,
    make_recovery_kit,
    put_key_name,
    remove_key,
    remove_put_key,
    require_key_place,
)
from stillframe.jobs.owner import this_owner
from stillframe.jobs.repositories import NewRepository, create_at, folder_of, require_new, require_outside
from stillframe.repo.put.grants import KnownGrant
from stillframe.repo.repository import Repository

_NO_KIT = (
    "There is no recovery key yet: if the passphrase is forgotten, nobody can open this repository.",
    "  Make one now: stillframe recovery-kit FILE --repo {folder}",
)
_KIT = "Print {file}, keep the page in a safe place, then delete the file."
_PUT_KEY = (
    "  {file}",
    "Take it to that machine and delete it here: whoever has it can add images of that machine, and read none.",
    "  There: stillframe backup SOURCE --put-key FILE --repo REPO",
)
_OPEN = "This repository is NOT encrypted: whoever finds the folder can read every image in it."


def init(call: Call) -> int:
    """Make a new repository."""
    options = call.options
    request = NewRepository(
        folder=folder_of(options.repository), encryption=options.encryption, secrets=call.secrets(),
        recovery_kit=options.recovery_kit and os.path.abspath(options.recovery_kit), parity=options.parity,
    )  # fmt: skip
    require_new(request)
    fields = {
        "folder": request.folder,
        "encryption": request.encryption,
        "recovery_kit": request.recovery_kit,
        "parity": request.parity,
    }
    if options.dry_run:
        words = f"A new repository would be made at {request.folder} (encryption: {request.encryption})."
        call.screen.finish("init", {"dry_run": True, **fields}, [words])
        return 0
    repository = create_at(request)
    lines = [f"New repository {repository.identity.id[:8]} at {request.folder}"]
    if request.encryption == "none":
        lines.append(_OPEN)
    elif request.recovery_kit:
        lines.append(_KIT.format(file=request.recovery_kit))
    else:
        lines += [line.format(folder=request.folder) for line in _NO_KIT]
    if request.parity:
        lines.append("Parity is on: rotted bytes will be repaired, for about 4 % more room.")
    lines.append(f"Next: stillframe backup SOURCE --repo {request.folder}")
    call.screen.finish("init", {"repository": repository.identity.id, **fields}, lines)
    return 0


def key(call: Call) -> int:
    """Add, remove or list keys."""
    return {"add": _key_add, "remove": _key_remove, "list": _key_list}[call.options.key_verb](call)


def recovery_kit(call: Call) -> int:
    """Make a recovery key and the page with it."""
    file = os.path.abspath(call.options.file)
    repository = call.open_repository()
    if call.options.dry_run:
        require_outside(call.folder, file)
        words = f"A new recovery key would be made, and written to {file}."
        call.screen.finish("recovery-kit", {"dry_run": True, "file": file}, [words])
        return 0
    slot_id = make_recovery_kit(repository, file, call.folder, owner=this_owner()).hex()
    lines = [f"New key {slot_id[:8]}.", _KIT.format(file=file)]
    call.screen.finish("recovery-kit", {"key": slot_id, "file": file}, lines)
    return 0


def _key_add(call: Call) -> int:
    label = call.options.label
    repository = call.open_repository()
    if repository.identity.encryption == "none":
        raise UsageError("this repository is not encrypted: it has no keys", hint="Nothing is needed to open it.")
    if call.options.put_only:
        return _put_key_add(call, repository)
    if call.options.dry_run:
        call.screen.finish("key", {"dry_run": True, "label": label}, ["A passphrase would be added."])
        return 0
    slot_id = add_key(repository, call.secrets(new=True), label=label, owner=this_owner()).hex()
    call.screen.finish("key", {"key": slot_id, "label": label}, [f"New key {slot_id[:8]}; the others still open."])
    return 0


def _put_key_add(call: Call, repository: Repository) -> int:
    file, label = os.path.abspath(call.options.put_only), call.options.label or "machine"
    if call.options.dry_run:
        require_key_place(call.folder, file)
        words = f"A put key would be made, and written to {file}."
        call.screen.finish("key", {"dry_run": True, "label": label, "file": file}, [words])
        return 0
    made = add_put_key(repository, file, call.folder, label=label, owner=this_owner())
    fields = {"key": made.machine, "label": label, "file": file, "machine": made.machine_name.name}
    lines = [f"New put key of {made.machine_name.name}.", *(line.format(file=file) for line in _PUT_KEY)]
    call.screen.finish("key", fields, lines)
    return 0


def _put_key_remove(call: Call, repository: Repository, found: KnownGrant) -> int:
    name = found.grant.machine.name
    fields = {"key": found.grant.grant, "label": found.grant.label, "machine": name}
    if call.options.dry_run:
        call.screen.finish("key", {"dry_run": True, **fields}, [f"Would be removed: the put key of {name}"])
        return 0
    call.screen.warn(f"To be removed: the put key of {name}")
    call.screen.confirm("Nothing that is added with it from now on will count.", "remove", yes=call.options.yes)
    kept = len(remove_put_key(repository, found, owner=this_owner()).kept)
    lines = [f"Removed: the put key of {name}", f"{kept} images of it stay; nothing that it adds later counts."]
    call.screen.finish("key", {**fields, "images": kept}, lines)
    return 0


def _key_remove(call: Call) -> int:
    repository = call.open_repository()
    slot = find_key(repository, call.options.key)
    if isinstance(slot, KnownGrant):
        return _put_key_remove(call, repository, slot)
    fields = {"key": slot.slot_id.hex(), "label": slot.body.label}
    words = f"{slot.body.kind} {slot.slot_id.hex()[:8]} {slot.body.label!r} of {local_time(slot.body.created)}"
    if call.options.dry_run:
        call.screen.finish("key", {"dry_run": True, **fields}, [f"Would be removed: {words}"])
        return 0
    call.screen.warn(f"To be removed: {words}")
    call.screen.confirm("It will not open this repository any more.", "remove", yes=call.options.yes)
    remove_key(repository, slot, owner=this_owner())
    lines = [
        f"Removed: {words}",
        "An older copy of the repository's folder may still open with it.",
    ]
    call.screen.finish("key", fields, lines)
    return 0


def _key_list(call: Call) -> int:
    repository = call.open_repository()
    slots, put_keys = list_keys(repository), list_put_keys(repository)
    fields = [
        {
            "key": slot.slot_id.hex(), "kind": slot.body.kind, "label": slot.body.label,
            "created": slot.body.created, "copies": len(slot.copies),
        }
        for slot in slots
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (slot.slot_id.hex()[:8], slot.body.kind, slot.body.label, local_time(slot.body.created), str(len(slot.copies)))
        for slot in slots
    ]
    for one in put_keys:
        kind, made = "put-only" if one.revoked is None else "put-only, removed", one.grant
        fields.append(
            {
                "key": made.grant, "kind": "put-only", "label": made.label, "created": made.created, "copies": 1,
                "removed": one.revoked is not None,
            }
        )  # fmt: skip
        rows.append((put_key_name(one)[:8], kind, made.label, local_time(made.created), "1"))
    call.screen.finish("key", {"keys": fields}, table(("key", "kind", "label", "created", "copies"), rows, right=(4,)))
    return 0
