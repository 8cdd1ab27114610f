"""The command line: its verbs, and how errors leave it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional

import typer

from runner.cli import safe_output, streams
from runner.cli.lazy_group import LazyGroup, change_folder
from runner.errors import RunnerError
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunnerGroup(LazyGroup):
    """Every verb: where it is, and what it is for."""

    verbs: ClassVar[Mapping[str, tuple[str, str]]] = {
        "run": ("runner.cli.run:run", "Run the tasks of a file."),
        "check": ("runner.cli.check:check", "Show all errors of the files, and start nothing."),
        "show": ("runner.cli.show:show", "Show the resolved file in its long form."),
        "graph": ("runner.cli.graph:graph", "Draw the tasks and queues of a file."),
        "list": ("runner.cli.listing:list_", "List tasks, functions, params or plugins, or past runs."),
        "dead": ("runner.cli.dead:app", "Dead letters: the items that a run has given up."),
        "report": ("runner.cli.report:report", "Say what happened in a run."),
        "new": ("runner.cli.new:app", "Make a folder that runs: a job, or a plugin."),
        "schema": ("runner.cli.schema:schema", "Write the JSON Schema of the file, for editors."),
        "explain": ("runner.cli.explain:explain", "Say what an error means, with an example and the way out."),
    }

    def plugin_commands(self) -> Mapping[str, tuple[str, str]]:
        """Return the commands of installed plugins; runner's own verbs come first, and stay what they are."""
        from runner.cli import plugins

        found = plugins.plugin_commands().items()
        return {name: ("", plugins.command_summary(offered)) for name, offered in found if name not in self.verbs}

    def load_plugin_command(self, name: str) -> Any:
        """Return a plugin's command, imported now."""
        from runner.cli import plugins

        offered = plugins.plugin_commands().get(name)
        return plugins.load_command(name, offered) if offered else None


app = typer.Typer(
    name="runner",
    cls=RunnerGroup,
    help="Declare Python functions, processes, threads and queues in TOML; run them, fast, and lose nothing.",
    invoke_without_command=True,
    add_completion=True,
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    folder: Annotated[  # noqa: ARG001  its callback has acted on it
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Option(
            "-C",
            metavar="DIR",
            is_eager=True,
            callback=change_folder,
            help="Start in this folder.",
        ),
    ] = None,
) -> None:
    """Take the options of runner itself."""
    if ctx.invoked_subcommand is None:
        from runner.cli.no_command import show_overview

        show_overview()


def main() -> int:
    """Run the command line and return its exit code; no traceback of ours for what a user did."""
    with safe_output.escaped_output():
        return _run_app()


def _run_app() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return _flush_and_leave(end.code if isinstance(end.code, int) else int(bool(end.code)))
    except RunnerError as error:
        _say_error(str(error))
        return _flush_and_leave(error.exit_code)
    except Exception as error:
        if "RUNNER_DEBUG" in os.environ:
            raise
        from runner.error_text import describe_refusal

        if refused := describe_refusal(error):
            _say_error(f"runner: {refused}")
            return _flush_and_leave(1)
        _say_error(
            f"runner: a fault of runner's own: {type(error).__name__}: {error}\n"
            "        please report it; RUNNER_DEBUG=1 shows where it happened"
        )
        return _flush_and_leave(RunnerError.exit_code)
    return _flush_and_leave(0)


def _say_error(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        sys.stderr.write(f"{text}\n")


def _flush_and_leave(code: int) -> int:
    """Flush what is left; the exit code is another one when output was lost. A closed pipe loses nothing."""
    lost = streams.take_output_error()
    if lost:
        _say_error(f"runner: {lost}; output is lost")
    return 1 if lost and code in {0, 4} else code
