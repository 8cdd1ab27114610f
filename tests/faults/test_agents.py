"""Two agents on loopback: workers, agents and the supervisor die, stop and leave at every moment of a run.

Whatever happens, every item arrives once, the balance holds, and no process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from faults import functions
from faults.functions import Fault
from faults.harness import plan, run, task
from faults.sinks import collector
from helpers import descendants
from remote_agents import open_remote

from runner import events
from runner.cluster.authority import make_identities
from runner.engines.engine_events import Announcement
from runner.engines.reactor import LocalReactor
from runner.model import Restarts
from runner.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from faults.harness import Outcome

COUNT = 60
ONE = functions.Stage


def stages(fault: Fault, middle: Any = ONE, gate: Path | None = None, **options: Any) -> tuple[Any, list[Any]]:
    """A pipeline of which three tasks live on the agents; no death that is not blamed on an item is allowed."""
    collected: list[Any] = []
    # With a gate the source waits until it is open.
    numbers = (
        task("source", functions.source, outputs="a", args=(COUNT, fault))
        if gate is None
        else task("source", functions.gated, outputs="a", args=(COUNT, gate))
    )
    return plan(
        [
            numbers,
            task("middle", middle, "a", "b", workers=2, with_={"name": "middle", "fault": fault}, **options),
            task("tail", functions.Stage, "b", "c", with_={"name": "tail", "fault": fault}, restarts=Restarts(0)),
            collector(collected, "c"),
        ]
    ), collected


def arrived_once(outcome: Outcome, collected: list[Any], *, exits: set[int] | None = None) -> None:
    assert outcome.result.exit_code in (exits or {0}), (outcome.result, outcome.said[-10:])
    assert sorted(collected) == list(range(COUNT))


FORMS: dict[str, dict[str, Any]] = {
    "items": {},
    "batch": {"middle": functions.Listed, "batch": 7},
    "async": {"middle": functions.Late, "concurrency": 5},
    "async batch": {"middle": functions.LateSpread, "concurrency": 3, "batch": 7},
    "boxes": {"middle": functions.boxed},
    "ordered": {"ordered": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [form if form in {"items", "async", "ordered"} else pytest.param(form, marks=pytest.mark.slow) for form in FORMS],
)
def test_every_form_of_a_task_whose_worker_dies(form: str, tmp_path: Path) -> None:
    fault = Fault("item", "SIGKILL", "middle", COUNT // 2, tmp_path)
    made, collected = stages(fault, **FORMS[form])
    outcome = run(made, collected, "agents")
    arrived_once(outcome, collected)
    assert form != "ordered" or collected == sorted(collected)
    (died,) = outcome.of(events.WorkerDied)
    assert died.node in {"n1", "n2"}
    assert died.item
    assert {ready.node for ready in outcome.of(events.WorkerReady) if ready.task != "collect"} <= {"n1", "n2"}


# -- {worker, agent} × {SIGKILL, SIGSTOP, exit} × {idle, starting, executing, ending} ---------------------

MOMENTS = {"starting": "setup", "executing": "item", "ending": "teardown", "idle": "idle"}
#: An agent's orderly exit is what SIGTERM asks for.
WAYS = ["SIGKILL", "SIGSTOP", "exit"]
#: Each way and each moment for each victim, but not all of them with each other.
QUICK = {
    *(("worker", "SIGSTOP", "starting"), ("worker", "SIGKILL", "idle")),
    *(("agent", "SIGKILL", "executing"), ("agent", "SIGSTOP", "ending"), ("agent", "exit", "starting")),
}


def cells() -> list[Any]:
    return [
        pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow)
        for victim in ("worker", "agent")
        for way in WAYS
        for moment in MOMENTS
        for cell in [(victim, way, moment)]
    ]


def wait_for(holds: Any) -> None:
    until = time.monotonic() + 30
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)


class Striker:
    """Does to a process what the test says, once all workers are ready; and wakes whatever was stopped."""

    def __init__(self, victim: str, way: str, moment: str, folder: Path, gate: Path) -> None:
        self.victim, self.way, self.moment, self.folder, self.gate = victim, way, moment, folder, gate
        self.ready: dict[str, int] = {}
        self.joined: set[str] = set()
        self.agents: list[Any] = []
        self.thread = threading.Thread(target=self.act, daemon=True)

    def on_event(self, event: Any) -> None:
        if isinstance(event, events.WorkerReady):
            self.ready[event.worker] = event.pid
        if isinstance(event, events.NodeJoined):
            self.joined.add(event.node)

    def on_machines(self, machines: Any) -> None:
        self.agents = machines.agents
        self.thread.start()

    def act(self) -> None:
        if self.moment == "idle":
            wait_for(lambda: len(self.ready) == 5 and len(self.joined) == 2)  # one may have had room for all
            pid = self.ready["middle-1"] if self.victim == "worker" else self.agents[0].pid
            number = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP, "exit": signal.SIGTERM}[self.way]
            os.kill(pid, number)
            self.gate.touch()
        else:
            wait_for(lambda: (self.folder / "happened-0").exists())
        if self.way == "SIGSTOP":
            time.sleep(0.5)  # for so long it is stopped: the run waits, and nothing is decided
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("victim", "way", "moment"), cells())
def test_a_worker_or_an_agent_ends_or_stops(victim: str, way: str, moment: str, tmp_path: Path) -> None:
    word = {"SIGKILL": "SIGKILL", "SIGSTOP": "stop", "exit": "_exit(0)"}[way]
    if victim == "agent":
        word = {"SIGKILL": "agent SIGKILL", "SIGSTOP": "agent SIGSTOP", "exit": "agent SIGTERM"}[way]
    fault = Fault(MOMENTS[moment], word, "middle", COUNT // 2, tmp_path)
    gate = tmp_path / "gate"
    made, collected = stages(fault, gate=gate if moment == "idle" else None)
    striker = Striker(victim, way, moment, tmp_path, gate)
    outcome = run(made, collected, "agents", striker.on_event, on_machines=striker.on_machines)
    striker.thread.join(30)
    assert moment == "idle" or (tmp_path / "happened-0").exists()
    # A worker that dies while it is torn down may not have put away what it had: that is told, as on one machine.
    arrived_once(outcome, collected, exits={0, 1} if moment == "ending" and way != "SIGSTOP" else {0})
    lost = outcome.of(events.NodeLost)
    if victim == "worker" or way == "SIGSTOP":
        assert not lost
    elif way == "SIGKILL":
        assert len(lost) == 1
    elif lost:  # or the run has ended first
        assert lost[0].why == "has left"
        assert not lost[0].workers
        assert not outcome.of(events.WorkerDied)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_agents_killed_at_random_while_others_join(seed: int, tmp_path: Path) -> None:
    """Nothing is lost and nothing comes twice, however many machines go."""
    import random

    draw, collected = random.Random(seed), []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(3000,)),
            task("middle", functions.slowly, "a", "b", workers=4, args=(0.005,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    over, joined = threading.Event(), []

    def storm(machines: Any) -> None:
        while not over.wait(draw.uniform(0.1, 0.5)):
            if joined and len(machines.agents) < 12:
                agent = machines.agents[int(joined.pop(draw.randrange(len(joined))).removeprefix("n")) - 1]
                agent.send_signal(draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                machines.add()

    thread: list[threading.Thread] = []

    def begin(machines: Any) -> None:
        thread.append(threading.Thread(target=storm, args=(machines,), daemon=True))
        thread[0].start()

    def on_event(event: Any) -> None:
        if isinstance(event, events.NodeJoined):
            joined.append(event.node)
        if isinstance(event, events.RunEnded):
            over.set()
            thread[0].join(10)

    outcome = run(made, collected, "agents", on_event, on_machines=begin)
    assert outcome.result.exit_code == 0, (
        outcome.of(events.TaskEnded),
        outcome.of(events.WorkerDied),
        outcome.of(events.ItemFailed),
    )
    assert sorted(collected) == list(range(3000))
    assert outcome.of(events.NodeLost)


TASKS = """
    [run]
    engine = "agents"
    [agents]
    listen = "127.0.0.1:0"
    [queues.q]
    [tasks.numbers]
    call = "work.numbers"
    outputs = "q"
    [tasks.hold]
    call = "work.hold"
    inputs = "q"
    workers = 2
