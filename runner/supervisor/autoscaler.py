"""Carries out what `worker_scaling` decides for the tasks whose number of workers has a range, once in an interval.

    time accounts, histograms, ledger, processors ──▶ LoadSample ──▶ WorkerScaler ──▶ resizing, `WorkersChanged`

Nothing is counted for it at an item: a run without ranges does not have it, one with them is looked at once a second.
Tasks are looked at from the sinks to the sources, and share the processors that are idle. Until the first decision they
are looked at four times in the first second, each time at all that has been seen since the run began.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner import events, worker_scaling
from runner.cgroups import usable_cpus
from runner.supervisor.outcome import ProcessorMeter
from runner.supervisor.resizing import resize_task
from runner.supervisor.run_state import Phase
from runner.topology import Stage
from runner.transport.messages import CLASSES_PER_DOUBLING
from runner.worker_scaling import ItemTimes, LoadSample, WorkerScaler

if TYPE_CHECKING:
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.run_state import RunState, TaskState
    from runner.supervisor.workers import WorkerPool
    from runner.worker_scaling import ScalingDecision

#: An interval that has become so much longer says nothing: the run, or the machine, was stopped meanwhile.
_STRETCHED = 3.0
#: From this share of it on, the workers that are ready were so for a whole interval.
_WHOLE = 0.9


class _ScaledTask(Struct, eq=False):
    """A task with a range, and what was known of it when it was looked at last."""

    task: TaskState
    scaler: WorkerScaler
    looked_at: float = 0.0
    histogram: dict[int, int] = field(default_factory=dict)
    cpu: float = 0.0
    #: Seconds that each worker has worked, waited for items, and been hindered, by its index.
    spent: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    #: Workers that could not be started since then, and why the last one could not.
    lost: int = 0
    loss_reason: str = ""


class Autoscaler:
    """The numbers of workers of all tasks that have a range."""

    def __init__(self, state: RunState, dispatcher: Dispatcher, worker_pool: WorkerPool) -> None:
        self._state, self._dispatcher, self._pool = state, dispatcher, worker_pool
        depths = state.topology.task_depths()
        tasks = (task for task in state.tasks.values() if task.plan.config.is_adaptive)
        self.scaled_tasks = [
            _ScaledTask(task, WorkerScaler(task.plan.config.least_workers, len(task.plan.config.workers)))
            for task in sorted(tasks, key=lambda task: -depths[task.name])
        ]
        self._by_name = {each.task.name: each for each in self.scaled_tasks}
        self._cores = usable_cpus()
        self._meter = ProcessorMeter()
        self._looked_at = state.clock.now()
        #: When to look before the first interval is over; inf: it is, or something was decided.
        self._early_at = self._looked_at + worker_scaling.EARLY_INTERVAL
        worker_pool.on_extra_lost = self._note_lost

    def next_time(self) -> float | None:
        """Return when to look again; None: there is nothing to decide."""
        if self._state.stopping or not any(self._is_open(each.task) for each in self.scaled_tasks):
            return None
        return min(self._looked_at + worker_scaling.INTERVAL, self._early_at)

    def _is_open(self, task: TaskState) -> bool:
        """Return True if the number of the task's workers may change."""
        is_over = task.dismissed or task.failure_reason or task.returned_early
        return not is_over and self._state.topology.stages[task.name] is Stage.RUNNING

    def _note_lost(self, task: TaskState, why: str) -> None:
        each = self._by_name[task.name]
        each.lost, each.loss_reason = each.lost + 1, why

    def decide_when_due(self, now: float) -> None:
        """Look at all tasks if it is time to, and change their numbers of workers."""
        if self._state.stopping:
            return
        if now < self._looked_at + worker_scaling.INTERVAL:
            if now >= self._early_at:
                self._early_at = now + worker_scaling.EARLY_INTERVAL
                self._look_early(now)
            return
        self._early_at = inf
        is_stretched = now - self._looked_at > _STRETCHED * worker_scaling.INTERVAL
        self._looked_at = now
        idle_share, self._meter = self._meter.idle_share(), ProcessorMeter()
        idle = None if idle_share is None else idle_share * self._cores
        for each in self.scaled_tasks:
            if self._is_open(each.task):
                load = self._sample_load(each, now, idle)
                idle = self._decide_task(each, now, None if is_stretched else load, idle)

    def _look_early(self, now: float) -> None:
        """Have more workers if less than an interval was enough to know that they are needed."""
        for each in self.scaled_tasks:
            if not self._is_open(each.task) or each.lost:
                continue
            known = each.looked_at, each.histogram, each.cpu, dict(each.spent)
            load = self._sample_load(each, now, None)
            decision = None if load is None else each.scaler.decide_early(load)
            if decision is None:
                each.looked_at, each.histogram, each.cpu, each.spent = known
                continue
            self._carry_out(each, decision, now)
            self._looked_at, self._early_at, self._meter = now, inf, ProcessorMeter()

    def _decide_task(self, each: _ScaledTask, now: float, load: LoadSample | None, idle: float | None) -> float | None:
        """Decide on one task; return the processors that are idle after that."""
        for slot in each.task.slots:  # what it has done may have come to disk only now
            if slot.surplus and slot.phase is Phase.READY and not slot.leases:
                self._pool.timeout_watchdog.check_lifespan(slot)
        decision: ScalingDecision | None = None
        if each.lost:
            decision = each.scaler.lose(each.lost, now, f"a further one could not start: {each.loss_reason}")
            each.lost = 0
        elif load is not None:
            decision = each.scaler.decide(load)
        if decision is None:
            return idle
        self._carry_out(each, decision, now)
        if idle is None or load is None:
            return idle
        return max(0.0, idle - max(0, decision.number - decision.before) * load.times.computing_share)

    def _carry_out(self, each: _ScaledTask, decision: ScalingDecision, now: float) -> None:
        """Change the number of a task's workers, and tell."""
        resize_task(self._pool, each.task, decision.number, now)
        what = (each.task.name, decision.number, decision.before, decision.why)
        self._state.emit(events.WorkersChanged(now, *what))

    def _sample_load(self, each: _ScaledTask, now: float, idle: float | None) -> LoadSample | None:
        """Return what was seen of a task since it was looked at last; None: no worker was ready."""
        task, config = each.task, each.task.plan.config
        if not each.spent:  # of a run that goes on, it may have begun with more than the least number
            each.scaler.number = task.worker_count
        interval, each.looked_at = now - each.looked_at, now
        worked, waited, hindered = self._time_spent(each, now)
        ready = worked + waited + hindered
        times = self._item_times(each)
        if ready <= 0:
            return None
        free, available = waited / ready, self._state.ledger.available_items(task.name)
        least = config.batch.items if config.batch is not None else 1
        is_full, hindered_share = self._dispatcher.free_room(task)[1], hindered / ready
        if task.is_async:  # one item keeps a worker at work, and leaves it free for others
            free = max(free, 1.0 - self._occupancy(task))
        return LoadSample(
            now,
            free=free,
            hindered=hindered_share,
            has_backlog=available >= least and not is_full,
            unready=sum(slot.phase in (Phase.WAITING, Phase.STARTING) and not slot.surplus for slot in task.slots),
            is_whole=ready >= _WHOLE * interval * sum(slot.phase is Phase.READY for slot in task.slots),
            times=times,
            idle_cores=self._idle_cores(task, idle, worked),
            backlog=available,
        )

    def _time_spent(self, each: _ScaledTask, now: float) -> tuple[float, float, float]:
        """Return the seconds since then that its workers have worked, waited for items, and been hindered."""
        sums, is_first = (0.0, 0.0, 0.0), not each.spent
        for slot in each.task.slots:
            spent = slot.time_account.spent_until(now)
            seen = (spent.worked, spent.item, spent.room + spent.turn)
            # One that is new counts from here on; those that the run began with, from their start.
            before = (0.0, 0.0, 0.0) if is_first else each.spent.get(slot.index, seen)
            each.spent[slot.index] = seen
            sums = (sums[0] + seen[0] - before[0], sums[1] + seen[1] - before[1], sums[2] + seen[2] - before[2])
        return sums

    def _item_times(self, each: _ScaledTask) -> ItemTimes:
        """Return the times of the items that have ended since then, as their workers have told them."""
        task, count, seconds, squares = each.task, 0, 0.0, 0.0
        for key, items in task.time_histogram.items():
            if fresh := items - each.histogram.get(key, 0):
                cost = 2.0 ** ((key - 0.5) / CLASSES_PER_DOUBLING)
                count, seconds, squares = count + fresh, seconds + fresh * cost, squares + fresh * cost**2
        each.histogram = dict(task.time_histogram)
        cpu = sum(slot.time_account.cpu for slot in task.slots)
        used, each.cpu = cpu - each.cpu, cpu
        at_once = max(1.0, self._occupancy(task) * task.plan.config.concurrency) if task.is_async else 1.0
        return ItemTimes(count, seconds, squares, used, seconds / at_once)

    @staticmethod
    def _occupancy(task: TaskState) -> float:
        """Return the share of the items that may be in flight in the ready workers of an async task that are."""
        held = [len(slot.leases) for slot in task.slots if slot.phase is Phase.READY]
        most = task.plan.config.concurrency
        return sum(min(each, most) for each in held) / (most * len(held)) if held else 0.0

    def _idle_cores(self, task: TaskState, idle: float | None, worked: float) -> float:
        """Return the processors that are idle on the machine of the task's workers; inf: it is not this one."""
        if task.plan.mode == "process" and self._state.plan.settings.engine != "local":
            return inf
        if idle is None:  # where it is not known: those that this task's workers do not keep busy
            return max(0.0, self._cores - worked / worker_scaling.INTERVAL)
        return idle
