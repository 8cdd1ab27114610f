"""A worker that has many items in flight on its event loop: each is its own lease, and ends once, whatever the others do."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import Reject, Retry
from runner.tasks import Reference, inspect_shape
from runner.transport import item_codec
from runner.transport.messages import PICKLED, Grant, GrantedRange, MeasuredTimes, Reply, Stop
from runner.worker import async_runner
from runner.worker.measurements import Measurements
from runner.worker.outputs import OutputBuffer
from runner.worker.runtime import WorkerRuntime
from runner.worker.spec import OutputGroup, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Port:
    """A supervisor in a few lines: grants all items at once, each as a lease, and a failed one again."""

    arena_writer = None

    def __init__(self, items: list[Any]) -> None:
        self.payload = item_codec.encode_payload(
            [item_codec.ItemEncoder(1 << 30).encode_item(item) for item in ["none", *items]]
        )
        self.items, self.leases = items, count(1)
        self.open: dict[int, tuple[int, int]] = {}
        self.done: list[Any] = []
        self.dead: dict[Any, str] = {}
        self.made: list[Any] = []
        self.replies: list[Reply] = []

    def start_listening(self, deliver: Callable[[Any], None]) -> None:
        self.deliver = deliver
        first, *others = [self._grant(index, 1) for index in range(len(self.items))]
        first = Grant(first.lease, first.time_slice, first.parts, tuple(others))
        deliver(first)

    def _grant(self, index: int, attempt: int) -> Grant:
        lease = next(self.leases)
        self.open[lease] = index, attempt
        part = GrantedRange(7, 1 + index, 1, attempt, 0, PICKLED, self.payload)
        return Grant(lease, 0.05, (part,))

    def send(self, message: Any) -> None:
        if type(message) is MeasuredTimes:
            return
        assert type(message) is Reply
        self.replies.append(message)
        again = []
        for ack in message.acks:
            index, attempt = self.open.pop(ack.lease)
            item = self.items[index]
            assert ack.done == 1
            if not ack.failures:
                self.done.append(item)
            elif ack.failures[0].verdict == "retry":
                again.append(self._grant(index, attempt + 1))
            else:
                self.dead[item] = str(ack.failures[0].error)
        for output in message.outputs:
            self.made += map(item_codec.decode_item, item_codec.decode_payload(output.payload))
        for grant in again:
            self.deliver(grant)
        if not self.open:
            self.deliver(Stop(inputs_ended=True))


class Context:
    stopping = False


def worked(port: Port, target: Callable[..., Any], **options: Any) -> None:
    groups = (OutputGroup("default", ("out",), PICKLED),)
    spec = WorkerSpec("t", "t.1", "r", 1, Reference("m", "f"), b"", ("in",), groups, **{"concurrency": 10, **options})
    bench = WorkerRuntime(
        spec,
        port,
        [0, 0],
        OutputBuffer(groups),
        Context(),
        inspect_shape(target),
        Measurements(port, "process"),  # type: ignore[arg-type]
    )
    try:
        async_runner.call_on_event_loop(bench, target, (), {})
    finally:
        bench.close()
    assert not port.open


def test_each_item_ends_once_with_its_own_outputs() -> None:
    port, tries = Port(list(range(200))), dict.fromkeys(range(200), 0)

    async def function(item: int) -> AsyncIterator[int]:
        tries[item] += 1
        yield item
        await asyncio.sleep(0)
        if item % 7 == 3 and tries[item] < 3:
            raise Retry
        if item % 11 == 5:
            raise Reject("no")
        yield -item

    worked(port, function, attempts=3)
    assert sorted(port.dead) == [item for item in range(200) if item % 11 == 5]
    assert sorted(port.done) == [item for item in range(200) if item % 11 != 5]
    assert sorted(port.made) == sorted([*range(200), *(-item for item in port.done)])
    assert all(tries[item] == (3 if item % 7 == 3 else 1) for item in range(200))


def test_no_more_are_in_flight_than_the_file_says_and_as_many_are() -> None:
    port, flying, most = Port(list(range(100))), 0, 0

    async def function(item: int) -> int:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        return item

    worked(port, function, concurrency=7)
    assert most == 7
    assert sorted(port.made) == list(range(100))


def test_what_an_item_sets_in_its_context_is_not_seen_by_the_next_one() -> None:
    port, seen = Port(list(range(30))), []
    variable = contextvars.ContextVar("variable", default=-1)

    async def function(item: int) -> int:
        seen.append(variable.get())
        variable.set(item)
        await asyncio.sleep(0)
        return variable.get()

    worked(port, function, concurrency=3)
    assert seen == [-1] * 30
    assert sorted(port.made) == list(range(30))


def test_a_time_limit_is_one_items() -> None:
    port = Port(list(range(20)))

    async def function(item: int) -> int:
        if item == 5:
            await asyncio.sleep(0.2)
        return item

    worked(port, function, timeout=0.05)
    assert port.dead == {5: "TimedOut: it took longer than its time limit of 0.05 s"}
    assert sorted(port.made) == [item for item in range(20) if item != 5]


def test_what_cannot_be_sent_is_that_items_error_and_leaves_nothing_of_a_try_that_is_repeated() -> None:
    port = Port(list(range(20)))

    async def function(item: int) -> AsyncIterator[Any]:
        yield item
        if item == 5:
            yield threading.Lock()

    worked(port, function, attempts=3)
    assert list(port.dead) == [5]
    assert "an item of type lock cannot be sent" in port.dead[5]
    assert sorted(port.made) == list(range(20)), "what came before the lock counts, once"


@pytest.mark.parametrize("ordered", [True, False])
def test_in_an_order_each_answer_has_one_items_outputs(*, ordered: bool) -> None:
    port = Port(list(range(30)))

    async def function(item: int) -> int:
        return item

    worked(port, function, ordered=ordered, concurrency=30)
    assert sorted(port.made) == list(range(30))
    acks = [len(reply.acks) for reply in port.replies]
    assert max(acks) == 1 if ordered else max(acks) > 1
