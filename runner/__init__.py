"""Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.

What a plugin needs is here, and stays light: nothing is imported before it is asked for.

>>> from runner import task, Reject
>>> @task
... def double(item: int) -> int:
...     return 2 * item
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from runner.errors import Reject, Retry, ShutDown
    from runner.hookspecs import WorkerInfo, hookimpl
    from runner.tasks import Context, DeadLetter, Inbox, Outbox, TaskFunction, To, task

_HOMES = {
    "Context": "runner.tasks",
    "DeadLetter": "runner.tasks",
    "Inbox": "runner.tasks",
    "Outbox": "runner.tasks",
    "Reject": "runner.errors",
    "Retry": "runner.errors",
    "ShutDown": "runner.errors",
    "TaskFunction": "runner.tasks",
    "To": "runner.tasks",
    "WorkerInfo": "runner.hookspecs",
    "hookimpl": "runner.hookspecs",
    "task": "runner.tasks",
}

__all__ = [
    "Context",
    "DeadLetter",
    "Inbox",
    "Outbox",
    "Reject",
    "Retry",
    "ShutDown",
    "TaskFunction",
    "To",
    "WorkerInfo",
    "__version__",
    "hookimpl",
    "task",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'runner' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
