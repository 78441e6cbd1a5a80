"""Records: each field of the format page, sections 10 and 11, at its maximum and one above."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from stillframe.errors import DamagedError, UnsupportedFormat
from stillframe.events import Notice
from stillframe.repo.blockmap import Entry, Kind, MapRoot
from stillframe.repo.deletion_records import Retirement, SessionEnd, SessionRecord, TombstoneRecord
from stillframe.repo.format import JSON_SIZE_MAX
from stillframe.repo.records import (
    Manifest,
    ProofRecord,
    StoredMap,
    build_record,
    parse_record,
    parse_time,
    require_known_features,
    stored_map,
    stored_notice,
)
from stillframe.testing.sample_repository import sample_manifest

WORD, TEXT, HEX16, HEX32 = "w" * 200, "t" * 4000, "ab" * 16, "cd" * 32
SIZE_MAX = (1 << 63) - 1
TIME = "2026-03-01T08:30:00Z"
BASE = json.loads(build_record(sample_manifest()))
SHORT_NOTICE = {"code": "c", "message": "m", "hint": ""}
NOTICE = {"code": WORD, "message": TEXT, "hint": TEXT}
LEFT_OUT = {"path": TEXT, "size": SIZE_MAX, "kind": WORD}

Change = tuple[str, Any]
AT_MAXIMUM: list[Change] = [
    ("name", WORD),
    ("comment", TEXT),
    ("program", WORD),
    ("features", [WORD] * 64),
    ("machine.name", WORD),
    ("notices", [SHORT_NOTICE] * 10_000),
    ("notices", [NOTICE]),
    ("sequence", 1),
    ("sequence", SIZE_MAX),
    ("previous", HEX32),
    ("previous", ""),
    ("baseline", HEX16),
    ("baseline", ""),
    ("bytes_total", SIZE_MAX),
    ("chunk_size", 65_536),
    ("chunk_size", 4_194_304),
    ("kind", "differential"),
    ("disks", [BASE["disks"][0]] * 256),
    ("disks.0.partitions", []),
    ("disks.0.partitions", [BASE["disks"][0]["partitions"][0]] * 1024),
    ("disks.0.path", TEXT),
    ("disks.0.model", WORD),
    ("disks.0.sector_size", 65_536),
    ("disks.0.sector_size", 512),
    ("disks.0.scheme", "none"),
    ("disks.0.number", 1 << 32),
    ("disks.0.partitions.0.label", WORD),
    ("disks.0.partitions.0.attributes", "f" * 16),
    ("disks.0.partitions.0.system", None),
    ("disks.0.partitions.0.system", WORD),
    ("disks.0.partitions.0.consistency", "torn"),
    ("disks.0.partitions.0.map", "used"),
    ("disks.0.partitions.0.size", SIZE_MAX),
    ("disks.0.partitions.0.left_out", [LEFT_OUT] * 1000),
    ("disks.0.partitions.0.notices", [NOTICE] * 1000),
    ("disks.0.partitions.0.blocks", {"size": SIZE_MAX, "kind": 2, "id": HEX32}),
    ("disks.0.unreadable", [[0, SIZE_MAX]]),
]
OVER: list[Change] = [
    ("version", 2),
    ("version", 0),
    ("image", ""),
    ("image", HEX16[1:]),
    ("image", HEX16 + "0"),
    ("image", HEX16.upper()),
    ("image", HEX16 + "\n"),
    ("name", WORD + "w"),
    ("comment", TEXT + "t"),
    ("program", WORD + "w"),
    ("features", [WORD] * 65),
    ("features", [WORD + "w"]),
    ("machine.name", WORD + "w"),
    ("machine.id", ""),
    ("created", TIME + "\n"),
    ("created", "2026-03-01"),
    ("created", TIME[:-1] + "+00:00"),
    ("finished", "٢٠٢٦-03-01T08:30:00Z"),
    ("notices", [SHORT_NOTICE] * 10_001),
    ("notices", [{"code": "x"}]),
    ("kind", "weekly"),
    ("sequence", 0),
    ("sequence", -1),
    ("sequence", SIZE_MAX + 1),
    ("sequence", 1.5),
    ("previous", HEX16),
    ("baseline", HEX32),
    ("domain", ""),
    ("bytes_total", -1),
    ("bytes_total", SIZE_MAX + 1),
    ("bytes_total", "1"),
    ("chunk_size", 0),
    ("chunk_size", 32_768),
    ("chunk_size", 8_388_608),
    ("chunk_size", 65_537),
    ("chunk_size", 196_608),
    ("disks", []),
    ("disks", [BASE["disks"][0]] * 257),
    ("disks.0.partitions", [BASE["disks"][0]["partitions"][0]] * 1025),
    ("disks.0.path", TEXT + "t"),
    ("disks.0.model", WORD + "w"),
    ("disks.0.sector_size", 65_537),
    ("disks.0.sector_size", 511),
    ("disks.0.scheme", "apm"),
    ("disks.0.number", (1 << 32) + 1),
    ("disks.0.outside", {"size": 1, "kind": 5}),
    ("disks.0.outside", {"size": 1, "kind": -1}),
    ("disks.0.outside", {"size": -1, "kind": 0}),
    ("disks.0.outside", {"size": 1, "kind": 2, "id": HEX16}),
    ("disks.0.unreadable", [[0]]),
    ("disks.0.unreadable", [[0, 1, 2]]),
    ("disks.0.unreadable", [[-1, 1]]),
    ("disks.0.partitions.0.label", WORD + "w"),
    ("disks.0.partitions.0.attributes", "f" * 17),
    ("disks.0.partitions.0.attributes", "0x1"),
    ("disks.0.partitions.0.attributes", ""),
    ("disks.0.partitions.0.system", WORD + "w"),
    ("disks.0.partitions.0.consistency", "perfect"),
    ("disks.0.partitions.0.map", "some"),
    ("disks.0.partitions.0.size", SIZE_MAX + 1),
    ("disks.0.partitions.0.left_out", [LEFT_OUT] * 1001),
    ("disks.0.partitions.0.notices", [NOTICE] * 1001),
]


def changed(path: str, value: Any) -> bytes:
    whole = json.loads(json.dumps(BASE))
    *above, last = path.split(".")
    place: Any = whole
    for step in above:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(("path", "value"), AT_MAXIMUM, ids=[f"{n} {path}" for n, (path, _) in enumerate(AT_MAXIMUM)])
def test_a_field_at_its_limit_is_read_and_written(path: str, value: Any) -> None:
    raw = changed(path, value)
    manifest = parse_record(raw, Manifest, thing="x")
    assert json.loads(build_record(manifest)) == json.loads(raw)


@pytest.mark.parametrize(("path", "value"), OVER, ids=[f"{n} {path}" for n, (path, _) in enumerate(OVER)])
def test_a_field_over_its_limit_is_damage_and_is_named(path: str, value: Any) -> None:
    field = path.rpartition(".")[2]
    # A rule between bits of one number is the record's own: its message names the field in words.
    words = field if path != "chunk_size" or value not in {65_537, 196_608} else "chunk size"
    with pytest.raises(DamagedError, match=words):
        parse_record(changed(path, value), Manifest, thing="manifest 7")


def test_most_ranges() -> None:
    most = [[n, n + 1] for n in range(1_000_000)]
    raw = changed("disks.0.partitions.0.excluded", most)
    assert len(parse_record(raw, Manifest, thing="x").disks[0].partitions[0].excluded) == 1_000_000
    with pytest.raises(DamagedError, match="excluded"):
        parse_record(changed("disks.0.partitions.0.excluded", [*most, [0, 1]]), Manifest, thing="x")


@pytest.mark.parametrize("field", [f for f in BASE if f not in {
    "version", "features", "name", "comment", "baseline", "previous", "beside", "held", "imported",
    "notices"}])  # fmt: skip
def test_a_missing_field_is_damage(field: str) -> None:
    raw = json.dumps({key: value for key, value in BASE.items() if key != field}).encode()
    with pytest.raises(DamagedError, match=field):
        parse_record(raw, Manifest, thing="x")


def test_unknown_fields_are_ignored() -> None:
    assert parse_record(changed("later", [1, 2]), Manifest, thing="x") == sample_manifest()


NO_JSON = [
    b"",
    b"\xff",
    b"{",
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"image": "\xff"}',
    b'{"image": "\\ud800"}',
    b"9" * 5000,
]


@pytest.mark.parametrize("raw", NO_JSON, ids=range(len(NO_JSON)))
@pytest.mark.parametrize("kind", [Manifest, SessionRecord, TombstoneRecord, ProofRecord, SessionEnd, Retirement])
def test_what_is_no_json_of_the_record_is_damage(raw: bytes, kind: type[Manifest]) -> None:
    with pytest.raises(DamagedError, match="thing 5"):
        parse_record(raw, kind, thing="thing 5")


def test_longest_json() -> None:
    raw = build_record(sample_manifest())
    most = raw + b" " * (JSON_SIZE_MAX - len(raw))
    assert parse_record(most, Manifest, thing="x") == sample_manifest()
    with pytest.raises(DamagedError, match="67108865 bytes"):
        parse_record(most + b" ", Manifest, thing="x")


def test_a_record_nobody_could_read_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"comment"):
        build_record(sample_manifest(comment=TEXT + "t"))
    with pytest.raises(ValueError, match=r"surrogates"):
        build_record(sample_manifest(name="\ud800"))
    with pytest.raises(ValueError, match="power of two"):
        sample_manifest(chunk_size=65_537)


def tombstone(**changes: Any) -> bytes:
    fields = {"tombstone": HEX16, "created": TIME, "machine": {"id": HEX16, "name": "m"}}
    return json.dumps({**fields, **changes}).encode()


def proof(**changes: Any) -> bytes:
    fields = {"proof": HEX16, "image": HEX16, "created": TIME, "machine": {"id": HEX16, "name": "m"},
              "kind": "quick", "ok": True, "bytes": 0}  # fmt: skip
    return json.dumps({**fields, **changes}).encode()


def test_limits_of_tombstones() -> None:
    image = {"image": HEX16, "machine": HEX16, "sequence": 1}
    most = parse_record(tombstone(images=[image] * 100_000), TombstoneRecord, thing="x")
    assert len(most.images) == 100_000
    assert len(parse_record(tombstone(packs=[HEX16] * 1_000_000), TombstoneRecord, thing="x").packs) == 1_000_000
    for over in ({"images": [image] * 100_001}, {"packs": [HEX16] * 1_000_001}, {"packs": ["x"]}):
        with pytest.raises(DamagedError, match=next(iter(over))):
            parse_record(tombstone(**over), TombstoneRecord, thing="x")


def test_limits_of_what_tombstones_say_of_forgotten_images() -> None:
    image = {"image": HEX16, "machine": HEX16, "sequence": 1}
    back = {"image": HEX16, "tombstones": [HEX16] * 1000}
    most = {
        "binned": [image] * 100_000,
        "purging": [image] * 100_000,
        "back": [back] * 10,
        "sessions": [HEX16] * 100_000,
    }
    parse_record(tombstone(**most), TombstoneRecord, thing="x")
    overs: list[dict[str, Any]] = [
        {"binned": [image] * 100_001}, {"purging": [image] * 100_001}, {"sessions": [HEX16] * 100_001},
        {"back": [{"image": HEX16, "tombstones": []}] * 1001}, {"back": [back | {"tombstones": [HEX16] * 1001}]},
        {"follows": "x"}, {"session": HEX16 + "0"},
    ]  # fmt: skip
    for over in overs:
        with pytest.raises(DamagedError, match=next(iter(over))):
            parse_record(tombstone(**over), TombstoneRecord, thing="x")


@pytest.mark.parametrize(("kind", "field"), [(SessionEnd, "kept"), (Retirement, "undoes")])
def test_limits_of_ends_and_retirements(kind: type[Any], field: str) -> None:
    machine = {"id": HEX16, "name": "desk"}
    record: dict[str, Any] = {
        "end": HEX16, "session": HEX16, "retirement": HEX16, "machine": machine, "by": machine, "why": "w" * 200,
        "created": "2026-03-01T08:30:00Z",
    }  # fmt: skip
    read = parse_record(json.dumps(record | {field: [HEX16] * 1000}).encode(), kind, thing="x")
    assert len(getattr(read, field)) == 1000
    overs: list[dict[str, Any]] = [{field: [HEX16] * 1001}, {field: ["x"]}, {"created": "today"}]
    if kind is SessionEnd:
        overs += [{"why": "w" * 201}, {"final": 2}]
    for over in overs:
        with pytest.raises(DamagedError):
            parse_record(json.dumps(record | over).encode(), kind, thing="x")


def test_limits_of_proofs() -> None:
    most = parse_record(proof(bad_chunks=[HEX32] * 100_000, findings=[TEXT] * 1000, how=TEXT), ProofRecord, thing="x")
    assert (len(most.bad_chunks), len(most.findings)) == (100_000, 1000)
    overs: list[dict[str, Any]] = [
        {"bad_chunks": [HEX32] * 100_001},
        {"bad_chunks": [HEX16]},
        {"findings": [TEXT] * 1001},
        {"findings": [TEXT + "t"]},
        {"how": TEXT + "t"},
        {"kind": "thorough"},
        {"ok": 1},
    ]
    for over in overs:
        with pytest.raises(DamagedError, match=next(iter(over))):
            parse_record(proof(**over), ProofRecord, thing="x")


def test_a_map_and_its_root_say_the_same() -> None:
    for root in (
        MapRoot(0, Entry(Kind.UNUSED)),
        MapRoot(5, Entry(Kind.ZERO)),
        MapRoot(5, Entry(Kind.DATA, bytes(range(32)))),
    ):
        assert stored_map(root).root() == root


@pytest.mark.parametrize(
    "wrong",
    [
        StoredMap(size=1, kind=2),
        StoredMap(size=1, kind=1, id=HEX32),
        StoredMap(size=0, kind=2, id=HEX32),
        StoredMap(size=0, kind=1),
    ],
)
def test_a_map_whose_kind_and_id_do_not_belong_together_is_damage(wrong: StoredMap) -> None:
    with pytest.raises(DamagedError, match="root"):
        wrong.root()


def test_a_long_notice_is_cut_to_what_can_be_kept() -> None:
    kept = stored_notice(Notice(code="c", message="m" * 5000, hint="h" * 5000))
    manifest = sample_manifest(notices=(kept,))
    assert parse_record(build_record(manifest), Manifest, thing="x").notices == (kept,)


def test_an_unknown_feature_is_refused_by_name() -> None:
    require_known_features(sample_manifest())
    with pytest.raises(UnsupportedFormat, match="parity, patch"):
        require_known_features(sample_manifest(features=("patch", "parity")))


def test_times() -> None:
    assert parse_time(TIME) == datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    for none in ("2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:61:00Z", "0000-01-01T00:00:00Z"):
        with pytest.raises(DamagedError, match=none):
            parse_time(none)


def test_records_are_plain_json() -> None:
    raw = build_record(sample_manifest())
    assert msgspec.json.decode(raw) == json.loads(raw)
    assert BASE["disks"][0]["partitions"][0]["blocks"] == {"size": 1 << 20, "kind": 1, "id": ""}
