"""`python -m runner`, and the `runner` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the exit codes are in `runner.errors` and `runner.supervisor.result`."""
    from runner.cli import app

    sys.exit(app.main())


if __name__ == "__main__":
    main()
