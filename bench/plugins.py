"""What installed plugins that a run does not use cost it: `python -m bench.plugins [--rounds N]`.

A run of one trivial task with 30 distributions that offer task functions on its path, and with none; then with one
plugin that has hooks. Every run is a fresh process; they take turns, and a ratio is the median of each round's own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The start may take so much longer with the unused plugins.
BAR = 1.1
MANY = 30
TASK = '[tasks.x]\ncall = "os:getcwd"\nmode = "thread"\n'
HOOK = "from runner import hookimpl\n@hookimpl\ndef runner_event(event): pass\n"


def distribution(site: Path, name: str, group: str, module: str) -> None:
    """Write what an installer would write."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}\n")
    (site / f"{name}.py").write_text(module)


def seconds(folder: Path, site: Path) -> float:
    """One run."""
    path = os.pathsep.join([str(site), str(Path(__file__).resolve().parent.parent)])
    command = [sys.executable, "-m", "runner", "run", "-q", "tasks.toml"]
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    """Measure, print a Markdown table, and fail above the bar."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=21)
    rounds_wanted = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.toml").write_text(TASK)
        (folder / "none").mkdir()
        for number in range(MANY):
            distribution(folder / "many", f"unused_{number}", "runner", "import time\ntime.sleep(1)\n")
        distribution(folder / "hook", "listens", "runner.hooks", HOOK)
        sites = ("none", "many", "hook")
        for site in sites:
            seconds(folder, folder / site)
        rounds = [{site: seconds(folder, folder / site) for site in sites} for _ in range(rounds_wanted)]
    rows = {"none": "no plugin", "many": f"{MANY} unused plugins", "hook": "one plugin with runner_event"}
    print("| installed | ms | × none |\n|---|---:|---:|")
    ratios = {site: statistics.median(each[site] / each["none"] for each in rounds) for site in sites}
    for site, text in rows.items():
        print(f"| {text} | {1000 * statistics.median(each[site] for each in rounds):.0f} | {ratios[site]:.2f} |")
    return int(ratios["many"] > BAR)


if __name__ == "__main__":
    sys.exit(main())
