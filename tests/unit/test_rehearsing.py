"""A rehearsal without a machine: what the medium is told, what is made of what it does, what is refused."""

import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.cli.image_words import image_table, recovery_words
from stillframe.errors import Cancelled, MachineRefusal, StorageFull, UsageError
from stillframe.host.pictures import Picture
from stillframe.jobs.listing import look_at_image
from stillframe.jobs.pipeline import CancelToken
from stillframe.jobs.virtual import MachineOptions
from stillframe.jobs.watching import Look, Onlooker
from stillframe.repo.format import ObjectType
from stillframe.repo.proofs import ladder, write_proof
from stillframe.repo.records import Manifest, ProofRecord, build_record
from stillframe.repo.repository import Repository
from stillframe.rescue.trying import rehearsing, returning
from stillframe.rescue.trying.rehearsing import (
    Medium,
    RehearsalOptions,
    RehearsalPlan,
    build_answers,
    plan_rehearsal,
)
from stillframe.rescue.trying.returning import parse_verdict, watch_return
from stillframe.testing.job_runs import job_context
from stillframe.testing.sample_repository import MACHINE, sample_manifest, sample_repository

PICTURE = Picture(width=1, height=1, pixels=bytes(3))
GOOD = '{"type": "verdict", "verb": "restore", "ok": true, "exit_code": 0, "message": "done", "hint": ""}\n'
WRONG_KEY = '{"type":"verdict","exit_code":12,"message":"no key slot opens","hint":"Try again."}\n'
OPTIONS = RehearsalOptions(limit_s=60, machine=MachineOptions())


@pytest.mark.parametrize("secret", ["", "plain", 'a "quoted" \\ pässphrase\ttab \x7f 🗝'])
def test_what_the_medium_is_told_is_toml_that_says_all(secret: str) -> None:
    plan = cast("RehearsalPlan", SimpleNamespace(secret=secret, repository_id="ab" * 16, manifest=sample_manifest()))
    said = tomllib.loads(build_answers(plan))
    assert said["repository"] == {"id": "ab" * 16}
    assert said["restore"] == {"image": sample_manifest().image, "target": {"serial": "rehearsal"}}
    assert said["after"] == {"then": "poweroff", "on-failure": "poweroff", "report": "/dev/ttyS0"}
    assert said.get("secret") == ({"password": secret} if secret else None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GOOD, 0), ("login: " + WRONG_KEY, 12), (WRONG_KEY + GOOD, 0), (GOOD[:-10], None), ("", None),
        ('{"type": "verdict"}', None), ('{"type": "verdict", "exit_code": true}', True), (WRONG_KEY + GOOD[:-10], 12),
    ],
)  # fmt: skip
def test_the_last_whole_verdict_counts(text: str, code: int | None) -> None:
    verdict = parse_verdict(text)
    assert (verdict["exit_code"] if verdict else None) == code


class Scripted:
    """A machine that shows one thing a second: what it said so far, bytes written, and whether it has ended."""

    def __init__(self, *steps: tuple[str, int, bool]) -> None:
        self.steps = steps
        self.at = 0

    @property
    def seconds(self) -> float:
        return float(self.at)

    def look(self) -> Look:
        serial, _, ended = self._step
        self.at += 1
        return Look(
            seconds=float(self.at), serial=serial, firmware="", text="", picture=PICTURE, bytes_read=self.at, resets=0,
            has_ended=ended,
        )  # fmt: skip

    def written(self) -> int:
        if self._before[2]:
            raise MachineRefusal("gone")
        return self._before[1]

    @property
    def _step(self) -> tuple[str, int, bool]:
        return self.steps[min(self.at, len(self.steps) - 1)]

    @property
    def _before(self) -> tuple[str, int, bool]:
        return self.steps[min(self.at - 1, len(self.steps) - 1)]


def watched(monkeypatch: pytest.MonkeyPatch, *steps: tuple[str, int, bool], limit_s: float = 50) -> returning.Returned:
    monkeypatch.setattr("time.sleep", lambda _: None)
    machine = Scripted(*steps)
    return watch_return(cast("Onlooker", machine), machine.written, limit_s=limit_s, context=job_context())


