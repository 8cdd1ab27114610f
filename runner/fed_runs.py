"""Runs whose queues are fed and collected by the program that runs them: it gives items, and gets what comes out.

    feed ──▶ source `feed:QUEUE` ──▶ the tasks of the file ──▶ sink `collect:QUEUE` ──▶ list, or stream

A source for each queue that is fed and a sink for each that is collected, in threads of this process, join the tasks
of the file. Items stay Python objects on their way from and to the caller. `runner.run`, `runner.stream`,
`runner.testing` and `runner test` all feed and collect through this.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from runner.errors import RunnerError, UsageError
from runner.model import OutputPort, QueueConfig, TaskConfig
from runner.tasks import Inbox  # noqa: TC001  the form of a function is read from its annotations
from runner.text import count_with_noun, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from runner.model import Config

#: Begin the names of tasks that a caller adds to a file, which no name of a file can: a colon is not allowed there.
_FEED_PREFIX, _COLLECT_PREFIX = "feed:", "collect:"
#: A thread whose feed has ended has a few steps left to do.
_LAST_STEPS_SECONDS = 1.0
_numbers = itertools.count()
#: What the added tasks read from and write to, by a name of the run.
_CHANNELS: dict[str, Any] = {}


class FeedFailed(Exception):
    """Stands for what a feed has raised that would end its thread, so that its task fails at once."""


class _Feed:
    """The items that a caller gives for one queue, and what was raised while they were taken."""

    def __init__(self, queue: str, items: object) -> None:
        if not isinstance(items, Iterable):
            kind = "an asynchronous iterable" if hasattr(items, "__aiter__") else f"of type {type(items).__name__}"
            raise UsageError(f"the feed of queue `{queue}` is {kind}; give an iterable: a list, a generator, ...")
        self._queue, self._items = queue, items
        self.given = 0
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        #: Gets something at the end. A KeyboardInterrupt within `Thread.join` (Python 3.11, 3.12) lets a thread that
        #: goes on pass for one that has ended.
        self._ended: SimpleQueue[None] = SimpleQueue()

    def take_items(self) -> Iterator[Any]:
        """Yield the items; what they raise is kept for the caller."""
        self._thread = threading.current_thread()
        iterator = None
        try:
            iterator = iter(self._items)
            for item in iterator:
                self.given += 1
                yield item
        except GeneratorExit:  # the run wants no more: a generator is closed here, and not when it is collected
            if (close := getattr(iterator, "close", None)) is not None:
                close()
            raise
        except BaseException as error:
            self.error = error
            if isinstance(error, Exception):
                raise
            raise FeedFailed(f"{type(error).__name__}: {error}") from error
        finally:
            self._ended.put(None)

    def wait_until_ended(self, seconds: float) -> None:
        """Wait until no item is being made, if one was ever asked for."""
        if self._thread is not None:
            with contextlib.suppress(Empty):
                self._ended.put(self._ended.get(timeout=seconds))
                self._thread.join(_LAST_STEPS_SECONDS)

    def raise_error(self, failure: str, how_run_ended: str) -> None:
        """Raise what the feed has raised, with a note that names the queue; or why its task has failed, if it has."""
        items = count_with_noun(self.given, "item")
        if (error := self.error) is not None:
            error.add_note(f"raised by the feed of queue `{self._queue}` after {items}; the run: {how_run_ended}")
            raise error
        if failure:
            raise RunnerError(f"the feed of queue `{self._queue}` failed at item {self.given:,}: {failure}")


class FedQueues:
    """The file with a source for each queue that is fed and a sink for each that is collected; enter it to run that.

    `collected` are the items of each collected queue, in the order of their arrival. With `put` no item is kept there:
    it is called with each of them and its queue, and ends the sink by raising ShutDown. UsageError for a queue that
    there is not, or that tasks share.
    """

    def __init__(
        self,
        config: Config,
        feed: Mapping[str, Iterable[Any]],
        collect: Collection[str],
        put: Callable[[str, Any], None] | None = None,
    ) -> None:
        self.collected: dict[str, list[Any]] = {queue: [] for queue in collect}
        key = str(next(_numbers))
        self._feeds = {queue: _Feed(queue, items) for queue, items in feed.items()}
        self._channels: dict[str, Any] = {f"{key}-{_FEED_PREFIX}{queue}": one for queue, one in self._feeds.items()}
        self._channels |= {
            f"{key}-{_COLLECT_PREFIX}{queue}": found.append if put is None else _bound_put(put, queue)
            for queue, found in self.collected.items()
        }
        self.config = _with_feeds_and_sinks(config, feed, self.collected, key)

    def __enter__(self) -> FedQueues:
        _CHANNELS.update(self._channels)
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            del _CHANNELS[channel]

    def raise_feed_error(self, failures: Mapping[str, str], how_run_ended: str) -> None:
        """Raise what a feed has raised, if one has, or why it failed: `failures` of tasks, by name."""
        for queue, feed in self._feeds.items():
            feed.raise_error(failures.get(_FEED_PREFIX + queue, ""), how_run_ended)

    def wait_for_feeds(self, seconds: float) -> None:
        """Wait for threads in which a feed makes its next item: they end with that, for the run is over."""
        for feed in self._feeds.values():
            feed.wait_until_ended(seconds)


def _bound_put(put: Callable[[str, Any], None], queue: str) -> Callable[[Any], None]:
    return lambda item: put(queue, item)


def is_added_task(task: str) -> bool:
    """Return True if the task is not of the file: it feeds or collects a queue."""
    return task.startswith((_FEED_PREFIX, _COLLECT_PREFIX))


def _feed_items(channel: str) -> Iterator[Any]:
    yield from _CHANNELS[channel].take_items()


def _collect_items(inbox: Inbox[Any], channel: str) -> None:
    put = _CHANNELS[channel]
    for item in inbox:
        put(item)
        del item  # else it lives until the next one comes


def _with_feeds_and_sinks(config: Config, feed: Mapping[str, Any], collect: Collection[str], key: str) -> Config:
    """Return the file with a source for each queue that is fed and a sink for each that is collected."""
    for queue in (*feed, *collect):
        if queue not in config.queues:
            near = did_you_mean(str(queue), config.queues)
            known = ", ".join(config.queues) or "none"
            raise UsageError(f"unknown queue `{queue}` in {config.file}; {near or f'queues: {known}'}")
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
        tasks[_COLLECT_PREFIX + queue] = _added_task(_COLLECT_PREFIX + queue, "_collect_items", key, inputs=(queue,))
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
