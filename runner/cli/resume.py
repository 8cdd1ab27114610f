"""`runner resume`: a durable run goes on where it was."""

from __future__ import annotations

import os
import sys

from runner.cli import shared_options as shared
from runner.cli.durable_command import plan_of_earlier_run


def resume(
    run: shared.RunArgument = "last",
    state: shared.StateOption = shared.DEFAULT_STATE,
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
    """
    from runner import check, gc_tuning, runs  # noqa: F401  what is imported before the fork is shared with the workers
    from runner.cli import streams
    from runner.cli.run import execute_and_leave
    from runner.engines import early_fork
    from runner.store import run_folders
    from runner.store.durable_folder import DurableFolder, resumable_runs
    from runner.supervisor.resume import MessagePacker

    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    state = state.absolute()
    path = run_folders.select_run(state, resumable_runs(state), run, "a ledger to go on with")
    gc_tuning.freeze_imported()
    early_fork.fork_early()  # before the ledger is open: the copy must have no part in it
    folder = DurableFolder(state, path.name, MessagePacker(), is_new=False)
    try:
        sets = shared.parse_pairs(set_, "--set") + shared.run_settings(grace=grace, halt=halt, deadline=deadline)
        choice = shared.plugin_choice(no_plugin, no_plugins, only_plugin)
        plan = plan_of_earlier_run(folder, shared.parse_pairs(param, "--param"), sets, choice)
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
        folder.close()
        raise
    execute_and_leave(plan, options, document, earlier=folder)
