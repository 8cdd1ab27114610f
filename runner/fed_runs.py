"""Runs whose queues are fed and collected by who runs them: tests give items to a file, and look at what comes out.

A source for each queue that is fed and a sink for each that is collected, in threads of this process, join the tasks
of the file. Items stay Python objects on their way from and to the caller.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.model import OutputPort, QueueConfig, TaskConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from runner.model import Config

#: Begin the names of tasks that a caller adds to a file; what they do is left out of what it gets to see.
_FEED_PREFIX, _COLLECT_PREFIX = "feed-", "collect-"
_numbers = itertools.count()
#: What the added tasks read from and write to, by a name of the run.
_CHANNELS: dict[str, Any] = {}


class FedQueues:
    """The file with a source for each queue that is fed and a sink for each that is collected; enter it to run that.

    `collected` are the items of each collected queue, in the order of their arrival. UsageError for a queue that there
    is not, or that tasks share.
    """

    def __init__(self, config: Config, feed: Mapping[str, Iterable[Any]], collect: Collection[str]) -> None:
        self.collected: dict[str, list[Any]] = {queue: [] for queue in collect}
        key = str(next(_numbers))
        self._channels: dict[str, Any] = {f"{key}-{_FEED_PREFIX}{queue}": items for queue, items in feed.items()}
        self._channels |= {f"{key}-{_COLLECT_PREFIX}{queue}": found for queue, found in self.collected.items()}
        self.config = _with_feeds_and_sinks(config, feed, collect, key)

    def __enter__(self) -> FedQueues:
        _CHANNELS.update(self._channels)
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            del _CHANNELS[channel]


def is_added_task(task: str) -> bool:
    """Return True if the task is not of the file: it feeds or collects a queue."""
    return task.startswith((_FEED_PREFIX, _COLLECT_PREFIX))


def _feed_items(channel: str) -> Iterator[Any]:
    yield from _CHANNELS[channel]


def _collect_item(item: Any, channel: str) -> None:
    _CHANNELS[channel].append(item)


def _with_feeds_and_sinks(config: Config, feed: Mapping[str, Any], collect: Collection[str], key: str) -> Config:
    """Return the file with a source for each queue that is fed and a sink for each that is collected."""
    for queue in (*feed, *collect):
        if queue not in config.queues:
            known = ", ".join(config.queues) or "none"
            raise UsageError(f"unknown queue `{queue}` in {config.file}; queues: {known}")
    tasks = dict(config.tasks)
    for name, task in tasks.items():
        if is_replaced_source(task, feed):
            tasks[name] = replace(task, enabled=False)
    queues = {name: _copied_queue(config, queue) if name in collect else queue for name, queue in config.queues.items()}
    for queue in feed:
        tasks[_FEED_PREFIX + queue] = _added_task(
            _FEED_PREFIX + queue, "_feed_items", key, ports=(OutputPort("default", (queue,)),), on_error="fail"
        )
    for queue in collect:
        tasks[_COLLECT_PREFIX + queue] = _added_task(_COLLECT_PREFIX + queue, "_collect_item", key, inputs=(queue,))
    return replace(config, tasks=tasks, queues=queues)


def is_replaced_source(task: TaskConfig, feed: Collection[str]) -> bool:
    """Return True if the task is a source all of whose queues are fed: it does not run."""
    return task.enabled and not task.inputs and bool(task.outputs) and all(queue in feed for queue in task.outputs)


def sharing_readers(config: Config, queue: QueueConfig) -> list[str]:
    """Return the tasks that share a queue, which therefore cannot be copied; none, or two at least."""
    readers = [task.name for task in config.tasks.values() if task.enabled and queue.name in task.inputs]
    return readers if len(readers) > 1 and queue.fanout == "share" else []


def _copied_queue(config: Config, queue: QueueConfig) -> QueueConfig:
    readers = [task.name for task in config.tasks.values() if task.enabled and queue.name in task.inputs]
    if shared := sharing_readers(config, queue):
        both = " and ".join(f"`{reader}`" for reader in shared)
        raise UsageError(f"queue `{queue.name}` is shared by {both}, so it cannot be collected; skip one of them")
    return replace(queue, fanout="copy") if readers else queue


def _added_task(name: str, function: str, key: str, **more: Any) -> TaskConfig:
    channel = {"channel": f"{key}-{name}"}
    return TaskConfig(name, f"{__name__}:{function}", kwargs=channel, mode="thread", workers=(name,), **more)
