"""What a run on other machines promises besides its items: limits, stacks, output in order, words for what is missing."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from faults import functions
from faults.harness import plan, run, task
from faults.sinks import collector
from faults.test_agents import agents_of, wait_for
from helpers import existing, still_there
from remote_agents import LIMIT, open_remote

import runner
from runner import events
from runner.cluster import versions
from runner.engines import remote
from runner.engines.engine_events import Announcement, MessageReceived, WorkerExited, WorkerLeaving
from runner.engines.reactor import LocalReactor
from runner.model import Lifespan, Restarts
from runner.tasks import Reference
from runner.transport import agent_messages, item_codec
from runner.transport.frame_link import FRAME_HEAD, Frame
from runner.transport.key_proof import KeyProof
from runner.transport.messages import PICKLED, Finished, Grant, GrantedRange, Ready, Reply, Stop
from runner.worker.spec import OutputGroup, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Rig:
    """An engine with agents, and all that it has reported."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.hub = LocalReactor()
        stack.callback(self.hub.close)
        self.engine, self.machines = open_remote(self.hub, stack, **options)
        self.heard: list[Any] = []

    def start(self, slot: int = 0, function: str = "abs", life: int = 1, **options: Any) -> None:
        given: dict[str, Any] = {"task": "work", "inputs": ("in",), "arguments": pickle.dumps(((), {})), **options}
        groups = (OutputGroup("default", ("out",), PICKLED),)
        reference = Reference(given.pop("module", "builtins"), function)
        spec = WorkerSpec(name=f"w{slot}", run="r", slot=slot, reference=reference, output_groups=groups, **given)
        self.engine.start(spec, life)

    def grant(self, slot: int, lease: int, *items: Any) -> None:
        data = item_codec.encode_payload([item_codec.ItemEncoder(1 << 30).encode_item(item) for item in items])
        part = GrantedRange(lease, 0, len(items), 1, 0, PICKLED, data)
        self.engine.send(slot, Grant(lease, 0.05, (part,)))

    def until(self, holds: Callable[[], Any]) -> None:
        until = time.monotonic() + LIMIT
        while not holds():
            assert time.monotonic() < until, self.heard
            self.heard += self.hub.wait(0.1)

    def of(self, kind: type) -> list[Any]:
        found = [event for event in self.heard if isinstance(event, kind)]
        found += [
            event.message
            for event in self.heard
            if isinstance(event, MessageReceived) and isinstance(event.message, kind)
        ]
        return found + [
            event.event for event in self.heard if isinstance(event, Announcement) and isinstance(event.event, kind)
        ]

    def notices(self) -> list[str]:
        return [event.text for event in self.of(events.Notice)]


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    with ExitStack() as stack:
        yield lambda **options: Rig(stack, **options)


# -- places --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_wait_for_places_and_start_as_machines_join(rig, monkeypatch):
    monkeypatch.setattr(remote, "_WAITING_SECONDS", 0.05)
    made = rig(agents=0)
    for slot in range(4):
        made.start(slot)
    made.until(lambda: len(made.notices()) == 2)
    assert made.notices() == ["join me", "4 of 10 workers wait for a place: no node has joined. join me"]
    assert all(map(made.engine.waits_for_place, range(4)))
    made.machines.add("small", places=2)
    made.until(lambda: len(made.of(Ready)) == 2)
    made.start(4, task="other")  # the first of its task: it is started all the same
    made.until(lambda: len(made.of(Ready)) == 3)
    assert [made.engine.waits_for_place(slot) for slot in range(5)] == [False, False, True, True, False]
    made.until(lambda: made.notices()[-1] == "2 of 10 workers wait for a place: all 2 places of 1 node are taken")
    assert made.engine.withdraw_start(3)
    assert not made.engine.withdraw_start(0)
    made.machines.add("large", places=2)
    made.until(lambda: len(made.of(Ready)) == 4)
    assert [(joined.node, joined.places) for joined in made.of(events.NodeJoined)] == [("small", 2), ("large", 2)]
    assert [ready.node for ready in made.of(Ready)] == ["small"] * 3 + ["large"]


