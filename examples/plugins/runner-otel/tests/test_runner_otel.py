import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runner_otel
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from runner_otel.providers import Providers
from runner_otel.telemetry import Telemetry

from runner import Context, events
from runner.testing import TaskRun, file_tests, run_task

pytest_plugins = "runner.testing"

FOLDER = Path(__file__).parent.parent

test_tasks = file_tests(FOLDER / "tasks.toml")  # the test that stands in the file


class Heard:
    """What OpenTelemetry was told of a run, in memory."""

    def __init__(self) -> None:
        exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracing = TracerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(exporter))
        self.telemetry = Telemetry(Providers(tracing, MeterProvider([self.reader])))
        self.exporter = exporter

    def hear(self, run: TaskRun) -> "Heard":
        for event in run.events:
            self.telemetry.hear(event)
        return self

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self, metric: str) -> dict[tuple[Any, ...], Any]:
        """The values of a metric by those of its attributes, in the order of their names."""
        data = self.reader.get_metrics_data()
        found = [
            each
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
        ]
        points = [point for each in found for point in each.data.data_points]
        return {
            tuple(value for _, value in sorted((point.attributes or {}).items())): getattr(
                point, "value", getattr(point, "count", None)
            )
            for point in points
        }


def divide(item: int) -> float:
    return 4 / item


def die_once(item: int, context: Context) -> int:
    if item == 1 and context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_run_is_a_trace_of_tasks_and_their_workers() -> None:
    run = run_task(divide, [1, 2, 4], workers=2)
    spans = Heard().hear(run).spans
    [top] = [span for span in spans.values() if span.name.startswith("run ")]
    task = spans["task divide"]
    workers = [span for name, span in spans.items() if name.startswith("worker divide")]
    assert len({span.context.trace_id for span in spans.values() if span.context}) == 1
    assert (top.parent, task.parent) == (None, top.context)
    assert [worker.parent for worker in workers] == [task.context] * 2
    assert top.attributes is not None
    balance = {key: top.attributes[f"runner.run.items.{key}"] for key in ("read", "done", "dead", "left")}
    assert balance == {"read": 3, "done": 3, "dead": 0, "left": 0}
    assert top.status.status_code is StatusCode.UNSET
    for inner, outer in [(task, top), *((worker, task) for worker in workers)]:
        times = [outer.start_time, inner.start_time, inner.end_time, outer.end_time]
        assert times == sorted(time for time in times if time is not None)
    [started] = run.of(events.RunStarted)
    assert top.start_time == int(started.unix * 1e9)


def test_failures_are_exceptions_of_the_worker_and_the_run_is_an_error() -> None:
    heard = Heard().hear(run_task(divide, [1, 0]))
    found = [(span, event) for span in heard.spans.values() for event in span.events if event.name == "exception"]
    [(span, event)] = found
    assert span.name.startswith("worker divide")
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ZeroDivisionError"
    assert event.attributes["exception.message"] == "division by zero"
    assert "in divide" in str(event.attributes["exception.stacktrace"])
    assert event.attributes["runner.item.verdict"] == "dead"
    [top] = [span for span in heard.spans.values() if span.name.startswith("run ")]
    assert top.attributes is not None
    assert (top.status.status_code, top.attributes["runner.run.exit_code"]) == (StatusCode.ERROR, 4)
    assert heard.points("runner.item.failures") == {("ZeroDivisionError", "dead", "divide"): 1}


def test_a_worker_that_dies_is_an_error_and_its_successor_another_span() -> None:
    heard = Heard().hear(run_task(die_once, [0, 1, 2], mode="process"))
    spans = [span for span in heard.exporter.get_finished_spans() if span.name.startswith("worker die_once")]
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.UNSET]
    assert "SIGKILL" in str(spans[0].status.description)
    assert heard.points("runner.worker.deaths") == {("die_once",): 1}


def test_metrics_end_with_the_balance() -> None:
    heard = Heard().hear(run_task(divide, [1, 2, 0]))
    items = heard.points("runner.task.items")
    assert {outcome: items[outcome, "divide"] for outcome in ("done", "dead", "dropped")} == {
        "done": 2, "dead": 1, "dropped": 0,
    }  # fmt: skip
    assert heard.points("runner.task.items.repeated")["divide",] == 0
    assert heard.points("runner.run.duration") == {("4",): 1}
    assert heard.points("runner.task.duration")["divide",] == 1


def test_metrics_while_it_goes_on_are_those_of_the_last_progress() -> None:
    heard = Heard()
    counts = events.TaskCounts(done=7, dead=1, dropped=0, repeated=2, sent=6, executing=3, workers=4, room=1)
    heard.telemetry.hear(events.RunStarted(0.0, "r", "Run", ("x",), unix=1e9))
    heard.telemetry.hear(events.Progress(1.0, {"x": counts}, {"q": 5}))
    assert heard.points("runner.queue.items") == {("q",): 5}
    assert heard.points("runner.task.workers")["x", "executing"] == 3
    assert heard.points("runner.task.items")["done", "x"] == 7


def test_a_run_in_a_pipeline_is_part_of_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    [top] = [span for name, span in Heard().hear(run_task(divide, [1])).spans.items() if name.startswith("run ")]
    assert top.context is not None
    assert top.parent is not None
    assert f"{top.context.trace_id:x}" == "af7651916cd43dd8448eb211c80319c"
    assert f"{top.parent.span_id:x}" == "b7ad6b7169203331"


# -- as a plugin ------------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    yield
    runner_otel._telemetry = None


STARTED = events.RunStarted(0.0, "r", "Run", ("x",), unix=1e9)
ENDED = events.RunEnded(2.0, "r", 0, 2.0, 1, 0, 1, 0, 0, 0, 0)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_METRICS_EXPORTER": "nothing"}, "otel: no exporter `nothing` (OTEL_METRICS_EXPORTER) is installed"),
    ],
)
def test_without_an_exporter_the_run_goes_on(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runner_otel.runner_event(STARTED)
    runner_otel.runner_event(ENDED)
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert shown.err.count("\n") == bool(said)
    assert shown.out == ""


SCRIPT = """
import sys
import runner_otel
from runner import events
runner_otel.runner_event(events.RunStarted(0.0, "r", "Run", ("x",), unix=1e9))
runner_otel.runner_event(events.RunEnded(2.0, "r", 0, 2.0, 1, 0, 1, 0, 0, 0, 0))
print("imported:", "opentelemetry" in sys.modules)
"""


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("variables", [{}, {"OTEL_TRACES_EXPORTER": "console"}])
def test_the_sdk_is_imported_for_the_exporters_that_the_environment_names(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert ('"name": "run Run"' in done.stdout) == bool(variables)
    assert f"imported: {bool(variables)}" in done.stdout
