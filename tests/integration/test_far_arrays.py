"""Large items on two machines: deaths amid their bytes, no memory, what an agent must not send, and nearness."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from faults import blobs
from faults.harness import plan, run, task
from faults.sinks import collector
from faults.test_agents import agents_of, wait_for
from integration.test_agents import Rig
from remote_agents import wait_until

from runner import events
from runner.ledger.restore import MAX_CRASHES
from runner.model import QueueConfig, Restarts
from runner.shm.registry import NODE_SHIFT, RegisteredArena
from runner.shm.writer import ARENA_BYTES, PAGE_SIZE
from runner.transport import agent_messages as frames
from runner.transport.frame_link import BLOCK_HEAD, FRAME_HEAD, FrameLink
from runner.transport.messages import Ready

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 40


def chain(collected: list[Any], *middle: Any, count: int = COUNT, seconds: float = 0.0) -> Any:
    return plan(
        [
            task("source", blobs.blobs, outputs="a", args=(count, seconds), restarts=Restarts(0)),
            *middle,
            task("number", blobs.number_of, "b", "c", workers=2, restarts=Restarts(0)),
            collector(collected, "c"),
        ],
        {name: QueueConfig(name, size=8) for name in "ab"},
    )


@pytest.mark.slow
def test_an_agent_is_killed_while_arrays_are_under_way(tmp_path: Path) -> None:
    collected: list[Any] = []
    middle = task("middle", blobs.strikes_agent, "a", "b", workers=2, args=(COUNT // 2, tmp_path / "struck"))
    outcome = run(chain(collected, middle), collected, "agents")
    assert outcome.result.exit_code == 0, outcome.said[-10:]
    assert sorted(collected) == list(range(COUNT))
    assert len(outcome.of(events.NodeLost)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agents_and_workers_are_killed_at_random(seed: int, encrypted: bool) -> None:
    draw, collected, count = random.Random(seed), [], 400
    over, joined, pids = threading.Event(), [], []

    def storm(machines: Any) -> None:
        while not over.wait(draw.uniform(0.05, 0.4)):
            if pids and draw.random() < 0.6:
                with suppress(ProcessLookupError):
                    os.kill(pids.pop(draw.randrange(len(pids))), signal.SIGKILL)
            elif joined and len(machines.agents) < 10:
                agent = machines.agents[int(joined.pop(draw.randrange(len(joined))).removeprefix("n")) - 1]
                agent.send_signal(draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                machines.add()

    threads: list[threading.Thread] = []

    def begin(machines: Any) -> None:
        threads.append(threading.Thread(target=storm, args=(machines,), daemon=True))
        threads[0].start()

    def on_event(event: Any) -> None:
        if isinstance(event, events.NodeJoined):
            joined.append(event.node)
        elif isinstance(event, events.WorkerReady) and event.task == "middle":
            pids.append(event.pid)
        elif isinstance(event, events.RunEnded):
            over.set()
            threads[0].join(10)

    middle = task("middle", blobs.passed, "a", "b", workers=4, args=(0.01,), attempts=50)
    made = chain(collected, middle, count=count)
    outcome = run(made, collected, "agents", on_event, on_machines=begin, encrypted=encrypted)
    # On a busy machine the storm may kill so many workers over one item that it is a dead one.
    deaths = Counter(each.item for each in outcome.of(events.WorkerDied) if each.item)
    missing = {*range(count)} - {*collected}
    assert len(collected) == count - len(missing), "an item came twice"
    assert len(missing) <= sum(number >= MAX_CRASHES for number in deaths.values()), outcome.said[-10:]
    assert sum(each.dead for each in outcome.result.tasks.values()) == len(missing)
    assert outcome.of(events.NodeLost) or outcome.of(events.WorkerDied)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["room_at", "bytes_at"])
def test_without_memory_here_items_travel_in_messages(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(self: RegisteredArena, offset: int, length: int) -> memoryview:
        asked.append(length)
        raise OSError("no memory is left")

    monkeypatch.setattr(RegisteredArena, way, refuse)
    collected: list[Any] = []
    outcome = run(chain(collected, task("middle", blobs.passed, "a", "b")), collected, "agents")
    assert outcome.result.exit_code == 0
    assert sorted(collected) == list(range(COUNT))
    assert len(asked) >= COUNT


def test_an_item_goes_to_the_machine_that_has_it() -> None:
    """A source and a reader on each machine: both readers are free, and one of them is near."""
    collected: list[Any] = []
    made = plan(
        [
            task("source", blobs.of_agent, outputs="a", workers=2, args=(30, 0.02)),
            task("reads", blobs.with_agent, "a", "b", workers=2),
            collector(collected, "b"),
        ]
    )

    def await_machines(supervisor: Any, hub: Any) -> None:
        wait_until(hub, lambda: len(supervisor.state.tasks["reads"].engine._nodes) == 2)

    outcome = run(made, method="agents", places=2, on_start=await_machines)
    ready = {event.worker: event.node for event in outcome.of(events.WorkerReady)}
    assert {ready["source-1"], ready["source-2"]} == {ready["reads-1"], ready["reads-2"]} == {"n1", "n2"}
    assert len(collected) == 60
    near = sum(maker == reader for maker, reader in collected[10:])
    assert near >= 40, "the far one is for when the near one is busy"


BAD = {
    "another's arena": (BLOCK_HEAD.pack(7, 0) + b"x" * 10, "an arena that is not its own"),
    "beyond the end": (BLOCK_HEAD.pack(1 << NODE_SHIFT, ARENA_BYTES) + b"x" * 10, "a block that cannot be"),
    "between two pages": (BLOCK_HEAD.pack(1 << NODE_SHIFT, PAGE_SIZE // 2) + b"x" * 10, "a block that cannot be"),
    "no bytes": (BLOCK_HEAD.pack(1 << NODE_SHIFT, 0), "a block without bytes"),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=pytest.mark.slow if at else ()) for at, fault in enumerate(BAD)]
)
def test_an_agent_that_sends_bytes_which_cannot_be_is_given_up(fault: str) -> None:
    body, words = BAD[fault]
    with ExitStack() as stack:
        made = Rig(stack, agents=1)
        made.start(0)
        made.until(lambda: made.of(Ready))
        (node,) = made.engine._nodes.values()
        number = node.memory.number
        if body[:8] == BLOCK_HEAD.pack(1 << NODE_SHIFT, 0)[:8]:
            body = BLOCK_HEAD.pack(number << NODE_SHIFT, BLOCK_HEAD.unpack_from(body)[1]) + body[16:]
        data = FRAME_HEAD.pack(frames.MADE, 0, 1, len(body)) + body
        _feed(node.link, data)
        assert words in node.link.end_reason
        made.engine._watch_writing(node)
        made.until(lambda: made.of(events.NodeLost))
        assert words in made.of(events.NodeLost)[0].why


def _feed(link: FrameLink, data: bytes) -> None:
    """Have a link read some bytes, as if its other end had sent them."""
    from runner.transport.framing import FrameError

    try:
        link._parse(memoryview(data), [])
    except FrameError as error:
        link.end_reason = str(error)


def test_bytes_of_a_former_worker_are_given_back_at_once() -> None:
    with ExitStack() as stack:
        made = Rig(stack, agents=1)
        made.start(0)
        made.until(lambda: made.of(Ready))
        (node,) = made.engine._nodes.values()
        number = node.memory.number << NODE_SHIFT | 99
        sent: list[int] = []
        gather = node.link.gather
        node.link.gather = lambda kind, *rest, **more: (sent.append(kind), gather(kind, *rest, **more))[1]  # type: ignore[method-assign,func-returns-value]
        got: list[Any] = []
        body = BLOCK_HEAD.pack(number, 0) + b"x" * 100_000
        node.link._parse(memoryview(FRAME_HEAD.pack(frames.MADE, 0, 9, len(body)) + body), got)
        made.engine._hear(node, got)
        assert sent == [frames.FREED]
        assert not node.link.end_reason
        made.engine._memory.release_blocks()
        assert made.engine._memory.registry.find_arena(number) is None


TASKS = """
    [run]
    engine = "agents"
    durable = true
    [agents]
    listen = "127.0.0.1:0"
    [queues.a]
    size = 4
    [queues.b]
    size = 4
    [tasks.source]
    call = "big.blobs"
    outputs = "a"
    mode = "thread"
    with = { count = 30 }
    [tasks.again]
    call = "big.again"
    inputs = "a"
    outputs = "b"
    workers = 2
    [tasks.write]
    call = "std.write_lines"
    with = { path = "out.txt" }
    inputs = "b"
    mode = "thread"