@pytest.mark.slow
def test_a_place_is_free_again_when_its_worker_has_ended(rig):
    made = rig(agents=1, places=1)
    made.start(0)
    made.start(1)
    made.until(lambda: made.of(Ready))
    made.engine.send(0, Stop(inputs_ended=True))
    made.until(lambda: len(made.of(Ready)) == 2)
    assert made.of(WorkerExited)[0].exit_status.code == 0
    assert made.engine.kill(1)
    made.until(lambda: len(made.of(WorkerExited)) == 2)
    assert made.of(WorkerExited)[1].exit_status.signal == signal.SIGKILL


@pytest.mark.slow
def test_no_more_nodes_join_than_may(rig):
    made = rig(agents=0)
    made.engine._max_nodes = 1
    made.machines.add("n1")
    made.until(lambda: made.of(events.NodeJoined))
    second = made.machines.add("n2")
    made.until(lambda: second.poll() == 3)
    made.until(lambda: "has as many nodes as it may have" in made.notices()[-1])


@pytest.mark.slow
def test_two_machines_of_one_name_are_told_apart(rig):
    made = rig(agents=0)
    for _ in range(2):
        made.machines.add("same")
    made.until(lambda: len(made.of(events.NodeJoined)) == 2)
    assert {joined.node for joined in made.of(events.NodeJoined)} == {"same", "same-2"}


@pytest.mark.slow
def test_another_version_is_refused_by_both_ends(rig, monkeypatch):
    monkeypatch.setattr(versions, "__version__", "9.9")
    made = rig(agents=1)
    made.until(lambda: len(made.notices()) == 2)
    assert "refused: n1 has other versions than this run:\n  runner 9.9: 0.1.0 on n1" in made.notices()[1]
    assert made.machines.agents[0].wait(30) == 3
    assert not made.of(events.NodeJoined)


# -- what goes wrong -----------------------------------------------------------------------------------


def test_a_machine_that_is_killed_takes_its_workers_and_blames_what_stood(rig, tmp_path):
    made = rig(agents=1)
    made.start(0, "hang", module="sample_functions")
    made.start(1, "abs")
    made.until(lambda: len(made.of(Ready)) == 2)
    made.grant(0, 7, 1)
    made.until(lambda: made.engine.current_position(0).lease == 7)  # told once it has stood for a second
    pids = [ready.pid for ready in made.of(Ready)]
    os.kill(made.machines.agents[0].pid, signal.SIGKILL)
    made.until(lambda: len(made.of(WorkerExited)) == 2)
    assert [(died.slot, died.lost, died.position.lease) for died in made.of(WorkerExited)] == [
        (0, True, 7),
        (1, True, 0),
    ]
    (lost,) = made.of(events.NodeLost)
    assert (lost.node, lost.workers) == ("n1", ("w0", "w1"))
    assert not still_there(list(existing(pids)), limit=0)  # dead before that was told


def test_a_late_word_of_a_former_worker_is_not_heard(rig):
    made = rig(agents=2)
    made.start(0)
    made.until(lambda: made.of(Ready))
    node = next(node for node in made.engine._nodes.values() if 0 in node.slots)
    made.engine.kill(0)
    made.until(lambda: made.of(WorkerExited))
    made.start(0, life=2)
    made.until(lambda: any(0 in each.slots for each in made.engine._nodes.values()))
    made.engine._hear(node, [Frame(agent_messages.HEARD, 0, 1, memoryview(b"garbage that is not read"))])
    assert not node.link.end_reason
    made.until(lambda: len(made.of(Ready)) == 2)


