"""Changes of a file from outside: `--set`, options that a function declares, `--task` and `--skip`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.reader import Reader
from runner.config.source_map import SourceMap
from runner.config.toml import parse_value
from runner.errors import UsageError
from runner.problems import Problem, quote_name
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from runner.model import Config, TaskConfig
    from runner.problems import Location


def apply_overrides(raw: dict[str, Any], sets: Sequence[tuple[str, str]], reader: Reader) -> None:
    """Set the values in `raw`; their locations are the options themselves."""
    for word, text in sets:
        path = tuple(word.split("."))
        option = f"--set {clean_text(word, 60)}"
        if not all(path) or len(path) > 16:
            reader.source_map.given[(option,)] = option
            reader.add_problem("E110", f"{quote_name(word)} is not a path such as `tasks.bake.workers`", (option,))
            continue
        reader.source_map.given[path] = option
        table: Any = raw
        for end, part in enumerate(path[:-1], 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                message = f"{quote_name('.'.join(path[:end]))} is not a table, so it has no key {quote_name(path[end])}"
                reader.add_problem("E110", message, path)
                break
        else:
            made, declared = parse_value(text), table.get(path[-1])
            if path[0] == "params" and len(path) == 2 and isinstance(declared, dict) and not isinstance(made, dict):
                declared.pop("required", None)  # a param keeps its type, bounds and secrecy
                declared["default"] = made
            else:
                table[path[-1]] = made


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
    reader = Reader(SourceMap(config.file, ""))
    reader.names = {"queue": config.queues, "task": config.tasks}
    owner = f"the declaration at {where}"
    made = reader.convert_table(dict(options), grammar.TASK_DEFAULTS, ("defaults", "task"), owner)
    found = [Problem("E309", each.message, place, hint=each.hint) for each in reader.problems]
    keys = {key: value for key, value in made.items() if not is_set_in_file(config, name, key)}
    if "workers" in keys:
        keys["workers"] = keys["workers"](name)
    return replace(task, **keys), found


def select_tasks(config: Config, only: Collection[str] | None, skip: Collection[str] | None) -> Config:
    """Return the file with only some of its tasks enabled: `--task` and `--skip`; UsageError for unknown names."""
    for word in (*(only or ()), *(skip or ())):
        if word not in config.tasks:
            raise UsageError(f"unknown task {quote_name(word)}; {did_you_mean(word, config.tasks)}".rstrip("; "))
    wanted = {word for word in config.tasks if (not only or word in only) and word not in (skip or ())}
    if len(wanted) == len(config.tasks):
        return config
    tasks = {word: replace(task, enabled=task.enabled and word in wanted) for word, task in config.tasks.items()}
    given = replace(config.given, only=tuple(only or ()), skip=tuple(skip or ()))
    return replace(config, tasks=tasks, given=given)
