"""`overlap` in `[run]`: what a run does that begins while another one of its file goes on."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from topology_runs import wait_for

FILE = """
    title = "Job"
    [run]
    overlap = "refuse"
    [tasks.work]
"""
PLUGIN = """
    import time
    from pathlib import Path
    from runner import task

    @task
    def work():
        with open("begun", "a") as file:
            file.write("x")
        while not Path("end").exists():
            time.sleep(0.01)
"""


def make(project: Any) -> Any:
    return project({"tasks.toml": FILE, "plugins/work.py": PLUGIN, "other.toml": FILE})


def begin(made: Any, *args: str, times: int = 1) -> Any:
    running = made.start("--progress", "none", *args)
    begun = made.path / "begun"
    wait_for(lambda: begun.exists() and len(begun.read_text()) == times)
    return running


def begin_to_wait(made: Any) -> tuple[Any, Any]:
    said = made.path / "said"
    with said.open("w") as err:
        running = made.start("--set", 'run.overlap="wait"', stderr=err)
    wait_for(lambda: "this one waits for its end" in said.read_text())
    return running, said


def test_it_is_refused_and_nothing_is_started(project: Any) -> None:
    made = make(project)
    first = begin(made)
    outcome = made.run()
    assert outcome.exit == 3, outcome
    assert f"a run of this file is going on (process {first.process.pid} on " in outcome.err
    assert "Traceback" not in outcome.err
    other = begin(made, "other.toml", times=2)  # another file
    (made.path / "end").touch()
    assert first.finish().exit == 0
    assert other.finish().exit == 0
    assert made.run().exit == 0, "the first one has ended"


@pytest.mark.slow
def test_it_waits_for_the_end_of_the_other_one(project: Any) -> None:
    made = make(project)
    first = begin(made)
    second, said = begin_to_wait(made)
    assert (made.path / "begun").read_text() == "x"
    (made.path / "end").touch()
    assert first.finish().exit == 0
    assert second.finish().exit == 0
    assert (made.path / "begun").read_text() == "xx"
    assert said.read_text().count("waits") == 1


@pytest.mark.slow
def test_a_run_that_was_killed_holds_nobody_up(project: Any) -> None:
    made = make(project)
    first = begin(made)
    first.process.kill()
    first.finish()
    (made.path / "end").touch()
    assert made.run().exit == 0


@pytest.mark.slow
def test_ctrl_c_ends_the_waiting(project: Any) -> None:
    made = make(project)
    first = begin(made)
    second, said = begin_to_wait(made)
    second.process.send_signal(signal.SIGINT)
    outcome = second.finish()
    assert outcome.exit == 130, outcome
    assert "Traceback" not in said.read_text()
    (made.path / "end").touch()
    assert first.finish().exit == 0
