"""The command line: its own options, and how errors leave it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer
from typer import Option

from runner.cli import streams
from runner.cli.lazy_group import RunnerGroup, change_folder
from runner.errors import RunnerError
from runner.version import __version__

app = typer.Typer(
    name="runner",
    cls=RunnerGroup,
    help="Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"runner {__version__}")
        raise typer.Exit


@app.callback()
def _root_options(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback has acted on it
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    folder: Annotated[  # noqa: ARG001  its callback has acted on it
        str | None,
        Option("-C", metavar="DIR", is_eager=True, callback=change_folder, help="Start in this folder."),
    ] = None,
) -> None:
    """Take the options of runner itself."""
    if ctx.invoked_subcommand is None:
        from runner.cli.listing import show_overview

        show_overview()


def main() -> int:
    """Run the command line and return its exit code; no traceback of ours for what a user did."""
    with streams.escaped_output():
        code = _run_app()
        lost = streams.take_output_error()
        if lost:
            _say_error(f"runner: {lost}; output is lost")
        return 1 if lost and code in {0, 4} else code


def _run_app() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except RunnerError as error:
        _say_error(str(error))
        return error.exit_code
    except Exception as error:
        if "RUNNER_DEBUG" in os.environ:
            raise
        from runner.error_text import describe_refusal

        if refused := describe_refusal(error):
            _say_error(f"runner: {refused}")
            return 1
        _say_error(
            f"runner: a fault of runner's own: {type(error).__name__}: {error}\n"
            "        please report it; RUNNER_DEBUG=1 shows where it happened"
        )
        return RunnerError.exit_code
    return 0


def _say_error(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        sys.stderr.write(f"{text}\n")