def test_a_machine_that_leaves_gives_notice_and_ends_when_its_workers_have(rig):
    made = rig(agents=1)
    made.start(0, "slowly", module="faults.functions", arguments=pickle.dumps(((), {"seconds": 0.3})))
    made.until(lambda: made.of(Ready))
    made.grant(0, 1, 5)
    made.machines.agents[0].terminate()
    made.until(lambda: made.of(WorkerLeaving))
    made.start(1)  # nothing begins there any more
    assert made.engine.waits_for_place(1)
    made.until(lambda: made.of(Reply))
    made.engine.send(0, Stop(inputs_ended=True))
    made.until(lambda: made.of(events.NodeLost))
    assert made.of(Finished)
    assert not made.of(WorkerExited)[0].lost
    assert made.of(events.NodeLost)[0].why == "has left"
    assert made.machines.agents[0].wait(30) == 0


@pytest.mark.slow
def test_a_frozen_agent_is_given_up_when_a_worker_of_its_must_die(rig):
    made = rig(agents=1, lost=2.0)
    made.start(0)
    made.until(lambda: made.of(Ready))
    made.machines.agents[0].send_signal(signal.SIGSTOP)
    made.engine.kill(0)
    made.until(lambda: made.of(WorkerExited))
    made.machines.agents[0].send_signal(signal.SIGCONT)
    assert made.of(WorkerExited)[0].lost
    assert "it has not ended a worker within 2s" in made.of(events.NodeLost)[0].why
    assert made.machines.agents[0].wait(30) == 3


@pytest.mark.parametrize("data", [b"\xff" * 30, FRAME_HEAD.pack(agent_messages.HEARD, 0, 1, 4) + b"junk"])
def test_an_agent_that_sends_what_is_not_a_message_is_given_up(rig, data):
    made = rig(agents=0)
    sock = socket.create_connection(made.engine._door._listener.getsockname())
    proof = KeyProof(sock, made.machines.key, "the run", is_agent=True)
    thread = threading.Thread(target=proof.finish)
    thread.start()
    made.until(lambda: not thread.is_alive())
    hello = agent_messages.Hello("odd", "odd", 1, 1, 1, 1, versions.__version__, platform.python_version())
    body = agent_messages.encode_body(hello)
    sock.sendall(FRAME_HEAD.pack(agent_messages.HELLO, 0, 0, len(body)) + body)
    made.start(0)
    made.until(lambda: made.of(events.NodeJoined))
    sock.sendall(data)
    made.until(lambda: made.of(WorkerExited))
    assert made.of(WorkerExited)[0].lost
    assert made.of(events.NodeLost)[0].why.startswith("is gone: ")
    sock.close()


@pytest.mark.slow
def test_a_machine_that_cannot_start_a_worker_says_why(rig):
    made = rig(agents=1)
    made.until(lambda: made.of(events.NodeJoined))
    (agent,) = made.machines.agents
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (20, 20))
    made.start(0)
    made.until(lambda: made.of(WorkerExited))
    text = str(made.of(WorkerExited)[0].exit_status)
    assert text.startswith("could not be started on node n1: "), text


# -- output --------------------------------------------------------------------------------------------


def test_output_waits_for_who_prints_it_and_comes_before_the_death(rig):
    printed: list[Any] = []
    waiting: list[Any] = []
    gate = threading.Event()

    def print_output(name: str, data: bytes, stream: str, then: Any) -> None:
        printed.append((name, data, stream))
        (then() if gate.is_set() else waiting.append(then))

    made = rig(agents=1, print_output=print_output)
    made.start(0, "shout", module="sample_functions", timed=True)
    made.until(lambda: made.of(Ready))
    made.grant(0, 1, 3_000_000)
    made.until(lambda: made.engine.is_output_blocked(0))
    so_far = sum(len(data) for _, data, _ in printed)
    assert so_far < 500_000
    gate.set()
    for then in waiting:
        then()
    made.until(lambda: made.of(Reply))
    made.engine.send(0, Stop(inputs_ended=True))
    made.until(lambda: made.of(WorkerExited))
    assert sum(len(data) for _, data, _ in printed) == 3_000_001
    assert {(name, stream) for name, _, stream in printed} == {("w0", "out")}


