"""`python -m bench [WORKLOAD…]`: measure, check the results, print a Markdown table for each workload."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import suite, table
from bench.workloads import MODULES, find


def main() -> int:
    """Parse, measure, print."""
    given = _parse()
    rounds = given.rounds or (3 if given.quick else 5)
    sheets = {}
    if given.json and given.json.exists():
        sheets = {sheet["name"]: sheet for sheet in json.loads(given.json.read_text())}
    print(table.machine())
    wrong = False
    for name in () if given.render else given.workloads or MODULES:
        sheet = suite.measured(find(name), rounds, quick=given.quick, only=given.only, tell=_tell)
        _tell("")
        print(table.render(sheet), flush=True)
        sheets[name] = sheet
        wrong = wrong or any("problem" in line and line["runner"] for line in sheet["lines"])
        if given.json:
            given.json.write_text(json.dumps(list(sheets.values()), indent=1))
    ordered = [sheets[name] for name in MODULES if name in sheets]
    if given.markdown:
        table.write(given.markdown, table.document(ordered))
    if given.plot:
        table.plot(given.plot, ordered)
    return int(wrong)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="runner beside its peers.")
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"default: all. {', '.join(MODULES)}")
    add("--rounds", type=int, metavar="N", help="runs of each contender (5; quick: 3)")
    add("--quick", action="store_true", help="fewer items and rounds: for a first look while tuning")
    add("--only", default="", metavar="TEXT", help="only contenders with TEXT in their names, and the limit")
    add("--json", type=Path, metavar="FILE", help="keep the figures there, beside those of other workloads")
    add("--render", action="store_true", help="measure nothing: tables and plot of what --json has")
    add("--markdown", type=Path, metavar="FILE", help=f"write all tables there, between its marks {table.BEGIN}")
    add("--plot", type=Path, metavar="FILE", help="draw all of them there (.svg or .png; needs matplotlib)")
    given = parser.parse_args()
    if unknown := set(given.workloads) - MODULES.keys():
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    return given


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
