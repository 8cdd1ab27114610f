"""Runs on two machines with a bad line between them that is cut at random: is an item ever at two places at once?

    PYTHONPATH=tests python -m bench.networks --cuts 100

Needs root, `ip` and /dev/net/tun. Each run is one with real agents in namespaces of their own; its line has a random
length, loss and width, and is cut in one direction or both, for good or for a moment, or the far machine is suspended
meanwhile. Prints what has happened, and ends with 1 if an item was lost, came twice, or was executed twice at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil
from faults.test_lines import WORK, tasks, workers_seen
from faults.test_networks import overlaps
from network_lines import Line

LOST, ITEMS = 2.0, 60


def one_run(draw: random.Random, folder: Path) -> tuple[str, int, int, int]:
    """Return what was done, and how many items were lost, came twice, and were executed twice at a time."""
    (folder / "plugins").mkdir()
    seconds = draw.choice([0.05, 0.1, 0.5])
    text = tasks(lost=f"{LOST:g}s", items=ITEMS, seconds=seconds)
    (folder / "tasks.toml").write_text(textwrap.dedent(text))
    (folder / "plugins" / "work.py").write_text(textwrap.dedent(WORK))
    line = Line(
        delay=draw.choice([0.0, 0.005, 0.05]),
        jitter=0.002,
        loss=draw.choice([0.0, 0.01]),
        rate=draw.choice([0.0, 1.25e6]),
    )
    try:
        agents = [line.agent(end, folder) for end in (0, 1)]
        running = line.start(0, folder, "run", "tasks.toml")
        until = time.monotonic() + 30
        while workers_seen(folder) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        ends = draw.choice([(0, 1), (0,), (1,)])
        way = draw.choice(["for good", "for good", "for a moment", "suspended"])
        frozen = agents[1].processes() if way == "suspended" else []
        frozen.sort(key=lambda each: each.pid != agents[1].process.pid)
        for process in reversed(frozen):
            process.send_signal(signal.SIGSTOP)
        line.cut(*ends)
        if way == "for a moment":
            time.sleep(draw.uniform(0.1, 2 * LOST))
            line.mend()
        outcome = running.finish(120)
        line.mend()
        for process in frozen[:1]:
            process.send_signal(signal.SIGCONT)
            agents[1].process.wait(30)
        for process in frozen[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        for agent in agents:
            agent.finish()
        came = Counter(map(int, (folder / "out.txt").read_text().split())) if outcome.exit == 0 else Counter[int]()
        lost, twice = ITEMS - len(came), sum(count - 1 for count in came.values())
        return f"{way}, {len(ends)} way(s)", lost, twice, len(overlaps(folder))
    finally:
        line.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, done, bad = random.Random(options.seed), Counter[str](), Counter[str]()
    for number in range(options.cuts):
        with tempfile.TemporaryDirectory() as folder:
            what, lost, twice, at_once = one_run(draw, Path(folder))
        done[what] += 1
        bad += Counter(lost=lost, twice=twice, at_once=at_once)
        print(f"{number + 1:4}: {what}: lost {lost}, twice {twice}, at two places at once {at_once}", flush=True)
    print(f"{options.cuts} cuts: {dict(done)}; lost {bad['lost']}, twice {bad['twice']}, at once {bad['at_once']}")
    sys.exit(bool(bad.total()))


if __name__ == "__main__":
    main()
