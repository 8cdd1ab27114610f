"""What a durable run notes of the command that began it, and what is made of that when the run goes on."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runner.cli.run_basis import BASIS_KEY, describe_basis, encode_basis, tell_differences
from runner.errors import LedgerRefused, RetryRefused, UsageError
from runner.problems import quote_name
from runner.text import count_with_noun
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Sequence

    from runner.model import Config
    from runner.plugins import PluginPolicy
    from runner.retries import GivenBefore
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.plan import Plan


def describe_command(config: Config, plan: Plan) -> dict[str, str]:
    """Return what a ledger notes of the command that began its run. Of secrets only the names are noted.

    UsageError: the file would not be there when the run goes on.
    """
    if config.file == "-":
        raise UsageError("a durable run needs a file that is there when it goes on, not standard input")
    given: dict[str, Any] = plan.origin["given"]
    known = {*map(tuple, given["sets"]), *(text.partition(" ")[2] for text in given["withheld"])}
    settings = [pair for pair in config.given.sets if pair not in known and pair[0] not in known]  # of [run]
    command = {**given, "sets": [*given["sets"], *settings]}
    place = {"file": plan.origin["file"], "folder": plan.origin["folder"]}
    return {**place, "command": json.dumps(command), **_notes_of_life(plan)}


def _notes_of_life(plan: Plan) -> dict[str, str]:
    """Return what each life of a run notes of itself."""
    return {"title": plan.title, "runner": __version__, BASIS_KEY: encode_basis(describe_basis(plan))}


def find_unfinished_run(config: Config) -> Path | None:
    """Return the folder of the last durable run of this file that was cut short; None if there is none."""
    from runner.store.durable_folder import last_unfinished_run

    state = Path(os.path.abspath(config.folder / config.run.state))  # noqa: PTH100  without `..`, as it is said
    run = last_unfinished_run(state, {"file": os.path.abspath(config.file)})  # noqa: PTH100  as it is noted
    return None if run is None else state / "runs" / run


def was_begun_here(path: Path) -> bool:
    """Return True if a run was begun in the folder in which this process is."""
    from runner.store.ledger_summary import read_notes

    return read_notes(path).get("folder") == os.getcwd()  # noqa: PTH109  it is noted as text


def open_run(path: Path) -> DurableFolder:
    """Open the ledger of a run that goes on."""
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.resume import MessagePacker

    return DurableFolder(path.parents[1], path.name, MessagePacker(), is_new=False)


def plan_of_earlier_run(
    folder: DurableFolder,
    params: Sequence[tuple[str, str]],
    sets: Sequence[tuple[str, str]],
    choice: PluginPolicy | None = None,
    drop: Sequence[str] = (),
    *,
    drains: bool = False,
    again: bool = False,
) -> Plan:
    """Return the plan of the run that goes on, from its file as it is now; LedgerRefused if that does not fit.

    This process goes to the folder in which the run was begun: paths in the file may be relative to that.
    What is in the queues of `drop` is dropped when the run begins to go on. `drains`: sources are not started.
    `again`: sources with a `key` are read once more; UsageError if there are none.
    """
    from runner import runs
    from runner.retries import GivenBefore, examine_as_given
    from runner.supervisor.resume import find_graph_changes

    run = folder.path.name
    if not folder.meta:
        raise LedgerRefused(f"run {run} was ended before it began: there is nothing to go on with")
    if "file" not in folder.meta:
        raise LedgerRefused(f"run {run} was not begun by a command: it cannot go on")
    given = msgspec.json.decode(folder.meta["command"], type=GivenBefore)
    place, more_sets = (folder.meta["file"], folder.meta["folder"]), [("run.durable", "true")]
    loaded = examine_as_given(run, *place, given, dict(params), sets, more_sets, LedgerRefused)
    plan = replace(runs.prepare_plan(loaded, choice), drains=drains)
    dropped = folder.lines_of_queues(drop)
    if changes := find_graph_changes(plan, folder.image, dropped):
        text = f"the file no longer fits {count_with_noun(len(changes), 'thing')} of run {run}"
        raise LedgerRefused("\n".join([f"{text}:", *(f"  {change}" for change in changes)]))
    if again:
        folder.image.again = {name for name, task in plan.tasks.items() if task.config.key}
        if not folder.image.again:
            raise UsageError(
                "--again is for sources with a `key`, by which what was given is passed over; none has one"
            )
    settings = replace(plan.settings, state=folder.path.parents[1])
    folder.drop_items(dropped)
    notices = [f"{count_with_noun(count, 'item')} of `{line}` dropped" for line, count in dropped.items()]
    if differences := tell_differences(folder.meta.get(BASIS_KEY), describe_basis(plan)):
        notices.append(differences)
    notices = [*plan.notices, *notices]
    command = {"command": _command_of_next_life(given, plan), **_notes_of_life(plan)}
    return replace(plan, run_id=run, settings=settings, command=command, notices=tuple(notices))


def _command_of_next_life(before: GivenBefore, plan: Plan) -> str:
    """Return what the run is given when it goes on again: the `-p` and `--set` of all its lives, the last one wins.

    Options such as `--deadline` are those of the command that began it.
    """
    given: dict[str, Any] = plan.origin["given"]
    sets = [pair for pair in given["sets"] if not pair[0].startswith("run.")]
    sets += [list(pair) for pair in before.sets if pair[0].startswith("run.")]
    withheld = list(dict.fromkeys([*before.withheld, *given["withheld"]]))
    return json.dumps({**given, "sets": sets, "withheld": withheld})


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
    folder = open_run(letters.parent)
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
            folder.close()
        else:
            folder.retry_dead((lines[item.queue, item.task], item) for item in dead)
    except BaseException:
        folder.close()
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
