"""`runner run`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Annotated, Optional

import typer

from runner.cli.plugins import NoPluginOption, NoPluginsOption, OnlyPluginOption, plugin_choice
from runner.cli.shared_options import (
    FileArgument,
    ParamOptions,
    SetOptions,
    complete_task,
    file_or_default,
    parse_pairs,
    raise_for_problems,
)
from runner.config.overrides import select_tasks
from runner.errors import UsageError

_DISPLAYS = ("auto", "live", "plain", "json", "none")


def run(
    file: FileArgument = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
        typer.Option("--task", "-t", metavar="NAME", help="Run only this task.", autocompletion=complete_task),
    ] = None,
    skip: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--skip", metavar="NAME", help="Do not run this task.", autocompletion=complete_task),
    ] = None,
    grace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Time to drain after the first Ctrl-C, e.g. 30s."),
    ] = None,
    halt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|P%|first|never", help="Stop once N items, or P % of a task's items, are dead."),
    ] = None,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Stop after this time, e.g. 2h; exit 124."),
    ] = None,
    log: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="prefix|raw", help="Prefix each line that tasks print, or leave it alone."),
    ] = None,
    log_format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="text|json",
            help="Write log lines, with time and run: to --log-file, or in place of what is printed.",
            autocompletion=lambda: ("text", "json"),
        ),
    ] = None,
    log_file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE", help="Append all output to FILE as well, as log lines."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be started, and start nothing.")
    ] = False,
    help_params: Annotated[
        bool, typer.Option("--help-params", help="List the params of the file, and start nothing.")
    ] = False,
    no_plugin: NoPluginOption = None,
    no_plugins: NoPluginsOption = False,
    only_plugin: OnlyPluginOption = None,
    dead_ok: Annotated[bool, typer.Option("--dead-ok", help="Exit 0 although some items are dead.")] = False,
    events: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--events", metavar="FILE", help="Write the run's events to FILE, as JSON lines."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the summary as JSON to standard output, all else to standard error.")
    ] = False,
    progress: Annotated[
        str,
        typer.Option(
            metavar="auto|live|plain|json|none",
            help="How to show how far it is: on the terminal, as lines for people or programs, not at all.",
            autocompletion=lambda: _DISPLAYS,
        ),
    ] = "auto",
    report: Annotated[bool, typer.Option("--report", help="Write the report at the end, beside the record.")] = False,
    html: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--html", metavar="FILE", help="Write the report to FILE."),
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Keep no record of this run.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors, and the balance when something is wrong.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print what each task did, even if the run was short and went well.")
    ] = False,
) -> None:
    """Run the tasks of a file.

    Examples:
      runner run

      runner run thumbs.toml -p list=images.txt

      runner run thumbs.toml --help-params

      runner run tasks.toml --set tasks.bake.workers=2 --dry-run
    """
    from runner import config

    document = None
    if as_json:
        from runner.cli.json_stdout import claim_stdout

        document = claim_stdout()
    if progress not in _DISPLAYS:
        raise UsageError(f"--progress knows {', '.join(_DISPLAYS)}, not {progress[:40]!r}")
    given, file = dict(parse_pairs(param, "--param")), file_or_default(file, "run")
    sets = [*parse_pairs(set_, "--set"), *_run_overrides(grace=grace, log=log, halt=halt, deadline=deadline)]
    sets += [("run.record", "0")] if no_record else []
    loaded = select_tasks(config.examine(file, params=given, sets=sets, lenient=help_params), task, skip)
    if help_params:
        from runner.cli.listing import param_lines

        raise_for_problems(loaded)
        print("\n".join(param_lines(loaded)))
        return
    from runner import gc_tuning, runs

    gc_tuning.freeze_imported()
    plan = runs.prepare_plan(loaded, plugin_choice(no_plugin, no_plugins, only_plugin))
    if dry_run:
        from runner.cli.dry_run import describe_plan

        print("\n".join(describe_plan(loaded, plan)))
        return
    from runner.cli import artifacts
    from runner.cli.execute import execute_and_leave, write_report

    page = artifacts.choose_page_target(plan, html, report=report)
    options = runs.OutputOptions(
        quiet=quiet,
        verbose=verbose,
        color=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
        dead_ok=dead_ok,
        progress=progress,
        events_file=events,
        log_format=log_format,
        log_file=log_file,
        write_page=None if page is None else partial(write_report, to=page, quiet=quiet),
    )
    execute_and_leave(plan, options, document)


def _run_overrides(**given: str | None) -> list[tuple[str, str]]:
    """Return options that are keys of [run], as TOML; a number stays one."""
    return [
        (f"run.{key}", value if value.isdigit() else json.dumps(value))
        for key, value in given.items()
        if value is not None
    ]
