"""A function that is called for each item, some hundreds in one stretch while they are quick: a `StopIteration` is an
error like any other there, although iterators take it for an end."""

from __future__ import annotations

from typing import Any

import pytest
from fake_supervisor import Port, StopsUnpickling, worked

from runner.tasks import Shape
from runner.transport.messages import OBJECTS, PICKLED
from runner.worker import call

pytestmark = pytest.mark.usefixtures("short_diffs")
COUNT = 30_000
KINDS = pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])


@KINDS
@pytest.mark.parametrize("makes", [True, False], ids=["results", "sink"])
@pytest.mark.parametrize("error", [StopIteration, ValueError])
def test_an_error_in_a_stretch_is_its_items(kind: int, makes: bool, error: type[Exception]) -> None:
    port = Port(list(range(COUNT)), kind, lambda: 8192)
    calls: list[int] = []

    def function(item: int) -> int:
        calls.append(item)
        if item in {20_000, 25_000}:
            raise error
        return item

    worked(port, call.call_granted_items, function, makes=makes)
    assert port.dead == [20_000, 25_000]
    assert calls == list(range(COUNT))
    assert port.made == ([item for item in calls if item not in port.dead] if makes else [])
    assert error.__name__ in port.failures[0].error.type
    assert "in function" in port.failures[0].error.traceback


@KINDS
@pytest.mark.parametrize("makes", [True, False], ids=["results", "sink"])
def test_items_that_are_granted_one_by_one_end_as_those_of_a_large_grant_do(kind: int, makes: bool) -> None:
    ends = []
    for size in (1, 100):
        port = Port([at if at % 3 else (at,) for at in range(100)], kind, lambda size=size: size)  # type: ignore[misc]
        calls: list[Any] = []

        def function(item: Any, calls: list[Any] = calls) -> Any:
            calls.append(item)
            if len(calls) in {1, 50, 100}:
                raise StopIteration
            return iter([item, item]) if len(calls) % 7 == 0 else item

        worked(port, call.call_granted_items, function, makes=makes)
        ends.append((calls, port.dead, port.done, port.made, [failure.error.type for failure in port.failures]))
    assert ends[0] == ends[1]
    assert len(ends[0][1]) == 3


@pytest.mark.parametrize("makes", [True, False], ids=["results", "sink"])
def test_an_item_whose_unpickling_raises_stop_iteration_fails(makes: bool) -> None:
    bad = {0, 30_000, 30_001}
    items = [StopsUnpickling() if at in bad else (at,) if at % 2 else at for at in range(40_000)]
    port = Port(items, PICKLED, lambda: 8192)
    calls: list[Any] = []

    def function(item: Any) -> None:
        calls.append(item)

    worked(port, call.call_granted_items, function, makes=makes)
    assert len(port.dead) == len(bad)
    assert calls == [item for at, item in enumerate(items) if at not in bad] == port.done


def test_a_context_that_a_constructor_was_given_knows_each_item() -> None:
    port = Port(list(range(3000)), PICKLED, lambda: 3000)
    seen: list[int] = []

    class Function:
        def __call__(self, item: int) -> None:
            seen.append(contexts[0].index)

    contexts: list[Any] = []
    original = call.PerItem.execute_grant

    def execute(self: Any, grant: Any) -> Any:
        contexts.append(self.runtime.context)
        return original(self, grant)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call.PerItem, "execute_grant", execute)
        patch.setattr(call, "perf_counter", lambda: 0.0)  # else a slow machine hands items back
        worked(port, call.call_granted_items, Function(), Shape("class", constructor_context="context"))
    assert len(set(seen)) == 2000  # of two parts, a third and two thirds


def test_an_only_worker_that_has_answered_in_part_stops_at_a_failure_if_lanes_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is late at every fourth item, says what is done, and goes on; what is behind a failure is handed back."""
    port = Port(list(range(30)), OBJECTS, lambda: 30)
    calls: list[int] = []
    monkeypatch.setattr(call, "perf_counter", lambda: 0.03 * len(calls))

    def function(item: int) -> None:
        calls.append(item)
        if item in {9, 20} and calls.count(item) == 1:
            raise ValueError

    worked(port, call.call_granted_items, function, attempts=2, is_only_worker=True, keeps_lanes=True)
    assert port.done == list(range(30))
    assert calls == sorted([*range(30), 9, 20])
    assert port.messages > 5
