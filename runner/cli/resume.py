"""`runner resume`: a durable run goes on where it was."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from typer import Option

from runner.cli import shared_options as shared
from runner.cli.durable_command import plan_of_earlier_run


def resume(
    run: shared.RunArgument = "last",
    state: shared.StateOption = shared.DEFAULT_STATE,
    again: Annotated[
        bool, Option("--again", help="Read sources with a `key` once more, and take what they have not given yet.")
    ] = False,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
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
    quiet: shared.QuietOption = False,
    verbose: shared.VerboseOption = False,
) -> None:
    """Go on with a durable run: what was queued is executed, sources go on after what they had given.

    Examples:
      runner resume

      runner resume 20261123-101500

      runner resume --again
    """
    from runner import gc_tuning, runs
    from runner.cli import streams
    from runner.cli.run import execute_and_leave
    from runner.store import run_folders
    from runner.store.durable_folder import DurableFolder, resumable_runs
    from runner.supervisor.resume import MessagePacker

    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    state = state.absolute()
    events = os.path.abspath(events) if events and events != "-" else events  # noqa: PTH100  a str may be any path
    path = run_folders.select_run(state, resumable_runs(state), run, "a ledger to go on with")
    folder = DurableFolder(state, path.name, MessagePacker(), is_new=False)
    try:
        sets = shared.parse_pairs(set_, "--set") + shared.run_settings(grace=grace, halt=halt, deadline=deadline)
        choice = shared.plugin_choice(no_plugin, no_plugins, only_plugin)
        plan = plan_of_earlier_run(folder, shared.parse_pairs(param, "--param"), sets, choice, again=again)
        gc_tuning.freeze_imported()
        options = runs.OutputOptions(
            quiet=quiet,
            verbose=verbose,
            color=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
            dead_ok=dead_ok,
            progress=progress,
            events_file=events,
        )
    except BaseException:
        folder.close(leave_notes=True)
        raise
    execute_and_leave(plan, options, document, earlier=folder)
