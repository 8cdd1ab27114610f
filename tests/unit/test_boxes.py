"""Functions that ask for their items themselves: handed out some hundreds at a time while they are quick, and yet each
is done once, fails alone, and takes its own outputs along."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from fake_supervisor import Port, StopsUnpickling, worked
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import Reject, Retry, ShutDown
from runner.tasks import Inbox, Outbox, Shape
from runner.transport.messages import OBJECTS, PICKLED
from runner.transport.progress_page import unpack_position
from runner.worker import pull
from runner.worker.measurements import MAX_BURST

if TYPE_CHECKING:
    from runner.worker.runtime import WorkerRuntime

pytestmark = pytest.mark.usefixtures("short_diffs")
KINDS = pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])


@KINDS
@pytest.mark.parametrize("length", [0, 1, 2, 3, 500, 3000])
@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_a_loop_has_every_item_once_and_in_order(kind: int, length: int, size: int) -> None:
    port, seen = Port(list(range(length)), kind, lambda: size), []

    def loop(inbox: Inbox[int]) -> None:
        seen.extend(inbox)

    worked(port, pull.call_with_boxes, loop)
    assert seen == port.done == list(range(length))


@KINDS
def test_quick_items_are_handed_out_together_and_the_cell_says_which(kind: int) -> None:
    port, widths = Port(list(range(40_000)), kind, lambda: 8192), Counter[int]()
    benches: list[WorkerRuntime] = []

    def loop(inbox: Inbox[int]) -> None:
        bench = inbox.runtime  # type: ignore[attr-defined]
        for item in inbox:
            if item % 100 == 0:
                shown = unpack_position(*bench.progress_slot)
                assert port.granted[shown.index][0] <= item <= port.granted[shown.index + shown.width - 1][0]
                widths[shown.width] += 1
        benches.append(bench)

    worked(port, pull.call_with_boxes, loop)
    assert benches[0].progress_slot[0] == 0
    assert widths[MAX_BURST], widths


@KINDS
@pytest.mark.parametrize("alone", ["timed", "ordered"])
def test_with_a_time_limit_or_an_order_each_item_stands_alone(kind: int, alone: str) -> None:
    port = Port(list(range(3000)), kind, lambda: 1000)

    def loop(inbox: Inbox[int]) -> None:
        bench = inbox.runtime  # type: ignore[attr-defined]
        for item in inbox:
            shown = unpack_position(*bench.progress_slot)
            assert (shown.width, port.granted[shown.index][0]) == (1, item)

    worked(port, pull.call_with_boxes, loop, **{alone: True})
    assert port.done == list(range(3000))


@KINDS
def test_a_function_that_fails_late_fails_for_the_item_at_hand_alone(kind: int) -> None:
    port = Port([*range(5000), "text", *range(5000, 9000)], kind, lambda: 3000)
    bad = {0, 1, 700, 701, 2999, 3000, 4444, 8999}

    def loop(inbox: Inbox[Any]) -> None:
        for item in inbox:
            if item in bad:
                raise ValueError(item)

    worked(port, pull.call_with_boxes, loop)
    assert set(port.dead) == bad
    assert port.done == [item for item in [*range(5000), "text", *range(5000, 9000)] if item not in bad]


def test_an_item_whose_unpickling_raises_stop_iteration_fails() -> None:
    """To the iterators that hand items out that would be the end of them."""
    bad = {0, 700, 2999}
    port = Port([StopsUnpickling() if at in bad else at for at in range(3000)], PICKLED, lambda: 3000)
    seen: list[int] = []

    def loop(inbox: Inbox[int]) -> None:
        seen.extend(inbox)

    worked(port, pull.call_with_boxes, loop)
    assert len(port.dead) == len(bad)
    assert port.done == [at for at in range(3000) if at not in bad]


@KINDS
def test_items_that_turn_slow_are_handed_back(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pull, "perf_counter", lambda: now[0])
    port = Port(list(range(6000)), kind, lambda: 6000)

    def loop(inbox: Inbox[int]) -> None:
        for item in inbox:
            assert item < 5328 or port.messages
            now[0] += 1e-6 if item < 5200 else 0.02

    worked(port, pull.call_with_boxes, loop)
    assert port.done == list(range(6000))


@KINDS
def test_a_context_that_a_constructor_was_given_knows_each_item(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "perf_counter", lambda: 0.0)  # else a slow machine hands items back
    port = Port(list(range(3000)), kind, lambda: 3000)
    form = Shape("class", inboxes=("inbox",), constructor_context="context")
    seen: list[int] = []

    def loop(inbox: Inbox[int]) -> None:
        context = inbox.runtime.context  # type: ignore[attr-defined]
        for item in inbox:
            seen.append(context.index)
            assert context.part.count > context.index - context.part.start >= 0
            assert port.granted[item][0] == item

    worked(port, pull.call_with_boxes, loop, form)
    assert len(set(seen)) == 2000  # of two parts, a third and two thirds


@KINDS
def test_an_early_return_leaves_the_rest(kind: int) -> None:
    port, calls = Port(list(range(10_000)), kind, lambda: 4000), []

    def some(inbox: Inbox[int]) -> None:
        for at, item in enumerate(inbox):
            calls.append(item)
            if at == 2500:
                return

    worked(port, pull.call_with_boxes, some)
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

    worked(port, pull.call_with_boxes, loop)
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
        worked(port, pull.call_with_boxes, loop)
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

        worked(port, pull.call_with_boxes, loop, attempts=3)
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
@examples(30, 60)
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

    worked(port, pull.call_with_boxes, function, attempts=3, timed=timed)
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
