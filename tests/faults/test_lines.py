"""Two machines with a bad line between them: long, lossy, narrow, cut while workers are in the middle of items.

Each execution of an item notes the moments at which it is under way; whatever happens, every item arrives once, and no
item is executed at two places at the same time. `bench/networks.py` does it for as long as it is told to.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faults.test_agents import wait_for
from faults.test_networks import overlaps
from helpers import IS_SLOW_SESSION
from network_lines import Line, can_make_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_SLOW_SESSION or not can_make_lines(), reason="needs root, ip and /dev/net/tun"),
]

TASKS = """
    [run]
    engine = "agents"
    durable = {durable}
    [agents]
    listen = "10.231.77.1:0"
    lost = "{lost}"
    [queues.q]
    [queues.r]
    [tasks.numbers]
    call = "std.range"
    args = [0, {items}]
    outputs = "q"
    mode = "thread"
    [tasks.work]
    with = {{ seconds = {seconds} }}
    inputs = "q"
    outputs = "r"
    workers = 4
    restarts = {{ times = 0 }}
    [tasks.keep]
    call = "std.write_lines"
    with = {{ path = "out.txt" }}
    inputs = "r"
    mode = "thread"
"""
WORK = """
    import os
    import time
    from runner import task

    @task
    def work(item: int, *, seconds: float) -> int:
        until = time.monotonic() + seconds
        with open(f"seen-{os.getpid()}-{item}", "a") as file:
            while (now := time.monotonic()) < until:
                file.write(f"{now}\\n")
                file.flush()
                time.sleep(0.01)
        return item
"""

#: 50 ms each way, give or take 20, a packet in a hundred lost, 10 Mbit/s.
BAD = {"delay": 0.05, "jitter": 0.02, "loss": 0.01, "rate": 1.25e6}


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    with contextlib.ExitStack() as stack:

        def make(**options: float) -> Line:
            made = Line(**options)
            stack.callback(made.close)
            return made

        yield make


def tasks(*, lost: str = "2s", items: int = 80, seconds: float = 0.1, durable: bool = False) -> str:
    return TASKS.format(lost=lost, items=items, seconds=seconds, durable=str(durable).lower())


def workers_seen(folder: Path) -> int:
    return len({path.name.split("-")[1] for path in folder.glob("seen-*")})


def arrived(folder: Path, count: int) -> None:
    assert sorted(map(int, (folder / "out.txt").read_text().split())) == list(range(count))
    assert not overlaps(folder)


def test_a_long_lossy_narrow_line_costs_time_alone(line: Any, project: Any, tmp_path: Path) -> None:
    bad = line(**BAD)
    project({"tasks.toml": tasks(lost="10s"), "plugins/work.py": WORK})
    agents = [bad.agent(end, tmp_path) for end in (0, 1)]
    outcome = bad.start(0, tmp_path, "run", "tasks.toml").finish()
    assert outcome.exit == 0, outcome
    assert "lost" not in outcome.err, outcome
    assert {agent.finish().exit for agent in agents} == {0}
    assert workers_seen(tmp_path) == 4
    arrived(tmp_path, 80)


@pytest.mark.parametrize(
    ("ends", "seconds"),
    [((0, 1), 0.1), ((0,), 0.1), ((1,), 0.1), ((0, 1), 7.0)],
    ids=["both ways", "to the agent", "from the agent", "long items"],
)
def test_a_bad_line_is_cut(ends: Any, seconds: float, line: Any, project: Any, tmp_path: Path) -> None:
    """Long items leave the connection silent, so that both ends learn of the cut by asking only."""
    bad, items = line(**BAD), 80 if seconds < 1 else 4
    project({"tasks.toml": tasks(items=items, seconds=seconds), "plugins/work.py": WORK})
    agents = [bad.agent(end, tmp_path) for end in (0, 1)]
    running = bad.start(0, tmp_path, "run", "tasks.toml")
    wait_for(lambda: workers_seen(tmp_path) == 4)
    bad.cut(*ends)
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert "node `n1` is gone: " in outcome.err, outcome
    assert {agent.finish().exit for agent in agents} == {0, 3}
    arrived(tmp_path, items)


def test_a_machine_that_is_suspended_and_wakes_finds_that_the_run_went_on(
    line: Any, project: Any, tmp_path: Path
) -> None:
    """Its workers stand in the middle of items; awake, its agent sees the connection's end first of all."""
    bad = line()
    project({"tasks.toml": tasks(), "plugins/work.py": WORK})
    agents = [bad.agent(end, tmp_path) for end in (0, 1)]
    running = bad.start(0, tmp_path, "run", "tasks.toml")
    wait_for(lambda: workers_seen(tmp_path) == 4)
    frozen = agents[1].processes()
    for process in reversed(frozen):
        process.send_signal(signal.SIGSTOP)
    bad.cut(0, 1)
    outcome = running.finish()
    bad.mend()
    for process in sorted(frozen, key=lambda each: each.pid != agents[1].process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
        if process.pid == agents[1].process.pid:
            agents[1].process.wait(30)
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in agents} == {0, 3}
    arrived(tmp_path, 80)


def test_the_supervisor_s_machine_is_gone_and_a_durable_run_goes_on(line: Any, project: Any, tmp_path: Path) -> None:
    bad = line(delay=0.005)
    project({"tasks.toml": tasks(durable=True), "plugins/work.py": WORK})
    first = [bad.agent(1, tmp_path, f"n{number}") for number in (1, 2)]
    running = bad.start(0, tmp_path, "run", "tasks.toml")
    wait_for(lambda: workers_seen(tmp_path) == 4)
    bad.cut(0, 1)  # first, so that no word of its end reaches them
    os.killpg(running.process.pid, signal.SIGKILL)
    assert running.finish().exit == -9
    assert {agent.finish().exit for agent in first} == {3}
    bad.mend()
    second = [bad.agent(1, tmp_path, f"n{number}") for number in (3, 4)]
    outcome = bad.start(0, tmp_path, "resume").finish()
    assert outcome.exit == 0, outcome
    assert {agent.finish().exit for agent in second} == {0}
    arrived(tmp_path, 80)


BULKY = """
    [run]
    engine = "agents"
    [agents]
    listen = "10.231.77.1:0"
    [queues.q]
    [queues.r]
    [tasks.give]
    outputs = "q"
    mode = "thread"
    [tasks.work]
    inputs = "q"
    outputs = "r"
    workers = 2
    [tasks.keep]
    call = "std.write_lines"
    with = {{ path = "out.txt" }}
    inputs = "r"
    mode = "thread"
"""


@pytest.mark.parametrize("way", ["to", "from"])
def test_a_run_whose_line_is_the_limit_says_so(way: str, line: Any, project: Any, tmp_path: Path) -> None:
    work = f"""
        from runner import task

        @task
        def give():
            for number in range(30):
                yield bytes(50_000 if {way == "to"} else 5)

        @task
        def work(item: bytes) -> int:
            return len(item) if {way == "to"} else str(bytes(50_000))
    """
    narrow = line(rate=1.25e6)
    project({"tasks.toml": BULKY.format(), "plugins/work.py": work})
    agent = narrow.agent(1, tmp_path)
    outcome = narrow.start(0, tmp_path, "run", "tasks.toml", "-v").finish()
    assert outcome.exit == 0, outcome
    assert agent.finish().exit == 0
    told = " ".join(outcome.err.split())
    assert "the network to node `n1` limits the run: " in told, outcome
    assert f"full with what goes {way} it" in told, outcome
