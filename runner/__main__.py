"""`python -m runner`, and the `runner` command."""

from __future__ import annotations

import os
import sys

from runner import collector


def main() -> None:
    """Run the command line; the exit codes are in `runner.errors` and `runner.supervisor.result`."""
    if os.getpid() == 1 and hasattr(os, "fork"):
        from runner import pid1

        pid1.step_aside()
    try:
        collector.keep_to_the_end()
        with collector.importing():
            from runner.cli import app
        collector.settle()
        code = app.main()
    except KeyboardInterrupt:  # before a run has begun, or when it has ended: a run itself catches signals
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
