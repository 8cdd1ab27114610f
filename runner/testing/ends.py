"""The ends that a test adds to a file: sources that feed its queues, and sinks that collect from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.model import OutputPort, QueueConfig, TaskConfig, Workers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from runner.model import Config

#: Begin the names of tasks that a test adds to a file; what they do is left out of what it gets to see.
FEED_PREFIX, COLLECT_PREFIX = "feed-", "collect-"
#: What the tasks that a test adds read from and write to, by a name of the run.
CHANNELS: dict[str, Any] = {}


def _feed_items(channel: str) -> Iterator[Any]:
    yield from CHANNELS[channel]


def _collect_item(item: Any, channel: str) -> None:
    CHANNELS[channel].append(item)


def with_deadline(config: Config, timeout: float) -> Config:
    """Return the file with a limit of time, unless it has one."""
    if config.run.deadline is not None:
        return config
    return replace(config, run=replace(config.run, deadline=timeout, grace=min(config.run.grace, 2.0)))


def with_feeds_and_sinks(config: Config, feed: Mapping[str, Any], collect: Collection[str], key: str) -> Config:
    """Return the file with a source for each queue that is fed and a sink for each that is collected."""
    for queue in (*feed, *collect):
        if queue not in config.queues:
            known = ", ".join(config.queues) or "none"
            raise UsageError(f"unknown queue `{queue}` in {config.file}; queues: {known}")
    tasks = dict(config.tasks)
    for name, task in tasks.items():
        if task.enabled and not task.inputs and task.outputs and all(queue in feed for queue in task.outputs):
            tasks[name] = replace(task, enabled=False)
    queues = {name: _copied_queue(config, queue) if name in collect else queue for name, queue in config.queues.items()}
    for queue in feed:
        tasks[FEED_PREFIX + queue] = _test_task(
            FEED_PREFIX + queue, "_feed_items", key, ports=(OutputPort("default", (queue,)),), on_error="fail"
        )
    for queue in collect:
        tasks[COLLECT_PREFIX + queue] = _test_task(COLLECT_PREFIX + queue, "_collect_item", key, inputs=(queue,))
    return replace(config, tasks=tasks, queues=queues)


def _copied_queue(config: Config, queue: QueueConfig) -> QueueConfig:
    readers = [task.name for task in config.tasks.values() if task.enabled and queue.name in task.inputs]
    if len(readers) > 1 and queue.fanout == "share":
        both = " and ".join(f"`{reader}`" for reader in readers)
        raise UsageError(f"queue `{queue.name}` is shared by {both}, so it cannot be collected; skip one of them")
    return replace(queue, fanout="copy") if readers else queue


def _test_task(name: str, function: str, key: str, **more: Any) -> TaskConfig:
    channel = {"channel": f"{key}-{name}"}
    return TaskConfig(
        name, f"{__name__}:{function}", kwargs=channel, mode="thread", workers=Workers(1, 1, (name,)), **more
    )


def is_test_task(task: str) -> bool:
    """Return True for a task that a test has added."""
    return task.startswith((FEED_PREFIX, COLLECT_PREFIX))
