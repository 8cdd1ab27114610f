"""What it costs to be watched: `PYTHONPATH=tests python -m bench.live [--rounds N] [--items N] [--only NAME]`.

    cost    the run of small items alone, with `runner top` beside it, and with the page and a browser's part beside it
    paint   the page of a run with 64 workers and 20 queues, until a headless Chromium has painted it (tests/browser.py)
    ps      `runner ps` of ten runs, beside the start of a bare Python
    killed  `runner ps` at once after the SIGKILL of a run

The contenders of `cost` take turns, and each is compared with the run alone of its own round: a busy minute of the
machine falls on all. Of a run count its wall time, which a watcher on the same cores takes from it, and the processor
time of all its processes; the watcher's own processor time has a column. `noise` is the middle half of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.table import machine
from runner.report.page_server import PageServer
from runner.store import running_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = """
title = "Small items"
[queues]
numbers = {{}}
squares = {{}}
[tasks.numbers]
call = "std.range"
args = [0, {items}]
outputs = "numbers"
[tasks.square]
inputs = "numbers"
outputs = "squares"
workers = 2
[tasks.sink]
inputs = "squares"
"""
SLEEPING = """
title = "Sleeping"
[queues.q]
[tasks.numbers]
call = "std.range"
args = [0, 100000]
outputs = "q"
mode = "thread"
[tasks.wait]
inputs = "q"
workers = 4
mode = "thread"
"""
FUNCTIONS = """
import time
from runner import task
@task
def square(number):
    return number * number
@task
def sink(number):
    pass
@task
def wait(number):
    time.sleep(0.1)
"""
#: The bars of the design.
MOST_COST, MOST_PAINT, MOST_PS = 0.02, 0.5, 0.3
PATIENCE = 60.0


@contextlib.contextmanager
def project(text: str) -> Iterator[Path]:
    """Make a folder with a file of tasks."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "plugins").mkdir()
        (folder / "plugins" / "kit.py").write_text(FUNCTIONS)
        (folder / "tasks.toml").write_text(text)
        yield folder


def start(folder: Path, *args: str, **options: Any) -> subprocess.Popen[Any]:
    """Start a verb there."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    return subprocess.Popen([sys.executable, "-m", "runner", *args], cwd=folder, env=env, **{**quiet, **options})


def wait_until(holds: Callable[[], object]) -> None:
    """Wait for it, for a minute."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError("it does not come")
        time.sleep(0.01)


def own_cpu(process: subprocess.Popen[Any]) -> float:
    """Wait for its end, and return the processor time that it took."""
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def alone(_: Path, __: list[float]) -> Iterator[None]:
    """Watch nothing."""
    yield


@contextlib.contextmanager
def top_beside(folder: Path, spent: list[float]) -> Iterator[None]:
    """Run `runner top` in a terminal of 80 columns, which is read."""
    ours, theirs = pty.openpty()
    process = start(folder, "top", stdout=theirs, stderr=theirs)
    os.close(theirs)

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield
    spent.append(own_cpu(process))
    os.close(ours)


@contextlib.contextmanager
def page_beside(folder: Path, spent: list[float]) -> Iterator[None]:
    """Run `runner top --web`, and take each page as a browser does that is told of it."""
    process = start(folder, "top", "--web", stdout=subprocess.PIPE)
    assert process.stdout is not None

    def view() -> None:
        address = process.stdout.readline().decode().strip()
        if not address:  # the run was over before
            return
        _, _, host, token, _ = address.split("/")
        stream, pages = http.client.HTTPConnection(host), http.client.HTTPConnection(host)
        with contextlib.suppress(OSError, http.client.HTTPException):
            stream.request("GET", f"/{token}/events")
            for line in stream.getresponse():
                if line.startswith(b"data"):
                    pages.request("GET", f"/{token}/")
                    pages.getresponse().read()

    viewer = threading.Thread(target=view, daemon=True)
    viewer.start()
    yield
    spent.append(own_cpu(process))
    viewer.join()


def measure_run(items: int, beside: Any) -> tuple[float, float, float]:
    """Return the seconds of a run, the processor time of all its processes, and that of its watcher."""
    spent: list[float] = []
    with project(SMALL.format(items=items)) as folder:
        summary = (folder / "summary.json").open("wb")
        run = start(folder, "run", "--json", "--progress", "none", stdout=summary)
        wait_until(lambda: running_runs.find_running(folder / ".runner"))
        with beside(folder, spent):
            run.wait()
        summary.close()
        found = json.loads((folder / "summary.json").read_text())
        if run.returncode or found["balance"]["read"] != items:
            raise RuntimeError(f"the run went wrong: {found}")
        cpu = found["cpu"] + sum(worker["cpu"] for task in found["tasks"] for worker in task["workers"])
        return found["seconds"], cpu, sum(spent)


