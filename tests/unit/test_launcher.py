"""The supervisor's side of the programs that start agents on other machines: `engines.launcher`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from runner.engines import launcher
from runner.engines.launcher import JOIN_VARIABLE, Launcher, LaunchReport, WorkerBundle
from runner.engines.reactor import LocalReactor
from runner.launch import ray as ray_launcher

#: One that means "it hangs".
HANG = 30.0

#: It notes each line that it is told, and does what `script` says, in Python: `say(...)`, `number`, the want's number.
PROGRAM = """
import json, os, subprocess, sys
def say(text=None, **message):
    print(text or json.dumps(message), flush=True)
with open(sys.argv[1], "a") as file:
    for number, line in enumerate(sys.stdin):
        told = json.loads(line)
        print(json.dumps({**told, "pid": os.getpid()}), file=file, flush=True)
        exec(sys.argv[2])
    print('"end"', file=file, flush=True)
"""


class Machine:
    """A launcher under test, and its loop."""

    def __init__(self, tmp_path, script, **more):
        self.notes = tmp_path / "notes"
        self.bundles = [WorkerBundle(2)]
        self.said = []
        self.reactor = LocalReactor()
        command = [sys.executable, "-c", PROGRAM, str(self.notes), script]
        self.launcher = Launcher(
            more.pop("command", command),
            {JOIN_VARIABLE: "secret"},
            self.reactor,
            lambda: self.bundles,
            self.said.append,
            **more,
        )

    def told(self):
        return [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def wait(self, done):
        end = time.monotonic() + HANG
        while not done():
            assert time.monotonic() < end, (self.said, self.told())
            self.reactor.wait(0.05)

    def close(self):
        self.launcher.close()
        self.reactor.close()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_FIRST_PAUSE", 0.001)
    made = []

    def make(script, **more):
        made.append(Machine(tmp_path, script, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


START_ALL = """
if "want" in told:
    for at in range(sum(each["workers"] for each in told["want"])):
        say(started=f"n{told['first'] + at}", where="10.0.0.7")
elif "stop" in told:
    say(ended=told["stop"], why="it was told to")
"""


def test_it_is_told_what_is_wanted_and_tells_what_has_started(machine):
    it = machine(START_ALL, most_nodes=8)
    it.wait(lambda: len(it.said) == 2)
    assert it.said == [LaunchReport(started="n1", where="10.0.0.7"), LaunchReport(started="n2", where="10.0.0.7")]
    want = {"workers": 2, "cpus": 1.0, "gpus": 0.0, "memory": 0}
    (told,) = it.told()
    assert told.items() >= {"want": [want], "nodes": 8, "first": 1}.items()
    assert it.launcher.nodes == {"n1", "n2"}
    it.launcher.tell_wanted()  # nothing has changed
    it.bundles.append(WorkerBundle(1, 0.5, 0.25, 2_000_000_000))
    it.launcher.tell_wanted()
    it.wait(lambda: len(it.told()) == 2)
    assert it.told()[1]["want"] == [want, {"workers": 1, "cpus": 0.5, "gpus": 0.25, "memory": 2_000_000_000}]
    assert it.told()[1]["first"] == 3


def test_a_node_can_be_ended(machine):
    it = machine(START_ALL)
    it.wait(lambda: len(it.said) == 2)
    it.launcher.stop_node("n9")  # not one of its nodes
    it.launcher.stop_node("n2")
    it.wait(lambda: len(it.said) == 3)
    assert it.said[2] == LaunchReport(ended="n2", why="it was told to")
    assert it.launcher.nodes == {"n1"}


def test_waiting_and_what_can_never_be_had_are_told(machine):
    it = machine("say(waiting='2 nodes are pending'); say(waiting=''); say(refused='no machine has a GPU')")
    it.wait(lambda: len(it.said) == 3)
    assert [each.waiting for each in it.said] == ["2 nodes are pending", "", None]
    assert it.said[2].refused == "no machine has a GPU"


def test_a_launcher_that_dies_is_started_again_and_told_what_is_wanted_by_then(machine):
    it = machine(START_ALL)
    it.wait(lambda: len(it.said) == 2)
    os.kill(it.told()[0]["pid"], signal.SIGKILL)
    it.bundles = [WorkerBundle(3)]
    it.wait(lambda: len(it.said) == 5)
    assert [each.started for each in it.said[2:]] == ["n3", "n4", "n5"]
    assert it.launcher.nodes == {"n3", "n4", "n5"}


def test_a_launcher_that_dies_again_and_again_is_given_up_with_its_words(machine):
    it = machine("sys.stderr.write('one\\nno cluster at 10.0.0.1\\n'); sys.exit(7)")
    it.wait(lambda: it.said)
    assert it.said == [
        LaunchReport(failed="it has died 4 times; the last time: exited with code 7: no cluster at 10.0.0.1")
    ]
    assert len(it.told()) == 4
    assert it.launcher.is_closed


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("say('hello\\x1b[31m')", r"it said what is not a message: hello\x1b[31m"),
        ("say('[1]')", "it said what is not a message: [1]"),
        ("say('{\"started\": 7}')", 'it said what is not a message: {"started": 7}'),
        ("sys.stdout.write('x' * 3_000_000)", "it said a line of more than 1,048,576 bytes"),
    ],
)
def test_what_is_not_a_message_ends_it(machine, script, why):
    it = machine(script)
    it.wait(lambda: it.said)
    assert it.said == [LaunchReport(failed=f"it has died 4 times; the last time: {why}")]


def test_a_launcher_does_not_say_that_it_has_failed(machine):
    it = machine("say(failed='x', waiting='y')")
    it.wait(lambda: it.said)
    assert it.said == [LaunchReport(waiting="y")]


def test_a_program_that_is_not_there_is_told(machine):
    it = machine("", command=["/no/such/launcher"])
    assert it.said == [LaunchReport(failed="it cannot be started: No such file or directory")]


def test_its_end_is_the_end_of_its_input(machine):
    it = machine(START_ALL)
    it.wait(lambda: len(it.said) == 2)
    it.launcher.close()
    assert it.told()[-1] == "end"
    assert len(it.said) == 2
    it.launcher.close()


@pytest.mark.slow
def test_one_that_does_not_end_is_killed_and_so_is_what_it_has_started(machine, monkeypatch):
    monkeypatch.setattr(launcher, "_END_SECONDS", 0.2)
    it = machine(
        "child = subprocess.Popen(['sleep', '600']); say(started=str(child.pid)); import time; time.sleep(600)"
    )
    it.wait(lambda: it.said)
    it.launcher.close()
    psutil.wait_procs(
        [psutil.Process(int(it.said[0].started))] if psutil.pid_exists(int(it.said[0].started)) else [], HANG
    )
    assert not psutil.pid_exists(int(it.said[0].started))


def test_one_that_never_reads_does_not_hold_up_the_loop(machine):
    it = machine("say(waiting='deaf'); import time; time.sleep(600)")
    it.wait(lambda: it.said)
    for number in range(300):
        it.bundles = [WorkerBundle(1, memory=number)] * 20
        it.launcher.tell_wanted()
    assert len(it.launcher._unsent) > 100_000
    it.launcher._program.kill()
    it.launcher.close()


def test_the_way_into_the_run_is_in_its_environment_and_in_no_argument(machine):
    it = machine(f"say(waiting=os.environ['{JOIN_VARIABLE}'])")
    it.wait(lambda: it.said)
    assert it.said[0].waiting == "secret"
    pid = it.told()[0]["pid"]
    assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


SUPERVISOR = """
import sys
from runner.engines.launcher import Launcher, WorkerBundle
from runner.engines.reactor import LocalReactor
reactor = LocalReactor()
def said(report):
    print(report.started, flush=True)
