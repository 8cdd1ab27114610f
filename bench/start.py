"""How long the small things take to start: `python -m bench.start [--rounds N] [--json FILE]`.

Every command is a fresh process. They take turns, round after round, and a ratio is the median of each round's own, so
a slow minute of the machine falls on all of them. The floor is a typer command with one option that does nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BARE = """
import typer
app = typer.Typer()
@app.command()
def run(name: str = "x"): pass
app()
"""
STDLIB = """
import argparse, tomllib
parser = argparse.ArgumentParser()
parser.add_argument("file")
tomllib.load(open(parser.parse_args().file, "rb"))
"""
TRIVIAL = '[tasks.x]\ncall = "os:getcwd"\nmode = "thread"\n'
PROCESS = '[tasks.x]\ncall = "os:getcwd"\nmode = "process"\n'


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured; the files that it needs are written into `folder`."""
    for name, text in (("bare.py", BARE), ("stdlib.py", STDLIB), ("trivial.toml", TRIVIAL), ("process.toml", PROCESS)):
        (folder / name).write_text(text)
    (folder / "justfile").write_text("x:\n    @true\n")
    python, runner = sys.executable, str(Path(sys.executable).with_name("runner"))
    found = {
        "floor: a bare typer command": [python, str(folder / "bare.py")],
        "python -c pass": [python, "-c", "pass"],
        "argparse and tomllib": [python, str(folder / "stdlib.py"), str(folder / "trivial.toml")],
        "runner --version": [runner, "--version"],
        "runner --help": [runner, "--help"],
        "runner explain E203": [runner, "explain", "E203"],
        "runner check, the tutorial": [runner, "check", str(ROOT / "tasks.toml")],
        "runner run, one trivial task in a thread": [runner, "run", str(folder / "trivial.toml")],
        "runner run, one trivial task in a process": [runner, "run", str(folder / "process.toml")],
    }
    if shutil.which("parallel"):
        found["parallel true"] = ["parallel", "true", ":::", "1"]
    if shutil.which("just"):
        found["just"] = ["just", "--justfile", str(folder / "justfile"), "x"]
    return found


def seconds(command: list[str]) -> float:
    """One run, from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = commands(Path(folder))
        for command in chosen.values():
            seconds(command)  # compiled files and pages are there from now on
        rounds = [{name: seconds(command) for name, command in chosen.items()} for _ in range(options.rounds)]
    floor = next(iter(chosen))
    rows = {
        name: {
            "milliseconds": round(1000 * statistics.median(each[name] for each in rounds), 1),
            "floor": round(statistics.median(each[name] / each[floor] for each in rounds), 2),
        }
        for name in chosen
    }
    print("| command | ms | × floor |\n|---|---:|---:|")
    for name, row in rows.items():
        print(f"| {name} | {row['milliseconds']:.0f} | {row['floor']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
