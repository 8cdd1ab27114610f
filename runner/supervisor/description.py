"""Description of a run for events and records: the file as it was resolved, its tasks and queues, and the machine."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from runner.config import resolved
from runner.config.value_types import usable_cores
from runner.events import Machine, QueuePlanned, RunPlan, TaskPlanned
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.model import Config, QueueConfig
    from runner.supervisor.plan import TaskPlan


def describe_run(config: Config, tasks: Mapping[str, TaskPlan], queues: Iterable[QueueConfig]) -> RunPlan:
    """The plan of a run in words and numbers; secrets are hidden, as `runner show` hides them."""
    letters = {task.config.dead for task in tasks.values()}
    return RunPlan(
        file=str(config.file),
        resolved=resolved.render_resolved(config),
        tasks=tuple(_task(task) for task in tasks.values()),
        queues=tuple(_queue(queue, letters=queue.name in letters) for queue in queues),
        machine=this_machine(),
    )


def _task(task: TaskPlan) -> TaskPlanned:
    config = task.config
    return TaskPlanned(
        name=config.name,
        call=config.call,
        mode=task.mode,
        workers=config.workers.names,
        inputs=config.inputs,
        outputs=config.outputs,
        dead=config.dead or "",
        after=tuple(config.after),
        rate=None if config.rate is None else config.rate.count / config.rate.period,
        concurrency=config.concurrency if task.is_async else None,
        batch=None if config.batch is None else config.batch.items,
        ordered=config.ordered,
        help=config.help,
    )


def _queue(queue: QueueConfig, *, letters: bool) -> QueuePlanned:
    bound = None if queue.loop or queue.elastic else queue.size
    return QueuePlanned(queue.name, bound, queue.bytes, queue.fanout or "", queue.loop, letters, queue.lane or "")


def this_machine() -> Machine:
    """This machine, as far as it may be used.

    >>> this_machine().cores > 0
    True
    """
    return Machine(_system(), platform.python_version(), __version__, usable_cores(), _memory())


def _system() -> str:
    if not hasattr(os, "uname"):
        return platform.platform()  # asks other programs, which takes its time
    names = os.uname()
    return f"{names.sysname} {names.release} {names.machine}"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
