"""One run as spans and metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation
from opentelemetry.trace import NoOpTracerProvider, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runner import events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner_otel.providers import Providers

NAME = "runner"
_OUTCOMES = ("done", "dead", "dropped")
_COUNTS = ("read", "made", "done", "dead", "dropped", "left", "repeated")
#: What a worker can be doing, as `TaskCounts` names it.
_STATES = ("starting", "executing", "item", "room", "turn")


class Telemetry:
    """Hears the events of one run; spans are open while what they stand for goes on."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._tracer = (providers.tracing or NoOpTracerProvider()).get_tracer(NAME)
        self._run: events.RunStarted | None = None
        self._run_span: trace.Span = trace.INVALID_SPAN
        self._tasks: dict[str, tuple[trace.Span, float]] = {}
        self._workers: dict[tuple[str, str], trace.Span] = {}
        self._items: dict[str, dict[str, int]] = {}
        self._now: events.Progress | None = None
        self._make_instruments()

    def _make_instruments(self) -> None:
        meter = (self._providers.metering or NoOpMeterProvider()).get_meter(NAME)
        counters = {
            "runner.task.items": ("Items of a task that have ended.", self._observe_ended),
            "runner.task.items.repeated": ("Items that were given again.", self._observe_repeated),
            "runner.task.items.sent": ("Items put into a task's outputs.", self._observe_sent),
        }
        for name, (what, observe) in counters.items():
            meter.create_observable_counter(name, [observe], "{item}", what)
        meter.create_observable_gauge(
            "runner.task.workers", [self._observe_workers], "{worker}", "Workers by what they are doing."
        )
        meter.create_observable_gauge(
            "runner.queue.items", [self._observe_queues], "{item}", "Items that wait in a queue."
        )
        self._deaths = meter.create_counter("runner.worker.deaths", "{death}", "Workers that died.")
        self._failures = meter.create_counter("runner.item.failures", "{failure}", "Calls that raised.")
        self._task_seconds = meter.create_histogram("runner.task.duration", "s", "How long a task took.")
        self._run_seconds = meter.create_histogram("runner.run.duration", "s", "How long a run took.")

    def close(self) -> None:
        """Export what there is."""
        self._providers.close()

    def hear(self, event: events.Event) -> None:  # noqa: C901  a case for each kind of event
        """Take one event of the run."""
        match event:
            case events.RunStarted():
                self._begin_run(event)
            case events.TaskStarted():
                self._begin_task(event)
            case events.WorkerReady():
                self._begin_worker(event)
            case events.Progress():
                self._now = event
                self._items |= {
                    name: {key: getattr(task, key) for key in (*_OUTCOMES, "repeated", "sent")}
                    for name, task in event.tasks.items()
                }
            case events.ItemFailed() | events.ItemTimedOut():
                self._note_failure(event)
            case events.WorkerEnded() | events.WorkerDied():
                self._end_worker(event)
            case events.TaskEnded():
                self._end_task(event)
            case events.RunStopping() | events.RunKilled():
                self._run_span.add_event("runner.stopping", {"runner.reason": event.why}, self._when(event))
            case events.Notice():
                self._run_span.add_event("runner.notice", {"runner.text": event.text}, self._when(event))
            case events.RunEnded():
                self._end_run(event)

    # -- spans ----------------------------------------------------------------------------------

    def _when(self, event: events.Event) -> int:
        """Return the time of day of an event, in nanoseconds: `at` is on the run's own clock."""
        assert self._run is not None
        return int((self._run.unix + event.at - self._run.at) * 1e9)

    def _begin_span(self, name: str, event: events.Event, parent: Any, **attributes: Any) -> trace.Span:
        assert self._run is not None
        given = {key.replace("__", "."): value for key, value in attributes.items() if value not in {None, ""}}
        return self._tracer.start_span(
            name, parent, attributes={"runner.run.id": self._run.run, **given}, start_time=self._when(event)
        )

    def _begin_run(self, event: events.RunStarted) -> None:
        self._run = event
        variables = {key.lower(): os.environ.get(key, "") for key in ("TRACEPARENT", "TRACESTATE")}
        carrier = {key: value for key, value in variables.items() if value}
        parent = TraceContextTextMapPropagator().extract(carrier, otel_context.get_current())
        self._run_span = self._begin_span(
            f"run {event.title}", event, parent, runner__run__title=event.title, runner__run__file=event.plan.file
        )
        self._run_span.set_attribute("process.pid", event.pid or os.getpid())

    def _begin_task(self, event: events.TaskStarted) -> None:
        assert self._run is not None
        plan = next((task for task in self._run.plan.tasks if task.name == event.task), None)
        span = self._begin_span(
            f"task {event.task}",
            event,
            trace.set_span_in_context(self._run_span),
            runner__task__name=event.task,
            runner__task__call=plan and plan.call,
            runner__task__mode=plan and plan.mode,
        )
        self._tasks[event.task] = span, event.at

    def _begin_worker(self, event: events.WorkerReady) -> None:
        above = self._tasks.get(event.task)
        self._workers[event.task, event.worker] = self._begin_span(
            f"worker {event.worker}",
            event,
            trace.set_span_in_context(above[0] if above else self._run_span),
            runner__task__name=event.task,
            runner__worker__name=event.worker,
            process__pid=event.pid,
            host__name=event.node,
        )

    def _note_failure(self, event: events.ItemFailed | events.ItemTimedOut) -> None:
        more: dict[str, str | int]
        if isinstance(event, events.ItemFailed):
            kind, _, text = event.error.partition(": ")
            more = {"exception.stacktrace": event.traceback, "runner.item.attempt": event.attempt}
            verdict, count = event.verdict, event.count
        else:
            more = {}
            kind, text, verdict, count = "timeout", f"took more than {event.limit:g} s", "timeout", 1
        labels = {"runner.task.name": event.task, "runner.item.verdict": verdict, "error.type": kind}
        self._failures.add(count, labels)
        attributes: dict[str, str | int] = {
            "exception.type": kind,
            "exception.message": text,
            "runner.item.id": event.item,
            "runner.item.verdict": verdict,
            **more,
        }
        self._find_span(event.task, event.worker).add_event("exception", attributes, self._when(event))

    def _find_span(self, task: str, worker: str) -> trace.Span:
        if (span := self._workers.get((task, worker))) is not None:
            return span
        return self._tasks[task][0] if task in self._tasks else self._run_span

    def _end_worker(self, event: events.WorkerEnded | events.WorkerDied) -> None:
        span = self._workers.pop((event.task, event.worker), None)
        if isinstance(event, events.WorkerDied):
            self._deaths.add(1, {"runner.task.name": event.task})
            if span is not None:
                span.set_status(Status(StatusCode.ERROR, event.why))
                span.set_attribute("error.type", "killed")
                if event.item:
                    span.set_attribute("runner.item.id", event.item)
        if span is not None:
            span.end(self._when(event))

    def _end_task(self, event: events.TaskEnded) -> None:
        span, began = self._tasks.pop(event.task, (None, event.at))
        for key in [key for key in self._workers if key[0] == event.task]:
            self._workers.pop(key).end(self._when(event))
        if span is None:  # skipped: it has never started
            return
        labels = {"runner.task.name": event.task}
        if event.how != "ok":
            labels["error.type"] = event.how
            span.set_attribute("error.type", event.how)
            span.set_status(Status(StatusCode.ERROR, event.why))
        self._task_seconds.record(event.at - began, labels)
        span.end(self._when(event))

    def _end_run(self, event: events.RunEnded) -> None:
        for task in event.tasks:
            self._items[task.name] = {key: getattr(task, key) for key in (*_OUTCOMES, "repeated", "sent")}
        self._now = None
        labels = {"error.type": str(event.exit_code)} if event.exit_code else {}
        self._run_seconds.record(event.seconds, labels)
        for span in [*self._workers.values(), *(span for span, _ in self._tasks.values())]:
            span.end(self._when(event))
        self._run_span.set_attributes({f"runner.run.items.{key}": getattr(event, key) for key in _COUNTS})
        self._run_span.set_attribute("runner.run.exit_code", event.exit_code)
        if event.exit_code:
            self._run_span.set_attribute("error.type", str(event.exit_code))
            reason = "; ".join(event.reasons) or f"exit code {event.exit_code}"
            self._run_span.set_status(Status(StatusCode.ERROR, reason))
        self._run_span.end(self._when(event))

    # -- metrics, read by the SDK in a thread of its own ----------------------------------------

    def _observe_ended(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._items.copy().items():
            for outcome in _OUTCOMES:
                yield Observation(counts[outcome], {"runner.task.name": name, "runner.item.outcome": outcome})

    def _observe_repeated(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._items.copy().items():
            yield Observation(counts["repeated"], {"runner.task.name": name})

    def _observe_sent(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._items.copy().items():
            yield Observation(counts["sent"], {"runner.task.name": name})

    def _observe_workers(self, _: CallbackOptions) -> Iterable[Observation]:
        now = self._now
        for name, task in () if now is None else now.tasks.items():
            for state in _STATES:
                yield Observation(getattr(task, state), {"runner.task.name": name, "runner.worker.state": state})

    def _observe_queues(self, _: CallbackOptions) -> Iterable[Observation]:
        now = self._now
        for name, length in () if now is None else now.queues.items():
            yield Observation(length, {"runner.queue.name": name})
