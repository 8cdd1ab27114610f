"""Two machines, as far as the network goes: namespaces with a cable between them that is cut, or a bad line.

What must hold: every item arrives once, and no item is ever executed at two places at the same time.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from faults.test_agents import wait_for
from helpers import IS_SLOW_SESSION
from network_lines import Cable, can_make_networks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_SLOW_SESSION or not can_make_networks(), reason="needs root and ip"),
]

TASKS = """
    [run]
    engine = "agents"
    [agents]
    listen = "10.231.77.1:0"
    lost = "{lost}"
    [queues.q]
    [queues.r]
    [tasks.numbers]
    call = "std.range"
    args = [0, 150]
    outputs = "q"
    mode = "thread"
    [tasks.work]
    call = "work.work"
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
    def work(item: int) -> int:
        with open(f"seen-{os.getpid()}-{item}", "a") as file:
            for _ in range(10):
                file.write(f"{time.monotonic()}\\n")
                file.flush()
                time.sleep(0.01)
        return item
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    yield made
    made.close()


def overlaps(folder: Path) -> list[str]:
    """Items that were executed at two places at the same time."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path in folder.glob("seen-*"):
        times = [float(line) for line in path.read_text().splitlines() if line]
        if times:
            spans[path.name.rpartition("-")[2]].append((times[0], times[-1]))
    found = []
    for item, each in spans.items():
        each.sort()
        found += [item for (_, end), (begin, _) in itertools.pairwise(each) if begin < end]
    return found


def cut_for_good(cable: Cable) -> None:
    cable.switch("down")


def cut_for_a_moment(cable: Cable) -> None:
    cable.switch("down")
    threading.Event().wait(1.0)
    cable.switch("up")


def nothing_from_the_agent(cable: Cable) -> None:
    cable.lose(1)


def nothing_to_the_agent(cable: Cable) -> None:
    cable.lose(0)


@pytest.mark.parametrize("fault", [cut_for_good, cut_for_a_moment, nothing_from_the_agent, nothing_to_the_agent])
def test_a_cable_that_is_cut(fault: Any, cable: Cable, project: Any, tmp_path: Path) -> None:
    lost = "8s" if fault is cut_for_a_moment else "2s"
    project({"tasks.toml": TASKS.format(lost=lost), "plugins/work.py": WORK})
    agents = [
        cable.start(end, tmp_path, "agent", "--join", ".runner/runs/last/join", f"--name=n{end}", "--places=2")
        for end in (0, 1)
    ]
    running = cable.start(0, tmp_path, "run", "tasks.toml")
    wait_for(lambda: len({path.name.split("-")[1] for path in tmp_path.glob("seen-*")}) == 4)
    fault(cable)
    outcome = running.finish()
    assert outcome.exit == 0, outcome
    assert sorted(map(int, (tmp_path / "out.txt").read_text().split())) == list(range(150))
    assert not overlaps(tmp_path)
    ends = {agent.finish().exit for agent in agents}
    if fault is cut_for_a_moment:
        assert "lost" not in outcome.err, outcome
        assert ends == {0}
    else:
        assert "node `n1` is gone: " in outcome.err, outcome
        assert ends == {0, 3}
