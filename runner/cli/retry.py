"""`runner dead retry`: a new run of what failed in an earlier one."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.cli import streams
from runner.cli.run import execute_and_leave
from runner.errors import UsageError
from runner.store.dead_letters import has_ledger
from runner.store.retries import DONE, RetryClaim, lock_letters
from runner.text import count_with_noun

if TYPE_CHECKING:
    from runner.retries import ChosenLetters
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan


def retry(
    run: Annotated[
        str,
        Argument(
            metavar="[RUN]",
            help="A run's id, or the beginning of one, or `last`. Default: the last run with dead items to retry.",
            autocompletion=shared.complete_run_with_letters,
        ),
    ] = "",
    item: Annotated[
        list[str] | None, Argument(metavar="[ITEM]...", help="Only these items, whatever became of them since.")
    ] = None,
    task: Annotated[
        str,
        Option(
            "--task",
            "-t",
            metavar="NAME",
            help="Only items that died in this task.",
            autocompletion=shared.complete_task,
        ),
    ] = "",
    error: Annotated[str, Option("--error", metavar="REGEX", help="Only items whose error matches.")] = "",
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    state: shared.StateOption = shared.DEFAULT_STATE,
    grace: shared.GraceOption = None,
    halt: shared.HaltOption = None,
    deadline: shared.DeadlineOption = None,
    dry_run: Annotated[
        bool, Option("--dry-run", "-n", help="Say what would be given again, and start nothing.")
    ] = False,
    no_plugin: shared.NoPluginOption = None,
    no_plugins: shared.NoPluginsOption = False,
    only_plugin: shared.OnlyPluginOption = None,
    dead_ok: shared.DeadOkOption = False,
    events: shared.EventsOption = None,
    as_json: shared.JsonOption = False,
    progress: shared.ProgressOption = "auto",
    no_record: shared.NoRecordOption = False,
    quiet: shared.QuietOption = False,
    verbose: shared.VerboseOption = False,
) -> None:
    """Give the dead items of a run to a new run of the same file, with its params, without starting its sources.

    Examples:
      runner dead retry

      runner dead retry --task upload --error Timeout

      runner dead retry 20261123-101500 12.7 15.0 -p bucket=other
    """
    from runner import retries

    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    items = tuple(item or ())
    if retries.is_item_id(run):
        run, items = "", (run, *items)
    for each in items:
        if not retries.is_item_id(each):
            raise UsageError(f"`{each[:40]}` is not an item's id, such as 12.7; see: runner dead list")
    try:
        re.compile(error)
    except re.error as wrong:
        raise UsageError(f"--error {error[:60]!r} is not a regular expression: {wrong}") from None
    sets = shared.run_settings(grace=grace, halt=halt, deadline=deadline, record="0" if no_record else None)
    params, given = dict(shared.parse_pairs(param, "--param")), shared.parse_pairs(set_, "--set")
    events = shared.absolute_file(events)
    wanted = retries.Selection(task, error, items)
    chosen = retries.choose_letters(Path(os.path.abspath(state)), run, wanted)  # noqa: PTH100  without `..`, as it is said
    if not chosen.letters:
        _leave_without_run(chosen)
    from runner import gc_tuning, runs

    choice = shared.plugin_choice(no_plugin, no_plugins, only_plugin)
    options = shared.output_options(
        quiet=quiet,
        verbose=verbose,
        dead_ok=dead_ok,
        progress=progress,
        events_file=events,
    )
    if has_ledger(chosen.path):
        from runner.cli.durable_command import retry_in_ledger

        ids = {(letter.queue, letter.id) for letter in chosen.letters}
        folder, plan, rows = retry_in_ledger(
            chosen.path, ids, [*params.items()], [*given, *sets], choice, dry_run=dry_run
        )
        if dry_run:
            print("\n".join(rows))
            return
        gc_tuning.freeze_imported()
        execute_and_leave(plan, options, document, earlier=folder)
    with lock_letters(chosen.path):
        # Once more: another retry may have taken them meanwhile.
        chosen = retries.choose_letters(chosen.state, chosen.run, wanted)
        retries.refuse_running(chosen)
        if not chosen.letters:
            _leave_without_run(chosen)
        loaded = retries.examine_again(chosen.path, params, given, sets)
        gc_tuning.freeze_imported()
        plan = runs.prepare_plan(loaded, choice)
        plan, new_ids = retries.retry_plan(plan, chosen)
        if dry_run:
            print("\n".join(_describe_retry(plan, chosen)))
            return
        claim = RetryClaim(chosen.state, plan.run_id, chosen.run, new_ids)
        claim.write()
        execute_and_leave(plan, options, document, partial(_note_end, claim))


def _note_end(claim: RetryClaim, outcome: RunOutcome) -> None:
    """Note that the items are done, those without a letter, if the run has come to its own end with all of them."""
    from runner.supervisor.outcome import EXIT_DEAD

    ended = outcome.ended
    if ended.exit_code in {0, EXIT_DEAD} and not ended.left and not outcome.trouble:
        claim.end()


def _leave_without_run(chosen: ChosenLetters) -> NoReturn:
    """Say what became of the items that were wanted, all of which were retried before."""
    from runner.supervisor.outcome import EXIT_DEAD

    sys.stderr.write("\n".join(["nothing is left to retry", *chosen.passed_over_lines(), ""]))
    raise typer.Exit(EXIT_DEAD if any(how != DONE for _, how in chosen.passed_over) else 0)


def _describe_retry(plan: Plan, chosen: ChosenLetters) -> list[str]:
    counts = Counter((item.queue, item.reader) for item in plan.retried_items)
    lines = [f"{plan.title}: {notice}" for notice in plan.notices]
    rows = [f"  {count_with_noun(each, 'item')} into {queue} for {task}" for (queue, task), each in counts.items()]
    return [*lines, *rows, f"tasks: {', '.join(plan.tasks)}. Nothing was started; run {chosen.run} stays as it is."]
