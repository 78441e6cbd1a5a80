"""What an object that a put key made may say: of its own machine, under its own names, and nothing of others.

Answers: "does this machine speak for itself only?" Asked wherever such an object is opened, so that no reader can
forget to. A machine that is in the wrong hands can then write bad images of itself, and that is all. Normative:
``docs/format/v1.md``, section 17.
"""

from dataclasses import dataclass

import msgspec

from stillframe.errors import DamagedError
from stillframe.repo.format import CHECK_HINT, Expected, ObjectType
from stillframe.repo.put.credential import is_named_rightly, is_of, machine_of
from stillframe.repo.records import JSON_ERRORS, Hex16, MachineName
from stillframe.repo.rows import Table, parse_table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    image: Hex16
    machine: MachineName
    domain: Hex16
    session: Hex16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    session: Hex16
    verb: str
    machine: MachineName


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    end: Hex16
    session: Hex16
    machine: MachineName
    by: MachineName


def require_own_words(expected: Expected, payload: bytes) -> None:
    """Refuse an object of a put-only machine that speaks of another machine, or under another one's names.

    Args:
        expected: Which object it is; its tag is right.
        payload: What it says.

    Raises:
        DamagedError: So it does.
    """
    try:
        wrong = _find_wrong(expected, payload)
    except JSON_ERRORS as error:
        wrong = str(error)
    if wrong:
        raise DamagedError(
            f"{expected.thing}: a put key made it, and it is not one that this key may make: {wrong}",
            hint="Whoever holds that put key tried to pass for another. Take the key away: 'stillframe key remove'. "
            + CHECK_HINT,
        )


def _find_wrong(expected: Expected, payload: bytes) -> str:
    machine_id, own_id = machine_of(expected.object_id), expected.object_id.hex()
    match expected.kind:
        case ObjectType.IMAGE:
            image = msgspec.json.decode(payload, type=_Image)
            if image.image != own_id:
                return f"it describes image {image.image}"
            if image.domain != machine_id.hex():
                return f"it names chunks of domain {image.domain}"
            return _wrong_machine(image.machine, machine_id) or _wrong_session(image.session, machine_id)
        case ObjectType.SESSION:
            session = msgspec.json.decode(payload, type=_Session)
            if session.session != own_id or session.verb != "backup":
                return f"it is session {session.session} of '{session.verb}'"
            return _wrong_machine(session.machine, machine_id)
        case ObjectType.SESSION_END:
            end = msgspec.json.decode(payload, type=_End)
            if end.end != own_id:
                return f"it is the end {end.end}"
            by = _wrong_machine(end.machine, machine_id) or _wrong_machine(end.by, machine_id)
            return by or _wrong_session(end.session, machine_id)
        case ObjectType.INDEX:
            table = parse_table(payload, thing=expected.thing)
            foreign = [pack.hex() for pack in table.packs if not is_of(machine_id, pack.hex())]
            return f"it names pack {foreign[0]}" if foreign else _wrong_rows(table)
        case ObjectType.PACK:
            return _wrong_rows(parse_table(payload, thing=expected.thing))
    return "put keys make no such objects"


def _wrong_machine(machine: MachineName, machine_id: bytes) -> str:
    if is_named_rightly(machine, machine_id):
        return ""
    return f"it speaks for machine {machine.id} ({machine.name!r})"


def _wrong_rows(table: Table) -> str:
    """A put-only machine reads nothing, so it makes no patches: a base would keep chunks of others from deletion."""
    return f"it speaks of {len(table.patches)} patches" if len(table.patches) else ""


def _wrong_session(session: str, machine_id: bytes) -> str:
    return "" if is_of(machine_id, session) else f"it names session {session} of another machine"
