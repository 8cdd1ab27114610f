"""Functions that ask for their items themselves: handed out some hundreds at a time while they are quick, and yet each
is done once, fails alone, and takes its own outputs along."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import Reject, Retry, ShutDown
from runner.tasks import Inbox, Outbox, Reference, shape
from runner.transport import codec
from runner.transport.cells import unstretch
from runner.transport.messages import OBJECTS, PICKLED, Answer, Grant, Part, Shown, Stop, Times
from runner.worker import boxes
from runner.worker.bench import STRETCH, Bench
from runner.worker.collect import Collector
from runner.worker.meter import Meter
from runner.worker.spec import Group, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])


class Port:
    """A supervisor in a few lines: grants up to so many items at a time, and applies what it is answered."""

    store = None

    def __init__(self, items: list[Any], kind: int, sizes: Callable[[], int]) -> None:
        self.kind, self.sizes = kind, sizes
        #: What waits, as (item, attempt), and what is granted.
        self.waiting = [(item, 1) for item in items]
        self.granted: list[tuple[Any, int]] = []
        self.done: list[Any] = []
        self.dead: list[Any] = []
        self.made: list[Any] = []
        self.leases = count(1)
        self.messages = 0

    def receive(self, timeout: float | None = None) -> Grant | Stop:
        assert not self.granted, "it asks for more before it has answered"
        if not self.waiting:
            return Stop(ended=True)
        number, attempt = self.sizes(), self.waiting[0][1]
        while len(self.granted) < number and self.waiting and self.waiting[0][1] == attempt:
            self.granted.append(self.waiting.pop(0))
        items = [item for item, _ in self.granted]
        parts = [self._part(items[: len(items) // 3], attempt), self._part(items[len(items) // 3 :], attempt)]
        return Grant(next(self.leases), 0.05, tuple(part for part in parts if part.count))

    def _part(self, items: list[Any], attempt: int) -> Part:
        around: list[Any] = ["not granted", *items, "nor this"]
        if self.kind == OBJECTS:
            return Part(7, 1, len(items), attempt, 0, OBJECTS, around)
        if items and all(type(item) is int for item in items):
            return Part(7, 0, len(items), attempt, 0, PICKLED, codec.encode_values(items, {int}))
        return Part(7, 1, len(items), attempt, 0, PICKLED, codec.encode([codec.freeze(item) for item in around]))

    def send(self, message: Any) -> None:
        if type(message) in {Times, Shown}:
            return
        assert type(message) is Answer
        self.messages += 1
        for ack in message.acks:
            failed = {failure.index: failure.verdict for failure in ack.failures}
            again: list[tuple[Any, int]] = []
            for index, (item, attempt) in enumerate(self.granted[: ack.done]):
                if failed.get(index) == "retry":
                    again.append((item, attempt + 1))
                else:
                    (self.dead if index in failed else self.done).append(item)
            self.waiting[:0] = again + self.granted[ack.done :]
            self.granted = []
        for output in message.outputs:
            self.made += output.payload if self.kind == OBJECTS else map(codec.thaw, codec.decode(output.payload))


def worked(port: Port, target: Callable[..., Any], **more: Any) -> Bench:
    """Let a worker do all of the port's items."""
    form = shape(target)
    groups = (Group("default", ("out",), port.kind),) if form.outboxes else ()
    spec = WorkerSpec("t", "t.1", "r", 1, Reference("m", "f"), b"", ("in",), groups, **more)
    bench = Bench(spec, port, [0, 0], Collector(groups), Context(), form, Meter(port, "process"))  # type: ignore[arg-type]
    while port.waiting:  # a function that returns early is started again
        boxes.work(bench, target, (), {})
    return bench


class Context:
    stopping = False
    index = 0

    def at(self, part: Part, index: int) -> None:
        self.index = index


@KINDS
@pytest.mark.parametrize("length", [0, 1, 2, 3, 500, 3000])
@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_a_loop_has_every_item_once_and_in_order(kind: int, length: int, size: int) -> None:
    port, seen = Port(list(range(length)), kind, lambda: size), []

    def loop(inbox: Inbox[int]) -> None:
        seen.extend(inbox)

    worked(port, loop)
    assert seen == port.done == list(range(length))


@KINDS
def test_quick_items_are_handed_out_together_and_the_cell_says_which(kind: int) -> None:
    port, widths = Port(list(range(40_000)), kind, lambda: 8192), Counter[int]()
    benches: list[Bench] = []

    def loop(inbox: Inbox[int]) -> None:
        bench = inbox.bench  # type: ignore[attr-defined]
        for item in inbox:
            if item % 100 == 0:
                shown = unstretch(*bench.cell)
                assert port.granted[shown.index][0] <= item <= port.granted[shown.index + shown.width - 1][0]
                widths[shown.width] += 1
        benches.append(bench)

    worked(port, loop)
    assert benches[0].cell[0] == 0
    assert widths[STRETCH], widths


@KINDS
@pytest.mark.parametrize("alone", ["timed", "ordered"])
def test_with_a_time_limit_or_an_order_each_item_stands_alone(kind: int, alone: str) -> None:
    port = Port(list(range(3000)), kind, lambda: 1000)

    def loop(inbox: Inbox[int]) -> None:
        bench = inbox.bench  # type: ignore[attr-defined]
        for item in inbox:
            shown = unstretch(*bench.cell)
            assert (shown.width, port.granted[shown.index][0]) == (1, item)

    worked(port, loop, **{alone: True})
    assert port.done == list(range(3000))


