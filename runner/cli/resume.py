"""`runner resume`: a durable run goes on where it was."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.cli.durable_command import open_run, plan_of_earlier_run, was_begun_here
from runner.cli.ended_run import leave_ended_run, select_durable_run


def resume(
    run: Annotated[
        str,
        Argument(
            metavar="[RUN]",
            help="A run's id, or the beginning of one. Default: the last run that has a ledger.",
            autocompletion=shared.complete_durable_run,
        ),
    ] = "last",
    state: shared.StateOption = shared.DEFAULT_STATE,
    again: Annotated[
        bool, Option("--again", help="Read sources with a `key` once more, and take what they have not given yet.")
    ] = False,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    drop: Annotated[
        list[str] | None,
        Option(
            metavar="QUEUE",
            help="Count what is in this queue as dropped, also if the file no longer has it.",
            autocompletion=shared.complete_queue,
        ),
    ] = None,
    drain: Annotated[
        bool, Option("--drain", help="Start no sources: only what is queued is executed, and the run can go on later.")
    ] = False,
    grace: shared.GraceOption = None,
    halt: shared.HaltOption = None,
    deadline: shared.DeadlineOption = None,
    no_plugin: shared.NoPluginOption = None,
    no_plugins: shared.NoPluginsOption = False,
    only_plugin: shared.OnlyPluginOption = None,
    dead_ok: shared.DeadOkOption = False,
    events: shared.EventsOption = None,
    as_json: shared.JsonOption = False,
    progress: shared.ProgressOption = "auto",
    notify: shared.NotifyOption = None,
    quiet: shared.QuietOption = False,
    verbose: shared.VerboseOption = False,
) -> None:
    """Go on with a durable run: what was queued is executed, sources go on after what they had given.

    Examples:
      runner resume

      runner resume 20261123-101500

      runner resume --again

      runner resume --drain

      runner resume --drop thumbs
    """
    from runner import check, gc_tuning, runs  # noqa: F401  what is imported before the fork is shared with the workers
    from runner.cli import streams
    from runner.cli.run import execute_and_leave
    from runner.engines import early_fork
    from runner.store.ledger_summary import COMPLETE_KEY
    from runner.store.run_folders import LEDGER_FILE

    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    state, events = state.absolute(), shared.absolute_file(events)  # the run goes on in its own folder
    path = select_durable_run(state, run)
    leave = partial(leave_ended_run, path, dead_ok=dead_ok, document=document, others=run == "last")
    if not (path / LEDGER_FILE).exists():
        leave("")
    if was_begun_here(path):  # a copy of this process stays in its folder, and the run goes on in its own
        gc_tuning.freeze_imported()
        early_fork.fork_early()  # before the ledger is open: the copy must have no part in it
    folder = open_run(path)
    try:
        if (outcome := folder.meta.get(COMPLETE_KEY)) and not again:
            leave(outcome)
        sets = shared.parse_pairs(set_, "--set") + shared.run_settings(grace=grace, halt=halt, deadline=deadline)
        choice = shared.plugin_choice(no_plugin, no_plugins, only_plugin)
        params = shared.parse_pairs(param, "--param")
        plan = plan_of_earlier_run(folder, params, sets, choice, drop or (), drains=drain, again=again)
        gc_tuning.freeze_imported()
        options = shared.output_options(
            quiet=quiet,
            verbose=verbose,
            dead_ok=dead_ok,
            progress=progress,
            events_file=events,
        )
    except BaseException:
        folder.close()
        raise
    execute_and_leave(plan, options, document, earlier=folder, notify_command=notify)
