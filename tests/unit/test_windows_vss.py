"""The order of VSS: what is called when all goes well, and that nothing is left behind however it goes wrong."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal
from stillframe.events import Notice, RecordedEvents
from stillframe.host.windows import codes
from stillframe.host.windows.vss import ShadowSet, open_shadow_set
from stillframe.host.windows.vss_session import ShadowSettings, SnapshotFailed
from stillframe.testing import windows_documented as documented
from stillframe.testing.clocks import FakeClock
from stillframe.testing.windows_documented import (
    ABORT,
    COMPLETE,
    COMPONENTS,
    DELETE,
    ESP,
    FINISHED,
    RELEASE,
    SET_ID,
    START,
    C,
    D,
    happy,
    made,
    method,
    opening,
    prepared,
    step,
    writer_status,
)
from stillframe.testing.windows_transcript import Line, WindowsTranscript, read_transcript, write_transcript

FOLDER = Path(__file__).parents[1] / "data" / "windows"
NOT_PLAIN = (
    codes.VSS_E_SNAPSHOT_SET_IN_PROGRESS, codes.VSS_E_WRITERERROR_RETRYABLE, codes.VSS_E_VOLUME_NOT_SUPPORTED,
    codes.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER, codes.VSS_E_OBJECT_NOT_FOUND,
)  # fmt: skip
PLAIN_FAILURES = [code for code in codes.known_failures() if code not in NOT_PLAIN]
RETRYABLE = ("SqlServerWriter", 9, codes.VSS_E_WRITERERROR_RETRYABLE)


def name_of(line: Line) -> str:
    return str(line.arguments[1]).partition("::")[2] if line.call == "call_method" else line.call


def play(
    lines: Sequence[Line],
    volumes: Sequence[str] = (C, D),
    *,
    settings: ShadowSettings | None = None,
    copying: BaseException | None = None,
) -> tuple[ShadowSet, list[Notice]]:
    """Run it against a transcript, whose every line must be played, and copy in between."""
    clock, sink = FakeClock(), RecordedEvents()
    found: list[ShadowSet] = []
    with (
        WindowsTranscript(lines, clock=clock) as calls,
        open_shadow_set(calls, volumes, clock=clock, settings=settings or ShadowSettings(), sink=sink) as shadows,
    ):
        found.append(shadows)
        if copying is not None:
            raise copying
    return found[0], [event for event in sink.events if isinstance(event, Notice)]


def undoing(played: Sequence[Line]) -> list[Line]:
    """What must follow after these lines, by the documentation, so that nothing is left behind."""
    called = {name_of(line) for line in played if not has_failed(line)}
    asked = [line.arguments for line in played]
    ended = [line.arguments[0] for line in played if line.answer == {"hresult": "0x0", "numbers": [FINISHED]}]
    if "create_backup_components" not in called or RELEASE[0].arguments in asked:
        return []
    # AbortBackup when BackupComplete has just ended does no harm: "ignored when no backup operations are underway".
    abort = "StartSnapshotSet" in called and COMPLETE[-1] not in played
    delete = 0x2004 in ended and "DeleteSnapshots" not in called
    return [*(ABORT if abort else []), *(DELETE if delete else []), *RELEASE]


def has_failed(line: Line) -> bool:
    return line.call == "call_method" and line.answer is not None and int(line.answer["hresult"], 16) >= 0x80000000


def release(line: Line) -> Line:
    return method("IVssAsync::Release", pointer=line.arguments[0])


def cancelled(pointer: int) -> list[Line]:
    return [
        method("IVssAsync::Cancel", pointer=pointer),
        method("IVssAsync::Wait", documented.CANCEL_WAIT_MS, pointer=pointer),
        method("IVssAsync::Release", pointer=pointer),
    ]


def test_transcripts_are_what_the_script_writes() -> None:
    for name, (lines, title) in documented.TRANSCRIPTS.items():
        text = write_transcript(lines(), title=f"{title}; {documented.NOT_RECORDED}")
        assert (FOLDER / name).read_text() == text
        assert read_transcript(FOLDER / name) == tuple(lines())


def test_two_volumes_show_one_moment() -> None:
    shadows, notices = play(read_transcript(FOLDER / "shadow-set.jsonl"))
    assert shadows.set_id == SET_ID
    assert [volume.volume for volume in shadows.volumes] == [C, D]
    prefix = r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy"
    assert [volume.device for volume in shadows.volumes] == [f"{prefix}7", f"{prefix}8"]
    moment = shadows.volumes[0].created
    assert moment is not None
    assert moment.isoformat() == "2024-12-30T02:40:00+00:00"  # date -u -d @1735526400
    assert [writer.name for writer in shadows.writers] == ["System Writer", "Registry Writer"]
    assert (shadows.unsupported, shadows.notices, notices) == ((), (), [])


def test_the_order_of_the_first_calls_is_that_of_the_documentation() -> None:
    names = [name_of(line) for line in happy() if line.arguments[:1] == (COMPONENTS,)]
    assert names == [
        "InitializeForBackup", "SetContext", "SetBackupState", "GatherWriterMetadata", "IsVolumeSupported",
        "IsVolumeSupported", "StartSnapshotSet", "AddToSnapshotSet", "AddToSnapshotSet", "PrepareForBackup",
        "GatherWriterStatus", "GetWriterStatusCount", "GetWriterStatus", "GetWriterStatus", "FreeWriterStatus",
        "DoSnapshotSet", "GatherWriterStatus", "GetWriterStatusCount", "GetWriterStatus", "GetWriterStatus",
        "FreeWriterStatus", "GetSnapshotProperties", "GetSnapshotProperties", "BackupComplete", "DeleteSnapshots",
        "Release",
    ]  # fmt: skip


@pytest.mark.parametrize("hresult", PLAIN_FAILURES, ids=lambda code: codes.meaning_of(code).name)
def test_every_step_may_fail_and_nothing_is_left_behind(hresult: int) -> None:
    lines = happy()
    last = len(lines) - len(COMPLETE) - len(DELETE) - len(RELEASE)
    for index, line in enumerate(lines[:last]):
        name = name_of(line)
        if line.call != "call_method" or (name == "Release"):
            continue
        failing = replace(line, answer={"hresult": hex(hresult), "numbers": [0, 0], "texts": [SET_ID, SET_ID, SET_ID]})
        played = [*lines[:index], failing]
        if name == "Wait":
            played.append(release(line))
        elif name == "QueryStatus":
            played += cancelled(line.arguments[0])
        tail = undoing(played)
        if name == "QueryStatus" and line.arguments[0] == 0x2004:
            tail = [*ABORT, *DELETE, *RELEASE]  # it may have been done: nobody says
        with pytest.raises(SnapshotFailed) as caught:
            play([*played, *tail])
        meaning = codes.meaning_of(hresult)
        assert caught.value.hresult == hresult
        assert (meaning.name in caught.value.message, caught.value.hint) == (True, meaning.hint)


@pytest.mark.parametrize("hresult", PLAIN_FAILURES, ids=lambda code: codes.meaning_of(code).name)
def test_a_step_that_ends_with_a_failure_is_undone(hresult: int) -> None:
    """The method itself says yes, and QueryStatus tells that what it began has failed."""
    lines = happy()
    for index, line in enumerate(lines[: len(lines) - len(COMPLETE) - 2]):
        if name_of(line) == "QueryStatus" and line.answer["numbers"] == [FINISHED]:
            played = [*lines[:index], replace(line, answer={"hresult": "0x0", "numbers": [hresult]}), release(line)]
            with pytest.raises(SnapshotFailed) as caught:
                play([*played, *undoing(played)])
            assert caught.value.hresult == hresult


def test_ctrl_c_at_any_call_leaves_nothing_behind() -> None:
    lines = happy()
    for index, line in enumerate(lines):
        name, pointer = name_of(line), line.arguments[0] if line.arguments else 0
        played = [*lines[:index], replace(line, answer={"interrupt": True})]
        waiting = name in ("Wait", "QueryStatus")
        tail = undoing([*lines[:index], replace(line, answer=None)] if name != "create_backup_components" else [])
        if name == "DoSnapshotSet" or (waiting and pointer == 0x2004):
            tail = [*ABORT, *DELETE, *RELEASE]  # the shadows may exist: the answer was lost
        with pytest.raises(KeyboardInterrupt):
            play([*played, *(cancelled(pointer) if waiting else []), *tail])


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MachineRefusal("no room"), GeneratorExit(), MemoryError()], ids=repr
)
def test_a_copy_that_fails_ends_the_shadow(error: BaseException) -> None:
    lines = [*START, *opening(), *prepared(), *made(), *ABORT, *DELETE, *RELEASE]
    with pytest.raises(type(error)):
        play(lines, copying=error)


def test_a_snapshot_failure_of_the_copy_is_not_tried_again() -> None:
    lines = [*START, *opening(), *prepared(), *made(), *ABORT, *DELETE, *RELEASE]
    error = SnapshotFailed("another set", hresult=codes.VSS_E_WRITERERROR_RETRYABLE, step="DoSnapshotSet")
    with pytest.raises(SnapshotFailed, match="another set"):
        play(lines, copying=error)


@pytest.mark.parametrize("name", ["GatherWriterMetadata", "PrepareForBackup", "GatherWriterStatus", "DoSnapshotSet"])
def test_a_step_that_does_not_end_is_cancelled(name: str) -> None:
    lines = happy()
    index = next(number for number, line in enumerate(lines) if name_of(line) == name)
    pointer = lines[index].answer["numbers"][0]
    waits = [
        replace(method("IVssAsync::Wait", documented.WAIT_MS, pointer=pointer), seconds=60.0),
        method("IVssAsync::QueryStatus", pointer=pointer, numbers=[documented.PENDING]),
    ]
    tail = [*ABORT, *DELETE, *RELEASE] if name == "DoSnapshotSet" else undoing(lines[:index])
    with pytest.raises(SnapshotFailed, match=f"{name} did not end within 100 seconds"):
        play(
            [*lines[: index + 1], *waits, *waits, *cancelled(pointer), *tail],
            settings=ShadowSettings(step_limit_s=100.0),
        )


def test_a_step_that_somebody_else_cancels_is_undone() -> None:
    lines = [*START, *opening(), *prepared()]
    pointer = 0x2004
    asked = [
        method("DoSnapshotSet", numbers=[pointer]),
        method("IVssAsync::Wait", documented.WAIT_MS, pointer=pointer),
        method("IVssAsync::QueryStatus", pointer=pointer, numbers=[documented.CANCELLED]),
        method("IVssAsync::Release", pointer=pointer),
    ]
    with pytest.raises(SnapshotFailed, match="cancelled"):
        play([*lines, *asked, *ABORT, *RELEASE])


def test_a_step_without_an_object_to_wait_for_is_a_failure() -> None:
    lines = [*START, *opening(), *prepared(), method("DoSnapshotSet", numbers=[0])]
    with pytest.raises(SnapshotFailed):
        play([*lines, *ABORT, *RELEASE])


def test_another_shadow_being_made_is_waited_for() -> None:
    busy = method("StartSnapshotSet", hresult=codes.VSS_E_SNAPSHOT_SET_IN_PROGRESS, texts=[SET_ID])
    wait = Line(call="pause", arguments=(5.0,))
    lines = [*START, *opening(), busy, wait, busy, wait, *prepared(), *made(), *COMPLETE, *DELETE, *RELEASE]
    assert play(lines)[0].set_id == SET_ID


def test_another_shadow_being_made_is_not_waited_for_without_end() -> None:
    busy = method("StartSnapshotSet", hresult=codes.VSS_E_SNAPSHOT_SET_IN_PROGRESS, texts=[SET_ID])
    wait = Line(call="pause", arguments=(5.0,))
    with pytest.raises(SnapshotFailed, match="another program is just making a shadow"):
        play([*START, *opening(), *[busy, wait] * 30, busy, *RELEASE])


def test_ctrl_c_while_another_shadow_is_being_made() -> None:
    busy = method("StartSnapshotSet", hresult=codes.VSS_E_SNAPSHOT_SET_IN_PROGRESS, texts=[SET_ID])
    wait = Line(call="pause", arguments=(5.0,), answer={"interrupt": True})
    with pytest.raises(KeyboardInterrupt):
        play([*START, *opening(), busy, wait, *RELEASE])


PAUSE = Line(call="pause", arguments=(30.0,))
ONE_MORE_TRY_AFTER = [
    *opening(), *prepared(), *step("DoSnapshotSet", 0x2004), *writer_status(0x2005, [RETRYABLE]), *COMPLETE, *DELETE,
    *RELEASE, PAUSE,
]  # fmt: skip
ONE_MORE_TRY_BEFORE = [*opening(), *prepared(writers=[RETRYABLE]), *ABORT, *RELEASE, PAUSE]


@pytest.mark.parametrize("again", [ONE_MORE_TRY_AFTER, ONE_MORE_TRY_BEFORE], ids=["after", "before"])
def test_a_writer_that_asks_for_another_try_gets_two(again: list[Line]) -> None:
    good = [*opening(), *prepared(), *made(), *COMPLETE, *DELETE, *RELEASE]
    shadows, _ = play([*START, *again, *again, *good])
    assert shadows.notices == ()


def test_a_step_that_asks_for_another_try_gets_it() -> None:
    pointer = 0x2004
    again = [
        *opening(),
        *prepared(),
        method("DoSnapshotSet", numbers=[pointer]),
        method("IVssAsync::Wait", documented.WAIT_MS, pointer=pointer, hresult=codes.VSS_E_WRITERERROR_RETRYABLE),
        method("IVssAsync::Release", pointer=pointer),
        *ABORT,
        *RELEASE,
        PAUSE,
    ]
    play([*START, *again, *opening(), *prepared(), *made(), *COMPLETE, *DELETE, *RELEASE])
    with pytest.raises(SnapshotFailed, match="asks for another try"):
        play([*START, *again, *again, *again[:-1]])


def test_a_writer_that_fails_to_the_end_is_a_notice() -> None:
    last = [*opening(), *prepared(), *made(writers=[RETRYABLE]), *COMPLETE, *DELETE, *RELEASE]
    shadows, _ = play([*START, *ONE_MORE_TRY_AFTER, *ONE_MORE_TRY_BEFORE, *last])
    assert [notice.code for notice in shadows.notices] == ["writer-failed"]
    assert "SqlServerWriter is failed at freeze" in shadows.notices[0].message


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_single_try_goes_on_with_a_writer_that_asks_for_another(attempts: int) -> None:
    lines = [
        *START,
        *opening(),
        *prepared(writers=[RETRYABLE]),
        *made(writers=[RETRYABLE]),
        *COMPLETE,
        *DELETE,
        *RELEASE,
    ]
    shadows, _ = play(lines, settings=ShadowSettings(attempts=attempts))
    assert [notice.code for notice in shadows.notices] == ["writer-failed"]


@pytest.mark.parametrize(
    ("state", "failure", "failed"),
    [(1, 0, False), (5, 0, False), (9, 0, True), (0, 0, True), (15, 0, True), (99, 0, True), (1, 0x800423F4, True),
     (1, codes.VSS_E_WRITERERROR_RETRYABLE, False), (10, 0x800423F2, True)],
)  # fmt: skip
def test_a_failed_writer_is_a_notice(state: int, failure: int, *, failed: bool) -> None:
    writers = [("Exchange", state, failure)]
    lines = [*START, *opening(), *prepared(), *made(writers=writers), *COMPLETE, *DELETE, *RELEASE]
    shadows, _ = play(lines)
    assert [notice.code for notice in shadows.notices] == ["writer-failed"] * failed


def test_a_writer_that_failed_before_and_after_is_told_once() -> None:
    writers = [("Exchange", 7, 0x800423F4)]
    after = made(writers=[("Exchange", 9, 0x800423F4)])
    shadows, _ = play([*START, *opening(), *prepared(writers=writers), *after, *COMPLETE, *DELETE, *RELEASE])
    assert len(shadows.notices) == 1
    assert "at freeze" in shadows.notices[0].message


def test_a_critical_writer_that_fails_stops_it() -> None:
    writers = [("Exchange", 9, 0x800423F4)]
    critical = writer_status(0x2003, writers)[-2].answer["texts"][1]
    settings = ShadowSettings(critical_writers=frozenset({critical}))
    with pytest.raises(SnapshotFailed, match="Exchange"):
        play([*START, *opening(), *prepared(writers=writers), *ABORT, *RELEASE], settings=settings)
    after = [*step("DoSnapshotSet", 0x2004), *writer_status(0x2005, writers)]
    with pytest.raises(SnapshotFailed, match="Exchange"):
        play([*START, *opening(), *prepared(), *after, *ABORT, *DELETE, *RELEASE], settings=settings)


def test_without_writers_nobody_is_told() -> None:
    context = codes.VSS_CTX_FILE_SHARE_BACKUP
    lines = [
        *[*START, *opening()[:2], method("SetContext", context), opening()[3], *opening()[-2:]],
        *[*prepared()[:3], *step("DoSnapshotSet", 0x2004), *documented.properties((C, D)), *DELETE, *RELEASE],
    ]
    assert play(lines, settings=ShadowSettings(context=context))[0].writers == ()


def test_a_volume_that_cannot_be_shadowed_is_left_to_the_caller() -> None:
    refused = method(
        "IsVolumeSupported", documented.NOBODY, ESP, hresult=codes.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER, numbers=[0]
    )
    for answer in (refused, method("IsVolumeSupported", documented.NOBODY, ESP, numbers=[0])):
        lines = [*START, *opening((C,)), answer, *prepared((C,)), *made((C,)), *COMPLETE, *DELETE, *RELEASE]
        shadows, _ = play(lines, (C, ESP))
        assert ([volume.volume for volume in shadows.volumes], shadows.unsupported) == ([C], (ESP,))
        assert [notice.code for notice in shadows.notices] == ["volume-not-shadowed"]


def test_when_no_volume_can_be_shadowed_there_is_no_set() -> None:
    with pytest.raises(SnapshotFailed, match="0 of 1 volumes"):
        play([*START, *opening((ESP,), unsupported=(ESP,)), *RELEASE], (ESP,))


def test_more_volumes_than_a_set_holds_are_refused_before_it_begins() -> None:
    volumes = tuple(f"\\\\?\\Volume{{{number}}}\\" for number in range(65))
    with pytest.raises(SnapshotFailed, match="65 of 65 volumes"):
        play([*START, *opening(volumes), *RELEASE], volumes)


def test_a_shadow_without_a_place_is_a_failure() -> None:
    lines = [*START, *opening(), *prepared(), *made()]
    del lines[-1]
    nowhere = replace(lines[-1], answer=lines[-1].answer | {"snapshot": lines[-1].answer["snapshot"] | {"device": ""}})
    with pytest.raises(SnapshotFailed, match="does not say where it is"):
        play([*lines[:-1], nowhere, *ABORT, *DELETE, *RELEASE])


def test_writers_that_do_not_hear_the_end_are_told_otherwise() -> None:
    for failing in (
        [method("BackupComplete", hresult=0x80042318, numbers=[0])],
        [COMPLETE[0], method("IVssAsync::Wait", 500, pointer=0x2006, hresult=0x80042318), COMPLETE[-1]],
    ):
        lines = [*START, *opening(), *prepared(), *made(), *failing, *ABORT, *DELETE, *RELEASE]
        _, notices = play(lines)
        assert [notice.code for notice in notices] == ["writers-not-told"]


@pytest.mark.parametrize(
    ("hresult", "told"), [(codes.VSS_E_OBJECT_NOT_FOUND, False), (codes.VSS_E_PROVIDER_VETO, True)]
)
def test_a_shadow_that_cannot_be_deleted_is_a_notice(hresult: int, *, told: bool) -> None:
    delete = [method("DeleteSnapshots", SET_ID, 2, 1, hresult=hresult, numbers=[0], texts=[SET_ID])]
    _, notices = play([*START, *opening(), *prepared(), *made(), *COMPLETE, *delete, *RELEASE])
    assert [notice.code for notice in notices] == ["shadow-left"] * told


def test_no_com_no_shadow() -> None:
    with pytest.raises(MachineRefusal, match="no COM"):
        play([replace(START[0], answer={"refusal": "no COM"})])
    with pytest.raises(MachineRefusal, match="no VSS"):
        play([*START, Line(call="create_backup_components", answer={"refusal": "no VSS"})])


@pytest.mark.parametrize("volumes", [(), (C, C), (C.removesuffix("\\"),)])
def test_names_that_vss_does_not_take_are_a_bug_of_the_caller(volumes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not names of volumes"):
        play([], volumes)


@pytest.mark.parametrize("created", [0, -1, 1 << 62])
def test_a_moment_that_does_not_exist_is_none(created: int) -> None:
    lines = happy()
    places = [index for index, line in enumerate(lines) if name_of(line) == "GetSnapshotProperties"]
    for index in places:
        answer = lines[index].answer
        lines[index] = replace(lines[index], answer=answer | {"snapshot": answer["snapshot"] | {"created": created}})
    assert play(lines)[0].volumes[0].created is None


def test_the_transcript_itself_is_strict() -> None:
    replay = functools.partial(WindowsTranscript, happy())
    with pytest.raises(AssertionError, match="line 1 is"):
        replay().create_backup_components()
    with pytest.raises(AssertionError, match="never asked"), replay() as calls:
        calls.start_com()
    calls = WindowsTranscript(START)
    calls.start_com()
    with pytest.raises(AssertionError, match="after the end"):
        calls.start_com()