# -- whole runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_time_limit_kills_over_there_and_shows_the_stack():
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(6,)),
            task("work", functions.hanging, "a", "b", timeout=0.5, args=(3,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected, "agents")
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [0, 1, 2, 4, 5]
    (late,) = outcome.of(events.ItemTimedOut)
    assert late.node in {"n1", "n2"}
    (letter,) = outcome.letters
    assert "hanging" in letter.text.traceback


@pytest.mark.slow
def test_a_limit_of_memory_replaces_workers_over_there():
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(40,)),
            task("work", functions.slowly, "a", "b", lifespan=Lifespan(memory=1), args=(0.05,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected, "agents", weighed=("work",))
    assert outcome.result.exit_code == 0
    assert sorted(collected) == list(range(40))
    assert len([ready for ready in outcome.of(events.WorkerReady) if ready.task == "work"]) > 1


def test_an_item_that_kills_is_shown_and_is_a_dead_letter():
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(6,)),
            task("work", functions.deadly, "a", "b", args=(3,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected, "agents", suspect_readers=True)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [0, 1, 2, 4, 5]
    assert [letter.preview for letter in outcome.letters] == ["3"]


NEAR = """
    [run]
    engine = "agents"
    [agents]
    listen = "127.0.0.1:0"
    [queues.q]
    [tasks.numbers]
    call = "work.numbers"
    outputs = "q"
    [tasks.see]
    call = "work.see"
    inputs = "q"
    workers = 2
"""


@pytest.mark.slow
def test_stacks_and_a_pause_reach_the_workers_over_there(project, tmp_path: Path):
    work = """
        import time
        from pathlib import Path
        from runner import task

        @task
        def numbers():
            yield from range(2)

        @task
        def see(item: int) -> None:
            Path(f"sees-{item}").touch()
            while not Path("go").exists():
                time.sleep(0.01)
    """
    made = project({"tasks.toml": NEAR, "plugins/work.py": work})
    agents = agents_of(made)
    running, told = made.start("tasks.toml", "--events", "events.jsonl"), tmp_path / "events.jsonl"
    wait_for(lambda: len(list(tmp_path.glob("sees-*"))) == 2)
    running.process.send_signal(signal.SIGTSTP)
    wait_for(lambda: psutil.Process(running.process.pid).status() == psutil.STATUS_STOPPED)
    ready = [json.loads(line) for line in told.read_text().splitlines() if '"WorkerReady"' in line]
    workers = [psutil.Process(each["pid"]) for each in ready if each["task"] == "see"]
    assert len(workers) == 2
    wait_for(lambda: all(worker.status() == psutil.STATUS_STOPPED for worker in workers))
    running.process.send_signal(signal.SIGCONT)
    running.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: told.read_text().count('"Stack"') == 2)
    (tmp_path / "go").touch()
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in agents} == {0}
    assert outcome.err.count(" in see") == 2, outcome
    assert "@n" in outcome.err


FED = """
    [run]
    engine = "agents"
    [agents]
    listen = "127.0.0.1:0"
    [queues.numbers]
    [queues.results]
    [tasks.negative]
    call = "work.negative"
    inputs = "numbers"
    outputs = "results"
    workers = 4
"""


@pytest.mark.slow
@pytest.mark.parametrize("of_arrays", [False, True])
def test_what_a_program_feeds_and_collects_passes_over_machines(project: Any, tmp_path: Path, of_arrays: bool) -> None:
    def work() -> None:
        from runner import task

        @task
        def negative(item):
            return -item

    made = project({"tasks.toml": FED, "plugins/work.py": work})
    agents = agents_of(made)
    numbers: list[Any] = [*range(500)] if not of_arrays else [np.full(50_000, number) for number in range(40)]
    result = runner.run(made.path / "tasks.toml", feed={"numbers": numbers}, collect="results", quiet=True)
    assert result.exit_code == 0, result
    got = sorted(int(each[0]) if of_arrays else each for each in result.collected["results"])
    assert got == sorted(-number for number in range(len(numbers)))
    assert {agent.finish().exit for agent in agents} == {0}
    agents = agents_of(made)
    with runner.stream(made.path / "tasks.toml", feed={"numbers": itertools.count()}, collect="results") as items:
        first = [next(items) for _ in range(100)]
    assert len({*first}) == 100
    assert all(each <= 0 for each in first)
    assert {agent.finish().exit for agent in agents} == {0}