def test_the_parts_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, writing = ("", 0, False), ("", 4096, False)
    result = watched(monkeypatch, *[quiet] * 10, *[writing] * 5, (GOOD, 9999, False), (GOOD, 9999, True))
    assert (result.failure, result.medium_s, result.restore_s) == ("", 11.0, 5.0)
    assert result.picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("", 0, False), (WRONG_KEY, 0, True)], "exit code 12): no key slot opens. Try again."),
        ([("", 0, False), ("", 0, True)], "without a verdict, before anything was written"),
        ([("", 7, False), ("", 7, True)], "without a verdict, in the middle of the restore"),
        ([("", 0, False), (GOOD, 0, True)], "wrote nothing to the empty disk"),
        ([("Kernel panic - not syncing: VFS", 0, False)], "not done after 50 s"),
        ([("", 0, False)], "not done after 50 s, before anything was written"),
    ],
)
def test_a_failure_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, bool]], words: str
) -> None:
    assert words in watched(monkeypatch, *steps).failure


def test_a_medium_that_stays_on_after_its_verdict_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, ("", 1, False), (GOOD, 1, False), limit_s=10).failure == ""


def test_whoever_stops_it_is_obeyed() -> None:
    cancel = CancelToken()
    cancel.cancel()
    machine = Scripted(("", 0, False))
    with pytest.raises(Cancelled):
        watch_return(cast("Onlooker", machine), machine.written, limit_s=5, context=job_context(cancel=cancel))


@pytest.fixture
def stored() -> tuple[Repository, Manifest]:
    repository, manifest = sample_repository(), sample_manifest()
    repository.box.write(ObjectType.IMAGE, bytes.fromhex(manifest.image), build_record(manifest))
    return repository, manifest


def test_what_cannot_be_rehearsed_is_refused_before_anything_starts(
    stored: tuple[Repository, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, manifest = stored
    iso = tmp_path / "rescue.iso"
    none, medium, place = Medium(path=str(tmp_path / "none")), Medium(path=str(iso)), (str(tmp_path), "")
    with pytest.raises(UsageError, match="there is no medium"):
        plan_rehearsal(repository, manifest, none, place=place, options=OPTIONS)
    iso.write_bytes(b"")
    several = replace(manifest, disks=manifest.disks * 2)
    with pytest.raises(UsageError, match="2 disks"):
        plan_rehearsal(repository, several, medium, place=place, options=OPTIONS)
    monkeypatch.setattr(rehearsing, "free_space", lambda _: 1000)
    with pytest.raises(StorageFull) as raised:
        plan_rehearsal(repository, manifest, medium, place=place, options=OPTIONS)
    assert "--scratch" in raised.value.hint


def rehearsal(number: int, manifest: Manifest, *, ok: bool = True, seconds: int = 754) -> ProofRecord:
    return ProofRecord(
        proof=f"{number:032x}", image=manifest.image, created=f"2026-03-0{number}T12:00:00Z", machine=MACHINE,
        kind="rehearsed", ok=ok, bytes=0, how="seen", outcome="booted" if ok else "failed", seconds=seconds,
        medium_seconds=90, restore_seconds=600, start_seconds=64, emulated=True, firmware="uefi",
    )  # fmt: skip


def test_a_rehearsal_is_the_highest_rung_and_a_start() -> None:
    manifest = sample_manifest()
    standing = ladder(manifest, [rehearsal(1, manifest)])
    assert (standing.rung, standing.boots) == ("rehearsed", True)
    assert recovery_words(standing) == "12 min 34 s, emulated"


def test_a_rehearsal_that_failed_takes_the_rung_and_says_nothing_of_the_image() -> None:
    manifest = sample_manifest()
    standing = ladder(manifest, [rehearsal(1, manifest), rehearsal(2, manifest, ok=False)])
    assert (standing.rung, standing.boots) == ("booted", True)
    alone = ladder(manifest, [rehearsal(2, manifest, ok=False)])
    assert (alone.rung, alone.boots, alone.rehearsal) == ("unproven", None, None)


def test_the_recovery_time_is_in_the_list_where_there_is_one(stored: tuple[Repository, Manifest]) -> None:
    repository, manifest = stored
    assert "recovery time" not in image_table([look_at_image(repository, manifest)])[0]
    write_proof(repository, rehearsal(1, manifest))
    head, row = image_table([look_at_image(repository, manifest)])
    assert head.endswith("recovery time")
    assert "rehearsed 1 Mar" in row
    assert row.endswith("12 min 34 s, emulated")
