"""A thousand agents killed at random while others join: is an item lost, or does one come twice, is a process left?

    PYTHONPATH=tests python -m bench.kill_agents --kills 1000

Each run is one with real agents and workers on loopback. A few agents are there at a time; one after the other is
killed with SIGKILL, wherever it is just then (starting, executing, idle), and another one is started. Every item must
arrive once; after each run no process may be left. The harness of the tests checks the balance as well.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults import functions
from faults.harness import plan, run, task
from faults.sinks import collector
from helpers import descendants

from runner import events
from runner.model import Restarts

#: Agents that are there, or on their way.
ALIVE = 8


def storm(machines: Any, draw: random.Random, kills: int, killed: list[int], enough: Path, pause: float) -> None:
    """Kill so many agents, however far each of them is."""
    alive = list(machines.agents)
    while len(killed) < kills:
        time.sleep(draw.uniform(0, 2 * pause))
        victim = alive.pop(draw.randrange(len(alive)))
        if victim.poll() is None:
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)
        alive.append(machines.add(places=2))
    enough.touch()


def one_run(seed: int, kills: int, pause: float) -> Counter[str]:
    """Return what has happened; AssertionError from the harness if a process is left or the balance does not hold."""
    draw, collected, killed = random.Random(seed), list[Any](), list[int]()
    with tempfile.TemporaryDirectory() as folder:
        enough = Path(folder) / "enough"
        made = plan(
            [
                task("source", functions.until_there, outputs="a", args=(enough,), mode="thread"),
                task("middle", functions.slowly, "a", "b", workers=6, args=(0.01,), restarts=Restarts(0)),
                task("tail", functions.identity, "b", "c", workers=2, restarts=Restarts(0)),
                collector(collected, "c"),
            ]
        )
        threads: list[threading.Thread] = []

        def begin(machines: Any) -> None:
            threads.append(threading.Thread(target=storm, args=(machines, draw, kills, killed, enough, pause)))
            threads[0].start()

        outcome = run(made, collected, "agents", on_machines=begin, agents=ALIVE, places=2)
        threads[0].join()
    read = outcome.result.headline.read
    came = Counter(collected)
    lost = read - len(came.keys() & set(range(read)))
    twice = sum(count - 1 for count in came.values())
    assert outcome.result.exit_code == 0, (outcome.result, outcome.of(events.TaskEnded))
    gone = sum(len(each.workers) for each in outcome.of(events.NodeLost))
    return Counter(killed=len(killed), items=read, lost=lost, twice=twice, workers_lost=gone, left=len(descendants()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--run", type=int, default=50, help="kills in one run")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds from one kill to the next, on average")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    total, seed = Counter[str](), options.seed
    while total["killed"] < options.kills:
        total += one_run(seed, min(options.run, options.kills - total["killed"]), options.pause)
        seed += 1
        told = ", ".join(f"{word.replace('_', ' ')} {total[word]:,}" for word in ("killed", "workers_lost", "items"))
        ends = f"lost {total['lost']}, twice {total['twice']}, processes left {total['left']}"
        print(f"{told}: {ends}", flush=True)
    sys.exit(bool(total["lost"] or total["twice"] or total["left"]))


if __name__ == "__main__":
    main()
