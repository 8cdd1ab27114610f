"""`runner resume`: a durable run goes on where it was."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from typer import Option

from runner.cli import shared_options as shared
from runner.cli.durable_command import plan_of_earlier_run
from runner.errors import UsageError


def resume(
    run: shared.RunArgument = "last",
    state: shared.StateOption = shared.DEFAULT_STATE,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    dead_ok: Annotated[bool, Option("--dead-ok", help="Exit 0 although some items are dead.")] = False,
    events: Annotated[str | None, Option(metavar="FILE", help="Write the run's events to FILE, as JSON lines.")] = None,
    progress: Annotated[
        str, Option(metavar="auto|live|plain|json|none", help="How to show how far it is, as with `run`.")
    ] = "auto",
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Only errors, and the balance when something is wrong.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Print what each task did, even if the run was short and went well.")
    ] = False,
) -> None:
    """Go on with a durable run: what was queued is executed, sources go on after what they had given.

    Examples:
      runner resume

      runner resume 20261123-101500
    """
    from runner import gc_tuning, runs
    from runner.cli.run import DISPLAYS, execute_and_leave
    from runner.store import run_folders
    from runner.store.durable_folder import DurableFolder, resumable_runs
    from runner.supervisor.resume import MessagePacker

    if progress not in DISPLAYS:
        raise UsageError(f"--progress knows {', '.join(DISPLAYS)}, not {progress[:40]!r}")
    state = state.absolute()
    path = run_folders.select_run(state, resumable_runs(state), run, "a ledger to go on with")
    folder = DurableFolder(state, path.name, MessagePacker(), is_new=False)
    try:
        plan = plan_of_earlier_run(folder, shared.parse_pairs(param, "--param"), shared.parse_pairs(set_, "--set"))
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
    execute_and_leave(plan, options, earlier=folder)
