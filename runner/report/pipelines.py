"""A run's tasks as pipelines: those that queues connect, when they were at work, and how much of it they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.events import QueuePlanned, QueueSummary, TaskPlanned, TaskSummary, WorkerNow
    from runner.report.record import RunRecord


@dataclass(frozen=True, slots=True)
class TaskLoad:
    """One task's work; `work_seconds` and `cpu_seconds` are of all its workers together.

    `begin` is when its first worker was ready, `end` when it was over, in seconds since the run began. `had_backlog`:
    items have waited for it. `has_lanes`: items of one lane wait for each other.
    """

    plan: TaskPlanned
    summary: TaskSummary
    begin: float
    end: float
    work_seconds: float
    cpu_seconds: float
    had_backlog: bool
    has_lanes: bool

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.plan.name

    @property
    def worker_count(self) -> int:
        """Return the number of its workers."""
        return max(1, len(self.summary.workers))

    @property
    def suggested_workers(self) -> int:
        """Return a larger number of workers: one more, or a quarter where one would hardly be seen."""
        return self.worker_count + max(1, self.worker_count // 4)

    @property
    def is_source(self) -> bool:
        """Return True if it has no inputs."""
        return not self.plan.inputs

    @property
    def can_use_more(self) -> bool:
        """Return True if that many workers can have an item at the same time."""
        return not self.is_source and not self.has_lanes and self.item_count >= 4 * self.suggested_workers

    @property
    def item_count(self) -> int:
        """Return the number of items it took, or made."""
        return self.summary.sent if self.is_source else self.summary.taken

    def _share_of_time(self, seconds: float, end: float) -> float:
        return seconds / (end - self.begin) if end > self.begin else 0.0

    def busy_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they executed or encoded."""
        return self._share_of_time(self.work_seconds, end) / self.worker_count

    def computing_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they used a processor."""
        return self._share_of_time(self.cpu_seconds, end) / self.worker_count

    def rate_share(self, end: float) -> float:
        """Return its items as a share of what its `rate` allows."""
        return self._share_of_time(self.item_count / (self.plan.rate or 1.0), end)

    def concurrency_share(self, end: float) -> float:
        """Return the mean of items in flight as a share of `concurrency` (Little's law: rate × time per item)."""
        seconds = sum(edge * count for edge, count in self.summary.times)
        return self._share_of_time(seconds, end) / (self.worker_count * (self.plan.concurrency or 1))

    def share_within(self, other: Pipeline) -> float:
        """Return the share of its time that falls into the other pipeline's."""
        both = min(self.end, other.end) - max(self.begin, other.begin)
        return max(0.0, both) / (self.end - self.begin) if self.end > self.begin else 0.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Tasks that queues connect. `is_phased`: some of them start only when others of them have ended."""

    task_loads: tuple[TaskLoad, ...]
    is_phased: bool

    @property
    def begin(self) -> float:
        """Return the time at which the first of them was ready."""
        return min(load.begin for load in self.task_loads)

    @property
    def end(self) -> float:
        """Return the time at which the last of them was over."""
        return max(load.end for load in self.task_loads)

    @property
    def seconds(self) -> float:
        """Return the time between the two."""
        return self.end - self.begin

    @property
    def is_single_task(self) -> bool:
        """Return True if it is one task without queues."""
        return len(self.task_loads) == 1


def other_programs_share(record: RunRecord) -> float:
    """Return the share of the processors' time that other programs took, 0 to 1; 0 where it is unknown.

    Processes that start are taken to compute: what they and the fork server import is in nobody's account.
    """
    if record.idle is None:
        return 0.0
    starting = sum(worker.spent.starting for worker in _workers_in_mode(record, "process"))
    ours = record.cpu + _cpu_seconds(record, "process") + starting
    return max(0.0, 1 - record.idle - ours / (max(1, record.plan.machine.cores) * record.seconds))


def supervisor_share(record: RunRecord) -> float:
    """Return how much of a core runner itself took: the supervisor and the printer."""
    return max(0.0, record.cpu - _cpu_seconds(record, "thread")) / record.seconds


def _cpu_seconds(record: RunRecord, mode: str) -> float:
    return sum(worker.cpu for worker in _workers_in_mode(record, mode))


def _workers_in_mode(record: RunRecord, mode: str) -> list[WorkerNow]:
    names = {plan.name for plan in record.plan.tasks if plan.mode == mode}
    return [worker for task in record.tasks if task.name in names for worker in task.workers]


def find_pipelines(record: RunRecord) -> list[Pipeline]:
    """Return the pipelines of a run, without tasks that never started."""
    queues = {queue.name: queue for queue in record.plan.queues}
    ends = {queue.name: queue for queue in record.queues}
    summaries = {task.name: task for task in record.tasks if task.workers and task.active > 0}
    plans = {plan.name: plan for plan in record.plan.tasks if plan.name in summaries}
    loads = {name: _measure_load(plan, summaries[name], record.seconds, queues, ends) for name, plan in plans.items()}
    found = []
    owner: dict[str, str] = {}
    pairs = [
        (owner.setdefault(queue, name), name)
        for name, plan in plans.items()
        for queue in (*plan.inputs, *plan.outputs, plan.dead)
        if queue
    ]
    for names in connected_groups(plans, pairs):
        phased = any(other in names for name in names for other in plans[name].after)
        found.append(Pipeline(tuple(loads[name] for name in names), phased))
    return found


def _measure_load(
    plan: TaskPlanned,
    summary: TaskSummary,
    seconds: float,
    queues: dict[str, QueuePlanned],
    ends: dict[str, QueueSummary],
) -> TaskLoad:
    after = min(worker.spent.ended for worker in summary.workers)
    start = max(0.0, seconds - summary.active - after)
    queued = False
    for name in plan.inputs:
        bound = queues[name].size if name in queues else None
        queued = queued or (name in ends and ends[name].most >= min(2, bound or 2))
    return TaskLoad(
        plan,
        summary,
        begin=start + min(worker.spent.starting for worker in summary.workers),
        end=start + summary.active,
        work_seconds=sum(worker.spent.worked for worker in summary.workers),
        cpu_seconds=sum(_computing_seconds(worker) for worker in summary.workers),
        had_backlog=queued,
        has_lanes=any(queues[name].lane for name in plan.inputs if name in queues),
    )


def _computing_seconds(worker: WorkerNow) -> float:
    """Return the processor time of a worker without what its start has taken."""
    busy = worker.spent.worked
    return worker.cpu if worker.cpu <= busy else max(busy, worker.cpu - worker.spent.starting)


def connected_groups(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the names by what connects them, each group in their order.

    >>> connected_groups("abcd", [("a", "c"), ("d", "c")])
    [['a', 'c', 'd'], ['b']]
    """
    group = {name: name for name in names}
    for one, other in pairs:
        mine, theirs = group[one], group[other]
        if mine != theirs:
            group = {name: mine if head == theirs else head for name, head in group.items()}
    return [[name for name in group if group[name] == head] for head in dict.fromkeys(group.values())]
