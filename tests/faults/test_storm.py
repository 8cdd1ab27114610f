"""Workers killed at random, hundreds of times, over random topologies. Every item arrives once, or is accounted for."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from faults import functions
from faults.harness import LIMIT, plan, run, task
from faults.sinks import collector

from runner import events
from runner.config.model import QueueConfig, Restarts

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def topology(seed: int, count: int, collected: list[Any]) -> Any:
    """A chain of one to three stages of one to three workers, with bounds and forms at random."""
    draw = random.Random(seed)
    depth = draw.randint(1, 3)
    tasks = [task("source", functions.numbers, outputs="q0", args=(count,))]
    queues = {}
    for at in range(depth):
        options: dict[str, Any] = {"restarts": Restarts(1000, 0.02)}
        function: Any = functions.slowly
        form = draw.choice(["plain", "plain", "ordered", "batch"])
        if form == "ordered":
            options["ordered"] = True
        if form == "batch":
            function, options["batch"] = functions.slowly_all, draw.randint(2, 9)
        else:
            options["with_"] = {"seconds": draw.choice([0.0, 0.001, 0.003])}
        tasks.append(task(f"t{at}", function, f"q{at}", f"q{at + 1}", workers=draw.randint(1, 3), **options))
        queues[f"q{at}"] = QueueConfig(f"q{at}", size=draw.choice([1, 10, 1000]))
    tasks.append(collector(collected, f"q{depth}"))
    return plan(tasks, queues)


def storm(seed: int, kills: int, count: int) -> int:
    collected: list[Any] = []
    killer = Killer(seed, kills, spared=("source", "collect"))
    with killer.raging():
        outcome = run(topology(seed, count, collected), collected, on_event=killer.hear)
    # Bad luck can strike the same item three times; then it is a dead letter, and nothing else is missing.
    assert outcome.result.exit_code in {0, 4}, outcome.result
    dead = outcome.result.headline.dead
    assert len(collected) == count - dead
    assert not Counter(collected) - Counter(range(count))
    assert len(outcome.letters) == dead
    return killer.killed


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 5))])
def test_a_storm(seed: int) -> None:
    assert storm(seed, kills=25, count=1500) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(8))
def test_a_thousand_kills(block: int) -> None:
    killed, seed = 0, 1000 * (block + 1)
    while killed < 130:
        killed += storm(seed, kills=50, count=4000)
        seed += 1
