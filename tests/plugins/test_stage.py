import os

import pytest
from helpers import load

stage = load("plugins/stage.py")


@pytest.mark.parametrize(("name", "verb"), [("dance", "dancing"), ("sing", "singing")])
def test_every_line_names_the_worker_and_the_main_process(name, verb, capsys, monkeypatch):
    monkeypatch.setenv("RUNNER_PID", "4711")
    getattr(stage, name)(2, seconds=0)
    here = os.getpid()
    assert capsys.readouterr().out.splitlines() == [
        f"{verb} 1 of 2, pid {here}, main pid 4711",
        f"{verb} 2 of 2, pid {here}, main pid 4711",
    ]


def test_outside_a_run_there_is_no_main_process(capsys, monkeypatch):
    monkeypatch.delenv("RUNNER_PID", raising=False)
    stage.dance(1, seconds=0)
    assert "main pid unknown" in capsys.readouterr().out
