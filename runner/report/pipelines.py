"""A run's tasks as pipelines: those that queues connect, when they were at work, and how much of it they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.events import TaskPlanned, TaskSummary, WorkerNow
    from runner.report.record import RunRecord


class TaskLoad:
    """One task's work; `work_seconds`, `cpu_seconds` and `item_seconds` are of all its workers together.

    `begin` is when its first worker was ready, `end` when it was over, in seconds since the run began. `had_backlog`:
    items have waited for it. `item_count`: items it took, or made. `suggested_workers`: one worker more, or a quarter
    more where one would hardly be seen. `can_use_more`: that many workers can have an item at the same time.
    """

    def __init__(self, plan: TaskPlanned, summary: TaskSummary, record: RunRecord) -> None:
        spent = [worker.spent for worker in summary.workers]
        start = max(0.0, record.seconds - summary.active - min(each.ended for each in spent))
        inputs = [queue for queue in record.plan.queues if queue.name in plan.inputs]
        most = {queue.name: queue.most for queue in record.queues}
        self.plan = plan
        self.name = plan.name
        self.is_source = not plan.inputs
        self.begin = start + min(each.starting for each in spent)
        self.end = start + summary.active
        self.work_seconds = sum(each.worked for each in spent)
        # Without what their starts have taken.
        computing = [(each.cpu, each.spent.worked, each.spent.starting) for each in summary.workers]
        self.cpu_seconds = sum(min(cpu, max(worked, cpu - starting)) for cpu, worked, starting in computing)
        self.item_seconds = sum(edge * count for edge, count in summary.times)
        self.item_count = summary.sent if self.is_source else summary.taken
        self.had_backlog = any(most.get(queue.name, 0) >= min(2, queue.size or 2) for queue in inputs)
        self.worker_count = len(summary.workers)
        self.suggested_workers = self.worker_count + max(1, self.worker_count // 4)
        has_lanes = any(queue.lane for queue in inputs)
        self.can_use_more = not self.is_source and not has_lanes and self.item_count >= 4 * self.suggested_workers

    def share_until(self, end: float, seconds: float) -> float:
        """Return these seconds as a share of the time from its begin until `end`."""
        return seconds / (end - self.begin) if end > self.begin else 0.0

    def busy_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they executed or encoded."""
        return self.share_until(end, self.work_seconds) / self.worker_count

    def computing_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they used a processor."""
        return self.share_until(end, self.cpu_seconds) / self.worker_count

    def share_within(self, other: Pipeline) -> float:
        """Return the share of its time that falls into the other pipeline's."""
        both = min(self.end, other.end) - max(self.begin, other.begin)
        return self.share_until(self.end, max(0.0, both))


class Pipeline:
    """Tasks that queues connect. `is_phased`: some of them start only when others of them have ended.

    It begins when the first of them is ready, and ends when the last of them is over.
    """

    def __init__(self, task_loads: list[TaskLoad]) -> None:
        names = {load.name for load in task_loads}
        self.task_loads = task_loads
        self.is_phased = any(other in names for load in task_loads for other in load.plan.after)
        self.begin = min(load.begin for load in task_loads)
        self.end = max(load.end for load in task_loads)
        self.seconds = self.end - self.begin


def other_programs_share(record: RunRecord) -> float:
    """Return the share of the processors' time that other programs took, 0 to 1; 0 where it is unknown.

    Processes that start are taken to compute: what they and the fork server import is in nobody's account.
    """
    if record.idle is None:
        return 0.0
    ours = record.cpu + sum(worker.cpu + worker.spent.starting for worker in _workers_in_mode(record, "process"))
    return max(0.0, 1 - record.idle - ours / (max(1, record.plan.machine.cores) * record.seconds))


def supervisor_share(record: RunRecord) -> float:
    """Return how much of a core runner itself took: the supervisor and the printer."""
    return max(0.0, record.cpu - sum(worker.cpu for worker in _workers_in_mode(record, "thread"))) / record.seconds


def _workers_in_mode(record: RunRecord, mode: str) -> list[WorkerNow]:
    names = {plan.name for plan in record.plan.tasks if plan.mode == mode}
    return [worker for task in record.tasks if task.name in names for worker in task.workers]


def find_pipelines(record: RunRecord) -> list[Pipeline]:
    """Return the pipelines of a run, without tasks that never started."""
    summaries = {task.name: task for task in record.tasks if task.workers and task.active > 0}
    plans = [plan for plan in record.plan.tasks if plan.name in summaries]
    loads = {plan.name: TaskLoad(plan, summaries[plan.name], record) for plan in plans}
    owner: dict[str, str] = {}
    pairs = [
        (owner.setdefault(queue, plan.name), plan.name)
        for plan in plans
        for queue in (*plan.inputs, *plan.outputs, plan.dead)
        if queue
    ]
    return [Pipeline([loads[name] for name in names]) for names in connected_groups(loads, pairs)]


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
