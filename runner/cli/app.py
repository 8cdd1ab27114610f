"""The command line: its verbs, and how errors leave it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from runner import __version__
from runner.cli.dead import app as dead
from runner.cli.run import run
from runner.errors import RunnerError

app = typer.Typer(
    name="runner",
    help="Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"runner {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of runner itself."""


app.command()(run)
app.add_typer(dead, name="dead")


def main() -> int:
    """Run the command line and return its exit code; no traceback of ours for what a user did."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return _leave(end.code if isinstance(end.code, int) else int(bool(end.code)))
    except RunnerError as error:
        sys.stderr.write(f"{error}\n")
        return _leave(error.exit_code)
    except BrokenPipeError:
        return _leave(0)
    return _leave(0)


def _leave(code: int) -> int:
    """Flush what is left; a closed pipe is no error worth a traceback at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