DURABLE = """
    [run]
    engine = "agents"
    durable = true
    [agents]
    listen = "127.0.0.1:0"
    [queues.q]
    [queues.r]
    [tasks.numbers]
    call = "work.numbers"
    outputs = "q"
    [tasks.wait]
    call = "work.wait"
    inputs = "q"
    outputs = "r"
    workers = 2
    [tasks.keep]
    call = "std.write_lines"
    with = { path = "out.txt" }
    inputs = "r"
    mode = "thread"
"""


@pytest.mark.slow
def test_a_durable_run_goes_on_with_other_agents_after_the_death_of_its_supervisor(project, tmp_path: Path):
    work = """
        import time
        from pathlib import Path
        from runner import task

        @task
        def numbers():
            yield from range(300)

        @task
        def wait(item: int) -> int:
            time.sleep(0.002)
            if item == 150:
                Path("half").touch()
            return item
    """
    made = project({"tasks.toml": DURABLE, "plugins/work.py": work})
    agents = agents_of(made)
    running = made.start("tasks.toml")
    wait_for(lambda: (tmp_path / "half").exists())
    running.process.kill()
    assert running.finish().exit == -9
    assert {agent.finish().exit for agent in agents} == {3}
    agents = agents_of(made)
    outcome = made.run(verb="resume")
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in agents} == {0}
    assert sorted(map(int, (tmp_path / "out.txt").read_text().split())) == list(range(300))
    assert not list(tmp_path.glob(".runner/runs/*/join"))


HEAVY = ("typer", "rich", "pydantic", "tomli", "pluggy", "jinja2", "runner.supervisor", "runner.cli.app")


def loaded(program: str, *names: str) -> list[str]:
    """Return which of some modules a program has imported at its end."""
    text = f"import sys\n{program}\nprint(*[name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split()


def test_an_agent_is_light_and_a_run_on_one_machine_knows_nothing_of_others():
    agent = """
sys.argv = ["runner", "agent", "--join", "nowhere/join", "--wait", "0"]
from runner.__main__ import main
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
"""
    assert loaded(agent, "runner.agent.relay", *HEAVY) == ["runner.agent.relay"]
    local = "import runner.runs, runner.engines.processes, runner.supervisor.loop"
    remote = (
        "runner.engines.remote",
        "runner.engines.nodes",
        "runner.cluster_run",
        "runner.transport.frame_link",
        "ssl",
    )
    assert loaded(local, "runner.runs", *remote) == ["runner.runs"]


NODES = """
    [run]
    engine = "agents"
    [agents]
    listen = "127.0.0.1:0"
    [queues.q]
    [tasks.numbers]
    call = "work.numbers"
    outputs = "q"
    mode = "thread"
    [tasks.tell]
    call = "work.tell"
    inputs = "q"
    workers = 4
"""


