"""Items that fail, in every way in which an item can: exceptions, retries, time limits, what cannot travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from faults import functions
from faults.harness import plan, run, task
from faults.sinks import collector

from runner import events
from runner.model import Backoff, Batch, Halt, Lifespan, QueueConfig, Rate, Restarts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("fork_server")

MODES = pytest.mark.parametrize("mode", ["process", "thread"])


def line(function: Callable[..., Any], count: int = 20, **options: Any) -> tuple[Any, list[Any]]:
    """Numbers through one task into a list."""
    collected: list[Any] = []
    settings = options.pop("settings", {})
    return plan(
        [
            task("source", functions.numbers, outputs="a", args=(count,), mode="thread"),
            task("work", function, "a", "b", **options),
            collector(collected, "b"),
        ],
        **settings,
    ), collected


# -- exceptions ------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("kind", ["plain", "odd", "huge", "group", "chained", "reject"])
def test_an_exception_is_that_items_alone(mode: str, kind: str) -> None:
    made, collected = line(functions.failing, mode=mode, with_={"kind": kind}, attempts=3 if kind == "reject" else 1)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [number for number in range(20) if number % 3]
    assert [letter.preview for letter in outcome.letters] == ["0", "3", "6", "9", "12", "15", "18"]
    text = outcome.letters[0].text
    assert (text.task, text.worker, text.attempts) == ("work", "work", 1)
    assert len(text.traceback) < 80_000
    assert "functions.py" in text.traceback
    assert "runner/worker" not in text.traceback
    words = {
        "plain": "ValueError: plain",
        "odd": "Odd: <its __str__ raised RuntimeError>",
        "huge": "ValueError: xxxx",
        "group": "ExceptionGroup: several (2 sub-exceptions)",
        "chained": "LookupError: outer",
        "reject": "Reject: never",
    }
    assert text.error.startswith(words[kind])
    if kind == "chained":
        assert "direct cause" in text.traceback
        assert "KeyError: 'inner'" in text.traceback
    if kind == "group":
        assert "OSError: two" in text.traceback


@MODES
def test_attempts_are_used_up_and_then_it_is_dead(mode: str) -> None:
    made, collected = line(functions.failing, mode=mode, with_={"kind": "plain"}, attempts=3)
    outcome = run(made, collected)
    assert {letter.text.attempts for letter in outcome.letters} == {3}
    assert len(outcome.letters) == 7
    assert outcome.result.headline.repeated == 14
    verdicts = [event.verdict for event in outcome.of(events.ItemFailed)]
    assert verdicts.count("again") == 14
    assert verdicts.count("dead") == 7


@MODES
@pytest.mark.parametrize("kind", ["plain", "retry"])
def test_a_later_attempt_may_succeed(mode: str, kind: str) -> None:
    made, collected = line(functions.failing, mode=mode, with_={"kind": kind, "until": 2}, attempts=3)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert sorted(collected) == list(range(20))


@pytest.mark.parametrize(("retry_on", "again"), [(("OSError",), 0), (("ValueError",), 7), (("builtins.Exception",), 7)])
def test_only_what_retry_on_names_is_tried_again(retry_on: tuple[str, ...], again: int) -> None:
    made, collected = line(functions.failing, mode="thread", with_={"kind": "plain"}, attempts=2, retry_on=retry_on)
    outcome = run(made, collected)
    assert [event.verdict for event in outcome.of(events.ItemFailed)].count("again") == again


def test_a_waiting_retry_holds_no_worker_and_backs_off() -> None:
    backoff = Backoff(first=0.1, factor=100.0, max=0.3, jitter=0.0)
    made, collected = line(functions.failing, 3, mode="thread", with_={"kind": "plain"}, attempts=3, backoff=backoff)
    outcome = run(made, collected)
    times = [event.at for event in outcome.of(events.ItemFailed)]
    assert times[1] - times[0] > 0.09
    assert 0.29 < times[2] - times[1] < 9, "without `max` it would be ten seconds"
    assert collected == [1, 2], "they did not wait for item 0"


@MODES
@pytest.mark.parametrize(
    ("on_error", "code", "dead", "dropped"),
    [("dead", 4, 7, 0), ("skip", 0, 0, 7), ("fail", 1, 1, 0), ("stop", 1, 1, 0)],
)
def test_on_error_in_its_four_words(mode: str, on_error: str, code: int, dead: int, dropped: int) -> None:
    made, collected = line(functions.failing, mode=mode, with_={"kind": "plain"}, on_error=on_error)
    outcome = run(made, collected)
    headline = outcome.result.headline
    assert outcome.result.exit_code == code
    assert headline.dropped == dropped
    assert headline.dead == dead or (code == 1 and headline.dead >= 1)
    if code == 1:
        assert outcome.result.tasks["work"].how == "failed"
        assert "ValueError: plain" in outcome.result.tasks["work"].why


def test_dead_letters_reach_their_queue_as_such() -> None:
    collected: list[Any] = []
    letters: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(9,)),
            task("work", functions.failing, "a", "b", with_={"kind": "plain"}, dead="rejected", attempts=2),
            collector(collected, "b"),
            collector(letters, "rejected", name="rejects"),
        ]
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(letter.item for letter in letters) == [0, 3, 6]
    assert {(letter.error, letter.task, letter.worker, letter.attempts) for letter in letters} == {
        ("ValueError: plain", "work", "work", 2)
    }
    assert outcome.letters == [], "the queue has them, the store does not"


@pytest.mark.slow
def test_fifty_thousand_failures_do_not_grow_memory() -> None:
    import psutil

    count, rss = 0, []

    def watch(_: Any) -> None:
        nonlocal count
        count += 1
        if count in {10_000, 50_000}:
            rss.append(psutil.Process().memory_info().rss)

    made, collected = line(functions.always_failing, 50_000, workers=2)
    outcome = run(
        made,
        collected,
        on_event=lambda event: watch(event) if isinstance(event, events.ItemFailed) else None,
        keep=False,
    )
    assert outcome.result.headline.dead == 50_000
    assert rss[1] - rss[0] < 10 * 2**20


# -- time limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["asleep", "busy", "in C"])
def test_an_item_over_its_limit_is_given_up_and_its_worker_replaced(where: str) -> None:
    made, collected = line(functions.stuck, with_={"where": where, "until": 10}, timeout=0.3)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [number for number in range(20) if number != 5]
    [letter] = outcome.letters
    assert letter.text.error == "TimedOut: it took longer than its time limit of 300ms"
    assert "in hang" in letter.text.traceback
    [said] = outcome.of(events.ItemTimedOut)
    assert said.item
    started = max(event.at for event in outcome.of(events.WorkerReady) if event.at < said.at and event.worker == "work")
    assert 0.3 <= said.at - started < 10, "0.4 s on a machine that does nothing else"


def test_a_timed_out_item_is_tried_again() -> None:
    made, collected = line(functions.stuck, with_={"where": "asleep"}, timeout=0.2, attempts=2)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert sorted(collected) == list(range(20))
    assert outcome.result.headline.repeated >= 1


@pytest.mark.parametrize("where", ["awaiting", pytest.param("asleep", marks=pytest.mark.slow)])
def test_an_async_item_over_its_limit(where: str) -> None:
    made, collected = line(functions.stuck_async, with_={"where": where, "until": 10}, timeout=0.3, concurrency=4)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [number for number in range(20) if number != 5]
    [letter] = outcome.letters
    assert letter.text.error.startswith("TimedOut: it took longer than its time limit of ")


def test_the_whole_call_of_a_task_without_inputs_has_a_limit() -> None:
    outcome = run(plan([task("call", functions.call_that_hangs, timeout=0.2)]))
    assert outcome.result.exit_code == 1
    assert "exceeded its time limit of 200ms" in outcome.result.tasks["call"].why
    assert len(outcome.of(events.ItemTimedOut)) == 1


def test_and_it_is_tried_again_as_often_as_the_file_says() -> None:
    outcome = run(plan([task("call", functions.call_that_hangs, timeout=0.1, attempts=3)]))
    assert outcome.result.exit_code == 1
    assert len(outcome.of(events.ItemTimedOut)) == 3


def test_what_is_quick_is_never_over_its_limit() -> None:
    made, collected = line(functions.slowly, 200, with_={"seconds": 0.005}, timeout=0.7)  # a second in all
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert not outcome.of(events.ItemTimedOut)


# -- what cannot travel ----------------------------------------------------------------------------


def test_items_that_cannot_travel_fail_alone() -> None:
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(9,)),
            task("work", functions.bad_items, "a", "b"),
            task("next", functions.identity, "b", "c"),
            collector(collected, "c"),
        ],
        max_item=1_000_000,
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [0, 1, 2, 7, 8]
    errors = {letter.preview[:1]: letter.text.error for letter in outcome.letters}
    assert "an item of type lock cannot be sent to another process" in errors["3"]
    assert "(at dict['deep'][1]['er'])" in errors["4"]
    assert "2,000,0" in errors["6"]
    assert "more than `max_item` of [run] allows (1,000,000)" in errors["6"]
    exploded = next(letter for letter in outcome.letters if letter.text.task == "next")
    assert exploded.text.error == "ValueError: cannot be rebuilt"


@MODES
def test_a_generator_that_raises_half_way(mode: str) -> None:
    made, collected = line(functions.many_then_error, 6, mode=mode, attempts=2)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    expected = sorted(number for item in range(6) for number in (10 * item, 10 * item + 1))
    assert sorted(collected) == expected, "what was yielded before counts, once"
    assert len(outcome.letters) == 1


@MODES
def test_a_source_that_raises_half_way(mode: str) -> None:
    collected: list[Any] = []
    made = plan(
        [task("source", functions.half_way, outputs="a", args=(50,), mode=mode), collector(collected, "a")],
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 1
    assert collected == list(range(50)), "what it had yielded is done"
    assert outcome.result.tasks["source"].why == "it raised: ValueError: half way"


def test_a_batch_larger_than_its_queue_does_not_wait_for_the_rest() -> None:
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(40,), mode="thread"),
            task("work", functions.slowly_all, "a", "b", batch=5),
            task("slow", functions.in_the_room, "b", "c", workers=8, mode="thread"),
            collector(collected, "c"),
        ],
        {"a": QueueConfig("a", size=1)},
    )
    outcome = run(made, collected)
    assert sorted(collected) == list(range(40))
    assert outcome.result.exit_code == 0
    assert functions.ROOM.most > 2, "one after the other"


# -- workers that do not come up ---------------------------------------------------------------------


def test_three_failures_of_the_set_up_stop_the_task() -> None:
    made, collected = line(functions.BreaksSetup)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 1
    assert outcome.result.tasks["work"].why == "its set-up failed: ValueError: no database"
    assert len(outcome.of(events.ItemFailed)) == 3


@pytest.mark.parametrize("way", ["SIGKILL", "_exit(0)", "SIGSEGV"])
def test_three_deaths_in_the_set_up_stop_the_task(way: str) -> None:
    made, collected = line(functions.DiesInSetup, args=(way,))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 1
    assert "before it was ready, 3 times in a row" in outcome.result.tasks["work"].why
    assert len(outcome.of(events.WorkerDied)) == 3


# -- halt, rate, lifespan --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("halt", "most"), [(Halt(count=1), 3), (Halt(count=4), 8), (Halt(share=0.2), 30)], ids=["first", "4", "20%"]
)
def test_halt_leaves_the_rest(halt: Halt, most: int) -> None:
    made, collected = line(functions.failing, 10_000, with_={"kind": "plain"}, settings={"halt": halt})
    outcome = run(made, collected)
    headline = outcome.result.headline
    assert outcome.result.exit_code == 5
    assert headline.left > 0
    assert headline.dead >= (halt.count or 1)
    assert headline.read == headline.done + headline.dead + headline.left
    assert "halt" in outcome.result.ended.reasons[0]


def test_a_share_below_the_limit_does_not_halt() -> None:
    made, collected = line(functions.failing, 300, with_={"kind": "plain"}, settings={"halt": Halt(share=0.5)})
    assert run(made, collected).result.exit_code == 4


@MODES
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_rate_holds_over_all_workers(mode: str, workers: int) -> None:
    made, collected = line(functions.identity, 41, mode=mode, workers=workers, rate=Rate(40, 1.0))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    ended = next(event.at for event in outcome.of(events.TaskEnded) if event.task == "work")
    ready = min(event.at for event in outcome.of(events.WorkerReady) if event.task == "work")
    assert ended - ready > 0.9, "41 items at 40/s take a second"


@pytest.mark.slow
def test_rate_of_a_source() -> None:
    collected: list[Any] = []
    made = plan(
        [task("source", functions.numbers, outputs="a", args=(21,), rate=Rate(20, 1.0)), collector(collected, "a")]
    )
    outcome = run(made, collected)
    assert collected == list(range(21))
    assert outcome.seconds > 0.9


def test_a_worker_is_replaced_after_its_lifespan() -> None:
    made, collected = line(functions.pid, 50, lifespan=Lifespan(items=10))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert len(collected) == 50
    pids = [pid for _, pid in collected]
    assert {pids.count(pid) for pid in pids} == {10}
    assert outcome.result.headline.repeated == 0


def test_a_worker_is_replaced_when_it_has_grown() -> None:
    made, collected = line(functions.grows, 12, lifespan=Lifespan(memory=150 * 2**20))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert len({pid for _, pid in collected}) > 1


def test_what_a_worker_leaves_behind_dies_with_it() -> None:
    made, collected = line(functions.leaky, 5)
    outcome = run(made, collected)  # the oracle looks for orphans
    assert outcome.result.exit_code == 0


@pytest.mark.slow
def test_idle_deaths_count_against_restarts() -> None:
    import os
    import signal

    kills = 0

    def kill(event: events.Event) -> None:
        nonlocal kills
        if isinstance(event, events.WorkerReady) and event.task == "work":
            kills += 1
            os.kill(event.pid, signal.SIGKILL)

    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.call_that_hangs, outputs="a", mode="process"),
            task("work", functions.identity, "a", "b", restarts=Restarts(2, 60.0)),
            collector(collected, "b"),
        ],
        {"a": QueueConfig("a")},
        grace=0.1,
    )

    def stop(event: events.Event) -> None:
        kill(event)
        if isinstance(event, events.TaskEnded) and event.task == "work":
            made_supervisor[0].shutdown.stop("enough")

    made_supervisor: list[Any] = []
    outcome = run(made, collected, on_event=stop, on_start=lambda supervisor, _: made_supervisor.append(supervisor))
    assert kills == 3
    assert "more than 2 such deaths within 1m" in outcome.result.tasks["work"].why


def test_a_worker_that_names_memory_it_cannot_have_is_killed_and_replaced(tmp_path: Path) -> None:
    made, collected = line(functions.names_foreign_memory_once, args=(str(tmp_path / "named"),))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0
    assert sorted(collected) == list(range(20))
    (death,) = outcome.of(events.WorkerDied)
    assert death.why == "named a buffer in an arena that there is not, and was killed"
    assert death.will_restart


@pytest.mark.parametrize(
    ("batch", "mode", "ordered"),
    [
        pytest.param(batch, mode, ordered, marks=() if (at + by + ordered) % 2 else pytest.mark.slow)
        for at, batch in enumerate([Batch(1), Batch(10), Batch(64, wait=0.01), Batch(10, bytes=40)])
        for by, mode in enumerate(["thread", "process"])
        for ordered in (False, True)
    ],
)
def test_an_async_function_takes_batches(batch: Batch, mode: str, ordered: bool, tmp_path: Path) -> None:
    """Until now such a task did not end; what it left of a last batch came never."""
    collected: list[Any] = []
    options: dict[str, Any] = {"batch": batch, "ordered": ordered, "attempts": 2, "concurrency": 4, "mode": mode}
    given = {"retried": 31, "rejected": 57, "folder": tmp_path}
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(95,), mode=mode),
            task("middle", functions.picky, "a", "b", with_=given, **options),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4, outcome.result
    dead = outcome.result.tasks["middle"].dead
    missing = sorted({*range(95)} - {*collected})
    assert 57 in missing
    assert 1 <= len(missing) <= dead <= batch.items, "of a batch that is given up, what it had yielded counts"
    assert (collected if ordered else sorted(collected)) == sorted(collected)
    assert (tmp_path / "tried").exists()


def test_a_batch_that_its_function_has_emptied_fails_item_by_item() -> None:
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(6,), mode="thread"),
            task("middle", functions.emptying, "a", "b", batch=3, mode="thread"),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4, outcome.result
    assert sorted(letter.preview for letter in outcome.letters) == [str(number) for number in range(6)]
