"""The one generator of schedules in which everything meets, of which `-m slow` has 20,000: one seed is one run.

Drawn for each seed, each by itself: a topology with every kind of task (`crossed.topology`), queues that drop items or
rank them, lanes, ranges of workers whose number changes at any time, sources whose workers die, machines that come and
go, a disk; and one end of four: the run comes to its end, its supervisor crashes and it goes on in some lives, or it is
cut short by signals and tasks that fail. What `runner check` refuses is not drawn (`test_schedules.py` asks it).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import crossed
import pytest
from crossed_lives import CrossedLives
from lane_watch import lanes_hold
from ranges import decide_by_chance, with_ranges

from runner.model import Restarts

if TYPE_CHECKING:
    from fake_engine import Script

    from runner.supervisor.plan import Plan


#: Of so many schedules each of these is a part.
FEATURES = {
    "ranked": 0.5,
    "laned": 0.5,
    "ranges": 0.4,
    "durable": 0.35,
    "machines": 0.2,
    "source deaths": 0.3,
    "threads": 0.3,
}
ENDS = ["whole", "whole", "lives", "cut"]
#: How many items a source makes: few, for schedules are to be many; and now and then enough for chunks to grow.
ITEMS, MOST_IN_LIVES = [1, 3, 5, 8, 8, 8, 12, 40], 8


class Schedule(NamedTuple):
    """What is to be run, and what is to happen to it. `interval`: None where no number of workers changes."""

    made: Plan
    play: Script
    items: int
    end: str
    durable: bool
    interval: float | None
    signals: list[tuple[float, int]]


def draw_schedule(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    draw = random.Random(f"schedule {seed}")
    end = draw.choice(ENDS)
    has = {word for word, share in FEATURES.items() if draw.random() < share}
    items = min(draw.choice(ITEMS), MOST_IN_LIVES if end == "lives" else 1000)
    made = with_patience(crossed.topology(seed))
    if "ranked" in has:
        made = crossed.with_drops_and_orders(made, seed)
    if "laned" in has:
        made = crossed.with_lanes(made, seed)
    if "ranges" in has:
        made = with_ranges(made, seed)
    if end == "cut":
        made = cut_short(made, draw)
    if "threads" in has:
        made = in_threads(made, draw)
    signals = [(10 ** draw.uniform(-3, 0.5), 2) for _ in range(draw.choice([0, 1, 2]))] if end == "cut" else []
    play = crossed.script(seed)
    play = replace(
        play,
        fails=draw.choice([0.02, 0.2]) if end == "cut" else play.fails,
        machines=draw.choice([1, 2, 3]) if "machines" in has and end != "lives" else 0,
        source_deaths=draw.choice([0.3, 0.9]) if "source deaths" in has else 0.0,
    )
    interval = draw.choice([0.01, 0.05, 0.5]) if "ranges" in has else None
    return Schedule(made, play, items, end, end != "lives" and "durable" in has, interval, signals)


def with_patience(made: Plan) -> Plan:
    """The same topology, whose sources may die as often as they do; the others may already."""
    tasks = {
        name: replace(each, config=replace(each.config, restarts=Restarts(10_000, 60.0)))
        for name, each in made.tasks.items()
    }
    return replace(made, tasks=tasks)


def cut_short(made: Plan, draw: random.Random) -> Plan:
    """The same topology, in which tasks fail, or stop the run, at an item that fails, and wait for each other."""
    order = list(made.tasks)  # from the sources on: none waits for what waits for it
    tasks = dict(made.tasks)
    for at, name in enumerate(order):
        config = tasks[name].config
        on_error = (
            draw.choice([config.on_error, "fail", "stop"]) if config.inputs and not config.dead else config.on_error
        )
        others = [other for other in order[:at] if draw.random() < 0.3 / len(order)]
        after: dict[str, Any] = {other: draw.choice(["started", "ended", "ok"]) for other in others}
        tasks[name] = replace(tasks[name], config=replace(config, on_error=on_error, after=after))
    return replace(made, tasks=tasks)


def in_threads(made: Plan, draw: random.Random) -> Plan:
    """The same topology, some of whose tasks run in threads, as queues that a caller feeds and collects do."""
    tasks = {
        name: replace(each, mode="thread") if each.config.timeout is None and draw.random() < 0.5 else each
        for name, each in made.tasks.items()
    }
    return replace(made, tasks=tasks)


def check(seed: int) -> Counter[str]:
    """Run the schedule of a seed under the oracle; return what came of it, and which features met in it."""
    drawn = draw_schedule(seed)
    laned = any(queue.lane for queue in drawn.made.queues.values())
    watch = lanes_hold if laned else None
    with pytest.MonkeyPatch.context() as patch:
        if drawn.interval is not None:
            decide_by_chance(patch, seed, drawn.interval)
        interval = drawn.interval or 1.0
        if drawn.end == "lives":
            lives = CrossedLives(drawn.made, drawn.play, drawn.items, seed)
            dropped = lives.judge(lives.live(watch, interval))
            found = Counter(dropped=dropped, crashes=lives.crashes, begun=lives.begun, changes=lives.changes)
        else:
            result, fleet, _ = crossed.run(
                drawn.made, drawn.play, drawn.items, watch,
                durable=drawn.durable, interval=interval, signals=drawn.signals,
            )  # fmt: skip
            if drawn.end == "cut":
                dropped = crossed.judge_cut(drawn.made, result, fleet, seed, durable=drawn.durable)
            else:
                dropped = crossed.judge_whole(drawn.made, result, fleet, seed)
            found = Counter(dropped=dropped, begun=fleet.lanes.begun, changes=fleet.changes)
            found["cut"] = int(drawn.end == "cut" and bool(result.headline.left))
    return found + Counter(features_of(drawn))


def features_of(drawn: Schedule) -> set[str]:
    """The words for what meets in a schedule."""
    queues, tasks = drawn.made.queues.values(), [each for each in drawn.made.tasks.values() if each.config.inputs]
    found = {
        "drop-new": any(queue.full == "drop-new" for queue in queues),
        "drop-old": any(queue.full == "drop-old" for queue in queues),
        "lifo": any(queue.order == "lifo" for queue in queues),
        "priority": any(queue.order == "priority" for queue in queues),
        "lanes": any(queue.lane for queue in queues),
        "copies": any(queue.fanout == "copy" for queue in queues),
        "loops": any(queue.loop for queue in queues),
        "ordered": any(each.config.ordered for each in tasks),
        "batches": any(each.config.batch for each in tasks),
        "async": any(each.is_async for each in tasks),
        "retries": any(each.config.attempts > 1 for each in tasks),
        "letters": any(each.config.dead for each in tasks),
        "deaths": bool(drawn.play.kills or drawn.play.poison or drawn.play.random_deaths),
        "ranges": drawn.interval is not None,
        "machines": bool(drawn.play.machines),
        "threads": any(each.mode == "thread" for each in drawn.made.tasks.values()),
        "durable": drawn.durable or drawn.end == "lives",
        drawn.end: True,
    }
    return {f"with {word}" for word, there in found.items() if there}
