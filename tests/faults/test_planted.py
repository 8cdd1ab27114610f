"""The test of the tests: bugs planted one at a time into the engine, each of which the suite must notice.

A planted bug is a small, plausible mistake. If one of these runs comes out well, the oracle is blind to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fake_engine
import psutil
import pytest
from faults import functions, harness, test_items
from faults.harness import plan, run, task
from faults.sinks import collector
from msgspec.structs import replace
from unit import test_simulation

from runner import chunk_sizing
from runner.engines.processes import ProcessEngine
from runner.ledger.leases import Lease
from runner.ledger.ledger import Ledger
from runner.ledger.ordering import ReleaseOrder
from runner.ledger.subscriptions import Subscription
from runner.supervisor import crashes
from runner.supervisor.crashes import CrashHandler
from runner.supervisor.dispatch import Dispatcher
from runner.supervisor.rate_limit import TokenBucket
from runner.supervisor.replies import ReplyHandler
from runner.supervisor.retry_policy import RetryPolicy
from runner.supervisor.timeouts import TimeoutWatchdog

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = range(120)


def simulation() -> None:
    """The seeded schedules; the first one that notices ends it."""
    for seed in SEEDS:
        test_simulation.check(seed)


def ordered_run() -> None:
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(60,)),
            task("work", functions.slowly, "a", "b", workers=3, ordered=True, with_={"seconds": 0.002}),
            collector(collected, "b"),
        ]
    )
    run(made, collected)
    assert collected == list(range(60))


def bounded_run() -> None:
    """The source of a slow sink must wait at the bound."""
    from runner.config.model import QueueConfig

    seen: list[int] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(400,), mode="thread"),
            task("work", functions.slowly, "a", mode="thread", with_={"seconds": 0.0005}),
        ],
        {"a": QueueConfig("a", size=5)},
    )
    supervisors: list[Any] = []
    put = Subscription.admit_chunk

    def admit(self: Subscription, chunk: Any) -> int:
        dropped = put(self, chunk)
        seen.append(self.count)
        return dropped

    Subscription.admit_chunk = admit  # type: ignore[method-assign]
    try:
        run(made, on_start=lambda supervisor, _: supervisors.append(supervisor))
    finally:
        Subscription.admit_chunk = put  # type: ignore[method-assign]
    assert max(seen) <= 5, max(seen)


def leaking_run() -> None:
    made, collected = test_items.line(functions.leaky, 3)
    run(made, collected)
    left = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == functions.SLEEPER]
    for each in left:
        each.kill()
    assert not left


def plant(original: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    """`change(original, self, ...)` in the place of a method."""
    return lambda self, *args, **kwargs: change(original, self, *args, **kwargs)


def forget_the_lease(original: Any, self: Ledger, lease_id: int, *_: Any) -> Any:
    lease = self.leases.pop(lease_id)
    self.leased_items[lease.task] -= lease.count
    from runner.ledger.leases import Settlement

    return Settlement()


def give_back_twice(original: Any, self: Subscription, piece: Any, task_: str) -> None:
    original(self, piece, task_)
    self._requeue(piece, task_)
    self.count += piece.count
    self.leased_items -= piece.count


def settle_twice(original: Any, self: Ledger, lease_id: int, *args: Any, more: bool = False) -> Any:
    lease = self.leases[lease_id]
    result = original(self, lease_id, *args, more=more)
    if not args[1] and not more:
        self.leases[lease_id] = Lease(lease.id, lease.task, lease.worker, lease.item_ranges, lease.count)
        self.leased_items[lease.task] += lease.count
        original(self, lease_id, *args)
    return result


def lose_the_outputs(
    original: Any, self: Ledger, lease_id: int, done: int, verdicts: Any, outputs: Any, more: bool = False
) -> Any:
    return original(self, lease_id, done, verdicts, list(outputs)[:-1], more=more)


def blame_the_chunk(original: Any, self: CrashHandler, slot: Any, lease: Any, event: Any) -> Any:
    return range(lease.count), 0


def blame_nobody(original: Any, self: CrashHandler, slot: Any, lease: Any, event: Any) -> Any:
    return range(0), 0


def never_count_attempts(original: Any, self: RetryPolicy, slot: Any, piece: Any, fault: Any) -> Any:
    return original(self, slot, replace(piece, attempts=0), replace(fault, may_retry=True))


def no_letters(original: Any, self: ReplyHandler, settlement: Any) -> None:
    return None


def at_once(original: Any, self: Subscription, piece: Any, until: float, task_: str) -> None:
    original(self, piece, 0.0, task_)


def out_of_order(original: Any, self: ReleaseOrder, entry: Any, outputs: Any) -> Any:
    original(self, entry, [])
    return outputs


def one_more(original: Any, self: Subscription) -> int:
    return int(original(self)) + 1


def without_the_fence(original: Any, self: ProcessEngine, slot: int, worker: Any) -> None:
    from runner.engines import processes

    real = processes.os.killpg
    processes.os.killpg = lambda *_: None
    try:
        original(self, slot, worker)
    finally:
        processes.os.killpg = real


def ended_early(original: Any, self: Ledger, task_: str) -> bool:
    return any(line.count for line in self.subscriptions_by_task[task_])


def uncounted(original: Any, self: Ledger, lease_id: int, suspects: range, *args: Any) -> Any:
    before = dict(self.repeated_items)
    result = original(self, lease_id, suspects, *args)
    self.repeated_items.clear()
    self.repeated_items.update(before)
    return result


def count_repeats() -> None:
    made, collected = test_items.line(functions.dies_once_at_five, 10)
    outcome = run(made, collected)
    assert outcome.result.headline.repeated >= 1


def timeouts() -> None:
    test_items.test_an_item_over_its_limit_is_given_up_and_its_worker_replaced("asleep")


#: name: (where, attribute, the bug, who must notice)
BUGS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "a dead worker's items are forgotten": (Ledger, "settle_lost_lease", forget_the_lease, simulation),
    "they are given back twice": (Subscription, "give_back", give_back_twice, simulation),
    "an answer is applied twice": (Ledger, "settle_lease", settle_twice, simulation),
    "an answer's outputs are lost": (Ledger, "settle_lease", lose_the_outputs, simulation),
    "the whole chunk is blamed": (CrashHandler, "_suspects", blame_the_chunk, simulation),
    "nobody is blamed": (CrashHandler, "_suspects", blame_nobody, simulation),
    "attempts are not counted": (RetryPolicy, "judge_and_report", never_count_attempts, simulation),
    "a task ends while items are in flight": (Ledger, "has_items", ended_early, simulation),
    "a source is never told that its items have arrived": (
        Dispatcher,
        "_readers_have_backlog",
        lambda *_: True,
        simulation,
    ),
    "time limits are never looked at": (TimeoutWatchdog, "_overdue", lambda *_: None, timeouts),
    "dead letters are not kept": (
        ReplyHandler,
        "store_dead_items",
        no_letters,
        lambda: test_items.test_attempts_are_used_up_and_then_it_is_dead("thread"),
    ),
    "a retry does not wait": (
        Subscription,
        "return_sleeping",
        at_once,
        test_items.test_a_waiting_retry_holds_no_worker_and_backs_off,
    ),
    "results leave as they come": (ReleaseOrder, "settle_entry", out_of_order, ordered_run),
    "a bound is one too large": (Subscription, "free_room", one_more, bounded_run),
    "a death is not fenced": (ProcessEngine, "_on_death", without_the_fence, leaking_run),
    "what is executed again is not counted": (Ledger, "settle_lost_lease", uncounted, count_repeats),
    "the rate is ignored": (
        TokenBucket,
        "allowed_items",
        lambda original, self, now, least=1: 10**6,
        lambda: test_items.test_rate_holds_over_all_workers("thread", 1),
    ),
}
#: Who notices must be quiet without the bug.
WATCHERS = list(dict.fromkeys(watcher for *_, watcher in BUGS.values()))


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, change, notice = BUGS[bug]
    monkeypatch.setattr(harness, "LIMIT", 3.0)
    monkeypatch.setattr(fake_engine.FakeHub, "limit", 20_000)
    monkeypatch.setattr(where, attribute, plant(getattr(where, attribute), change))
    with pytest.raises(AssertionError):
        notice()


@pytest.mark.slow  # most are tests of their own
@pytest.mark.parametrize("watcher", range(len(WATCHERS)))
def test_without_it_all_is_well(watcher: int) -> None:
    WATCHERS[watcher]()


def test_a_crash_limit_that_is_never_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "MAX_CRASHES", 10**9)
    monkeypatch.setattr(fake_engine.FakeHub, "limit", 20_000)
    with pytest.raises(AssertionError, match="does not end"):
        simulation()


def test_a_chunk_size_that_never_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowness is no violation; but it must not turn into one."""
    monkeypatch.setattr(chunk_sizing.ChunkSizer, "items_to_grant", lambda self, available, *_: available)
    simulation()
