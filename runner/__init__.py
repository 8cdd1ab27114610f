"""Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.

What a plugin needs is here, and stays light: nothing is imported before it is asked for.

>>> from runner import task, Reject
>>> @task
... def double(item: int) -> int:
...     return 2 * item
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it without an import: `python -m runner` must not begin with one
if TYPE_CHECKING:
    from typing import Any

    from runner.api import Interrupted, Result, TaskResult, load, run
    from runner.errors import ConfigError, PluginError, Reject, Retry, RunnerError, ShutDown
    from runner.hookspecs import WorkerInfo, hookimpl
    from runner.model import Config
    from runner.problems import Problem
    from runner.streamed_runs import Stream, stream
    from runner.tasks import Context, DeadLetter, Inbox, Outbox, TaskFunction, To, task
    from runner.version import __version__

_HOMES = {
    "runner.api": "Interrupted Result TaskResult load run",
    "runner.errors": "ConfigError PluginError Reject Retry RunnerError ShutDown",
    "runner.hookspecs": "WorkerInfo hookimpl",
    "runner.model": "Config",
    "runner.problems": "Problem",
    "runner.streamed_runs": "Stream stream",
    "runner.tasks": "Context DeadLetter Inbox Outbox TaskFunction To task",
    "runner.version": "__version__",
}

__all__ = [
    "Config",
    "ConfigError",
    "Context",
    "DeadLetter",
    "Inbox",
    "Interrupted",
    "Outbox",
    "PluginError",
    "Problem",
    "Reject",
    "Result",
    "Retry",
    "RunnerError",
    "ShutDown",
    "Stream",
    "TaskFunction",
    "TaskResult",
    "To",
    "WorkerInfo",
    "__version__",
    "hookimpl",
    "load",
    "run",
    "stream",
    "task",
]


if not TYPE_CHECKING:  # else type checkers would believe that every name exists

    def __getattr__(name: str) -> Any:
        home = next((module for module, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module 'runner' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
