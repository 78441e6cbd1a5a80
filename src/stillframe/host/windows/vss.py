r"""Volumes of a running Windows held still: one shadow set, so that all of them show the same moment.

Answers: "by which name is each volume read while Windows goes on?" The order of the steps is that of Microsoft's page
"Overview of Processing a Backup Under VSS"; restic and UrBackup go the same way.

    start COM; object; InitializeForBackup; SetContext; SetBackupState; GatherWriterMetadata; IsVolumeSupported (each);
    StartSnapshotSet; AddToSnapshotSet (each); PrepareForBackup; writers; DoSnapshotSet; writers;
    GetSnapshotProperties (each); the copy; BackupComplete; DeleteSnapshots; Release

From StartSnapshotSet on, every way out that is not BackupComplete is AbortBackup. Every way out ends with Release.
NOTHING OF THIS HAS RUN ON WINDOWS YET.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from stillframe.clock import Clock
from stillframe.events import EventSink, NoEvents, Notice
from stillframe.host.windows import codes, com
from stillframe.host.windows.calls import ShadowCalls
from stillframe.host.windows.vss_session import ShadowSession, ShadowSettings, SnapshotFailed, WriterStatus

VOLUMES_MAX: Final = 64  # of one set. Source: VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED, AddToSnapshotSet
_EPOCH: Final = datetime(1601, 1, 1, tzinfo=UTC)  # of FILETIME, minwinbase.h
_NOTHING_DIFFERENT: Final = ShadowSettings()
_NO_EVENTS: Final = NoEvents()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowVolume:
    r"""One volume of a set.

    Attributes:
        volume: As it was asked for, ``\\?\Volume{GUID}\``.
        device: ``\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopyN``, the raw volume.
        snapshot_id: GUID.
        created: The moment it shows; ``None`` when Windows gave none that exists.
    """

    volume: str
    device: str
    snapshot_id: str
    created: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSet:
    """Volumes that show one moment.

    Attributes:
        set_id: GUID.
        volumes: In the order they were asked for.
        unsupported: Volumes that cannot be shadowed; the caller reads them another way.
        writers: What the programs said after that moment.
        notices: Programs that failed, volumes that are missing.
    """

    set_id: str
    volumes: tuple[ShadowVolume, ...]
    unsupported: tuple[str, ...]
    writers: tuple[WriterStatus, ...]
    notices: tuple[Notice, ...]


@contextmanager
def open_shadow_set(
    calls: ShadowCalls,
    volumes: Sequence[str],
    *,
    clock: Clock,
    settings: ShadowSettings = _NOTHING_DIFFERENT,
    sink: EventSink = _NO_EVENTS,
) -> Iterator[ShadowSet]:
    r"""Hold volumes still for the time of a ``with``. Enter and leave it in the same thread; read in any.

    Args:
        calls: Windows.
        volumes: Their names with the backslash at the end, each once.
        clock: For time limits.
        settings: What else may be chosen.
        sink: Takes notices of the end, when the copy is already made.

    Raises:
        ValueError: No volume, one twice, or a name without its backslash: a bug of the caller.
        SnapshotFailed: It could not be done; nothing is left behind.
        MachineRefusal: VSS cannot be reached from here.
    """
    if not volumes or len(set(volumes)) != len(volumes) or not all(name.endswith("\\") for name in volumes):
        raise ValueError(f"not names of volumes, each once with its backslash: {list(volumes)}")
    calls.start_com()
    for attempt in range(1, max(settings.attempts, 1) + 1):
        last = attempt >= settings.attempts
        session = ShadowSession(calls, clock, settings, sink)
        try:
            made = _try_once(session, volumes, settings, last=last)
            if made is not None:
                yield made
                session.complete()
                return
        finally:
            session.end()
        calls.pause(settings.attempt_pause_s)


def _try_once(
    session: ShadowSession, volumes: Sequence[str], settings: ShadowSettings, *, last: bool
) -> ShadowSet | None:
    """One try; ``None`` when a writer asked for another and there is one left."""
    session.create()
    try:
        made = _make(session, volumes, settings, last=last)
    except SnapshotFailed as failure:
        if last or failure.hresult != codes.VSS_E_WRITERERROR_RETRYABLE:
            raise
        return None
    if made is None:
        session.complete()
    return made


def _make(session: ShadowSession, volumes: Sequence[str], settings: ShadowSettings, *, last: bool) -> ShadowSet | None:
    """All steps up to the copy; ``None`` when the shadows exist and a writer asks for another try."""
    session.call(com.INITIALIZE_FOR_BACKUP)
    session.call(com.SET_CONTEXT, settings.context)
    # No components; what boots is included; a copy, so that nobody's logs are cut; no parts of files.
    session.call(com.SET_BACKUP_STATE, False, True, codes.VSS_BT_COPY, False)
    if settings.with_writers:
        session.wait_for(com.GATHER_WRITER_METADATA)
    supported = [volume for volume in volumes if session.is_supported(volume)]
    _require_some(supported, volumes)
    set_id = session.start_set()
    ids = [session.call(com.ADD_TO_SNAPSHOT_SET, volume, codes.NO_PROVIDER).texts[0] for volume in supported]
    before: tuple[WriterStatus, ...] = ()
    if settings.with_writers:
        session.wait_for(com.PREPARE_FOR_BACKUP)
        before = session.writers()
        _require_writers(before, settings, last=last)
    session.make_shadows()
    after = session.writers() if settings.with_writers else ()
    if not last and any(writer.asks_again for writer in after):
        return None
    _require_writers(after, settings, last=True)
    shadows = tuple(_shadow(session, *pair) for pair in zip(supported, ids, strict=True))
    unsupported = tuple(volume for volume in volumes if volume not in supported)
    return ShadowSet(
        set_id=set_id, volumes=shadows, unsupported=unsupported, writers=after,
        notices=(*_missing_volumes(unsupported), *_failed_writers((*before, *after))),
    )  # fmt: skip


def _shadow(session: ShadowSession, volume: str, snapshot_id: str) -> ShadowVolume:
    found = session.call(com.GET_SNAPSHOT_PROPERTIES, snapshot_id).snapshot
    if found is None or not found.device:
        raise SnapshotFailed(
            f"Windows made a shadow of {volume} and does not say where it is",
            hresult=codes.VSS_E_OBJECT_NOT_FOUND, step=com.GET_SNAPSHOT_PROPERTIES.name, hint="Run it again.",
        )  # fmt: skip
    return ShadowVolume(
        volume=volume, device=found.device, snapshot_id=snapshot_id, created=moment_of_filetime(found.created)
    )


def moment_of_filetime(filetime: int) -> datetime | None:
    """The date and time of a FILETIME, in UTC; ``None`` when there is no such date. Source: minwinbase.h."""
    try:
        return _EPOCH + timedelta(microseconds=filetime // 10) if filetime > 0 else None
    except OverflowError:
        return None


def _require_some(supported: list[str], volumes: Sequence[str]) -> None:
    if not supported or len(supported) > VOLUMES_MAX:
        found = f"{len(supported)} of {len(volumes)} volumes can be shadowed, and a set holds 1 to {VOLUMES_MAX}"
        raise SnapshotFailed(
            f"Windows could not hold the volumes still: {found}",
            hresult=codes.VSS_E_VOLUME_NOT_SUPPORTED,
            step=com.IS_VOLUME_SUPPORTED.name,
            hint="Name other volumes, or save the disk from the Linux rescue system.",
        )


def _require_writers(writers: tuple[WriterStatus, ...], settings: ShadowSettings, *, last: bool) -> None:
    """Stop when a writer failed without which it makes no sense, or when another try may go better."""
    for writer in writers:
        critical = writer.failed and writer.writer_id in settings.critical_writers
        if critical or (writer.asks_again and not last):
            meaning = codes.meaning_of(writer.failure)
            raise SnapshotFailed(
                f"a program could not bring its data into order: {writer.words}",
                hresult=writer.failure,
                step=com.GATHER_WRITER_STATUS.name,
                hint=meaning.hint,
            )


def _missing_volumes(unsupported: tuple[str, ...]) -> tuple[Notice, ...]:
    return tuple(
        Notice(code="volume-not-shadowed", message=f"Windows has no shadow of {volume}: it is read another way")
        for volume in unsupported
    )


def _failed_writers(writers: tuple[WriterStatus, ...]) -> tuple[Notice, ...]:
    """A notice for each writer that failed; what it said last counts."""
    latest = {writer.instance_id: writer for writer in writers if writer.failed}
    return tuple(
        Notice(
            code="writer-failed",
            message=f"the data of one program is as after a power cut: {writer.words}",
            hint=codes.meaning_of(writer.failure).hint,
        )
        for writer in latest.values()
    )
