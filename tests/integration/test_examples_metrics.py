"""The metrics of a run, scraped over HTTP while it goes on, and left in a file at its end."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request

import pytest
from helpers import ROOT

EXAMPLE = ROOT / "examples/metrics"
PLUGIN = (EXAMPLE / "plugins/metrics.py").read_text()
TITLE = 'a "title" with \\ and\nmore'
FILE = """
    title = 'TITLE'

    [queues]
    numbers = { size = 50 }

    [tasks.make]
    mode    = "thread"
    outputs = ["numbers"]

    [tasks.take]
    mode    = "process"
    workers = ["left", "right"]
    inputs  = ["numbers"]
""".replace("'TITLE'", '"' + TITLE.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"')
WORK = """
    import os, time
    from runner import task

    @task
    def make():
        yield from range(10)
        end = time.monotonic() + 30
        while not os.path.exists("go") and time.monotonic() < end:
            time.sleep(0.005)

    @task
    def take(item):
        if item % 5 == 0:
            raise OSError("it is gone")
"""
#: No proxy of the environment is asked for what is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def prometheus():
    """The client's own parser."""
    return pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")


def figures(parser, text):
    """What was scraped, by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(address):
    with OPENER.open(address, timeout=10) as answer:
        return answer.read().decode()


def address_of(running):
    """What the plugin says first."""
    for line in running.process.stderr:
        if found := re.search(r"metrics: (http://\S+)", line):
            return found[1]
    pytest.fail("it does not say where it serves")


def test_a_run_is_scraped_while_it_goes_on(project, tmp_path, prometheus):
    made = project({"tasks.toml": FILE, "plugins/work.py": WORK, "plugins/metrics.py": PLUGIN})
    running = made.start(env={"RUNNER_METRICS": "127.0.0.1:0", "RUNNER_METRICS_FILE": "last.prom"})
    try:
        address = address_of(running)
        now = scraped_when_all_is_done(prometheus, address)
    finally:
        (tmp_path / "go").touch()
        outcome = running.finish()

    assert outcome.exit == 4, outcome
    assert {how: now["runner_items_total", ("how", how), ("task", "take")] for how in ("done", "dead", "dropped")} == {
        "done": 8, "dead": 2, "dropped": 0,
    }  # fmt: skip
    about = next(dict(labels) for name, *labels in now if name == "runner_run_info")
    assert about["title"] == TITLE
    assert about["file"].endswith("tasks.toml")
    assert now["runner_failures_total", ("task", "take"), ("verdict", "dead")] == 2
    assert now["runner_items_sent_total", ("task", "make")] == 10
    assert now["runner_queue_items", ("queue", "numbers")] == 0
    assert now["runner_queue_size", ("queue", "numbers")] == 50
    assert now["runner_workers", ("state", "item"), ("task", "take")] == 2
    assert now["runner_worker_seconds_total", ("state", "item"), ("task", "take"), ("worker", "left")] > 0

    with pytest.raises(urllib.error.URLError):
        scrape(address)
    last = figures(prometheus, (tmp_path / "last.prom").read_text())
    assert last["runner_run_exit_code",] == 4
    assert last["runner_workers", ("state", "ended"), ("task", "take")] == 2
    assert last["runner_items_total", ("how", "done"), ("task", "take")] == 8
    assert last["runner_worker_memory_peak_bytes", ("task", "take"), ("worker", "left")] > 1e6


def scraped_when_all_is_done(parser, address):
    """The figures once all ten items have ended and both workers wait; a run tells how far it is four times a second."""
    pause = threading.Event()
    for _ in range(600):
        now = figures(parser, scrape(address))
        ended = sum(value for (name, *_), value in now.items() if name == "runner_items_total")
        waiting = now.get(("runner_workers", ("state", "item"), ("task", "take")))
        if ended == 10 and waiting == 2:  # one worker may have had them all before the other was ready
            return now
        pause.wait(0.05)
    pytest.fail(f"the items have not ended, or a worker does not wait: {now}")


def test_without_the_client_the_run_goes_on_and_says_what_to_install(project, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/prometheus_client.py").write_text("raise ImportError('not here')\n")
    args = ("-p", "parcels=10", "--set", "run.state=state")
    outcome = project({}).run(EXAMPLE / "tasks.toml", *args, env={"PYTHONPATH": f"{tmp_path / 'none'}:{ROOT}"})
    assert outcome.exit == 0, outcome
    assert outcome.err.count("metrics: needs the package prometheus-client: pip install 'toml-runner[metrics]'") == 1
    assert "Traceback" not in outcome.err


def test_the_example_runs(project, prometheus):
    args = ("-p", "parcels=60", "-p", "seconds=0", "--set", "run.state=state")
    outcome = project({}).run(EXAMPLE / "tasks.toml", *args, env={"RUNNER_METRICS": "127.0.0.1:0"})
    assert outcome.exit == 4, outcome
    assert "60 read = 59 done + 1 dead" in outcome.err
