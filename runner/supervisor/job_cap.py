"""`run -j N`: at most N worker processes execute items at the same time, on a machine that has other things to do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.config.value_types import named_workers
from runner.supervisor.plan import describe_tasks

if TYPE_CHECKING:
    from runner.model import Config, TaskConfig
    from runner.supervisor.plan import Plan


def cap_jobs(plan: Plan, config: Config, jobs: int) -> Plan:
    """Return the plan with at most `jobs` processes for the tasks that have inputs, and at least one for each of them.

    `workers = "auto"` is `jobs` workers, and of a range the most counts. A task without inputs keeps its workers: it
    runs once in each of them, so with fewer it would do something else.
    """
    workers = {task.name: task.config.workers for task in plan.tasks.values() if task.config.inputs}
    for name in workers:
        if _is_automatic(config, name):
            workers[name] = named_workers(name, jobs)
    counts = {name: len(workers[name]) for name in workers if plan.tasks[name].mode == "process"}
    while sum(counts.values()) > max(jobs, len(counts)):
        counts[max(counts, key=counts.__getitem__)] -= 1
    for name, count in counts.items():
        workers[name] = workers[name][:count]
    tasks = {
        name: replace(task, config=_with_workers(task.config, workers[name])) if name in workers else task
        for name, task in plan.tasks.items()
    }
    return replace(plan, tasks=tasks, description=replace(plan.description, tasks=describe_tasks(tasks)))


def _with_workers(task: TaskConfig, workers: tuple[str, ...]) -> TaskConfig:
    least = task.least_workers if task.least_workers < len(workers) else 0  # else no range is left of it
    return replace(task, workers=workers, least_workers=least, auto_workers=False)


def _is_automatic(config: Config, name: str) -> bool:
    own = config.filled_tables.get("tasks", {}).get(name, {})
    shared = config.filled_tables.get("defaults", {}).get("task", {})
    return {**shared, **own}.get("workers") == "auto"
