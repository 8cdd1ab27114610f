"""The text of `runner run --dry-run`: all that would be started."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner.config.resolved import to_toml, visible_value
from runner.text import format_table

if TYPE_CHECKING:
    from runner.model import Config
    from runner.supervisor import Plan, TaskPlan

_MOST_NAMES = 8


def describe_plan(config: Config, plan: Plan) -> list[str]:
    """Return every task with its function, workers and arguments; secrets stay references."""
    counts: Counter[str] = Counter()
    for task in plan.tasks.values():
        counts[task.mode] += task.config.workers.count
    kinds = {"thread": ("thread", "threads"), "process": ("process", "processes")}
    workers = " and ".join(f"{count} {kinds[mode][count != 1]}" for mode, count in counts.items())
    tasks, queues = len(plan.tasks), len(plan.queues)
    head = f"{tasks} task{'s' * (tasks != 1)}, {queues} queue{'s' * (queues != 1)}, {workers}. Nothing was started."
    rows = [_task_row(config, task) for task in plan.tasks.values()]
    skipped = [f"not enabled: {task.name}" for task in config.tasks.values() if not task.enabled]
    return [f"{plan.title}: {head}", "", *format_table(rows), *skipped]


def _task_row(config: Config, plan: TaskPlan) -> tuple[str, ...]:
    task = plan.config
    names = task.workers.names
    shown = ", ".join(names[:_MOST_NAMES]) + (f", ... {len(names)} in all" if len(names) > _MOST_NAMES else "")
    way = f"{', '.join(task.inputs)} -> {', '.join(task.outputs)}".strip() if task.inputs or task.outputs else ""
    when = [f"after {name}" + (f" has {state}" if state != "ok" else "") for name, state in task.after.items()]
    notes = [way] * bool(way) + when + ([f"dead letters to {task.dead}"] if task.dead else [])
    module = plan.reference.path or plan.reference.module
    return (
        task.name,
        f"{plan.mode}: {shown}",
        f"{plan.reference.qualname}({_written_arguments(config, task.name)})",
        f"of {module}",
        "; ".join(notes),
    )


def _written_arguments(config: Config, task: str) -> str:
    path = ("tasks", task)
    filled = config.filled_tables.get("tasks", {}).get(task, {})
    args = visible_value(config, filled.get("args", []), (*path, "args"))
    kwargs = visible_value(config, filled.get("with", {}), (*path, "with"))
    listed = map(to_toml, args) if isinstance(args, list) else [f"*{args}"]
    return ", ".join([*listed, *(f"{name}={to_toml(value)}" for name, value in kwargs.items())])
