"""A run under test, and what it has done: the file with the sources and sinks that the test adds to it, in a thread."""

from __future__ import annotations

import io
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import api
from runner.engines.engine_events import SignalReceived
from runner.engines.reactor import LocalReactor
from runner.errors import UsageError
from runner.model import OutputPort, QueueConfig, TaskConfig, Workers
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from runner.api import Result
    from runner.events import Event
    from runner.ledger import Balance
    from runner.model import Config
    from runner.supervisor import Plan
    from runner.tasks import DeadLetter

#: Begin the names of tasks that a test adds to a file; what they do is left out of what it gets to see.
_FEED_PREFIX, _COLLECT_PREFIX = "feed-", "collect-"
#: What the tasks that a test adds read from and write to, by a name of the run.
_CHANNELS: dict[str, Any] = {}


@dataclass(frozen=True)
class Run:
    """A run that has ended: its result, its events, its output, and the items that were collected.

    `outputs` are the items of each collected queue (of `run_task`: of each port), in the order of their arrival.
    `out` and `err` are what went to standard output and error.
    """

    result: Result
    outputs: dict[str, list[Any]]
    events: list[Event]
    out: str
    err: str

    @property
    def balance(self) -> Balance:
        """The counts of items read, done, dead, dropped and left."""
        return self.result.headline

    @property
    def printed(self) -> list[str]:
        """The lines that tasks have printed, without their workers' names."""
        return [line.partition(" | ")[2] for line in self.out.splitlines()]

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(frozen=True)
class TaskRun(Run):
    """A run of one task function. `dead` are the items it gave up, each with its error."""

    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def items(self) -> list[Any]:
        """The outputs of the default port."""
        return self.outputs.get("default", [])

    @property
    def returned(self) -> Any:
        """The value that a function without items has returned."""
        return next((task.result for task in self.result.tasks.values()), None)


class Running:
    """A run under way, in a thread of its own. `change` may alter its plan."""

    def __init__(
        self,
        config: Config,
        feed: Mapping[str, Iterable[Any]],
        collect: Collection[str],
        timeout: float,
        change: Callable[[Plan], Plan] | None = None,
    ) -> None:
        self._collected: dict[str, list[Any]] = {queue: [] for queue in collect}
        key = f"{id(self):x}"
        self._channels: dict[str, Any] = {f"{key}-{_FEED_PREFIX}{queue}": items for queue, items in feed.items()}
        self._channels |= {f"{key}-{_COLLECT_PREFIX}{queue}": found for queue, found in self._collected.items()}
        self._timeout = timeout if config.run.deadline is None else None
        if self._timeout is not None:
            config = replace(config, run=replace(config.run, deadline=timeout, grace=min(config.run.grace, 2.0)))
        changed = _with_feeds_and_sinks(config, feed, collect, key)
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._over = False
        self._outcome: Run | BaseException | None = None
        self._reactor = LocalReactor()
        self._thread = threading.Thread(
            target=self._run_in_thread, args=(changed, change), name="runner-test", daemon=True
        )
        self._thread.start()

    @property
    def events(self) -> list[Event]:
        """The events until now."""
        with self._changed:
            return list(self._events)

    def wait_for(self, predicate: Callable[[Event], bool], timeout: float = 10.0) -> Any:
        """Return the run's first event of which `predicate` is true, past or to come; TimeoutError when none comes."""

        def found() -> bool:
            return self._over or any(map(predicate, self._events))

        with self._changed:
            self._changed.wait_for(found, timeout)
            event = next(filter(predicate, self._events), None)
            seen = ", ".join(dict.fromkeys(type(one).__name__ for one in self._events)) or "none"
        if event is None:
            when = "in the whole run" if self._over else f"within {timeout} s"
            raise TimeoutError(f"no such event {when}; seen: {seen}")
        return event

    def interrupt(self) -> None:
        """Stop the run as Ctrl-C does: sources stop, what is queued drains; the second time everything ends at once."""
        with self._changed:
            if not self._over:
                self._reactor.post_event(SignalReceived(signal.SIGINT))

    def finish(self) -> Run:
        """Wait for the end; ConfigError when the file is wrong, TimeoutError when it took too long."""
        self._thread.join()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _run_in_thread(self, config: Config, change: Callable[[Plan], Plan] | None) -> None:
        try:
            self._outcome = self._perform(config, change)
        except BaseException as error:  # noqa: BLE001  raised again by `finish`
            self._outcome = error
        finally:
            with self._changed:
                self._reactor.close()
                self._over = True
                self._changed.notify_all()

    def _perform(self, config: Config, change: Callable[[Plan], Plan] | None) -> Run:
        from runner.runs import OutputOptions

        out, err = io.StringIO(), io.StringIO()
        path = list(sys.path)
        _CHANNELS.update(self._channels)
        try:
            with api.only_run(), api.writable_descriptor(out) as one, api.writable_descriptor(err) as two:
                options = OutputOptions(one, two, keep_record=False, on_event=self._record_event)
                result = api.run_config(config, options, reactor=self._reactor, change=change)
        finally:
            sys.path[:] = path
            for channel in self._channels:
                del _CHANNELS[channel]
        if result.exit_code == 124 and self._timeout is not None:
            raise TimeoutError(f"the run has not ended within {self._timeout} s\n{out.getvalue()}{err.getvalue()}")
        tasks = {name: task for name, task in result.tasks.items() if not _is_test_task(name)}
        return Run(replace(result, tasks=tasks), self._collected, self.events, out.getvalue(), err.getvalue())

    def _record_event(self, event: Event) -> None:
        if not _is_test_task(getattr(event, "task", "")):
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()


# -- sources and sinks that a test adds -------------------------------------------------------


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
        if task.enabled and not task.inputs and task.outputs and all(queue in feed for queue in task.outputs):
            tasks[name] = replace(task, enabled=False)
    queues = {name: _copied_queue(config, queue) if name in collect else queue for name, queue in config.queues.items()}
    for queue in feed:
        tasks[_FEED_PREFIX + queue] = _test_task(
            _FEED_PREFIX + queue, "_feed_items", key, ports=(OutputPort("default", (queue,)),), on_error="fail"
        )
    for queue in collect:
        tasks[_COLLECT_PREFIX + queue] = _test_task(_COLLECT_PREFIX + queue, "_collect_item", key, inputs=(queue,))
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


def _is_test_task(task: str) -> bool:
    return task.startswith((_FEED_PREFIX, _COLLECT_PREFIX))
