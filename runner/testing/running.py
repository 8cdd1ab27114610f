"""A run under a test, and what it has done."""

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
from runner.structs import dataclass, field
from runner.testing.ends import CHANNELS, COLLECT_PREFIX, FEED_PREFIX, is_test_task, with_deadline, with_feeds_and_sinks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.api import Result
    from runner.events import Event
    from runner.ledger import Balance
    from runner.model import Config
    from runner.supervisor import Plan
    from runner.tasks import DeadLetter


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
    """A run under way, in a thread of its own."""

    def __init__(self, perform: Callable[[Running], Run]) -> None:
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._over = False
        self._outcome: Run | BaseException | None = None
        self._reactor = LocalReactor()
        self._thread = threading.Thread(target=self._run_in_thread, args=(perform,), name="runner-test", daemon=True)
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

    def _run_in_thread(self, perform: Callable[[Running], Run]) -> None:
        try:
            self._outcome = perform(self)
        except BaseException as error:  # noqa: BLE001  raised again by `finish`
            self._outcome = error
        finally:
            with self._changed:
                self._reactor.close()
                self._over = True
                self._changed.notify_all()

    def record_event(self, event: Event) -> None:
        """Take in an event of the run."""
        if not is_test_task(getattr(event, "task", "")):
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()


def _prepare_run(
    config: Config, feed: dict[str, Iterable[Any]], collect: list[str], timeout: float, change: Any
) -> Any:
    outputs: dict[str, list[Any]] = {queue: [] for queue in collect}
    key = f"{id(outputs):x}"
    channels = {f"{key}-{FEED_PREFIX}{queue}": items for queue, items in feed.items()}
    channels |= {f"{key}-{COLLECT_PREFIX}{queue}": found for queue, found in outputs.items()}
    changed = with_feeds_and_sinks(with_deadline(config, timeout), feed, collect, key)

    def perform(running: Running) -> Run:
        from runner.runs import OutputOptions

        out, err = io.StringIO(), io.StringIO()
        path = list(sys.path)
        CHANNELS.update(channels)
        try:
            with api.only_run(), api.writable_descriptor(out) as one, api.writable_descriptor(err) as two:
                options = OutputOptions(one, two, keep_record=False, on_event=running.record_event)
                result = api.run_config(changed, options, reactor=running._reactor, change=change)
        finally:
            sys.path[:] = path
            for channel in channels:
                del CHANNELS[channel]
        if result.exit_code == 124 and config.run.deadline is None:
            raise TimeoutError(f"the run has not ended within {timeout} s\n{out.getvalue()}{err.getvalue()}")
        tasks = {name: task for name, task in result.tasks.items() if not is_test_task(name)}
        return Run(replace(result, tasks=tasks), outputs, running.events, out.getvalue(), err.getvalue())

    return perform


def start_run(
    config: Config,
    feed: dict[str, Iterable[Any]],
    collect: list[str],
    timeout: float,
    change: Callable[[Plan], Plan] | None = None,
) -> Running:
    """Start a file; `change` may alter the plan."""
    return Running(_prepare_run(config, feed, collect, timeout, change))