@KINDS
def test_a_function_that_fails_late_fails_for_the_item_at_hand_alone(kind: int) -> None:
    port = Port([*range(5000), "text", *range(5000, 9000)], kind, lambda: 3000)
    bad = {0, 1, 700, 701, 2999, 3000, 4444, 8999}

    def loop(inbox: Inbox[Any]) -> None:
        for item in inbox:
            if item in bad:
                raise ValueError(item)

    worked(port, loop)
    assert set(port.dead) == bad
    assert port.done == [item for item in [*range(5000), "text", *range(5000, 9000)] if item not in bad]


@KINDS
def test_an_early_return_leaves_the_rest(kind: int) -> None:
    port, calls = Port(list(range(10_000)), kind, lambda: 4000), []

    def some(inbox: Inbox[int]) -> None:
        for at, item in enumerate(inbox):
            calls.append(item)
            if at == 2500:
                return

    worked(port, some)
    assert calls == port.done == list(range(10_000))


@KINDS
def test_an_iterator_that_was_kept_has_nothing_of_what_was_handed_back(kind: int) -> None:
    port, kept, calls = Port(list(range(5000)), kind, lambda: 3000), [], []

    def loop(inbox: Inbox[int]) -> None:
        if not kept:
            kept.append(iter(inbox))
        for item in kept[0]:
            calls.append(item)
            if item == 2900:
                raise ValueError(item)

    worked(port, loop)
    assert calls == list(range(5000))
    assert port.dead == [2900]


@KINDS
def test_an_item_that_was_said_to_be_done_is_not_blamed(kind: int) -> None:
    port = Port(list(range(1000)), kind, lambda: 1000)

    def loop(inbox: Inbox[int]) -> None:
        for item in inbox:
            if item == 900:
                inbox.task_done()
                raise ValueError("the function's own")

    with pytest.raises(ValueError, match="the function's own"):
        worked(port, loop)
    assert not port.dead


@KINDS
def test_outputs_of_a_try_that_is_given_again_are_forgotten_and_no_others(kind: int) -> None:
    """Also where nothing but its own try lies between two tries of one item."""
    for size in (1, 4, 3000):
        port = Port(list(range(3000)), kind, lambda size=size: size)  # type: ignore[misc]
        tries = Counter[int]()

        def loop(inbox: Inbox[int], outbox: Outbox[int], tries: Counter[int] = tries) -> None:
            for item in inbox:
                tries[item] += 1
                if item % 3:
                    outbox.put(item)
                if item % 500 == 7 and tries[item] < 3:
                    outbox.put(-item)
                    raise Retry

        worked(port, loop, attempts=3)
        assert sorted(port.done) == list(range(3000))
        assert sorted(port.made) == [item for item in range(3000) if item % 3]


class Deeds:
    """What a function does with its boxes, by turns."""

    def __init__(self, deeds: list[tuple[str, int]], bad: dict[int, str], outputs: int) -> None:
        self.deeds, self.at, self.bad, self.outputs = deeds, 0, bad, outputs
        self.tries: Counter[int] = Counter()
        self.seen: list[int] = []

    def next(self) -> tuple[str, int]:
        self.at += 1
        return self.deeds[self.at % len(self.deeds)]

    def handle(self, item: Any, outbox: Outbox[Any]) -> None:
        number = item if type(item) is int else int(item[0])
        self.tries[number] += 1
        for at in range(number % (self.outputs + 1)):
            outbox.put((number, at) if number % 5 == 0 else number * 10 + at)
        if self.bad.get(number) == "reject":
            raise Reject
        if self.bad.get(number) == "retry" and self.tries[number] < 3:
            raise Retry
        self.seen.append(number)

    def __call__(self, inbox: Inbox[Any], outbox: Outbox[Any]) -> None:
        while True:
            deed, times = self.next()
            if deed == "return":
                return
            if deed == "done":
                inbox.task_done()
            elif deed == "get":
                for _ in range(times):
                    self.handle(inbox.get(), outbox)
            else:
                self.loop(inbox, outbox, times, both=deed == "both")

    def loop(self, inbox: Inbox[Any], outbox: Outbox[Any], times: int, *, both: bool) -> None:
        for at, item in enumerate(inbox):
            self.handle(item, outbox)
            if both:
                self.handle(inbox.get(), outbox)
            if at >= times:
                return
        raise ShutDown


@given(
    st.lists(st.tuples(st.sampled_from(["get", "loop", "both", "done", "return"]), st.integers(1, 300)), max_size=6),
    st.dictionaries(st.integers(0, 499), st.sampled_from(["reject", "retry"]), max_size=12),
    st.lists(st.integers(1, 600), min_size=1, max_size=5),
    st.sampled_from([OBJECTS, PICKLED]),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_function_does_every_item_ends_once(
    some: list[tuple[str, int]],
    bad: dict[int, str],
    sizes: list[int],
    kind: int,
    outputs: int,
    timed: bool,
    every: int,
) -> None:
    items = [number if number % every else (number,) for number in range(500)]
    turns = count()
    port = Port(items, kind, lambda: sizes[next(turns) % len(sizes)])
    deeds = Deeds([("get", 3), *some], bad, outputs)

    def function(inbox: Inbox[Any], outbox: Outbox[Any]) -> None:
        deeds(inbox, outbox)

    worked(port, function, attempts=3, timed=timed)
    numbers = [item if type(item) is int else item[0] for item in port.done]
    dead = [item if type(item) is int else item[0] for item in port.dead]
    assert sorted(numbers + dead) == list(range(500))
    assert sorted(dead) == sorted(number for number, how in bad.items() if how == "reject")
    assert Counter(deeds.tries) == {number: 3 if bad.get(number) == "retry" else 1 for number in range(500)}
    made = [
        (number, at) if number % 5 == 0 else number * 10 + at
        for number in range(500)
        for at in range(number % (outputs + 1))
    ]
    assert sorted(map(repr, port.made)) == sorted(map(repr, made))
