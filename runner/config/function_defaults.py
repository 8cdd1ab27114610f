"""Options that a function declares: `@task(mode="thread")` is a key of its task's table, below the file's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.diagnostics import Diagnostics
from runner.config.reader import Reader
from runner.config.source_map import SourceMap
from runner.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.model import Config, TaskConfig
    from runner.problems import Location


def is_set_in_file(config: Config, task: str, key: str) -> bool:
    """Return True if the file has this key of a task, in its own table or for all tasks."""
    tables = (config.filled_tables.get("tasks", {}).get(task), config.filled_tables.get("defaults", {}).get("task"))
    return any(isinstance(table, dict) and key in table for table in tables)


def apply_declared_options(
    config: Config, name: str, options: Mapping[str, Any], where: str, place: Location
) -> tuple[TaskConfig, list[Problem]]:
    """Return the task with what its function declares at `where`; problems stand at `place`, which calls it."""
    task = config.tasks[name]
    if not options:
        return task, []
    report = Diagnostics(SourceMap(config.file, ""))
    reader = Reader(report, config.queues, config.tasks)
    owner = f"the declaration at {where}"
    made = reader.convert_table(dict(options), grammar.TASK_DEFAULTS, ("defaults", "task"), owner)
    found = [Problem("E309", each.message, place, hint=each.hint) for each in report.problems]
    keys = {key: value for key, value in made.items() if not is_set_in_file(config, name, key)}
    if callable(keys.get("workers")):
        keys["workers"] = keys["workers"](name)
    return replace(task, **keys), found
