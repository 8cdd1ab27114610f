"""`python -m bench [WORKLOAD…]`: measure, check the results, print a Markdown table for each workload."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import suite, table
from bench.workloads import MODULES, find


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="runner beside its peers.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"default: all. {', '.join(MODULES)}")
    parser.add_argument("--rounds", type=int, default=None, metavar="N", help="runs of each contender (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds: for a first look while tuning")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only contenders with TEXT in their names, and the limit"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    given = parser.parse_args()
    if unknown := set(given.workloads) - MODULES.keys():
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    rounds = given.rounds or (3 if given.quick else 5)
    text = table.machine(rounds)
    print(text)
    wrong = False
    for name in given.workloads or MODULES:
        sheet = suite.measured(find(name), rounds, quick=given.quick, only=given.only, tell=_tell)
        _tell("")
        rendered = table.render(sheet)
        print(rendered, flush=True)
        text += "\n" + rendered
        wrong = wrong or any(line.problem and line.row.toml for line in sheet.lines)
    if given.markdown:
        given.markdown.write_text(text)
    return int(wrong)


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
