"""Agents on a Ray cluster, real Ray: several nodes of this machine. Slow, and only where the extra `ray` is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from helpers import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not here: pip install 'toml-runner[ray]'"
    ),
]

LAUNCHER = ROOT / "runner" / "launch" / "ray.py"
#: One that means "it hangs". Ray takes its time on a busy machine: 10 s for a cluster.
HANG = 120.0

#: An agent that only notes that it is there.
AGENT = """
import os, pathlib, sys, time
join = pathlib.Path(sys.argv[sys.argv.index("--join") + 1]).read_text()
notes = pathlib.Path(os.environ["NOTES"])
if join != "the way in" or "RUNNER_JOIN" in os.environ or "the way in" in " ".join(sys.orig_argv):
    sys.exit("this is not the way in")
if (notes / "refuse").exists():
    sys.exit("an old version\\nrunner agent: other versions")
(notes / sys.argv[sys.argv.index("--name") + 1]).write_text(f"{os.getpid()} {sys.argv[sys.argv.index('--places') + 1]}")
while True:
    time.sleep(600)
"""


@pytest.fixture
def notes(tmp_path):
    """The folder of the agents' notes, and a package `runner` that has only them."""
    (tmp_path / "fake" / "runner").mkdir(parents=True)
    (tmp_path / "fake" / "runner" / "__init__.py").touch()
    (tmp_path / "fake" / "runner" / "__main__.py").write_text(AGENT)
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def environment(notes):
    variables = {"PYTHONPATH": str(notes.parent / "fake"), "NOTES": str(notes), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    return {**os.environ, **variables, "RAY_health_check_period_ms": "500"}


class Lines:
    """A program that is spoken to in lines."""

    def __init__(self, *command, env):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd="/",
            start_new_session=True,
        )
        self.lines = queue.Queue()
        self.err = []
        self.threads = [
            threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in self.process.stdout]),
            threading.Thread(target=lambda: self.err.extend(self.process.stderr)),
        ]
        for thread in self.threads:
            thread.start()

    def tell(self, **message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def line(self):
        try:
            return self.lines.get(timeout=HANG)
        except queue.Empty:
            pytest.fail(f"it said nothing more; its errors: {self.err[-20:]}")

    def hear(self, word):
        """Return the next message that has a word."""
        while True:
            said = json.loads(self.line())
            if word in said:
                return said

    def end(self):
        """End it; whatever is left of its session is killed, and returned."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        code = self.process.wait(HANG)
        for thread in self.threads:
            thread.join(HANG)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
        return code


@pytest.fixture
def cluster(environment):
    made = Lines(sys.executable, str(Path(__file__).parents[1] / "ray_cluster.py"), env=environment)
    made.address = made.line()
    yield made
    made.end()


@pytest.fixture
def real_cluster():
    """A cluster whose nodes have runner itself."""
    made = Lines(
        sys.executable,
        str(Path(__file__).parents[1] / "ray_cluster.py"),
        env={**os.environ, "RAY_health_check_period_ms": "500"},
    )
    made.address = made.line()
    yield made
    made.end()


@pytest.fixture
def token(tmp_path):
    """Where the token of a cluster is that asks for one, as `ray start` does once there is one."""
    path = tmp_path / "token"
    path.write_text("0123456789abcdef" * 4)
    return {"RAY_AUTH_TOKEN_PATH": str(path)}


@pytest.fixture
def scaling_cluster(token):
    """A cluster of Ray's own autoscaler, which has a head without CPUs at first."""
    env = {**os.environ, **token, "RAY_AUTH_MODE": "token"}
    made = Lines(sys.executable, str(Path(__file__).parents[1] / "ray_cluster.py"), "--autoscaling", env=env)
    made.address = made.line()
    yield made
    made.end()


@pytest.fixture
def launch(environment):
    made = []

    def start(address):
        made.append(
            Lines(sys.executable, "-P", str(LAUNCHER), address, env={**environment, "RUNNER_JOIN": "the way in"})
        )
        return made[-1]

    yield start
    for each in made:
        each.end()


def workers(count, cpus=1.0, gpus=0.0, memory=0):
    return {"workers": count, "cpus": cpus, "gpus": gpus, "memory": memory}


def obey(cluster, **order):
    cluster.tell(**order)
    assert cluster.line() == "done"


def agent(notes, name):
    """Return the process of an agent, and its places, once it is there."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        if (notes / name).exists() and (words := (notes / name).read_text().split()):
            return psutil.Process(int(words[0])), float(words[1])
        threading.Event().wait(0.05)
    raise AssertionError(f"no agent {name}")


def gone(process):
    return psutil.wait_procs([process], HANG)[1] == []


def test_a_node_is_killed_and_another_one_is_added(cluster, launch, notes):
    for _ in range(2):
        obey(cluster, add=2)
    launcher = launch(cluster.address)
    launcher.tell(want=[workers(4)], nodes=0, first=1)
    assert {launcher.hear("started")["started"] for _ in range(2)} == {"n1", "n2"}
    first, second = agent(notes, "n1"), agent(notes, "n2")
    assert (first[1], second[1]) == (2, 2)
    obey(cluster, kill=0)
    ended = launcher.hear("ended")
    dead, alive = (first, second) if ended["ended"] == "n1" else (second, first)
    assert gone(dead[0])
    assert alive[0].is_running()
    waiting = launcher.hear("waiting")["waiting"]
    assert waiting.startswith("2 CPUs are not free; Ray has 0 of 2 CPUs free on ")
    obey(cluster, add=2)
    said = {"waiting": "something"}  # which of both comes first depends on who has seen the new node first
    while "started" not in said or said["waiting"]:
        said |= json.loads(launcher.line())
    name = said["started"]
    assert agent(notes, name)[1] == 2
    agents = [alive[0], agent(notes, name)[0]]
    assert launcher.end() == 0
    assert all(gone(each) for each in agents)


def test_agents_end_with_their_launcher_however_it_ends(cluster, launch, notes):
    obey(cluster, add=2)
    launcher = launch(cluster.address)
    launcher.tell(want=[workers(1)], nodes=0, first=7)
    assert launcher.hear("started")["started"] == "n7"
    process, _ = agent(notes, "n7")
    launcher.process.kill()
    assert gone(process)


def test_an_agent_can_be_stopped_and_what_is_wanted_is_asked_for_again(cluster, launch, notes):
    obey(cluster, add=2)
    launcher = launch(cluster.address)
    launcher.tell(want=[workers(1, 0.5)], nodes=0, first=1)
    process, _ = agent(notes, launcher.hear("started")["started"])
    launcher.tell(stop="n1")
    assert launcher.hear("ended")["ended"] == "n1"
    assert gone(process)
    assert launcher.hear("started")["started"] == "n2"
    second, _ = agent(notes, "n2")
    second.send_signal(signal.SIGTERM)
    assert launcher.hear("ended") == {"ended": "n2", "why": "its agent has ended with code -15"}


def test_what_can_never_be_had_and_agents_that_end_at_once_are_told(cluster, launch, notes):
    obey(cluster, add=2)
    launcher = launch(cluster.address)
    launcher.tell(want=[workers(1, 1, 1)], nodes=0, first=1)
    assert launcher.hear("refused")["refused"].startswith("no machine has 1 CPU, 1 GPU; Ray has 2 of 2 CPUs free on ")
    (notes / "refuse").touch()
    launcher.tell(want=[workers(2)], nodes=1, first=1)
    assert launcher.hear("ended")["why"] == "runner agent: other versions"
    refused = launcher.hear("refused")["refused"]
    assert refused == "3 agents in a row have ended at once; the last one: runner agent: other versions"


def test_a_cluster_of_its_own_is_started_and_ended(launch, notes):
    launcher = launch("local")
    launcher.tell(want=[workers(1)], nodes=0, first=1)
    assert launcher.hear("started")["started"] == "n1"
    process, _ = agent(notes, "n1")
    family = psutil.Process(launcher.process.pid).children(recursive=True)
    assert launcher.end() == 0
    assert gone(process)
    assert psutil.wait_procs(family, HANG)[1] == []


def test_a_cluster_of_its_own_dies_with_a_launcher_that_is_killed(launch, notes):
    launcher = launch("local")
    launcher.tell(want=[workers(1)], nodes=0, first=1)
    process, _ = agent(notes, launcher.hear("started")["started"])
    family = psutil.Process(launcher.process.pid).children(recursive=True)
    os.killpg(launcher.process.pid, signal.SIGKILL)  # as the kernel does when runner dies
    assert gone(process)
    assert psutil.wait_procs(family, HANG)[1] == []


def test_a_cluster_that_is_not_there_is_told(launch, notes):
    launcher = launch("127.0.0.1:1")
    assert launcher.process.wait(HANG) == 1
    launcher.end()
    assert launcher.err[-1] == "Ray at 127.0.0.1:1: [Errno 111] Connection refused\n"


TASKS = """
    [run]
    engine = "ray"
    [queues]
    numbers = {}
    squares = {}
    [tasks.read]
    call = "std.range"
    args = [0, 400]
    outputs = "numbers"
    mode = "thread"
    [tasks.square]
    inputs = "numbers"
    outputs = "squares"
    workers = 4
    resources = { cpus = 1 }
    [tasks.write]
    call = "std.write_lines"
    with = { path = "squares.txt" }
    inputs = "squares"
    mode = "thread"
"""
WORK = """
    import os, time
    from pathlib import Path
    from runner import task

    @task
    def square(item: int) -> int:
        while item > 40 and not Path("GO").exists():
            time.sleep(0.02)
        return item * item
"""


#: The same, without waiting for anything.
SQUARE = "from runner import task\n\n@task\ndef square(item: int) -> int:\n    return item * item\n"


def wait_for(holds, why):
    end = time.monotonic() + HANG
    while not (found := holds()):
        assert time.monotonic() < end, why()
        threading.Event().wait(0.1)
    return found


def squares(made):
    return sorted(int(line) for line in (made.path / "squares.txt").read_text().split())


def test_a_run_goes_on_when_a_node_is_killed_and_another_one_added(real_cluster, project):
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK.replace("GO", "{}")})
    work = made.path / "plugins" / "work.py"
    work.write_text(work.read_text().replace("{}", str(made.path / "go")))
    for _ in range(2):
        obey(real_cluster, add=2)
    running = made.start(
        "tasks.toml", "--events", "events", "--set", f'ray.address="{real_cluster.address}"', "--no-record"
    )

    def events(kind):
        lines = (made.path / "events").read_text().splitlines() if (made.path / "events").exists() else []
        return [each for line in lines if line.endswith("}") and (each := json.loads(line)).get("event") == kind]

    def said():
        return events("NodeJoined"), events("Notice"), running.process.poll()

    wait_for(lambda: len({each["worker"] for each in events("WorkerReady") if each["task"] == "square"}) == 4, said)
    assert {each["node"] for each in events("WorkerReady") if each["task"] == "square"} == {"n1", "n2"}
    secret = secret_of_launcher(running.process.pid)
    assert not [each for each in psutil.process_iter(["cmdline"]) if secret in " ".join(each.info["cmdline"] or ())]
    obey(real_cluster, kill=0)
    wait_for(lambda: events("NodeLost"), said)
    obey(real_cluster, add=2)
    wait_for(lambda: len(events("NodeJoined")) >= 3, said)
    (made.path / "go").touch()
    outcome = running.finish(timeout=HANG)
    assert outcome.exit == 0, outcome
    assert squares(made) == [number * number for number in range(400)]
    assert secret not in outcome.out + outcome.err
    for log in Path("/tmp/ray/session_latest/logs").rglob("*"):
        assert not log.is_file() or secret.encode() not in log.read_bytes(), log


def secret_of_launcher(run):
    """Return a line of the agents' key, which the launcher of a run has in its environment."""
    for process in psutil.Process(run).children(recursive=True):
        if str(LAUNCHER) in process.cmdline():
            return json.loads(process.environ()["RUNNER_JOIN"])["identity"].splitlines()[-3]
    raise AssertionError("no launcher")


def test_a_run_without_a_cluster_starts_one_and_ends_it(project):
    tasks = TASKS.replace('"ray"', '"ray"\n    [ray]\n    address = "local"')
    made = project({"tasks.toml": tasks, "plugins/work.py": SQUARE})
    outcome = made.start("tasks.toml").finish(timeout=HANG)
    assert outcome.exit == 0, outcome
    assert squares(made) == [number * number for number in range(400)]


def test_a_cluster_that_grows_is_asked_and_waited_for_with_the_token(scaling_cluster, token, project):
    made = project({"tasks.toml": TASKS, "plugins/work.py": SQUARE})
    address = f'ray.address="{scaling_cluster.address}"'
    outcome = made.start("tasks.toml", "--events", "events", "--set", address, env=token).finish(timeout=HANG)
    assert outcome.exit == 0, outcome
    assert squares(made) == [number * number for number in range(400)]
    assert '"NodeJoined"' in (made.path / "events").read_text(), "there was no node with CPUs when the run began"


def test_auto_workers_are_as_many_as_there_are_free_cpus(project):
    tasks = TASKS.replace('"ray"', '"ray"\n    [ray]\n    address = "local"').replace("workers = 4", 'workers = "auto"')
    work = "from runner import task\n\n@task\ndef square(item):\n    return item\n"
    made = project({"tasks.toml": tasks, "plugins/work.py": work})
    outcome = made.start("tasks.toml", "--json", "--progress", "none").finish(timeout=HANG)
    assert outcome.exit == 0, outcome
    (square,) = (task for task in json.loads(outcome.out)["tasks"] if task["name"] == "square")
    assert len(square["workers"]) == len(os.sched_getaffinity(0))


def test_what_no_machine_has_fails_the_task(project):
    tasks = TASKS.replace('"ray"', '"ray"\n    [ray]\n    address = "local"').replace("cpus = 1", "gpus = 1")
    made = project({"tasks.toml": tasks, "plugins/work.py": WORK})
    outcome = made.start("tasks.toml").finish(timeout=HANG)
    assert outcome.exit == 1, outcome
    assert "no machine has 1 CPU, 1 GPU; Ray has " in outcome.err


def test_an_example_gives_the_same_file_as_on_one_machine(tmp_path):
    command = [sys.executable, "-m", "runner", "run", str(ROOT / "examples/census/tasks.toml"), "--no-record"]
    root = ["-p", f"root={Path(json.__file__).parent}"]
    for engine in ("local", "ray"):
        where = ["-p", f"out={tmp_path / engine}.json", "--engine", engine, "--set", 'ray.address="local"']
        subprocess.run([*command, *root, *where], check=True, timeout=HANG, capture_output=True)
    assert (tmp_path / "ray.json").read_bytes() == (tmp_path / "local.json").read_bytes() != b""
