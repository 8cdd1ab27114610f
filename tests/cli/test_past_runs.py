"""What a run leaves behind, and the commands that read it: none of them runs anything of the project."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import jsonschema
import pytest
from topology_runs import wait_for

FILE = """
    title = "Numbers"

    [params]
    token = { default = "swordfish", secret = true }

    [queues]
    numbers = { size = 10 }

    [tasks.make]
    mode    = "thread"
    with    = { token = "${token}" }
    outputs = "numbers"

    [tasks.take]
    mode   = "thread"
    inputs = "numbers"
"""
WORK = """
    from pathlib import Path
    from runner import task

    with Path("imported").open("a") as file:
        print("x", file=file)

    @task
    def make(token):
        print("making")
        yield from range(20)

    @task
    def take(item):
        if item % 2:
            raise ValueError(f"odd: {item}")
"""


@pytest.fixture
def made(project):
    return project({"tasks.toml": FILE, "plugins/work.py": WORK})


def records(made):
    return sorted((made.path / ".runner" / "runs").glob("*/record.json"), key=lambda path: path.stat().st_mtime)


def schema(made):
    found = made.run("--record", verb="schema").json
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_a_run_leaves_its_record_for_its_owner_alone(made):
    outcome = made.run("tasks.toml")
    (path,) = records(made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent, made.path / ".runner"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    text = path.read_text()
    assert "swordfish" not in text
    record = json.loads(text)
    assert (record["title"], record["exit_code"], outcome.exit) == ("Numbers", 4, 4)
    assert record["balance"] == {
        "read": 20, "made": 0, "done": 10, "dead": 10, "dropped": 0, "left": 0, "repeated": 0,
    }  # fmt: skip
    assert [(group["kind"], group["count"]) for group in record["failures"]] == [("ValueError", 10)]
    assert "10 × ValueError in take, given up (first: item " in outcome.err
    assert outcome.err.count("Traceback") == 1


def test_json_on_standard_output_and_all_else_on_standard_error(made):
    outcome = made.run("tasks.toml", "--json")
    record = json.loads(outcome.out)
    assert "make | making" in outcome.err
    assert outcome.err.splitlines()[-2].startswith("Numbers  ended in ")
    assert (record["exit_code"], outcome.exit, record["version"]) == (4, 4, 1)
    assert {task["name"]: (task["taken"], task["sent"], task["dead"]) for task in record["tasks"]} == {
        "make": (0, 20, 0),
        "take": (20, 0, 10),
    }
    assert [(queue["put"], queue["done"], queue["dead"]) for queue in record["queues"]] == [(20, 10, 10)]
    schema(made).validate(record)
    accepted = made.run("tasks.toml", "--json", "--dead-ok", "-q")
    assert (accepted.exit, json.loads(accepted.out)["exit_code"]) == (0, 0)


def test_report_json_is_the_record(made):
    made.run("tasks.toml")
    (path,) = records(made)
    (made.path / "imported").unlink()
    whole = made.run("--json", verb="report").json
    schema(made).validate(whole)
    assert whole["series"]["at"]
    assert whole == json.loads(path.read_text())
    assert made.run(path.parent.name[:-1], "--json", verb="report").json == whole
    assert not (made.path / "imported").exists()


def test_events_are_enough_for_the_record(made):
    made.run("tasks.toml", "--events", "events.jsonl")
    (path,) = records(made)
    found = made.run("--events", "events.jsonl", "--json", verb="report").json
    assert found == json.loads(path.read_text())


def test_events_into_a_pipe(made):
    pipe = made.path / "pipe"
    os.mkfifo(pipe)
    running = made.fork("tasks.toml", "--events", "pipe", "--no-record")
    names = [json.loads(line).get("event") for line in pipe.read_text().splitlines()]
    assert running.finish().exit == 4
    assert (names[1], names[-1]) == ("RunStarted", "RunEnded")


def test_events_that_cannot_be_written(made):
    refused = made.run("tasks.toml", "--events", "nowhere/events.jsonl")
    assert (refused.exit, refused.out) == (2, "")
    assert refused.err == "--events: 'nowhere/events.jsonl' cannot be written: No such file or directory\n"
    full = made.run("tasks.toml", "--dead-ok", "--events", "/dev/full")
    assert full.exit == 1
    assert "--events: /dev/full: No space left on device; events lost" in full.err
    assert full.err.splitlines()[-2].startswith("Numbers  ended in ")


def test_json_that_cannot_be_written(made):
    with Path("/dev/full").open("w") as full:
        outcome = made.run("tasks.toml", "--json", "--dead-ok", stdout=full)
    assert outcome.exit == 1
    assert outcome.err.endswith("standard output: No space left on device; the summary is lost\n")


@pytest.mark.slow
def test_so_many_are_kept_and_letters_stay(made):
    for _ in range(4):
        made.run("tasks.toml", "--set", "run.record=3")
    assert len(records(made)) == 3
    assert len(list((made.path / ".runner" / "runs").glob("*/dead.jsonl"))) == 4
    made.run("tasks.toml", "--no-record", "-q")
    made.run("tasks.toml", "--set", "run.record=0", "-q")
    assert len(records(made)) == 3
    going = records(made)[0]
    record = json.loads(going.read_text())
    going.write_text(json.dumps({**record, "exit_code": None, "pid": os.getpid(), "began": record["began"] + 1e6}))
    os.utime(going, (1, 1))
    made.run("tasks.toml", "--set", "run.record=1", "-q")
    assert records(made)[0] == going
    assert len(records(made)) == 2


def test_a_folder_that_takes_nothing(project):
    made = project({"tasks.toml": FILE, "plugins/work.py": WORK, ".runner": "a file"})
    outcome = made.run("tasks.toml", "--dead-ok")
    assert outcome.exit == 0
    assert outcome.err.count("the record of this run cannot be kept in ") == 1


def test_the_list_of_runs(made):
    assert made.run("runs", verb="list").out == "no run in .runner has a record\n"
    assert made.run("runs", "--json", verb="list").json == []
    made.run("tasks.toml")
    made.run("tasks.toml", "--dead-ok")
    (made.path / "imported").unlink()
    lines = made.run("runs", verb="list").out.splitlines()
    assert [line.split()[3] for line in lines] == ["ended", "some"]
    assert all("20 read = 10 done + 10 dead" in line for line in lines)
    (last, first) = made.run("runs", "--json", verb="list").json
    assert (last["end"], first["end"], first["exit_code"]) == ("ended", "some dead", 4)
    assert not (made.path / "imported").exists()


@pytest.mark.slow
def test_what_others_have_written_there(made):
    made.run("tasks.toml", "-q")
    (path,) = records(made)
    for text in ("nonsense", "[]", '{"began": "x", "balance": 7, "title": "\\u001b[31m", "exit_code": 0}'):
        path.write_text(text)
        assert made.run("runs", verb="list").exit == 0
        broken = made.run("--json", verb="report")
        assert (broken.exit, broken.out) == (2, "")
        assert "not a record of a run" in broken.err
    path.write_text('{"version": 99}')
    assert "a record of version 99, and this runner knows 1" in made.run("--json", verb="report").err
    missing = made.run("other", "--json", verb="report")
    assert (missing.exit, missing.err) == (2, f"runs with a record: {path.parent.name}; `other` matches none of them\n")


SLOW = """
    [queues]
    numbers = {}

    [tasks.make]
    mode    = "thread"
    outputs = "numbers"

    [tasks.take]
    mode   = "thread"
    inputs = "numbers"
"""
WAITS = """
    import time
    from pathlib import Path
    from runner import task

    @task
    def make():
        yield 1
        while True:
            time.sleep(0.01)

    @task
    def take(item):
        Path("taken").touch()
"""


def test_a_run_that_goes_on_and_one_that_was_killed(project):
    made = project({"tasks.toml": SLOW, "plugins/work.py": WAITS})
    running = made.fork("tasks.toml")
    wait_for((made.path / "taken").exists)
    (entry,) = made.run("runs", "--json", verb="list").json
    assert (entry["end"], entry["exit_code"]) == ("going on", None)
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    running.finish()
    (entry,) = made.run("runs", "--json", verb="list").json
    assert entry["end"] == "killed"
    assert made.run("--json", verb="report").json["run"] == entry["run"]
