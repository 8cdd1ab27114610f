"""The plugin of examples/metrics, called as a run calls it."""

from __future__ import annotations

import socket

import pytest
from helpers import load

from runner import events

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
metrics = load("examples/metrics/plugins/metrics.py")

STARTED = events.RunStarted(0.0, "20250101-000000-1", "A run", ("take",), unix=1735689600.0)
ENDED = events.RunEnded(2.0, "20250101-000000-1", 0, 2.0, 1, 0, 1, 0, 0, 0, 0)


@pytest.fixture
def address(monkeypatch):
    """Set where to serve, and where to leave the last figures."""

    def choose(address="127.0.0.1:0", file=""):
        monkeypatch.setenv("RUNNER_METRICS", address)
        monkeypatch.setenv("RUNNER_METRICS_FILE", str(file))

    choose()
    return choose


@pytest.mark.parametrize("wrong", ["127.0.0.1:none", "nonsense", "127.0.0.1:99999", "127.0.0.1:-1", "", "taken"])
def test_where_nothing_can_be_served_it_says_so_and_hears_on(wrong, address, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = f"127.0.0.1:{taken.getsockname()[1]}" if wrong == "taken" else wrong
        address(wrong)
        for event in (STARTED, events.WorkerDied(1.0, "take", "take-1", 7, "killed"), ENDED):
            metrics.runner_event(event)
    said = capsys.readouterr().err
    assert said.startswith(f"metrics: nothing is served at RUNNER_METRICS={wrong!r}: ")
    assert said.count("\n") == 1


def test_a_file_that_cannot_be_written_is_said(address, capsys, tmp_path):
    address(file=tmp_path / "no/such/folder")
    metrics.runner_event(STARTED)
    metrics.runner_event(ENDED)
    assert f"metrics: {tmp_path}/no/such/folder is not written: " in capsys.readouterr().err


def test_two_runs_in_one_process_count_for_themselves(address, tmp_path):
    for number in (1, 2):
        address(file=tmp_path / f"{number}.prom")
        metrics.runner_event(STARTED)
        metrics.runner_event(events.WorkerDied(1.0, "take", "take-1", 7, "killed"))
        metrics.runner_event(ENDED)
    assert 'runner_worker_deaths_total{task="take"} 1.0' in (tmp_path / "2.prom").read_text()


def test_what_comes_from_data_cannot_break_a_line(address, tmp_path):
    address(file=tmp_path / "last.prom")
    metrics.runner_event(events.RunStarted(0.0, "r", 'a"b\\c\nrunner_run_exit_code 9', ()))
    metrics.runner_event(ENDED)
    lines = (tmp_path / "last.prom").read_text().splitlines()
    assert [line for line in lines if line.startswith("runner_run_exit_code")] == ["runner_run_exit_code 0.0"]
    assert r'title="a\"b\\c\nrunner_run_exit_code 9"' in next(
        line for line in lines if line.startswith("runner_run_info")
    )


def test_events_without_a_beginning_are_nothing_to_it():
    metrics.runner_event(ENDED)
