"""What real workers measure of themselves, for every form of a task function, in threads and processes."""

from __future__ import annotations

import json
import time

import pytest

WORK = """
    import time
    from runner import Inbox, Outbox, task

    @task
    def numbers(count, *, nap=0.0, rest=0.0):
        for number in range(count):
            if nap:
                time.sleep(rest if number == count // 2 and rest else nap)
            yield number

    @task
    def plain(item):
        return item

    @task
    def several(items):
        time.sleep(0.002)

    @task
    async def flies(item):
        return item

    @task
    def boxed(*, inbox: Inbox[int], outbox: Outbox[int]):
        while True:
            outbox.put(inbox.get())

    @task
    def burn(*, seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
"""
TELL = """
    import dataclasses, json, pathlib
    from runner import events, hookimpl

    @hookimpl
    def runner_event(event):
        if isinstance(event, (events.Progress, events.RunStarted, events.RunEnded)):
            record = {"event": type(event).__name__, **dataclasses.asdict(event)}
            with pathlib.Path("events.jsonl").open("a") as file:
                print(json.dumps(record), file=file)
"""
FORMS = """
    [queues]
    a = {{ fanout = "copy" }}
    b = {{}}
    c = {{}}
    d = {{}}

    [params]
    password = {{ default = "swordfish", secret = true }}

    [defaults.task]
    mode = "{mode}"

    [tasks.numbers]
    with = {{ count = 3000 }}
    outputs = "a"
    {env}

    [tasks.plain]
    inputs = "a"
    outputs = "b"
    workers = 2

    [tasks.flies]
    inputs = "b"
    outputs = "c"

    [tasks.boxed]
    inputs = "c"
    outputs = "d"

    [tasks.several]
    inputs = "d"
    batch = 100

    [tasks.careful]
    call = "plain"
    inputs = "a"
    ordered = true

    [tasks.burn]
    with = {{ seconds = 0.3 }}
"""


def forms(mode):
    """The file; threads have no `env` of their own."""
    return FORMS.format(mode=mode, env='env = { PASSWORD = "${password}" }' if mode == "process" else "")


def told(made):
    made.run("tasks.toml")
    lines = [json.loads(line) for line in (made.path / "events.jsonl").read_text().splitlines()]
    return lines[0], lines[1:-1], lines[-1]


@pytest.mark.parametrize("mode", [pytest.param("thread", marks=pytest.mark.slow), "process"])
def test_every_form_says_how_long_its_items_took(project, mode):
    began = time.time()
    made = project({"tasks.toml": forms(mode), "plugins/work.py": WORK, "plugins/tell.py": TELL})
    started, progress, ended = told(made)
    tasks = {each["name"]: each for each in ended["tasks"]}
    for name in ("numbers", "plain", "flies", "boxed", "several", "careful"):
        assert sum(items for _, items in tasks[name]["times"]) == 3000, name
        assert 0 < tasks[name]["median"] <= tasks[name]["p99"] < 10, name
        assert sum(worker["items"] for worker in tasks[name]["workers"]) == 3000, name
    assert tasks["several"]["median"] > 2e-5 * 0.9
    (burnt,) = tasks["burn"]["workers"]
    assert 0.3 <= burnt["cpu"] < 30
    assert burnt["spent"]["executing"] >= 0.3
    for task in tasks.values():
        for worker in task["workers"]:
            assert worker["state"] == "ended"
            assert sum(worker["spent"].values()) == pytest.approx(ended["seconds"], abs=0.05)
            assert (worker["memory"] is None) == (mode == "thread")
            assert worker["memory"] is None or 4 << 20 < worker["memory"] < 4 << 30
    assert progress
    assert set(progress[-1]["workers"]) == set(tasks)
    queues = {each["name"]: each for each in ended["queues"]}
    assert (queues["a"]["put"], queues["a"]["done"], queues["b"]["put"]) == (6000, 6000, 3000)
    assert began <= started["unix"] <= time.time()
    described = started["plan"]
    assert "swordfish" not in json.dumps(started)
    assert "[tasks.numbers]" in described["resolved"]
    assert {each["name"]: each["mode"] for each in described["tasks"]} == dict.fromkeys(tasks, mode)
    assert described["machine"]["cores"] >= 1
    assert described["file"].endswith("tasks.toml")


SLOW = """
    [queues]
    a = { size = 5 }

    [tasks.numbers]
    # Workers are looked at four times a second: what is shown of them must not depend on the very moment.
    with = { count = 60, nap = 0.01, rest = 0.8 }
    outputs = "a"

    [tasks.plain]
    inputs = "a"
"""


@pytest.mark.slow
def test_a_slow_source_executes_and_those_behind_it_wait(project):
    _, progress, ended = told(project({"tasks.toml": SLOW, "plugins/work.py": WORK, "plugins/tell.py": TELL}))
    tasks = {each["name"]: each for each in ended["tasks"]}
    (source,), (sink,) = tasks["numbers"]["workers"], tasks["plain"]["workers"]
    assert source["spent"]["executing"] > 0.59
    assert sink["spent"]["item"] > 2 * sink["spent"]["executing"]
    assert tasks["numbers"]["median"] > 0.009
    states = [each["tasks"]["plain"]["item"] for each in progress]
    assert 1 in states
