"""How a run goes, for Prometheus: scraped at RUNNER_METRICS meanwhile, and left in RUNNER_METRICS_FILE at its end.

supervisor ──events──▶ runner_event ──▶ Export ◀── collect() ── HTTP server, in a thread of its own ◀── Prometheus
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from runner import events, hookimpl

ADDRESS = "127.0.0.1:9464"
MISSING = "needs the package prometheus-client: pip install 'toml-runner[metrics]'"

_export: Export | None = None


@hookimpl
def runner_event(event: events.Event) -> None:
    global _export  # noqa: PLW0603  one run at a time in a process
    if isinstance(event, events.RunStarted):
        _export = _begin(event)
    elif _export is not None:
        _export.hear(event)
        if isinstance(event, events.RunEnded):
            ended, _export = _export, None
            ended.close()


def _begin(event: events.RunStarted) -> Export | None:
    """Offer the run's metrics; if that cannot be, say why, and the run goes on without."""
    try:
        return Export(event, os.environ.get("RUNNER_METRICS", ADDRESS), os.environ.get("RUNNER_METRICS_FILE"))
    except ImportError:
        say(MISSING)
    except (OSError, OverflowError, ValueError) as error:
        say(f"nothing is served at RUNNER_METRICS={os.environ.get('RUNNER_METRICS', ADDRESS)!r}: {error}")
    return None


def say(text: str) -> None:
    print(f"metrics: {text}", file=sys.stderr, flush=True)


class Export:
    """One run's metrics. What events count is kept by the client; the rest is read from the last `Progress`."""

    def __init__(self, run: events.RunStarted, address: str, file: str | None) -> None:
        import prometheus_client as client  # here, because workers that load this module have no need for it
        import prometheus_client.core

        self.client = client
        self.file = file
        self.run = run
        self.last: events.Progress | None = None
        self.registry = client.CollectorRegistry()
        counted = {"registry": self.registry}
        self.failures = client.Counter("runner_failures", "Calls that raised.", ["task", "verdict"], **counted)
        self.deaths = client.Counter("runner_worker_deaths", "Workers that died.", ["task"], **counted)
        self.registry.register(self)  # type: ignore[arg-type]  a collector is what has `collect`
        host, _, port = address.rpartition(":")
        self.server = Server((host or "127.0.0.1", int(port)), client.MetricsHandler.factory(self.registry))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self.thread.start()
        say("http://{}:{}/metrics".format(*self.server.server_address[:2]))

    def hear(self, event: events.Event) -> None:
        match event:
            case events.Progress():
                self.last = event
            case events.ItemFailed():
                self.failures.labels(event.task, event.verdict).inc(event.count)
            case events.WorkerDied():
                self.deaths.labels(event.task).inc()
            case events.RunEnded():
                counted = {"registry": self.registry}
                self.client.Gauge("runner_run_exit_code", "How the run has ended.", **counted).set(event.exit_code)
                self.client.Gauge("runner_run_seconds", "How long the run took.", **counted).set(event.seconds)

    def close(self) -> None:
        """The run is over: leave the last figures in the file, and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        if self.file:
            try:
                self.client.write_to_textfile(self.file, self.registry)
            except OSError as error:
                say(f"{self.file} is not written: {error}")

    def collect(self) -> Iterator[Any]:
        """Called by the client for each scrape, in the server's thread."""
        core = self.client.core
        run, queues = self.run, self.run.plan.queues
        about = {"run": run.run, "title": run.title, "file": run.plan.file}
        yield core.InfoMetricFamily("runner_run", "Which run this is.", value=about)
        yield core.GaugeMetricFamily("runner_run_start_time_seconds", "When it began.", value=run.unix)
        size = core.GaugeMetricFamily("runner_queue_size", "Items that a queue may hold.", labels=["queue"])
        for queue in queues:
            if queue.size is not None:
                size.add_metric([queue.name], queue.size)
        yield size
        if self.last is not None:
            yield from _tasks(core, self.last)
            yield from _workers(core, self.last)


class Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that reads slowly does not hold up the end of a run
    block_on_close = False


def _tasks(core: Any, now: events.Progress) -> Iterator[Any]:
    ended = core.CounterMetricFamily("runner_items", "Items of a task that have ended.", labels=["task", "how"])
    repeated = core.CounterMetricFamily("runner_items_repeated", "Items that were given again.", labels=["task"])
    sent = core.CounterMetricFamily("runner_items_sent", "Items put into a task's outputs.", labels=["task"])
    for name, task in now.tasks.items():
        for how in ("done", "dead", "dropped"):
            ended.add_metric([name, how], getattr(task, how))
        repeated.add_metric([name], task.repeated)
        sent.add_metric([name], task.sent)
    queued = core.GaugeMetricFamily("runner_queue_items", "Items that wait in a queue.", labels=["queue"])
    for name, count in now.queues.items():
        queued.add_metric([name], count)
    yield from (ended, repeated, sent, queued)


def _workers(core: Any, now: events.Progress) -> Iterator[Any]:
    states = core.GaugeMetricFamily("runner_workers", "Workers by what they are doing.", labels=["task", "state"])
    labels = ["task", "worker"]
    seconds = core.CounterMetricFamily(
        "runner_worker_seconds", "Where workers' time has gone.", labels=[*labels, "state"]
    )
    cpu = core.CounterMetricFamily("runner_worker_cpu_seconds", "Processor time of a worker.", labels=labels)
    memory = core.GaugeMetricFamily("runner_worker_memory_peak_bytes", "Peak memory of a process.", labels=labels)
    for name, workers in now.workers.items():
        here = Counter(worker.state for worker in workers)
        for state in events.STATES:
            states.add_metric([name, state], here[state])
        for worker in workers:
            for state in events.STATES:
                seconds.add_metric([name, worker.name, state], getattr(worker.spent, state))
            cpu.add_metric([name, worker.name], worker.cpu)
            if worker.memory is not None:
                memory.add_metric([name, worker.name], worker.memory)
    yield from (states, seconds, cpu, memory)
