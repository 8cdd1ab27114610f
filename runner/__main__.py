"""`python -m runner`, and the `runner` command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line; the exit codes are in `runner.errors` and `runner.supervisor.result`.

    What is imported stays until the end, so the collector of cycles is told not to look at it: neither while more and
    more of it is imported, nor when the interpreter ends (a quarter of the time of a trivial run).
    """
    try:
        gc.disable()
        from runner.cli import app

        gc.freeze()
        gc.enable()
        code = app.main()
    except KeyboardInterrupt:  # before a run has begun, or when it has ended: a run itself catches signals
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
