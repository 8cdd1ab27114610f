"""What a person has at hand: another folder, help, the nearest word, completion, how far a run is, log lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers import Project

    Make = Callable[..., Project]

WORK = """
    from runner import Context, task

    @task
    def greet(*, context: Context):
        print("hello")
        context.log.warning("careful")

    @task
    def rest(item): pass
"""
FILES = {
    "there/tasks.toml": '[params]\nfirst = 1\n[tasks.greet]\nmode = "thread"\n',
    "there/other.toml": '[params]\nsecond = 1\n[tasks.other]\ncall = "greet"\n',
    "there/plugins/work.py": WORK,
}


def test_every_command_is_done_in_another_folder_and_knows_h(project: Make) -> None:
    made = project(FILES)
    assert made.run("-C", "there", "--progress", "none").exit == 0
    listed = made.run("there", "list", "params", "other.toml", verb="-C")
    assert "second" in listed.out, listed
    runs = made.run("runs", "-C", "there", verb="list")
    assert "1 task ok" in runs.out, runs
    wrong = made.run("-C", "nowhere", verb="check")
    assert (wrong.exit, "-C nowhere: " in wrong.err) == (2, True), wrong
    shown = made.run("show", "-h", verb="dead")
    assert shown.exit == 0
    assert "  Examples:\n    runner dead show last 12.7\n" in shown.out, shown
    assert "-C DIR" in shown.out


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("run", "--deadlin", "3s"), "--deadline"),
        (("run", "--no-recrod"), "--no-record"),
        (("dead", "show", "--sate"), "--state"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(project: Make, words: tuple[str, ...], near: str) -> None:
    outcome = project({}).run(*words[1:], verb=words[0])
    assert outcome.exit == 2
    assert f"did you mean `{near}`?" in outcome.err, outcome


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("runner run -C there -t ", "greet"),
        ("runner run -C there other.toml -t ", "other"),
        ("runner run -C there other.toml -p ", "second="),
    ],
)
def test_completion_follows_the_file(project: Make, line: str, wanted: str) -> None:
    made = project(FILES)
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split())), "_RUNNER_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from runner.cli.app import app; app(prog_name='runner')"]
    done = subprocess.run(
        command, cwd=made.path, env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [wanted], done


def told(made: Project, *args: object, **more: Any) -> list[dict[str, Any]]:
    outcome = made.run("--events", "events", *args, **more)
    assert outcome.exit == 0, outcome
    found = [json.loads(text) for text in (made.path / "events").read_text().splitlines()]
    return [event for event in found if event.get("event") == "WorkerProgress"]


@pytest.mark.slow
def test_sources_say_how_much_there_is(project: Make) -> None:
    file = """
        [queues]
        a = {{}}
        [tasks.source]
        call = "std.{call}"
        with = {{ {given} }}
        outputs = "a"
        [tasks.rest]
        inputs = "a"
        mode = "thread"
    """
    made = project({"plugins/work.py": WORK, "lines": "a\nb\n" * 40, "folder/one.txt": "", "folder/two.txt": ""})
    for call, given, total in (
        ("range", "start = 0, stop = 10, step = 3", 4),
        ("glob", 'pattern = "*", root = "folder"', 2),
        ("lines", 'path = "lines"', 160),
    ):
        made.write({"tasks.toml": file.format(call=call, given=given)})
        found = told(made)
        assert found[-1]["total"] == total, (call, found)
        assert found[-1]["done"] in (-1, total)
    made.write({"tasks.toml": file.format(call="lines", given='path = "-"')})
    assert told(made, input="a\nb\n") == []


def test_log_lines_have_time_run_and_level(project: Make) -> None:
    made = project({"tasks.toml": FILES["there/tasks.toml"], "plugins/work.py": WORK})
    outcome = made.run("--log-format", "json", "--progress", "none")
    assert outcome.exit == 0, outcome
    out = [json.loads(line) for line in outcome.out.splitlines()]
    err = [json.loads(line) for line in outcome.err.splitlines()]
    assert [(each["level"], each["worker"], each["text"]) for each in out] == [("info", "greet", "hello")]
    assert ("warning", "greet", "careful") in [(each["level"], each["worker"], each["text"]) for each in err]
    assert err[-1]["text"].endswith("1 task ok")
    assert len({each["run"] for each in (*out, *err)}) == 1
    assert all(each["time"][:2] == "20" and each["time"][10] == "T" for each in err)
    for _ in range(2):  # appended to
        outcome = made.run("--log-file", "log", "--progress", "none")
        assert outcome.out == "greet | hello\n"
        assert "WARNING careful" in outcome.err
    lines = (made.path / "log").read_text().splitlines()
    assert sum(line.endswith("INFO greet | hello") for line in lines) == 2, lines
    assert made.run("--log-file", "no/such/folder").exit == 2


def test_planted_a_source_that_is_read_twice_for_its_total_is_noticed(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe has no size, and what is in it comes once."""
    from runner.std import sources

    made = project({})
    os.mkfifo(made.path / "pipe")

    def read() -> list[str]:
        with subprocess.Popen(["sh", "-c", "printf 'a\\nb\\n' > pipe"], cwd=made.path):
            return list(sources.lines(str(made.path / "pipe"), context=Told()))

    class Told:
        stopping = False

        def progress(self, done: float, total: float | None = None) -> None:
            raise AssertionError("a pipe has no total")

    assert read() == ["a", "b"]
    monkeypatch.setattr(sources, "_file_size", lambda file: len(file.read()))
    with pytest.raises(AssertionError):
        assert read() == ["a", "b"]