"""
WORK = """
    import time
    from pathlib import Path
    from runner import task

    @task
    def numbers():
        yield from range(4)

    @task
    def hold(item: int) -> None:
        Path(f"holds-{item}").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        print("held", item)
"""


def agents_of(made: Any, count: int = 2) -> list[Any]:
    return [made.start("--join", ".runner/runs/last/join", f"--name=n{at}", verb="agent") for at in range(1, count + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ends", pytest.param("Ctrl-C", marks=pytest.mark.slow), "SIGKILL"])
def test_a_command_with_its_agents(way: str, project: Any, tmp_path: Path) -> None:
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK})
    agents = agents_of(made)
    running = made.start("tasks.toml")
    wait_for(lambda: len(list(tmp_path.glob("holds-*"))) == 2)
    (join,) = tmp_path.glob(".runner/runs/*/join")
    key = json.loads(join.read_text())["identity"].splitlines()[-3]
    assert join.stat().st_mode & 0o777 == 0o600
    if way == "ends":
        (tmp_path / "go").touch()
    else:
        for _ in range(2 if way == "Ctrl-C" else 1):
            running.process.send_signal(signal.SIGINT if way == "Ctrl-C" else signal.SIGKILL)
    outcome = running.finish()
    ends = [agent.finish() for agent in agents]
    assert outcome.exit == {"ends": 0, "Ctrl-C": 130, "SIGKILL": -9}[way], outcome
    assert {end.exit for end in ends} == ({3} if way == "SIGKILL" else {0}), ends
    assert join.exists() is (way == "SIGKILL")
    if way == "ends":
        lines = [line for line in outcome.out.splitlines() if line.startswith("hold-")]
        assert sorted(line.partition(" | ")[2] for line in lines) == [f"held {item}" for item in range(4)]
        assert "node `n1` has joined" in outcome.err
    for text in (outcome.out, outcome.err, *(end.err for end in ends)):
        assert key not in text


def test_workers_without_a_machine_wait_and_a_signal_ends_that(project: Any) -> None:
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK})
    running = made.start("tasks.toml", "--grace", "100s")
    wait_for(lambda: list(made.path.glob(".runner/runs/*/join")))
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish()
    assert outcome.exit == 130, outcome
    assert "`numbers` had not ended" in outcome.err


@pytest.mark.slow
def test_who_is_of_another_run_is_refused_and_the_run_goes_on(project: Any, tmp_path: Path) -> None:
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK, "go": ""})
    running = made.start("tasks.toml")
    wait_for(lambda: list(tmp_path.glob(".runner/runs/*/join")))
    (join,) = tmp_path.glob(".runner/runs/*/join")
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text(
        json.dumps({**json.loads(join.read_text()), "identity": make_identities("other")[1].as_text()})
    )
    refused = made.run("--join", "wrong", verb="agent")
    assert refused.exit == 1
    assert "was refused" in refused.err
    (agent,) = agents_of(made, 1)
    outcome = running.finish()
    assert agent.finish().exit == 0
    assert outcome.exit == 0, outcome
    words = "it is of another run, whose authority did not make our certificate"
    assert outcome.err.count(f"an agent at 127.0.0.1 was refused: {words}") == 1


@pytest.mark.slow
def test_without_encryption_both_ends_prove_to_have_the_key(project: Any, tmp_path: Path) -> None:
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK, "go": ""})
    running = made.start("tasks.toml", "--set", "agents.encrypt=false")
    wait_for(lambda: list(tmp_path.glob(".runner/runs/*/join")))
    (join,) = tmp_path.glob(".runner/runs/*/join")
    way_in = json.loads(join.read_text())
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text(json.dumps({**way_in, "key": "ab" * 32}))
    assert not way_in["identity"]
    assert "was refused" in made.run("--join", "wrong", verb="agent").err
    (agent,) = agents_of(made, 1)
    outcome = running.finish()
    assert agent.finish().exit == outcome.exit == 0, outcome
    assert outcome.err.count("an agent at 127.0.0.1 was refused: it does not have the key of the run") == 1


def test_plugins_are_sent_to_machines_that_do_not_have_them(project: Any, tmp_path: Path) -> None:
    """What the machine has under the same path is another version; and a module beside the file comes along."""
    made = project({"tasks.toml": TASKS, "plugins/work.py": WORK, "go": "", "beside.py": "WORD = 'held'"})
    work = tmp_path / "plugins" / "work.py"
    work.write_text("import beside\n" + work.read_text().replace('"held"', "beside.WORD, __file__"))
    running = made.start("tasks.toml")
    wait_for(lambda: list(tmp_path.glob(".runner/runs/*/join")))
    for path in (work, tmp_path / "beside.py"):
        path.write_text("raise RuntimeError('not this one')")
    (tmp_path / "tmp").mkdir()
    agent = made.start("--join", ".runner/runs/last/join", verb="agent", env={"TMPDIR": str(tmp_path / "tmp")})
    outcome, end = running.finish(), agent.finish()
    assert outcome.exit == end.exit == 0, (outcome, end)
    (sent,) = {line.split()[3] for line in outcome.out.splitlines() if " | held " in line}
    assert sent.startswith(str(tmp_path / "tmp" / "runner-agent-"))
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_the_machines_share_takes_the_place_of_the_project_s(project: Any, tmp_path: Path) -> None:
    tasks = TASKS.replace("[queues.q]", f'folder = "{tmp_path}/shared"\n    [queues.q]')
    made = project({"tasks.toml": tasks, "plugins/work.py": WORK, "shared/go": "", "shared/plugins/work.py": WORK})
    running = made.start("tasks.toml")
    wait_for(lambda: list(tmp_path.glob(".runner/runs/*/join")))
    (tmp_path / "plugins" / "work.py").write_text("raise RuntimeError('not this one')")
    (agent,) = agents_of(made, 1)
    outcome, end = running.finish(), agent.finish()
    assert outcome.exit == end.exit == 0, (outcome, end)
    assert len(list((tmp_path / "shared").glob("holds-*"))) == 4


@pytest.mark.slow
def test_a_machine_without_that_folder_says_so(project: Any, tmp_path: Path) -> None:
    tasks = TASKS.replace("[queues.q]", 'folder = "/no/where"\n    [queues.q]')
    made = project({"tasks.toml": tasks, "plugins/work.py": WORK})
    running = made.start("tasks.toml", "--grace", "0s")
    (agent,) = agents_of(made, 1)
    end = agent.finish()
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish()
    words = "/no/where, `folder` of [agents], is not a folder on this machine"
    assert end.exit == 3
    assert words in end.err
    assert words in outcome.err


def test_machines_with_other_versions_are_refused_in_one_text(tmp_path: Path) -> None:
    old = "import runner.version; runner.version.__version__ = '0.0.1'; from runner.__main__ import main; main()"
    (tmp_path / "old.py").write_text(old)
    with contextlib.ExitStack() as stack:
        reactor = LocalReactor()
        stack.callback(reactor.close)
        _, machines = open_remote(reactor, stack, agents=0)
        command = [sys.executable, "-P", tmp_path / "old.py", "agent", "--join", machines.join_file, "--name"]
        agents = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("n1", "n2")]
        told: list[str] = []
        until = time.monotonic() + 60
        while "0.0.1 on n1, n2" not in "".join(told) and time.monotonic() < until:
            heard = reactor.wait(0.1)
            told += [str(each.event.text) for each in heard if isinstance(each, Announcement)]  # type: ignore[attr-defined]
        said = [agent.communicate(timeout=60)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [3, 3], said
    assert all("has other versions than this run" in text and f"runner {__version__}: 0.0.1" in text for text in said)
    assert (
        f"refused: 2 of 2 nodes have other versions than this run:\n  runner {__version__}: 0.0.1 on n1, n2" in told[-1]
    )
