"""`runner run`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.errors import UsageError


def run(
    file: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Argument(metavar="[FILE]", help="The file; `-` is standard input. Default: tasks.toml here."),
    ] = None,
    param: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="Set a param of the file."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="PATH=VALUE", help="Set any key of the file, in TOML: tasks.bake.workers=2"),
    ] = None,
    grace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Time to drain after the first Ctrl-C, e.g. 30s."),
    ] = None,
    halt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="N|P%|first|never", help="Stop once so many items, or such a share of a task's, are dead."
        ),
    ] = None,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Stop after this time, e.g. 2h; exit 124."),
    ] = None,
    log: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="prefix|raw", help="Prefix each line that tasks print, or leave it alone."),
    ] = None,
    dead_ok: Annotated[bool, typer.Option("--dead-ok", help="Exit 0 although some items are dead.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors, and the balance when something is wrong.")
    ] = False,
) -> None:
    """Run the tasks of a file.

    Examples:
      runner run

      runner run thumbs.toml -p list=images.txt

      runner run tasks.toml --set tasks.bake.workers=2 --log raw
    """
    from runner import config, runs
    from runner.report.console import Console
    from runner.report.output import Printer
    from runner.supervisor.result import DEAD

    sets = [*_pairs(set_ or [], "--set"), *_overrides(grace=grace, log=log, halt=halt, deadline=deadline)]
    loaded = config.examine(_file(file), params=dict(_pairs(param or [], "--param")), sets=sets)
    plan = runs.prepare(loaded)
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    printer = Printer(1, 2, log=loaded.run.log, color=color)
    console = Console(printer, plan, quiet=quiet)
    try:
        result = runs.execute(plan, runs.Streams(printer, loaded.run.log), console.event)
        console.summary(result)
    finally:
        printer.close(timeout=5.0)
    if result.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        os._exit(result.exit_code)
    raise typer.Exit(0 if dead_ok and result.exit_code == DEAD else result.exit_code)


def _file(file: str | None) -> str:
    if file is not None:
        return file
    if not Path("tasks.toml").exists():
        raise UsageError("there is no tasks.toml here; name a file: runner run FILE")
    return "tasks.toml"


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text}: write it as NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _overrides(**given: str | None) -> list[tuple[str, str]]:
    """Options that are keys of [run], as TOML; a number stays one."""
    return [
        (f"run.{key}", value if value.isdigit() else json.dumps(value))
        for key, value in given.items()
        if value is not None
    ]
