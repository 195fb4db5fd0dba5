"""Jobs done ahead by threads: their order, who does one that nobody has begun, and what becomes of errors."""

import threading
from collections.abc import Iterator

import pytest

from data.errors import BadInput
from data.stream.prefetch import Prefetcher


class Busy:
    """A Prefetcher whose one thread is held up by its first job until `go`."""

    def __init__(self) -> None:
        self.prefetcher: Prefetcher[str] = Prefetcher(1, "test")
        self.done: list[str] = []
        self._begun, self._may_end = threading.Event(), threading.Event()
        self.prefetcher.ask("first", 0, self._hold)
        assert self._begun.wait(10)

    def _hold(self) -> str:
        self._begun.set()
        assert self._may_end.wait(10)
        return "first"

    def go(self) -> None:
        self._may_end.set()

    def ask(self, key: str, urgency: int) -> None:
        def work() -> str:
            self.done.append(key)
            return key

        self.prefetcher.ask(key, urgency, work)


@pytest.fixture
def busy() -> Iterator[Busy]:
    found = Busy()
    yield found
    found.go()
    found.prefetcher.close()


def test_a_job_that_nobody_has_begun_is_left_to_the_caller_for_good(busy: Busy) -> None:
    busy.ask("wanted", 1)
    busy.ask("other", 2)
    assert busy.prefetcher.take("wanted") is None
    assert busy.prefetcher.take("never asked for", in_turn=True) is None
    busy.go()
    assert busy.prefetcher.take("other", in_turn=True) == "other"
    assert busy.done == ["other"]


def test_in_turn_a_job_is_waited_for_and_the_more_urgent_come_first(busy: Busy) -> None:
    for key, urgency in (("c", 3), ("a", 1), ("b", 2)):
        busy.ask(key, urgency)
    threading.Timer(0.1, busy.go).start()
    assert busy.prefetcher.take("c", in_turn=True) == "c"
    assert busy.done == ["a", "b", "c"]
    assert busy.prefetcher.take("first") == "first"


def test_an_error_is_raised_where_the_result_is_taken_and_ends_no_thread() -> None:
    def fail() -> str:
        raise BadInput("a shard is gone")

    prefetcher: Prefetcher[str] = Prefetcher(1, "test")
    prefetcher.ask(0, 0, fail)
    prefetcher.ask(1, 1, lambda: "one")
    with pytest.raises(BadInput, match="a shard is gone"):
        prefetcher.take(0, in_turn=True)
    assert prefetcher.take(1, in_turn=True) == "one"
    prefetcher.close()


def test_without_threads_everything_is_left_to_the_caller() -> None:
    prefetcher: Prefetcher[str] = Prefetcher(0, "test")
    prefetcher.ask(0, 0, lambda: "never")
    assert prefetcher.take(0, in_turn=True) is None
    prefetcher.close()