@pytest.mark.slow
def test_a_function_knows_its_machine_and_so_does_the_record(project, tmp_path: Path):
    work = """
        import time
        from pathlib import Path
        from runner import Context, task

        @task
        def numbers(context: Context):
            print("here", context.node)
            yield from range(40)

        @task
        def tell(item: int, context: Context) -> None:
            Path(f"has-{context.worker}").touch()
            while len(list(Path().glob("has-*"))) < 4:
                time.sleep(0.01)
            print("there", context.node, context.worker)
    """
    made = project({"tasks.toml": NODES, "plugins/work.py": work})
    agents = [
        made.start("--join", ".runner/runs/last/join", f"--name=n{n}", "--places=2", verb="agent") for n in (1, 2)
    ]
    outcome = made.run("tasks.toml", "--json", "--progress", "none")
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in agents} == {0}
    record = json.loads(outcome.out[outcome.out.index("{") :])
    told = [line.partition(" | ")[2].split() for line in outcome.err.splitlines() if " | " in line]
    host = platform.node().partition(".")[0]
    assert {words[1] for words in told if words[0] == "here"} == {host}
    placed = {words[2]: words[1] for words in told if words[0] == "there"}
    assert set(placed.values()) == {"n1", "n2"}
    workers = {each["name"]: each["node"] for task in record["tasks"] for each in task["workers"]}
    assert workers.pop("numbers") == ""
    assert placed.items() <= workers.items()
    assert {node["name"]: node["workers"] for node in record["nodes"]} == {"n1": 2, "n2": 2}
    assert all(node["sent"] > 1000 and node["received"] > 1000 and node["left"] is None for node in record["nodes"])
    assert [each["text"] for each in record["moments"] if each["kind"] == "node"].count("`n1` has joined") == 1


AUTO = """
    [run]
    engine = "agents"
    [agents]
    listen = "127.0.0.1:0"
    [queues.q]
    [tasks.numbers]
    call = "std.range"
    args = [0, 500]
    outputs = "q"
    mode = "thread"
    [tasks.tell]
    inputs = "q"
    workers = "auto"
    resources = { cpus = 1 }
"""


@pytest.mark.slow
def test_auto_workers_are_one_for_each_place_also_of_machines_that_join_late(project, tmp_path: Path):
    work = """
        import time
        from pathlib import Path
        from runner import Context, task

        @task
        def tell(item: int, context: Context) -> None:
            Path(f"has-{context.node}-{context.worker}").touch()
            while not Path("go").exists():
                time.sleep(0.01)
    """
    made = project({"tasks.toml": AUTO, "plugins/work.py": work})
    join = ("--join", ".runner/runs/last/join")
    agents = [made.start(*join, "--name=n1", "--places=3", verb="agent")]
    running = made.start("tasks.toml", "--json", "--progress", "none")
    wait_for(lambda: len(list(tmp_path.glob("has-n1-*"))) == 3)
    agents.append(made.start(*join, "--name=n2", "--places=5", verb="agent"))
    wait_for(lambda: len(list(tmp_path.glob("has-n2-*"))) == 5)
    (tmp_path / "go").touch()
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in agents} == {0}
    seen = {path.name for path in tmp_path.glob("has-*")}
    assert seen == {f"has-{'n1' if number <= 3 else 'n2'}-tell-{number}" for number in range(1, 9)}
    record = json.loads(outcome.out[outcome.out.index("{") :])
    assert [task["done"] for task in record["tasks"] if task["name"] == "tell"] == [500]


@pytest.mark.slow
def test_a_machine_that_refuses_starts_is_not_asked_again_while_there_is_another(rig):
    made = rig(agents=0)
    for name, places in (("sick", 8), ("well", 2)):
        made.machines.add(name, places=places)
    made.until(lambda: len(made.of(events.NodeJoined)) == 2)
    resource.prlimit(made.machines.agents[0].pid, resource.RLIMIT_NOFILE, (20, 20))
    made.start(0)
    made.until(lambda: made.of(WorkerExited))
    assert "on node sick" in str(made.of(WorkerExited)[0].exit_status)
    for slot in (1, 2):
        made.start(slot)
    made.until(lambda: len(made.of(Ready)) == 2)
    assert [ready.node for ready in made.of(Ready)] == ["well", "well"]


@pytest.mark.slow
def test_an_async_item_that_takes_machines_down_is_a_dead_letter(tmp_path: Path):
    """Beside it others are under way: they are given again, and arrive."""
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(12,), mode="thread"),
            task("work", functions.ends_machines, "a", "b", workers=2, args=(7,), concurrency=4, restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected, "agents", agents=5, places=1)
    assert outcome.result.exit_code == 4, outcome.result
    assert sorted(collected) == [item for item in range(12) if item != 7]
    assert len(outcome.of(events.NodeLost)) == 3
