"""`python -m runner.agent --join FILE`: the same as `runner agent`, for launchers."""

from __future__ import annotations

import sys

from runner.agent.program import parse_options, run_program

if __name__ == "__main__":
    options = parse_options(sys.argv[1:])
    if options is None:
        sys.stderr.write("usage: python -m runner.agent --join FILE [--places N] [--name NAME] [--wait SECONDS]\n")
        sys.exit(2)
    sys.exit(run_program(options))
