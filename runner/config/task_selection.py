"""Only some tasks of a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.problems import quote_name
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection

    from runner.model import Config


def select_tasks(config: Config, only: Collection[str] | None, skip: Collection[str] | None) -> Config:
    """Return the file with only some of its tasks enabled: `--task` and `--skip`; UsageError for unknown names."""
    for word in (*(only or ()), *(skip or ())):
        if word not in config.tasks:
            raise UsageError(f"unknown task {quote_name(word)}; {did_you_mean(word, config.tasks)}".rstrip("; "))
    wanted = {word for word in config.tasks if (not only or word in only) and word not in (skip or ())}
    if len(wanted) == len(config.tasks):
        return config
    tasks = {word: replace(task, enabled=task.enabled and word in wanted) for word, task in config.tasks.items()}
    return replace(config, tasks=tasks)
