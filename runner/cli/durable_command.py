"""What a durable run notes of the command that began it, and what is made of that when the run goes on."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import LedgerRefused, RetryRefused, UsageError
from runner.problems import quote_name
from runner.text import count_with_noun

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping, Sequence

    from runner.model import Config
    from runner.plugins import PluginPolicy
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.plan import Plan


def describe_command(
    config: Config,
    params: Mapping[str, str],
    sets: Sequence[tuple[str, str]],
    tasks: Sequence[str] | None,
    skipped: Sequence[str] | None,
) -> dict[str, str]:
    """Return what a ledger notes of the command that began its run. Secrets are not noted.

    UsageError: the file would not be there when the run goes on.
    """
    if config.file == "-":
        raise UsageError("a durable run needs a file that is there when it goes on, not standard input")
    declared = config.declared_params
    noted = {name: value for name, value in params.items() if name not in declared or not declared[name].secret}
    command = {"params": noted, "sets": list(sets), "tasks": tasks or [], "skipped": skipped or []}
    return {**_place_of(config), "command": json.dumps(command)}


def _place_of(config: Config) -> dict[str, str]:
    """Return the file, and the folder from which its relative paths begin."""
    return {"file": str(Path(config.file).absolute()), "folder": str(Path.cwd())}


def open_unfinished_run(config: Config) -> DurableFolder | None:
    """Open the last durable run of this file, in this folder, that has something to go on with, or return None."""
    from runner.store.durable_folder import DurableFolder, last_unfinished_run
    from runner.supervisor.resume import MessagePacker

    state = config.folder / config.run.state
    run = last_unfinished_run(state, _place_of(config))
    return None if run is None else DurableFolder(state, run, MessagePacker(), is_new=False)


def plan_of_earlier_run(
    folder: DurableFolder,
    params: Sequence[tuple[str, str]],
    sets: Sequence[tuple[str, str]],
    choice: PluginPolicy | None = None,
    *,
    again: bool = False,
) -> Plan:
    """Return the plan of the run that goes on, from its file as it is now; LedgerRefused if that does not fit.

    This process goes to the folder in which that run was started.
    `again`: sources with a `key` are read once more. UsageError if there are none.
    """
    from runner import config, runs
    from runner.supervisor.resume import find_graph_changes

    run = folder.path.name
    if "file" not in folder.meta:
        raise LedgerRefused(f"run {run} was not begun by a command: it cannot go on")
    try:
        os.chdir(folder.meta["folder"])
    except OSError as error:
        text = f"the folder in which run {run} was started is gone: {folder.meta['folder']}"
        raise LedgerRefused(f"{text}: {error.strerror}") from None
    os.environ["PWD"] = folder.meta["folder"]  # what programs that its tasks start go by
    noted: dict[str, Any] = json.loads(folder.meta["command"])
    given = {**noted["params"], **dict(params)}
    keys = [*map(tuple, noted["sets"]), *sets, ("run.durable", "true")]
    loaded = config.examine(folder.meta["file"], params=given, sets=keys)
    loaded = config.select_tasks(loaded, noted["tasks"] or None, noted["skipped"] or None)
    plan = runs.prepare_plan(loaded, choice)
    if changes := find_graph_changes(plan, folder.image):
        text = f"the file no longer fits {count_with_noun(len(changes), 'thing')} of run {run}"
        raise LedgerRefused("\n".join([f"{text}:", *(f"  {change}" for change in changes)]))
    if again:
        folder.image.again = {name for name, task in plan.tasks.items() if task.config.key}
        if not folder.image.again:
            raise UsageError(
                "--again is for sources with a `key`, by which what was given is passed over; none has one"
            )
    settings = replace(plan.settings, state=folder.path.parents[1])
    return replace(plan, run_id=run, settings=settings, command=folder.meta)


def retry_in_ledger(
    letters: Path,
    ids: Collection[tuple[str, str]],
    params: Sequence[tuple[str, str]],
    sets: Sequence[tuple[str, str]],
    choice: PluginPolicy,
    *,
    dry_run: bool,
) -> tuple[DurableFolder, Plan, list[str]]:
    """Put dead items, (queue, item id) pairs, back to the queues in which they were; the run can go on then.

    Return its ledger, its plan, and what is put where, for people. `dry_run`: nothing is put, and all is closed.
    LedgerRefused, or RetryRefused: the file does not fit any more.
    """
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.resume import MessagePacker

    folder = DurableFolder(letters.parents[2], letters.parent.name, MessagePacker(), is_new=False)
    try:
        plan = plan_of_earlier_run(folder, params, sets, choice)
        lines = {
            (line.queue, reader): line.name
            for line in plan.subscriptions(plan.build_topology().readers)
            for reader in line.readers
        }
        dead = [item for item in folder.image.dead_items.values() if (item.queue, item.item_id) in ids]
        _refuse_unread(folder.path.name, [(item.queue, item.task) for item in dead], lines)
        rows = [
            f"  {count_with_noun(count, 'item')} into {queue} for {task}"
            for (queue, task), count in Counter((item.queue, item.task) for item in dead).items()
        ]
        if dry_run:
            folder.close(leave_notes=True)
        else:
            folder.retry_dead((lines[item.queue, item.task], item) for item in dead)
    except BaseException:
        folder.close(leave_notes=True)
        raise
    return folder, plan, [f"{plan.title}: run {folder.path.name} would go on with", *rows]


def _refuse_unread(run: str, places: Iterable[tuple[str, str]], lines: Container[tuple[str, str]]) -> None:
    """Raise RetryRefused for (queue, task) pairs of items where the task does not read the queue any more."""
    gone = Counter(place for place in places if place not in lines)
    listed = "; ".join(
        f"task {quote_name(task)} does not read queue {quote_name(queue)} any more ({count_with_noun(count, 'item')})"
        for (queue, task), count in gone.items()
    )
    if gone:
        raise RetryRefused(f"the file has changed since run {run}: {listed}")
