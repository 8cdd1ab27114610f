"""Ranges of workers in simulated runs, and the oracle that watches them by the engine's own count.

Whatever decides: a task never has more workers than the most of its range, and, but for those that died and are being
replaced, never fewer than the least; none is killed; there are as many as was told, and those beyond are still at work;
and the number changes at most once in an interval.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import worker_scaling
from runner.events import TaskEnded, TaskStarted, WorkersChanged
from runner.supervisor import outcome
from runner.topology import Stage

if TYPE_CHECKING:
    import pytest
    from fake_engine import FakeEngine, FakeWorker

    from runner.supervisor.loop import Supervisor
    from runner.supervisor.plan import Plan
    from runner.worker_scaling import LoadSample, ScalingDecision, WorkerScaler


def with_ranges(made: Plan, seed: int) -> Plan:
    """The same topology, some of whose tasks have ranges of workers."""
    draw = random.Random(f"ranges {seed}")
    tasks = {}
    for name, task in made.tasks.items():
        least = draw.choice([1, 1, 2, 3])
        names = tuple(f"{name}-{at + 1}" for at in range(least + draw.choice([1, 1, 2, 5])))
        is_range = bool(task.config.inputs) and draw.random() < 0.8
        config = replace(task.config, workers=names, least_workers=least) if is_range else task.config
        tasks[name] = replace(task, config=config)
    return replace(made, tasks=tasks)


class RandomDecisions:
    """Stands in for `WorkerScaler.decide`: any number of the range, at any time, for no reason."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(f"decisions {seed}")
        self.left = 300  # a long pause is not the time to change much

    def decide(self, scaler: WorkerScaler, load: LoadSample) -> ScalingDecision | None:
        if self.draw.random() < 0.3 or self.left == 0:
            return None
        self.left -= 1
        before, scaler.number = scaler.number, self.draw.randint(scaler.least, scaler.most)
        return worker_scaling.ScalingDecision(scaler.number, before, "by chance") if scaler.number != before else None


def decide_by_chance(patch: pytest.MonkeyPatch, seed: int, interval: float) -> None:
    """Let chance decide the numbers of workers in all ranges; `interval` is the least time between two decisions."""
    decisions = RandomDecisions(seed)

    def decide(scaler: WorkerScaler, load: LoadSample) -> ScalingDecision | None:
        if decisions.left == 0:  # hours may follow in which nothing is decided any more
            patch.setattr(worker_scaling, "INTERVAL", 60.0)
        return decisions.decide(scaler, load)

    patch.setattr(worker_scaling, "INTERVAL", interval)
    patch.setattr(worker_scaling.WorkerScaler, "decide", decide)
    patch.setattr(outcome, "processor_ticks", lambda: None)  # this machine's load is not to be asked


class RangeOracle:
    """Watches one run. `interval`: the least time between two changes."""

    def __init__(self, made: Plan, fleet: FakeEngine, interval: float) -> None:
        self.fleet, self.interval = fleet, interval
        self.ranges = {
            name: (task.config.least_workers, len(task.config.workers))
            for name, task in made.tasks.items()
            if task.config.least_workers
        }
        #: Workers of these are never killed while the run goes on.
        self.untimed = {name for name in self.ranges if made.tasks[name].config.timeout is None}
        #: Workers of these are also ended, or lost, for other reasons.
        self.loose = {name for name in self.ranges if made.tasks[name].config.lifespan or fleet.script.machines}
        self.told = {name: least for name, (least, _) in self.ranges.items()}
        self.changed_at: dict[str, float] = {}
        self.over: set[str] = set()
        self.changes = 0
        self.most_alive = dict.fromkeys(self.ranges, 0)

    def hear(self, event: Any) -> None:
        """Take one event."""
        if isinstance(event, TaskStarted) and event.task in self.ranges:
            assert len(event.workers) == self.ranges[event.task][0], event
        elif isinstance(event, TaskEnded):
            self.over.add(event.task)
        elif isinstance(event, WorkersChanged):
            least, most = self.ranges[event.task]
            last = self.changed_at.get(event.task, -1e9)
            assert event.at - last >= self.interval - 1e-9, f"{event} comes {event.at - last} s after the last one"
            assert least <= event.number <= most, event
            assert event.before == self.told[event.task] != event.number, event
            assert event.task not in self.over, event
            self.told[event.task], self.changed_at[event.task] = event.number, event.at
            self.changes += 1

    def look(self, supervisor: Supervisor) -> None:
        """Look at all workers, whenever the supervisor waits."""
        workers_of: dict[str, list[FakeWorker]] = {name: [] for name in self.ranges}
        for worker in self.fleet.workers.values() if workers_of else ():
            if worker.spec.task in workers_of:
                workers_of[worker.spec.task].append(worker)
        for name, workers in workers_of.items():
            (least, most), state = self.ranges[name], supervisor.tasks[name]
            alive = sum([each.alive for each in workers])
            assert alive <= most, f"{name} has {alive} workers, and {most} are the most"
            self.most_alive[name] = max(self.most_alive[name], alive)
            if supervisor.topology.stages[name] is not Stage.RUNNING or name in self.loose:
                continue
            if state.dismissed or supervisor.state.stopping:
                continue
            taking = sum([slot.accepts_items for slot in state.slots])
            assert state.accepting_workers == taking, (
                f"{name}: {taking} workers take items, not {state.accepting_workers}"
            )
            assert not (name in self.untimed and self.fleet.kills[name]), f"a worker of {name} was killed"
            staying = [each for each in workers if not each.stop]  # one that died is replaced
            ending = sum([each.stop and each.alive for each in workers])  # they can be followed by others
            there = len(staying) + ending
            assert there >= self.told[name] >= least, (
                f"{name} has {len(staying)} workers, and {ending} that end, of {self.told[name]}"
            )
            beyond = len(staying) - self.told[name]
            if beyond > 0:
                assert sum(map(self._is_at_work, staying)) >= beyond, f"{name}: {beyond} too many, and they are idle"

    @staticmethod
    def _is_at_work(worker: FakeWorker) -> bool:
        return worker.busy or bool(worker.waiting) or not worker.is_ready or not worker.alive
