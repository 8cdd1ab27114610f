"""The core: what is given again keeps its place and its order, bounds hold, and the books are counted twice."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import crossed
import fake_engine
import pytest
from edges import core_tasks
from fake_engine import Script, simulate
from fake_engine import task as planned
from faults.harness import plan, run, task
from faults.sinks import collector
from virtual_workers import day

from runner.ledger.chunks import ReleaseOrder
from runner.ledger.leases import Again
from runner.ledger.ledger import Ledger
from runner.ledger.subscriptions import Subscription
from runner.model import Batch, QueueConfig, Rate
from runner.supervisor.dispatch import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# -- ends -----------------------------------------------------------------------------------------


def test_a_sink_whose_set_up_failed_is_set_up_although_no_item_comes() -> None:
    core_tasks.OpensLate.tried.clear()
    core_tasks.OpensLate.closed.clear()
    made = plan(
        [
            task("source", core_tasks.nothing_then, outputs="a", mode="thread"),
            task("sink", core_tasks.OpensLate, "a", mode="thread"),
        ]
    )
    assert run(made).result.exit_code == 0
    assert core_tasks.OpensLate.closed == [1]


# -- ordered tasks that share a queue -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("second", [True, False])
def test_an_ordered_task_that_shares_its_queue_loses_nothing_and_keeps_its_order(mode: str, second: bool) -> None:
    collected: list[int] = []
    made = plan(
        [
            task("source", core_tasks.counted, outputs="a", args=(200, "shared"), mode="thread"),
            task("one", core_tasks.flaky, "a", "b", workers=2, mode=mode, ordered=True, attempts=3),
            task("two", core_tasks.flaky, "a", "c", workers=2, mode=mode, ordered=second, attempts=3),
            collector(ones := [], "b", "ones"),
            collector(twos := [], "c", "twos"),
        ],
        {"a": QueueConfig("a", fanout="share")},
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(ones + twos) == list(range(200))
    assert ones == sorted(ones)
    assert not second or twos == sorted(twos)


def shared(*ordered: str) -> Ledger:
    lines = [Subscription("a", ("one", "two")), Subscription("b", ("sink",))]
    return Ledger(lines, ordered)


def given(book: Ledger, task_: str, most: int = 10) -> tuple[int, list[Any]] | None:
    lease = book.grant_lease(task_, 0, most)
    if lease is None:
        return None
    return lease.id, [
        piece.chunk.payload[piece.start + at] for _, piece in lease.item_ranges for at in range(piece.count)
    ]


def test_what_an_ordered_task_gave_back_goes_to_the_others_only_when_it_is_over() -> None:
    book = shared("one")
    book.put("a", [book.make_chunk(list(range(6)), 6, 6)])
    lease, items = given(book, "one", 3) or (0, [])
    assert items == [0, 1, 2]
    book.settle_lease(lease, 1, {0: Again(5.0)}, [])  # one fails and sleeps, two are handed back
    assert (given(book, "two") or (0, []))[1] == [3, 4, 5]
    assert given(book, "two") is None
    last = given(book, "one")
    assert last is not None
    assert last[1] == [1, 2]
    book.settle_lease(last[0], 2, {}, [("b", book.make_chunk(["1", "2"], 2, 2))])
    assert book.available_items("sink") == 0, "it waits for the first"
    book.remove_reader("one", {"one"})
    assert book.available_items("sink") == 2, "what was held back is sent by the task that ends"
    book.wake_sleepers(5.0)
    assert (given(book, "two") or (0, []))[1] == [0]


def test_a_batch_that_failed_as_a_whole_is_parted_for_a_task_that_takes_one() -> None:
    book = shared()
    book.put("a", [book.make_chunk(list("abc"), 3, 3)])
    lease, _ = given(book, "one") or (0, [])
    book.settle_lease(lease, 3, {0: Again(0.0, 3)}, [])
    book.wake_sleepers(1.0)
    assert [given(book, "two", 1) for _ in range(3)] == [(2, ["a"]), (3, ["b"]), (4, ["c"])]


# -- order after a death --------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::3])
def test_leases_given_back_in_any_order_go_where_they_were(order: tuple[int, ...]) -> None:
    book = Ledger([Subscription("a", ("work",))])
    book.put("a", [book.make_chunk([at, at + 1], 2, 2) for at in range(0, 10, 2)])
    leases = [book.grant_lease("work", at, 2) for at in range(4)]
    for at in order:
        lease = leases[at]
        assert lease is not None
        book.settle_lost_lease(lease.id, range(1), 0, lambda _: None)
    found: list[Any] = []
    while (next_ := given(book, "work", 3)) is not None:
        found += next_[1]
    assert found == sorted(found)


def test_after_a_death_the_items_of_an_only_worker_keep_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = plan(
        [
            task("source", core_tasks.counted, outputs="a", args=(1000, "deaths"), mode="thread"),
            task("keep", core_tasks.dies_once, "a", args=(str(log),)),
        ]
    )
    assert run(made).result.exit_code == 0
    last = {int(line): at for at, line in enumerate(log.read_text().split())}
    assert sorted(last, key=last.__getitem__) == list(range(1000))


# -- bounds ---------------------------------------------------------------------------------------


def ahead(**work: Any) -> int:
    """The most items that any queue held, between a source, quick workers and a sink of 2 ms."""
    tasks = [
        planned("source", (), ("a",)),
        planned("work", ("a",), ("b",), count=2, **work),
        planned("more", ("b",), ("c",)),
        planned("slow", ("c",)),
    ]
    most, admit = 0, Subscription.admit_chunk

    def watched(self: Subscription, chunk: Any, group: Any) -> Any:
        nonlocal most
        dropped = admit(self, chunk, group)
        most = max(most, self.count)
        return dropped

    Subscription.admit_chunk = watched  # type: ignore[method-assign]
    try:
        day(tasks, 3500, {"work": lambda _: 1e-6, "more": lambda _: 1e-6, "slow": lambda _: 2e-3})
    finally:
        Subscription.admit_chunk = admit  # type: ignore[method-assign]
    return most


@pytest.mark.parametrize(
    "work",
    [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"ordered": True}, {"rate": Rate(3000, 1.0)}))],
    ids=str,
)
def test_a_source_is_not_far_ahead_of_a_slow_task_behind_quick_ones(work: dict[str, Any]) -> None:
    assert ahead(**work) <= 2100


def test_behind_a_result_that_comes_late_an_order_holds_back_no_more_than_there_is_room_for() -> None:
    far: list[int] = []
    made = plan(
        [
            task("source", core_tasks.counted, outputs="a", args=(20_000, "late"), mode="thread"),
            task("work", core_tasks.first_much_later, "a", "b", workers=2, mode="thread", ordered=True, attempts=2),
            task("look", core_tasks.how_far, "b", mode="thread", args=("late",)),
        ]
    )
    core_tasks.SEEN.clear()
    outcome = run(made, far)
    assert outcome.result.exit_code == 0
    assert core_tasks.SEEN[0] <= 4000


@pytest.mark.parametrize("most", [1, 2000])
def test_batches_of_objects_stay_below_their_bytes(most: int) -> None:
    lists: list[Any] = []
    made = plan(
        [
            task("source", core_tasks.odd_items, outputs="a", mode="thread"),
            collector(lists, "a"),
        ]
    )
    made.tasks["collect"] = crossed._with(
        made.tasks["collect"], config=crossed._with(made.tasks["collect"].config, batch=Batch(10, bytes=most))
    )
    outcome = run(made)  # what is collected cannot be counted by the harness: there are lists in it
    assert outcome.result.exit_code == 0, outcome.result
    assert [item for batch in lists for item in batch] == list(core_tasks.odd_items())
    lengths = {len(batch) for batch in lists}
    assert lengths == {1} if most == 1 else 1 < max(lengths) < 10


# -- the second count -----------------------------------------------------------------------------


def simple(*seeds: int) -> list[Any]:
    """Two stages, the first of them ordered; the results of some seeds."""
    tasks = [
        planned("source", (), ("a",)),
        planned("work", ("a",), ("b",), count=3, ordered=True, attempts=3),
        planned("end", ("b",)),
    ]
    found = []
    for seed in seeds:
        result, *_ = simulate(
            fake_engine.plan(tasks, [QueueConfig("a"), QueueConfig("b")]), Script(seed, fails=0.1, kills=0.05), 100
        )
        found.append(result)
    return found


def never_sent(original: Any, self: ReleaseOrder, entry: Any, outputs: Any) -> Any:
    return original(self, entry, outputs)[1:]


def sent_twice(original: Any, self: ReleaseOrder, entry: Any, outputs: Any) -> Any:
    leaving = original(self, entry, outputs)
    return leaving + leaving[:1]


def ends_early(original: Any, self: Ledger, task_: str) -> bool:
    return bool(original(self, task_)) and (task_ != "end" or self.leased_items[task_] > 0)


#: name: (where, attribute, the bug, words of the sentence that tells of it)
BOOKS: dict[str, tuple[Any, str, Any, str]] = {
    "results stay in their order": (ReleaseOrder, "settle_entry", never_sent, "`b` was put"),
    "results leave twice": (ReleaseOrder, "settle_entry", sent_twice, "`b` was put"),
    "a task ends before its items": (Ledger, "has_items", ends_early, "items left that `end` should have taken"),
}


@pytest.mark.parametrize("bug", BOOKS)
def test_books_that_do_not_add_up_are_a_fault_that_names_the_queue(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, change, words = BOOKS[bug]
    plant(monkeypatch, where, attribute, change)
    monkeypatch.setattr(fake_engine, "check_end", lambda *_: None)
    (result,) = simple(1)
    assert result.exit_code == 70, result
    assert any(words in reason for reason in result.ended.reasons), result.ended.reasons
    assert "b" in result.ended.unbalanced


def plant(monkeypatch: pytest.MonkeyPatch, where: Any, attribute: str, change: Any) -> None:
    original = getattr(where, attribute)
    monkeypatch.setattr(where, attribute, lambda self, *args, **options: change(original, self, *args, **options))


# -- the test of the tests ------------------------------------------------------------------------


def for_anybody(original: Any, self: Subscription, piece: Any, task_: str) -> None:
    self.keeps_returned = False
    original(self, piece, task_)


def to_the_front(original: Any, self: Subscription, piece: Any, task_: str) -> None:
    if self.keeps_returned:
        original(self, piece, task_)
    else:
        self.ready_ranges.appendleft(piece)


def without_the_order(original: Any, self: Dispatcher, task_: Any) -> Any:
    return {}


def at_any_rate(original: Any, self: Dispatcher, task_: Any) -> None:
    task_.unhindered_items = 1 << 20
    original(self, task_)


def whole(original: Any, self: Subscription, task_: str, most: int, *args: Any, **options: Any) -> Any:
    piece = self.next_range(task_)
    return original(self, task_, max(most, piece.count) if piece and piece.is_marked else most, *args, **options)


def some_seeds() -> None:
    for seed in (9, 12, 18, 22, 25, 42, 45, 51):
        crossed.check(seed)


#: name: (where, attribute, the bug, who must notice)
BUGS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "what is given back is for any task": (Subscription, "_requeue", for_anybody, some_seeds),
    "what is given back goes to the front": (Subscription, "_requeue", to_the_front, some_seeds),
    "a batch that failed is given to an async task": (Subscription, "take_ranges", whole, lambda: crossed.check(317)),
    "results of an order are lost": (ReleaseOrder, "settle_entry", never_sent, some_seeds),
    "results of an order leave twice": (ReleaseOrder, "settle_entry", sent_twice, some_seeds),
    "what an order holds back is not looked at": (
        Dispatcher,
        "_held",
        without_the_order,
        test_behind_a_result_that_comes_late_an_order_holds_back_no_more_than_there_is_room_for,
    ),
    "a queue grows although its readers wait": (
        Dispatcher,
        "update_elastic_size",
        at_any_rate,
        lambda: test_a_source_is_not_far_ahead_of_a_slow_task_behind_quick_ones({}),
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, change, notice = BUGS[bug]
    monkeypatch.setattr(fake_engine.FakeReactor, "limit", 50_000)
    plant(monkeypatch, where, attribute, change)
    with pytest.raises((AssertionError, ValueError)):
        notice()
