"""A folder and its twin in memory answer every sequence of questions alike."""

from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.store import LocalStore, MemoryStore, ObjectWriter, Store, write_object

WORDS = st.sampled_from(["a", "b", "c.d"])
NAMES = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
PREFIXES = st.lists(WORDS, max_size=2).map(lambda words: "".join(f"{word}/" for word in words))
CONTENTS = st.binary(max_size=20)
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, CONTENTS),
    st.tuples(st.just("begin"), NAMES, CONTENTS),
    st.tuples(st.just("append"), st.integers(0, 3), CONTENTS),
    st.tuples(st.sampled_from(["commit", "abandon"]), st.integers(0, 3), st.none()),
    st.tuples(st.just("read"), NAMES, st.tuples(st.integers(-1, 30), st.none() | st.integers(-1, 30))),
    st.tuples(st.sampled_from(["size", "delete"]), NAMES, st.none()),
    st.tuples(st.just("list"), PREFIXES, st.none()),
)


class Session:
    """One store and the writers that are open on it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.writers: list[ObjectWriter] = []

    def answer(self, step: tuple[str, object, object]) -> object:
        try:
            return self.take(*step)
        except Exception as error:  # noqa: BLE001 - the twins must fail alike, whatever the failure
            return type(error)

    def take(self, verb: str, on: Any, what: Any) -> object:
        match verb:
            case "write":
                write_object(self.store, on, what)
            case "begin":
                self.writers.append(self.store.create(on))
                self.writers[-1].append(what)
            case "append":
                self.writers[on].append(what)
            case "commit":
                self.writers[on].commit()
            case "abandon":
                self.writers[on].abandon()
            case "read":
                return self.store.read(on, *what)
            case "size":
                return self.store.size(on)
            case "delete":
                self.store.delete(on)
            case "list":
                return sorted(self.store.list(on))
            case _:
                raise AssertionError(verb)
        return None


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_folder_and_memory_answer_alike(steps: list[tuple[str, object, object]]) -> None:
    with TemporaryDirectory() as folder:
        local, memory = Session(LocalStore(folder)), Session(MemoryStore())
        try:
            for step in steps:
                assert local.answer(step) == memory.answer(step), step
        finally:
            for writer in local.writers:
                writer.abandon()
