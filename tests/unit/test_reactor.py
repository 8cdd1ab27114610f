"""The one wait of the supervisor, with `epoll` and an `eventfd` and without them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from runner import linux_only
from runner.engines.engine_events import MessageReceived
from runner.engines.reactor import READ, WRITE, LocalReactor

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 60.0


@pytest.fixture(params=["epoll", "poll"])
def reactor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalReactor]:
    if request.param == "poll":
        monkeypatch.setattr(linux_only, "HAS_EPOLL", False)
    made = LocalReactor()
    yield made
    made.close()
    made.close()


def test_each_event_of_a_thread_ends_a_wait(reactor: LocalReactor) -> None:
    for number in range(3):
        event = MessageReceived(number, 1, None)
        thread = threading.Thread(target=reactor.post_event, args=(event,))
        thread.start()
        seen: list[object] = []
        while not seen:
            seen += reactor.wait(LIMIT)
        thread.join()
        assert seen == [event]
    reactor.wake_up()
    assert reactor.wait(LIMIT) == []


def test_a_wait_ends_in_time(reactor: LocalReactor) -> None:
    assert reactor.wait(0.001) == []
    seen: list[str] = []
    reactor.call_later(0.001, lambda: seen.append("later"))
    while not seen:
        assert reactor.wait(0.01) == []


def test_what_an_earlier_call_has_unwatched_is_not_called(reactor: LocalReactor) -> None:
    pairs = [os.pipe(), os.pipe()]
    seen: list[int] = []

    def unwatch_all(_: int) -> None:
        seen.append(1)
        for reader, _writer in pairs:
            reactor.unwatch_fd(reader)

    for reader, writer in pairs:
        reactor.watch_fd(reader, READ, unwatch_all)
        os.write(writer, b"x")
    reactor.wait(LIMIT)
    assert len(seen) == 1
    assert not any(reactor.is_watching_fd(reader) for reader, _ in pairs)
    reactor.unwatch_fd(pairs[0][0])  # a second time does nothing
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def test_a_closed_end_is_told_in_both_directions(reactor: LocalReactor) -> None:
    reader, writer = os.pipe()
    masks: list[int] = []
    reactor.watch_fd(writer, READ, masks.append)
    reactor.change_fd_events(writer, READ | WRITE)
    reactor.wait(LIMIT)
    assert masks == [WRITE]
    os.close(reader)
    reactor.wait(LIMIT)
    assert masks[1] & ~READ
    assert masks[1] & ~WRITE
    reactor.unwatch_fd(writer)
    os.close(writer)