it = Launcher(sys.argv[1:], {}, reactor, lambda: [WorkerBundle(1)], said)
while True:
    reactor.wait(None)
"""


@pytest.mark.slow
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path):
    script = "child = subprocess.Popen(['sleep', '600']); say(started=f'{os.getpid()} {child.pid}')"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "notes"), script]
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, *command], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        there = [psutil.Process(pid) for pid in pids]
        supervisor.kill()
    _, alive = psutil.wait_procs(there, HANG)
    assert len(pids) == 2
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("report", "is_scaling", "text"),
    [
        ({}, False, "Ray has no machines"),
        ({"active_nodes": {"node_ab": 1}}, False, "Ray has no machines"),  # what nobody has described
        ({"active_nodes": {"head": 1}, "pending_nodes": None}, True, "Ray has no machines"),
        (
            {
                "active_nodes": {"head": 1},
                "pending_launches": {"worker": 2},
                "pending_nodes": [["1.2.3.4", "worker", ""]],
            },
            True,
            "Ray has no machines, and 3 more being started",
        ),
    ],
)
def test_the_first_autoscaler_tells_what_it_starts(report, is_scaling, text):
    status = SimpleNamespace(active_nodes=[], idle_nodes=[], pending_nodes=[], pending_launches=[], failed_launches=[])
    cluster = ray_launcher.Cluster(status, report)
    assert (cluster.is_scaling, cluster.describe()) == (is_scaling, text)


def test_what_ray_has_counted_already_is_not_counted_twice():
    """It said "Ray has -2 of 2 CPUs free"."""
    cpus = SimpleNamespace(resource_name="CPU", total=2.0, used=2.0)
    node = SimpleNamespace(node_id="a", ray_node_type_name="node_a", resource_usage=SimpleNamespace(usage=[cpus]))
    status = SimpleNamespace(
        active_nodes=[node], idle_nodes=[], pending_nodes=[], pending_launches=[], failed_launches=[]
    )
    launcher: Any = object.__new__(ray_launcher.RayLauncher)
    said: list[Any] = []
    launcher.say = lambda **message: said.append(message)
    launcher.ray = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(gcs_address="x"))
    launcher.get_status, launcher.get_entry, launcher.offers = lambda _: status, lambda _: None, {}
    launcher.agents = {"n1": ray_launcher.RayNode("n1", Counter({(1.0, 0.0, 0.0): 2}), "a")}
    assert launcher.look_at_cluster().describe() == "Ray has 0 of 2 CPUs free on 1 machine"
    assert said == [{"offers": [[0.0, 0.0, 0.0]]}]
    launcher.look_at_cluster()
    assert len(said) == 1
