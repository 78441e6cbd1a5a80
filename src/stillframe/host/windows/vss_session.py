"""One use of VSS: an object of IVssBackupComponents from its making to its release, and the steps in between.

Answers: "how is one step of VSS done, how long may it take, and how is it undone?" Such an object serves one backup.
Which steps in which order is in ``vss``.

Source: learn.microsoft.com, "Overview of Processing a Backup Under VSS", "Aborting VSS Operations", IVssAsync.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.clock import Clock
from stillframe.errors import MachineRefusal
from stillframe.events import EventSink, Notice
from stillframe.host.windows import codes, com
from stillframe.host.windows.calls import ShadowCalls

WAIT_MS: Final = 500
"""A wait is cut into pieces, so that Ctrl-C is heard: Python hears it only between two calls."""

CANCEL_WAIT_MS: Final = 10_000


class SnapshotFailed(MachineRefusal):
    """Windows could not hold the volumes still."""

    code = "snapshot-failed"

    def __init__(self, message: str, *, hresult: int, step: str, hint: str = "", over: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.hresult = hresult
        self.step = step
        self.over = over  # whether the step is known to have ended; else it may go on, or have been done


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """How a shadow set is made.

    Attributes:
        context: Kind of shadow. ``VSS_CTX_BACKUP``: gone at the latest when this process ends. With the bit
            NO_WRITERS programs are not told, with NO_AUTORECOVERY nothing is removed from the shadow.
        critical_writers: Ids of writers without which the shadow is not taken. None by default: no components are
            selected, so what a failed writer means is that its data is as after a power cut.
        attempts: Tries in all while a writer asks for another.
        attempt_pause_s: Seconds before the next try; UrBackup waits as long.
        busy_pause_s: Seconds before asking again while another program makes a shadow; restic waits as long.
        busy_limit_s: Seconds after which that is given up.
        step_limit_s: Seconds that one step may take.
    """

    context: int = codes.VSS_CTX_BACKUP
    critical_writers: frozenset[str] = frozenset()
    attempts: int = 3
    attempt_pause_s: float = 30.0
    busy_pause_s: float = 5.0
    busy_limit_s: float = 150.0
    step_limit_s: float = 600.0

    @property
    def with_writers(self) -> bool:
        """Whether programs are told."""
        return not self.context & codes.VSS_VOLSNAP_ATTR_NO_WRITERS


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStatus:
    """What a writer (a database, the registry, ...) says of itself.

    Attributes:
        name: For people.
        writer_id: Which kind of writer.
        instance_id: Which of that kind.
        state: ``codes.WRITER_STATES``.
        failure: HRESULT.
    """

    name: str
    writer_id: str
    instance_id: str
    state: int
    failure: int

    @property
    def failed(self) -> bool:
        """Whether its data is only as after a power cut. A well state with a wish for another try is an old wish."""
        well = self.state in codes.WRITER_STATES_WELL
        return not well or self.failure not in (codes.S_OK, codes.VSS_E_WRITERERROR_RETRYABLE)

    @property
    def asks_again(self) -> bool:
        """Whether it failed and another try may go better."""
        return self.failed and self.failure == codes.VSS_E_WRITERERROR_RETRYABLE

    @property
    def words(self) -> str:
        """For people."""
        known = self.state < len(codes.WRITER_STATES)
        state = codes.WRITER_STATES[self.state] if known else f"in state {self.state}"
        return f"{self.name or self.writer_id} is {state}: {codes.meaning_of(self.failure).words}"


class ShadowSession:
    """One IVssBackupComponents. All its methods are called in one thread.

    Args:
        calls: Windows.
        clock: For time limits.
        settings: Limits.
        sink: Takes what goes wrong while it ends, when the copy is already made.
    """

    def __init__(self, calls: ShadowCalls, clock: Clock, settings: ShadowSettings, sink: EventSink) -> None:
        self._calls = calls
        self._clock = clock
        self._settings = settings
        self._sink = sink
        self._pointer = 0
        self._set_id = ""
        self._under_way = False  # writers may have been told, and nobody told them the end yet
        self._exists = False  # the shadows exist, or that cannot be told

    def create(self) -> None:
        """Make the object."""
        self._pointer = self._calls.create_backup_components()

    def call(self, method: com.Method, *arguments: com.ComValue) -> com.ComAnswer:
        """Call a method.

        Raises:
            SnapshotFailed: It answers with a failure.
        """
        answer = self._calls.call_method(self._pointer, method, arguments)
        if answer.failed:
            raise failed(method, answer.hresult)
        return answer

    def wait_for(self, method: com.Method) -> None:
        """Call a method that goes on by itself, and wait until it is done.

        Raises:
            SnapshotFailed: It failed, or took longer than it may; then it was cancelled.
        """
        pointer = self.call(method).numbers[0]
        if not pointer:
            raise failed(method, codes.VSS_E_BAD_STATE)
        try:
            self._wait_until_done(pointer, method)
        finally:
            self._calls.call_method(pointer, com.ASYNC_RELEASE, ())

    def is_supported(self, volume: str) -> bool:
        """Whether some provider can shadow a volume.

        Raises:
            SnapshotFailed: That cannot be told.
        """
        answer = self._calls.call_method(self._pointer, com.IS_VOLUME_SUPPORTED, (codes.NO_PROVIDER, volume))
        if answer.hresult in (codes.VSS_E_VOLUME_NOT_SUPPORTED, codes.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER):
            return False
        if answer.failed:
            raise failed(com.IS_VOLUME_SUPPORTED, answer.hresult, volume)
        return answer.numbers[0] != 0

    def start_set(self) -> str:
        """Begin a set, once no other program is making one; its id.

        Raises:
            SnapshotFailed: It cannot begin, or the other program takes too long.
        """
        deadline = self._clock.monotonic() + self._settings.busy_limit_s
        while True:
            self._under_way = True  # before the call: Ctrl-C may come with its answer
            try:
                self._set_id = self.call(com.START_SNAPSHOT_SET).texts[0]
            except SnapshotFailed as failure:
                self._under_way = False
                busy = failure.hresult == codes.VSS_E_SNAPSHOT_SET_IN_PROGRESS
                if not busy or self._clock.monotonic() >= deadline:
                    raise
                self._calls.pause(self._settings.busy_pause_s)
            else:
                return self._set_id

    def make_shadows(self) -> None:
        """The moment that all volumes of the set show from now on.

        Raises:
            SnapshotFailed: It failed.
        """
        self._exists = True  # true as long as it is not known to have failed: Ctrl-C may come at any time
        try:
            self.wait_for(com.DO_SNAPSHOT_SET)
        except SnapshotFailed as failure:
            self._exists = not failure.over
            raise

    def writers(self) -> tuple[WriterStatus, ...]:
        """What every writer says of itself.

        Raises:
            SnapshotFailed: They cannot be asked.
        """
        self.wait_for(com.GATHER_WRITER_STATUS)
        count = self.call(com.GET_WRITER_STATUS_COUNT).numbers[0]
        found = tuple(self._writer(index) for index in range(min(count, 4096)))
        self.call(com.FREE_WRITER_STATUS)
        return found

    def complete(self) -> None:
        """Tell the writers that the copy is made. A failure is a notice: the copy is as good as it was."""
        if self._settings.with_writers:
            try:
                self.wait_for(com.BACKUP_COMPLETE)
            except SnapshotFailed as failure:
                self._sink.emit(Notice(code="writers-not-told", message=failure.message, hint=failure.hint))
                return  # still under way: abort() tells them
        self._under_way = False

    def end(self) -> None:
        """Whatever happened: tell the writers, delete the shadows, release the object. Never fails; twice is once."""
        pointer, self._pointer = self._pointer, 0
        if not pointer:
            return
        try:
            if self._under_way:
                # Needed from StartSnapshotSet on; ignored when nothing is under way. Source: AbortBackup.
                self._under_way = False
                self._calls.call_method(pointer, com.ABORT_BACKUP, ())
        finally:
            try:
                if self._exists:
                    self._delete(pointer)
            finally:
                self._calls.call_method(pointer, com.RELEASE, ())

    def _delete(self, pointer: int) -> None:
        self._exists = False
        force = 1
        arguments = (self._set_id, codes.VSS_OBJECT_SNAPSHOT_SET, force)
        answer = self._calls.call_method(pointer, com.DELETE_SNAPSHOTS, arguments)
        if answer.failed and answer.hresult != codes.VSS_E_OBJECT_NOT_FOUND:
            meaning = codes.meaning_of(answer.hresult)
            message = f"the shadow could not be deleted: {meaning.words} ({meaning.name})"
            hint = "Windows deletes it when Stillframe ends; `vssadmin list shadows` shows what is left."
            self._sink.emit(Notice(code="shadow-left", message=message, hint=hint))

    def _writer(self, index: int) -> WriterStatus:
        answer = self.call(com.GET_WRITER_STATUS, index)
        instance_id, writer_id, name = answer.texts
        state, failure = answer.numbers
        return WriterStatus(name=name, writer_id=writer_id, instance_id=instance_id, state=state, failure=failure)

    def _wait_until_done(self, pointer: int, method: com.Method) -> None:
        deadline = self._clock.monotonic() + self._settings.step_limit_s
        over = False
        try:
            while True:
                result = self._wait_a_little(pointer, method)
                over = result != codes.VSS_S_ASYNC_PENDING
                if result == codes.VSS_S_ASYNC_FINISHED:
                    return
                if over:
                    raise failed(method, result)
                if self._clock.monotonic() >= deadline:
                    raise _too_slow(method, self._settings.step_limit_s)
        finally:
            if not over:
                self._calls.call_method(pointer, com.ASYNC_CANCEL, ())
                self._calls.call_method(pointer, com.ASYNC_WAIT, (CANCEL_WAIT_MS,))

    def _wait_a_little(self, pointer: int, method: com.Method) -> int:
        """How far a step is, after a moment: pending, finished, cancelled, or the failure it ended with."""
        waited = self._calls.call_method(pointer, com.ASYNC_WAIT, (WAIT_MS,))
        if waited.failed:
            return waited.hresult  # that of the step, not of the waiting. Source: IVssAsync::Wait
        asked = self._calls.call_method(pointer, com.ASYNC_QUERY_STATUS, ())
        if asked.failed:
            meaning = codes.meaning_of(asked.hresult)
            raise SnapshotFailed(
                f"Windows does not say how far {method.name} is: {meaning.words} ({meaning.name})",
                hresult=asked.hresult, step=method.name, hint=meaning.hint, over=False,
            )  # fmt: skip
        return asked.numbers[0]


def failed(method: com.Method, hresult: int, thing: str = "") -> SnapshotFailed:
    """The error for a step that answered with a failure, or was cancelled by somebody else."""
    if hresult == codes.VSS_S_ASYNC_CANCELLED:
        return SnapshotFailed(
            f"holding the volumes still was cancelled at {method.name}", hresult=hresult, step=method.name,
            hint="Run it again.",
        )  # fmt: skip
    meaning = codes.meaning_of(hresult)
    return SnapshotFailed(
        f"Windows could not hold the volumes still: {meaning.words} ({thing + ', ' if thing else ''}{meaning.name} at "
        f"{method.name})",
        hresult=hresult,
        step=method.name,
        hint=meaning.hint,
    )


def _too_slow(method: com.Method, limit_s: float) -> SnapshotFailed:
    return SnapshotFailed(
        f"Windows could not hold the volumes still: {method.name} did not end within {limit_s:g} seconds",
        hresult=codes.VSS_S_ASYNC_PENDING,
        step=method.name,
        over=False,
        hint="`vssadmin list writers` shows which program does not answer; restart it, or Windows.",
    )
