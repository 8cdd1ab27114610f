"""`runner run`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer import Option

from runner.cli import shared_options as shared
from runner.cli import streams
from runner.errors import RunnerError, UsageError
from runner.text import count_with_noun, format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.model import Config
    from runner.report.record import RunRecord
    from runner.runs import OutputOptions
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan, TaskPlan

_MOST_NAMES = 8


def run(
    file: shared.FileArgument = None,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    task: Annotated[
        list[str] | None,
        Option("--task", "-t", metavar="NAME", help="Run only this task.", autocompletion=shared.complete_task),
    ] = None,
    skip: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Do not run this task.", autocompletion=shared.complete_task),
    ] = None,
    grace: shared.GraceOption = None,
    halt: shared.HaltOption = None,
    deadline: shared.DeadlineOption = None,
    engine: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Where processes live: local, agents, ray, or an engine of a plugin.",
            autocompletion=lambda: ("local", "agents", "ray"),
        ),
    ] = None,
    log: Annotated[
        str | None,
        Option(
            metavar="prefix|raw",
            help="Prefix each line that tasks print, or leave it alone.",
            autocompletion=lambda: ("prefix", "raw"),
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        Option(
            metavar="text|json",
            help="Write log lines, with time and run: to --log-file, or in place of what is printed.",
            autocompletion=lambda: ("text", "json"),
        ),
    ] = None,
    log_file: Annotated[
        str | None, Option(metavar="FILE", help="Append all output to FILE as well, as log lines.")
    ] = None,
    durable: Annotated[
        bool | None, Option("--durable/--no-durable", help="Keep a ledger on disk, for `runner resume`, or none.")
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the last durable run of this file that was cut short, or begin one.")
    ] = False,
    jobs: Annotated[
        int | None,
        Option("--jobs", "-j", metavar="N", min=1, max=1000, help="At most N processes for tasks that have inputs."),
    ] = None,
    limit: Annotated[
        int | None, Option(metavar="N", min=1, help="A trial: stop each source after its first N items.")
    ] = None,
    params_file: Annotated[
        str | None, Option("--params", metavar="FILE", help="Set params from a TOML, JSON or .env file; -p goes first.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Say what would be started, and start nothing.")] = False,
    help_params: Annotated[
        bool, Option("--help-params", help="List the params of the file, and start nothing.")
    ] = False,
    watch: shared.WatchOption = False,
    no_plugin: shared.NoPluginOption = None,
    no_plugins: shared.NoPluginsOption = False,
    only_plugin: shared.OnlyPluginOption = None,
    dead_ok: shared.DeadOkOption = False,
    events: shared.EventsOption = None,
    as_json: shared.JsonOption = False,
    progress: shared.ProgressOption = "auto",
    report: Annotated[bool, Option("--report", help="Write the report at the end, beside the record.")] = False,
    html: Annotated[str | None, Option(metavar="FILE", help="Write the report to FILE.")] = None,
    no_record: shared.NoRecordOption = False,
    notify: shared.NotifyOption = None,
    web: Annotated[
        bool, Option("--web", help="Serve the page of the run while it goes on, on this machine only.")
    ] = False,
    port: shared.PortOption = 0,
    quiet: shared.QuietOption = False,
    verbose: shared.VerboseOption = False,
    color: shared.ColorOption = "auto",
) -> None:
    """Run the tasks of a file.

    Examples:
      runner run

      runner run thumbs.toml -p list=images.txt

      runner run thumbs.toml --help-params

      runner run tasks.toml --set tasks.bake.workers=2 --dry-run

      runner run thumbs.toml --watch
    """
    from runner import config

    if watch:
        _watch_instead(shared.file_or_default(file, "run"), param, params_file, set_, task, skip, quiet=quiet)
    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    given, file = _given_params(param, params_file), shared.file_or_default(file, "run")
    sets = shared.parse_pairs(set_, "--set")
    record = "0" if no_record else None
    sets += shared.run_settings(grace=grace, engine=engine, log=log, halt=halt, deadline=deadline, record=record)
    sets += [] if durable is None and not resume else [("run.durable", "false" if durable is False else "true")]
    loaded = config.select_tasks(config.examine(file, params=given, sets=sets, lenient=help_params), task, skip)
    if limit is not None and loaded.run.durable:
        raise UsageError("--limit is for a trial; a durable run goes on until its sources have ended: --no-durable")
    if help_params:
        from runner import check
        from runner.cli.listing import param_lines

        check.raise_if_errors(loaded.problems, loaded)
        print("\n".join(param_lines(loaded)))
        return
    from runner import gc_tuning, runs

    unfinished = None
    if resume and not dry_run and loaded.run.durable and not loaded.problems:
        from runner.cli import durable_command

        unfinished = durable_command.find_unfinished_run(loaded)
    # A copy of this process stays in its folder, and an unfinished run goes on in its own.
    stays = unfinished is None or durable_command.was_begun_here(unfinished)
    modes = {task.mode or "process" for task in loaded.tasks.values()}  # as far as the file alone says it
    if stays and not dry_run and not loaded.problems and loaded.run.engine == "local" and "process" in modes:
        from runner import check  # what is imported before the fork is shared with the workers
        from runner.engines import early_fork

        gc_tuning.freeze_imported()
        early_fork.fork_early()
    gc_tuning.freeze_imported()
    choice, earlier = shared.plugin_choice(no_plugin, no_plugins, only_plugin), None
    if unfinished is not None:
        earlier = durable_command.open_run(unfinished)
        events, log_file, html = map(shared.absolute_file, (events, log_file, html))
        plan = durable_command.plan_of_earlier_run(earlier, [*given.items()], sets, choice)
    else:
        plan = replace(runs.prepare_plan(loaded, choice), limit=limit)
        if plan.settings.durable:
            from runner.cli.durable_command import describe_command

            plan = replace(plan, command=describe_command(loaded, plan))
    plan = _cap_jobs(plan, loaded, jobs)
    if dry_run:
        print("\n".join(_describe_plan(loaded, plan)))
        return
    options = shared.output_options(
        quiet=quiet,
        verbose=verbose,
        dead_ok=dead_ok,
        progress=progress,
        events_file=events,
        log_format=log_format,
        log_file=log_file,
        write_page=_page_writer(plan, html, quiet=quiet) if report or html is not None else None,
        color=color,
    )
    with _live_page(plan, port, is_wanted=web):
        execute_and_leave(plan, options, document, earlier=earlier, notify_command=notify)


def _page_writer(plan: Plan, html: str | None, *, quiet: bool) -> Callable[[RunRecord], str]:
    from runner.cli.report import choose_page_writer

    return partial(write_report, write=choose_page_writer(plan, html), quiet=quiet)


@contextlib.contextmanager
def _live_page(plan: Plan, port: int, *, is_wanted: bool) -> Iterator[None]:
    """Have the page of the run served by a process of its own, if it is wanted; say where."""
    if not is_wanted:
        yield
        return
    from runner.cli.live_page import PageProcess

    if not plan.settings.record:
        raise UsageError("--web shows the record of the run, and none is kept")
    with contextlib.closing(PageProcess(plan.settings.state, plan.run_id, port)) as page:
        sys.stderr.write(f"live page: {page.address}\n")
        yield


def _cap_jobs(plan: Plan, config: Config, jobs: int | None) -> Plan:
    if jobs is None:
        return plan
    from runner.supervisor.job_cap import cap_jobs  # few runs need it

    return cap_jobs(plan, config, jobs)


def _watch_instead(
    file: str, param: list[str] | None, params_file: str | None, *given: list[str] | None, quiet: bool
) -> NoReturn:
    from runner.cli.watch_command import watch_run  # few ask for it

    files = [file] if params_file is None else [file, params_file]
    watch_run(files, partial(_given_params, param, params_file), *given, quiet=quiet)


def _given_params(param: list[str] | None, params_file: str | None) -> dict[str, Any]:
    """Return the params of a file and of the command line, which goes first."""
    given: dict[str, Any] = dict(shared.parse_pairs(param, "--param"))
    if params_file is None:
        return given
    from runner.cli.params_file import read_params

    return {**read_params(params_file), **given}


def _describe_plan(config: Config, plan: Plan) -> list[str]:
    """Return every task with its function, workers and arguments; secrets stay references."""
    counts: Counter[str] = Counter()
    fewer: Counter[str] = Counter()
    for task in plan.tasks.values():
        counts[task.mode] += len(task.config.workers)
        fewer[task.mode] += len(task.config.workers) - (task.config.least_workers or len(task.config.workers))
    ranges = {mode: f"{counts[mode] - less} to " if less else "" for mode, less in fewer.items()}
    workers = " and ".join(ranges[mode] + count_with_noun(count, mode) for mode, count in counts.items())
    size = f"{count_with_noun(len(plan.tasks), 'task')}, {count_with_noun(len(plan.queues), 'queue')}"
    rows = [_task_row(config, task) for task in plan.tasks.values()]
    skipped = [f"not enabled: {task.name}" for task in config.tasks.values() if not task.enabled]
    return [f"{plan.title}: {size}, {workers}. Nothing was started.", "", *format_table(rows), *skipped]


def _task_row(config: Config, plan: TaskPlan) -> tuple[str, ...]:
    task = plan.config
    names, least = task.workers, task.least_workers
    shown = ", ".join(names[:_MOST_NAMES]) + (f", ... {len(names)} in all" if len(names) > _MOST_NAMES else "")
    shown = f"{least} to {len(names)}, {shown}" if least else shown
    way = f"{', '.join(task.inputs)} -> {', '.join(task.outputs)}".strip() if task.inputs or task.outputs else ""
    when = [f"after {name}" + (f" has {state}" if state != "ok" else "") for name, state in task.after.items()]
    notes = [way] * bool(way) + when + ([f"dead letters to {task.dead}"] if task.dead else [])
    return (
        task.name,
        f"{plan.mode}: {shown}",
        f"{plan.reference.qualname}({_written_arguments(config, task.name)})",
        f"of {plan.reference.path or plan.reference.module}",
        "; ".join(notes),
    )


def _written_arguments(config: Config, task: str) -> str:
    from runner.config.resolved import to_toml, visible_value

    path = ("tasks", task)
    filled = config.filled_tables.get("tasks", {}).get(task, {})
    args = visible_value(config, filled.get("args", []), (*path, "args"))
    kwargs = visible_value(config, filled.get("with", {}), (*path, "with"))
    listed = map(to_toml, args) if isinstance(args, list) else [f"*{args}"]
    return ", ".join([*listed, *(f"{name}={to_toml(value)}" for name, value in kwargs.items())])


def execute_and_leave(
    plan: Plan,
    options: OutputOptions,
    document: Callable[[str], None] | None = None,
    on_end: Callable[[RunOutcome], None] | None = None,
    earlier: DurableFolder | None = None,
    notify_command: str | None = None,
) -> NoReturn:
    """Run the plan, say how it ended, and leave with its exit code.

    `document` writes the summary as JSON, `on_end` is told of the end. `earlier`: the ledger of the durable run that
    goes on. `notify_command` is executed once all is written.
    """
    from runner import posix_only, runs

    posix_only.require_posix()
    # What tasks print has a way of its own, the printer's, or stays raw.
    with streams.escaped_output(False), streams.strict_output():
        outcome, record = runs.perform(plan, options, earlier=earlier)
    code = outcome.exit_code
    if on_end is not None:
        on_end(outcome)
    if document is not None and record is not None:
        code = _write_summary(record, document, code)
    if notify_command is not None:
        from runner.cli.notify import notify, outcome_environment

        notify(notify_command, outcome_environment(outcome, plan.title, code))
    if outcome.was_killed or outcome.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    from runner.worker import orderly_exit

    orderly_exit.command_grace = plan.settings.grace  # the command waits so long for what its tasks have left
    raise typer.Exit(code)


def write_report(record: RunRecord, write: Callable[[str], str], *, quiet: bool) -> str:
    """Write the report; return where it is, or why it is not there. The record is kept in any case."""
    from runner.report.page import render_page

    try:
        path = write(render_page(record))
    except RunnerError as error:
        return f"the report could not be written: {error}"
    return "" if quiet else f"report: {path}"


def _write_summary(record: RunRecord, document: Callable[[str], None], code: int) -> int:
    """Write the summary as JSON; return the exit code, which is another one when it could not be written."""
    from runner.report.journal import summary_json
    from runner.supervisor.outcome import EXIT_DEAD, EXIT_FAILED

    try:
        document(summary_json(record))
        lost = streams.take_output_error()
    except BrokenPipeError:  # the reader has left
        lost = ""
    except OSError as error:
        lost = f"standard output: {error.strerror}"
    if lost:
        sys.stderr.write(f"{lost}; the summary is lost\n")
        return EXIT_FAILED if code in {0, EXIT_DEAD} else code
    return code