"""
BIG = """
    import time
    from pathlib import Path
    from runner import task

    @task
    def blobs(count):
        for number in range(count):
            yield bytes([number]) * 300_000

    @task
    def again(item: bytes) -> str:
        assert item == item[:1] * 300_000
        if item[0] == 15:
            Path("reached").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return str(item[0])
"""


@pytest.mark.slow
def test_a_durable_run_brings_its_large_items_back(project: Any, tmp_path: Path) -> None:
    """The supervisor is killed amid large items; other agents are given what the ledger has."""
    made = project({"tasks.toml": TASKS, "plugins/big.py": BIG})
    agents = agents_of(made)
    running = made.start("tasks.toml")
    wait_for((tmp_path / "reached").exists)
    running.process.send_signal(signal.SIGKILL)
    assert running.finish().exit == -9
    for agent in agents:
        agent.finish()
    (tmp_path / "go").touch()
    for join in tmp_path.glob(".runner/runs/*/join"):
        join.unlink()
    resumed = made.start("last", verb="resume")
    agents = agents_of(made)
    outcome = resumed.finish()
    assert outcome.exit == 0, outcome
    for agent in agents:
        assert agent.finish().exit == 0
    assert sorted(map(int, (tmp_path / "out.txt").read_text().split())) == list(range(30))