def measure_cost(rounds: int, items: int) -> None:
    """Print what a watcher costs a run."""
    contenders = {"alone": alone, "runner top": top_beside, "runner top --web, a viewer": page_beside}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, beside in contenders.items():
            taken[name].append(measure_run(items, beside))
    print(f"\n| {items:,} small items, {rounds} rounds | wall, s | of alone | noise | processor, s | of alone | noise "
          "| watcher's own, s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, found in taken.items():
        cells = [name]
        for at in (0, 1):
            ratios = [mine[at] / bare[at] for mine, bare in zip(found, taken["alone"], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
            cells += [f"{statistics.median(each[at] for each in found):.2f}", f"{statistics.median(ratios):.3f}"]
            cells += [f"{low:.3f} to {high:.3f}"]
        print("| " + " | ".join([*cells, f"{statistics.median(each[2] for each in found):.2f}"]) + " |", flush=True)
    print(f"\nbar: at most {1 + MOST_COST:.2f} of alone")


def measure_paint(rounds: int) -> None:
    """Print when a browser has painted the page of a large run."""
    import past_runs
    from browser import Browser

    from runner.report.page import render_page

    page = render_page(past_runs.big(), live=True)
    server, painted = PageServer(), []
    server.publish(page)
    try:
        with tempfile.TemporaryDirectory() as home, Browser(Path(home)) as browser:
            for _ in range(rounds):
                browser.open("about:blank")
                browser.open(server.address)
                entry = "performance.getEntriesByName('first-contentful-paint')[0]"
                painted.append(browser.wait_for(f"{entry} && {entry}.startTime") / 1000)
    finally:
        server.close()
    print(f"\n| first paint of 64 workers and 20 queues, {len(page) / 1e6:.1f} MB | s |\n|---|---|")
    print(f"| median of {rounds} | {statistics.median(painted):.3f} |\n| best | {min(painted):.3f} |")
    print(f"| bar | {MOST_PAINT} |", flush=True)


def measure_command(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the wall and processor time of a command."""
    began = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    cpu = own_cpu(process)
    return time.perf_counter() - began, cpu


def measure_ps(rounds: int, runs: int = 10) -> None:
    """Print how long `runner ps` of ten runs takes."""
    with project(SLEEPING) as folder:
        going = [start(folder, "run", "--progress", "none") for _ in range(runs)]
        try:
            state = folder / ".runner"
            wait_until(lambda: sum('"Progress"' in each.status for each in running_runs.find_running(state)) == runs)
            commands = {
                f"runner ps, {runs} runs": [sys.executable, "-m", "runner", "ps"],
                "runner ps --json": [sys.executable, "-m", "runner", "ps", "--json"],
                "runner --version": [sys.executable, "-m", "runner", "--version"],
                "python -c pass": [sys.executable, "-c", "pass"],
            }
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    taken[name].append(measure_command(command, folder))
        finally:
            for each in going:
                each.kill()
                each.wait()
    print(f"\n| {rounds} rounds | wall, s | best | processor, s |\n|---|---|---|---|")
    for name, found in taken.items():
        walls, cpu = [wall for wall, _ in found], statistics.median(cpu for _, cpu in found)
        print(f"| {name} | {statistics.median(walls):.3f} | {min(walls):.3f} | {cpu:.3f} |")
    print(f"| bar | {MOST_PS} | | |", flush=True)


def measure_killed(rounds: int) -> None:
    """Print how often `ps` has listed a run that had just been killed."""
    listed = 0
    with project(SLEEPING) as folder:
        state = folder / ".runner"
        for _ in range(rounds):
            run = start(folder, "run", "--progress", "none")
            wait_until(lambda: any('"Progress"' in each.status for each in running_runs.find_running(state)))
            run.send_signal(signal.SIGKILL)
            run.wait()
            listed += len(running_runs.find_running(state))
    print(f"\n| `ps` after SIGKILL | runs |\n|---|---|\n| killed | {rounds} |\n| listed | {listed} |\n| bar | 0 |")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--items", type=int, default=6_000_000)
    parser.add_argument("--only", choices=("cost", "paint", "ps", "killed"))
    given = parser.parse_args()
    print(machine())
    parts: dict[str, Callable[[], None]] = {
        "killed": lambda: measure_killed(given.rounds),
        "ps": lambda: measure_ps(given.rounds),
        "paint": lambda: measure_paint(given.rounds),
        "cost": lambda: measure_cost(given.rounds, given.items),
    }
    for name, part in parts.items():
        if given.only in {None, name}:
            part()


if __name__ == "__main__":
    main()
