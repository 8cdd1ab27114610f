"""Workers killed at random, hundreds of times, over random topologies. Every item arrives as often as
it is copied, or is accounted for, and in order where it is kept."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from faults import passing
from faults.harness import LIMIT, plan, run, task
from faults.sinks import collector

from runner import events
from runner.model import QueueConfig, Restarts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("fork_server")


class Killer:
    """Kills a random ready worker again and again, from a thread of its own, until enough are dead."""

    def __init__(self, seed: int, kills: int, spared: tuple[str, ...]) -> None:
        self.random = random.Random(seed)
        self.left = kills
        self.killed = 0
        self.spared = spared
        self.alive: dict[str, int] = {}
        self.changed = threading.Condition()
        self.over = False

    def hear(self, event: events.Event) -> None:
        with self.changed:
            if isinstance(event, events.WorkerReady) and event.task not in self.spared:
                self.alive[event.worker] = event.pid
            elif isinstance(event, events.WorkerDied | events.WorkerEnded):
                self.alive.pop(event.worker, None)
            self.changed.notify_all()

    def rage(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.alive or self.over, timeout=LIMIT)
                if self.over or not self.left:
                    return
                name = self.random.choice(sorted(self.alive))
                pid = self.alive.pop(name)
                # The supervisor may reap it at any moment: a number that somebody else has by now must not be hit.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
                    self.killed += 1
                    self.left -= 1
            time.sleep(self.random.uniform(0, 0.01))

    @contextlib.contextmanager
    def raging(self) -> Iterator[None]:
        thread = threading.Thread(target=self.rage)
        thread.start()
        try:
            yield
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()
            thread.join()


@dataclass
class Weather:
    """A topology for a storm: how often each item comes out of it, and the tasks that keep the order."""

    plan: Any
    copies: int
    ordered: set[str]


def topology(seed: int, count: int, collected: list[Any]) -> Weather:
    """One to three stages: a task, or two that share a queue or copy it, with one output or one each; all forms."""
    draw = random.Random(seed)
    tasks = [task("source", passing.texts, outputs="q0", args=(count,))]
    queues: dict[str, QueueConfig] = {}
    copies, ordered, inputs = 1, set(), "q0"
    for stage in range(draw.randint(1, 3)):
        kind = draw.choice(["one", "share", "copy", "share"])
        names = [f"t{stage}"] if kind == "one" else [f"t{stage}a", f"t{stage}b"]
        copies *= 2 if kind == "copy" else 1
        for queue in inputs.split():
            queues[queue] = QueueConfig(
                queue,
                size=draw.choice([1, 10, 1000]),
                fanout=None if kind == "one" else kind,  # type: ignore[arg-type]
            )
        apart = draw.random() < 0.3
        for name in names:
            form = draw.choice(["plain", "plain", "batch", "async"])
            options: dict[str, Any] = {"restarts": Restarts(1000, 0.02), "ordered": draw.random() < 0.5, "attempts": 5}
            if form == "batch":
                options["batch"] = draw.randint(2, 9)
            if options["ordered"]:
                ordered.add(name)
            with_ = {"name": name, "seconds": draw.choice([0.0, 0.001, 0.003]), "fails": draw.choice([0, 0, 7, 50])}
            output = f"q{stage + 1}" + (name[-1] if apart else "")
            tasks.append(
                task(name, passing.FORMS[form], inputs, output, workers=draw.randint(1, 3), with_=with_, **options)
            )
        inputs = " ".join(f"q{stage + 1}{name[-1]}" for name in names) if apart else f"q{stage + 1}"
    tasks.append(collector(collected, inputs))
    return Weather(plan(tasks, queues), copies, ordered)


def storm(seed: int, kills: int, count: int) -> int:
    collected: list[str] = []
    weather = topology(seed, count, collected)
    killer = Killer(seed, kills, spared=("source", "collect"))
    with killer.raging():
        outcome = run(weather.plan, collected, on_event=killer.hear)
    # Bad luck can strike the same item three times; then it is a dead letter, and nothing else is missing.
    assert outcome.result.exit_code in {0, 4}, outcome.result
    assert not any(tally.left for tally in outcome.result.lines.values()), outcome.result.lines
    dead = outcome.result.headline.dead
    assert len(outcome.letters) == dead
    times = Counter(int(item.split("/")[0]) for item in collected)
    assert set(times) <= set(range(count))
    missing = sum(weather.copies - times[number] for number in range(count))
    assert (dead <= missing <= dead * weather.copies) if dead else missing == 0, (missing, dead)
    assert max(times.values()) <= weather.copies
    # Along a way on which every task keeps the order, it is kept.
    ways: dict[str, list[int]] = {}
    for item in collected:
        number, *way = item.split("/")
        if weather.ordered.issuperset(way):
            ways.setdefault("/".join(way), []).append(int(number))
    assert all(numbers == sorted(numbers) for numbers in ways.values()), ways
    return killer.killed


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_a_storm(seed: int) -> None:
    assert storm(seed, kills=12, count=700) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(8))
def test_a_thousand_kills(block: int) -> None:
    killed, seed = 0, 1000 * (block + 1)
    while killed < 130:
        killed += storm(seed, kills=50, count=4000)
        seed += 1
