"""What a durable run notes of the command that began it, and what is made of that when the run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import LedgerRefused, UsageError
from runner.text import count_with_noun
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    return {"file": str(Path(config.file).absolute()), "command": json.dumps(command), "runner": __version__}


def open_unfinished_run(config: Config) -> DurableFolder | None:
    """Open the last durable run of this file that has something to go on with; None if there is none."""
    from runner.store.durable_folder import DurableFolder, last_unfinished_run
    from runner.supervisor.resume import MessagePacker

    state = config.folder / config.run.state
    run = last_unfinished_run(state, {"file": str(Path(config.file).absolute())})
    return None if run is None else DurableFolder(state, run, MessagePacker(), is_new=False)


def plan_of_earlier_run(
    folder: DurableFolder,
    params: Sequence[tuple[str, str]],
    sets: Sequence[tuple[str, str]],
    choice: PluginPolicy | None = None,
    drop: Sequence[str] = (),
    *,
    drains: bool = False,
) -> Plan:
    """Return the plan of the run that goes on, from its file as it is now; LedgerRefused if that does not fit.

    What is in the queues of `drop` is dropped when the run begins to go on. `drains`: sources are not started.
    """
    from runner import config, runs
    from runner.config.overrides import select_tasks
    from runner.supervisor.resume import find_graph_changes

    run = folder.path.name
    if "file" not in folder.meta:
        raise LedgerRefused(f"run {run} was not begun by a command: it cannot go on")
    noted: dict[str, Any] = json.loads(folder.meta["command"])
    given = {**noted["params"], **dict(params)}
    keys = [*map(tuple, noted["sets"]), *sets, ("run.durable", "true")]
    loaded = select_tasks(
        config.examine(folder.meta["file"], params=given, sets=keys), noted["tasks"] or None, noted["skipped"] or None
    )
    plan = replace(runs.prepare_plan(loaded, choice), drains=drains)
    dropped = folder.lines_of_queues(drop)
    if changes := find_graph_changes(plan, folder.image, dropped):
        text = f"the file no longer fits {count_with_noun(len(changes), 'thing')} of run {run}"
        raise LedgerRefused("\n".join([f"{text}:", *(f"  {change}" for change in changes)]))
    settings = replace(plan.settings, state=folder.path.parents[1])
    folder.drop_items(dropped)
    notices = [f"{count_with_noun(count, 'item')} of `{line}` dropped" for line, count in dropped.items()]
    return replace(plan, run_id=run, settings=settings, command={}, notices=(*plan.notices, *notices))
