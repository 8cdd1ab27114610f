"""A rerun of what failed: the dead items of one run, given to a new run of the same file.

    letters of run A ──▶ choose_letters ──▶ those that are open, and wanted
    file, params of A ─▶ config, prepare_plan ──▶ retry_plan: readers of their queues, and all that follows from there
    bytes of the items ───────────────────────────┘

Sources are not part of the new run, and neither is any other task to which nothing comes; so their queues are closed.
Tasks without queues that had failed or were skipped begin again, if what they come after has ended as they want it.
Nothing here unpickles an item: that is its new worker's to do.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
from msgspec import Struct

from runner.config.toml import STDIN
from runner.errors import RetryRefused, UsageError
from runner.problems import quote_name
from runner.store import dead_letters, records, retries
from runner.store.dead_items import read_items
from runner.structs import dataclass, field
from runner.supervisor.plan import RetriedItem
from runner.text import count_with_noun, printable_line
from runner.transport.messages import FailureText  # noqa: TC001  msgspec reads the hints of what it converts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from runner.errors import RunnerError
    from runner.model import AfterState, Config
    from runner.supervisor.plan import Plan

_ITEM_ID = re.compile(r"[0-9]{1,18}\.[0-9]{1,18}")
_MOST_NAMES = 10
#: So long the workers of a killed run may take to die.
_DYING_SECONDS = 2.0


class _KeptLetter(Struct):
    """What must be known of a letter; `letter` is the text of one that was an item of a queue of dead letters."""

    id: str
    queue: str
    task: str
    kept: dict[str, int] | None = None
    not_kept: str = "an older runner wrote its letter"
    letter: FailureText | None = None
    #: By which field its queue had lanes, and the bucket of its lane.
    lane: str = ""
    bucket: int = 0

    @property
    def place(self) -> tuple[int, ...]:
        """The item's place in the earlier run: its chunk, and the index in that."""
        return tuple(map(int, self.id.split(".")))


class GivenBefore(Struct):
    """What a run was given, as the heading of its letters and the ledger of a durable run have it."""

    params: dict[str, Any]
    sets: list[tuple[str, str]]
    only: list[str]
    skip: list[str]
    withheld: list[str]


class _Heading(Struct):
    """The heading of a run's letters, as far as another run needs it."""

    file: str
    folder: str
    given: GivenBefore


@dataclass(frozen=True, slots=True)
class Selection:
    """The letters that are wanted: of a task, with an error that a pattern finds, or those of named items."""

    task: str = ""
    error: str = ""
    items: tuple[str, ...] = ()

    def keeps(self, letter: Mapping[str, Any]) -> bool:
        """Return True if the letter is one of them."""
        return (
            (not self.items or letter["id"] in self.items)
            and (not self.task or letter.get("task") == self.task)
            and (not self.error or re.search(self.error, str(letter.get("error", ""))) is not None)
        )


@dataclass(frozen=True, slots=True)
class ChosenLetters:
    """Letters of one run that are to be given again, and how many were wanted and are not, by what became of them."""

    path: Path
    letters: tuple[_KeptLetter, ...]
    passed_over: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.parent.name

    @property
    def state(self) -> Path:
        """The folder in which it is kept."""
        return self.path.parents[2]

    def passed_over_lines(self) -> list[str]:
        """Return what became of those that are passed over."""
        lines = []
        for (later, how), count in self.passed_over.items():
            items = f"{count_with_noun(count, 'item')} of run {self.run}"
            if how == retries.DONE:
                lines.append(f"{items}: done in run {later}; name an item to do it again")
            else:
                lines.append(f"{items}: dead again in run {later}: runner dead retry {later}")
        return lines


def is_item_id(text: str) -> bool:
    """Return True if a text is an item's id, and not a run's.

    >>> is_item_id("12.7"), is_item_id("20261123-101500")
    (True, False)
    """
    return _ITEM_ID.fullmatch(text) is not None


def choose_letters(state: Path, run: str, wanted: Selection) -> ChosenLetters:
    """Return the open letters of a run; UsageError says which runs there are.

    Without one, of the last run that has letters; if that was a retry whose letters are done, of what it had retried.
    What an earlier run of its own has left is not given again unless that run is named: it may be old. An item that is
    named is taken whatever became of it.
    """
    if run:
        path = dead_letters.find_dead_letters(state, run)
        if not path.exists():
            raise UsageError(f"run {path.parent.name} has no dead letters; {_runs_text(state)}")
        return _choose_from(state, path, wanted)
    known = dead_letters.runs_with_dead_letters(state)
    if not known:
        raise UsageError(f"no run in {state} has dead letters")
    first = None
    for name in reversed(known):
        path = state / "runs" / name / dead_letters.DEAD_FILE
        if _goes_on(path):
            continue
        try:
            chosen = _choose_from(state, path, wanted)
        except UsageError:  # it has none of those that are wanted
            continue
        if chosen.letters:
            return chosen
        first = first or chosen
        if not _was_retry(path):
            break
    if first is None:
        raise UsageError(f"no run that has ended has such a dead letter; {_runs_text(state)}")
    return first


def _was_retry(path: Path) -> bool:
    plan = records.read_unchecked(path.with_name(records.RECORD_FILE)).get("plan")
    return isinstance(plan, dict) and bool(plan.get("retried_run"))


def _choose_from(state: Path, path: Path, wanted: Selection) -> ChosenLetters:
    found = []
    for each in dead_letters.read_letters(path):
        with contextlib.suppress(msgspec.ValidationError):  # written by hand
            if is_item_id(str(each["id"])) and wanted.keeps(each):
                found.append(msgspec.convert(each, _KeptLetter))
    known = {letter.id for letter in found}
    if missing := [item for item in wanted.items if item not in known]:
        raise UsageError(f"run {path.parent.name} has no such dead letter: {', '.join(missing[:_MOST_NAMES])}")
    if not found:
        raise UsageError(f"run {path.parent.name} has no such dead letter; see: runner dead list {path.parent.name}")
    fates = {} if wanted.items else retries.read_fates(state, path.parent.name)
    chosen, passed_over = [], dict[tuple[str, str], int]()
    for letter in found:
        fate = fates.get(letter.id)
        if fate is None or fate.how == retries.NOT_FINISHED:
            chosen.append(letter)
        else:
            passed_over[fate.run, fate.how] = passed_over.get((fate.run, fate.how), 0) + 1
    return ChosenLetters(path, tuple(chosen), passed_over)


def _runs_text(state: Path) -> str:
    names = dead_letters.runs_with_dead_letters(state)[-_MOST_NAMES:]
    return f"runs that have: {', '.join(names)}" if names else "no run has"


def _goes_on(path: Path) -> bool:
    """Return True if a run goes on. Workers of one that was just killed hold its lock for a moment more."""
    record = path.with_name(records.RECORD_FILE)
    until = monotonic() + _DYING_SECONDS
    while records.is_going_on(record, found := records.read_unchecked(record)):
        pid = found.get("pid")
        if monotonic() > until or not isinstance(pid, int) or psutil.pid_exists(pid):
            return True
        sleep(0.02)
    return False


def refuse_running(chosen: ChosenLetters) -> None:
    """Raise RetryRefused if the run still goes on."""
    if _goes_on(chosen.path):
        raise RetryRefused(f"run {chosen.run} still goes on: its dead items can be retried when it has ended")


def examine_again(
    path: Path, params: Mapping[str, str], sets: Sequence[tuple[str, str]], more_sets: Sequence[tuple[str, str]]
) -> Config:
    """Return the file of a run, read with what the run was given; `params` and `sets` go before that.

    This process goes to the folder in which that run was started. `more_sets` are settings of this run alone.
    """
    run = path.parent.name
    try:
        heading = msgspec.convert(dead_letters.read_heading(path), _Heading)
    except msgspec.ValidationError:
        text = f"the letters of run {run} do not say of which file it was: an older runner wrote them"
        raise RetryRefused(text) from None
    if heading.file == STDIN:
        raise RetryRefused(f"run {run} was given its file on standard input, which is gone")
    return examine_as_given(run, heading.file, heading.folder, heading.given, params, sets, more_sets, RetryRefused)


def examine_as_given(
    run: str,
    file: str,
    folder: str,
    given: GivenBefore,
    params: Mapping[str, str],
    sets: Sequence[tuple[str, str]],
    more_sets: Sequence[tuple[str, str]],
    refusal: type[RunnerError],
) -> Config:
    """Return a file, read with what a run was given; `params` and `sets` go before that, `more_sets` before these.

    This process goes to the folder in which that run was started. A `refusal` says what of it cannot be had again.
    """
    from runner import config

    try:
        os.chdir(folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise refusal(f"the folder in which run {run} was started is gone: {folder}: {why}") from None
    os.environ["PWD"] = folder  # what programs that its tasks start go by
    set_now = {name for name, _ in sets}
    kept_sets = [
        (name, text) for name, text in given.sets if name not in set_now and name.removeprefix("params.") not in params
    ]
    kept_params = {name: value for name, value in given.params.items() if f"params.{name}" not in set_now}
    shown = os.path.relpath(file)
    shown = file if shown.startswith("..") else shown
    found = config.examine(shown, params={**kept_params, **params}, sets=[*kept_sets, *sets, *more_sets])
    try:
        found = config.select_tasks(found, given.only, given.skip)
    except UsageError as error:
        raise refusal(f"{shown} has changed since run {run}: {error}") from None
    _refuse_missing_secrets(run, found, given.withheld, set_now, refusal)
    return found


def _refuse_missing_secrets(
    run: str, config: Config, withheld: Iterable[str], set_now: Collection[str], refusal: type[RunnerError]
) -> None:
    """Raise a refusal for secrets that a run was given, which are not kept, and that are not given again."""
    missing = []
    for text in withheld:
        option, _, name = text.partition(" ")
        is_given = name in config.param_sources or f"params.{name}" in set_now if option == "-p" else name in set_now
        param = config.declared_params.get(name)
        if not is_given and (option != "-p" or param is not None):
            variable = f", or in {param.env}" if param is not None and param.env else ""
            missing.append(f"{option} {name}=VALUE{variable}")
    if missing:
        text = f"run {run} was given a secret, and secrets are not kept"
        raise refusal(f"{text}: give it again with {' and with '.join(missing)}")


def retry_plan(plan: Plan, chosen: ChosenLetters) -> tuple[Plan, dict[str, str]]:
    """Return a plan that gives the chosen letters' items again, and the new id of each item.

    RetryRefused: the graph has changed, or no item was kept.
    """
    letters = sorted(chosen.letters, key=lambda letter: letter.place)
    _refuse_changed_graph(plan, chosen.run, letters)
    kept = [letter for letter in letters if letter.kept is not None]
    payloads = read_items(chosen.path.parent, [letter.kept or {} for letter in kept]) if kept else []
    refused = [letter.not_kept for letter in letters if letter.kept is None]
    refused += [payload for payload in payloads if isinstance(payload, str)]
    items, new_ids = [], {}
    for letter, payload in zip(kept, payloads, strict=True):
        if isinstance(payload, bytes):
            bucket = letter.bucket if letter.lane == plan.queues[letter.queue].lane else 0
            items.append(RetriedItem(letter.queue, letter.task, payload, letter.letter, bucket))
            new_ids[letter.id] = f"{len(items)}.0"
    return _with_items(plan, chosen, tuple(items), refused), new_ids


def _refuse_changed_graph(plan: Plan, run: str, letters: Iterable[_KeptLetter]) -> None:
    """Raise RetryRefused if a queue, or the task that read it, is not there any more."""
    problems: dict[str, int] = {}
    for letter in letters:
        queue, task = letter.queue, letter.task
        if queue not in plan.queues:
            text = f"there is no queue {quote_name(queue)} any more"
        elif task not in plan.tasks:
            text = f"there is no task {quote_name(task)} any more"
        elif queue not in plan.tasks[task].config.inputs:
            text = f"task {quote_name(task)} does not read queue {quote_name(queue)} any more"
        else:
            continue
        problems[text] = problems.get(text, 0) + 1
    if problems:
        listed = "; ".join(f"{text} ({count_with_noun(count, 'item')})" for text, count in problems.items())
        raise RetryRefused(f"the file has changed since run {run}: {listed}")


def _with_items(plan: Plan, chosen: ChosenLetters, items: tuple[RetriedItem, ...], refused: Sequence[str]) -> Plan:
    """Return the plan of what follows from the items; `refused` says why others are not kept."""
    why = ""
    if refused:
        reasons: dict[str, int] = {}
        for text in refused:
            reasons[text] = reasons.get(text, 0) + 1
        listed = [f"{printable_line(text)} ({count:,})" for text, count in list(reasons.items())[:_MOST_NAMES]]
        why = f"{count_with_noun(len(refused), 'item')} of run {chosen.run} not kept: {'; '.join(listed)}"
    if not items:
        raise RetryRefused(f"nothing can be given again: {why}")
    live = _tasks_from(plan, items)
    record = records.read_unchecked(chosen.path.with_name(records.RECORD_FILE))
    ends = _recorded_ends(record)
    live |= _tasks_to_begin_again(plan, live, ends)
    for name in live:
        for other, wanted in plan.tasks[name].config.after.items():
            if other not in live and other in plan.tasks and not _held(ends.get(other, "ok"), wanted):
                text = f"task {quote_name(name)} comes after {quote_name(other)}, which had not ended as it must"
                raise RetryRefused(f"{text} in run {chosen.run}; run the file again")
    tasks = {name: task for name, task in plan.tasks.items() if name in live}
    used = {queue for task in tasks.values() for queue in (*task.config.inputs, *task.config.outputs_and_dead)}
    description = replace(
        plan.description,
        tasks=tuple(task for task in plan.description.tasks if task.name in live),
        queues=tuple(queue for queue in plan.description.queues if queue.name in used),
        retried_run=chosen.run,
    )
    told = [f"{count_with_noun(len(items), 'dead item')} of run {chosen.run} given again"]
    told += [text] if (text := _unfinished_text(chosen.run, record)) else []
    return replace(
        plan,
        settings=replace(plan.settings, state=chosen.state),
        tasks=tasks,
        queues={name: queue for name, queue in plan.queues.items() if name in used},
        payload_kinds={},
        description=description,
        notices=(*plan.notices, *told, *([f"{why}; they stay dead"] if why else []), *chosen.passed_over_lines()),
        retried_run=chosen.run,
        retried_items=items,
    )


def _tasks_from(plan: Plan, items: Iterable[RetriedItem]) -> set[str]:
    """Return the tasks that read the items, and those to which something can come from them."""
    readers = {
        queue: [name for name, task in plan.tasks.items() if queue in task.config.inputs] for queue in plan.queues
    }
    found: set[str] = set()
    for queue, reader in {(item.queue, item.reader) for item in items}:
        found |= {reader} if plan.queues[queue].fanout == "copy" else set(readers[queue])
    look = list(found)
    while look:
        for queue in plan.tasks[look.pop()].config.outputs_and_dead:
            fresh = [name for name in readers[queue] if name not in found]
            found.update(fresh)
            look += fresh
    return found


def _recorded_ends(record: Mapping[str, Any]) -> dict[str, str]:
    """Return how the tasks of a run had ended, or how far they were when it was killed.

    Of a run whose record is not kept nothing is known.
    """
    tasks = record.get("tasks")
    found = tasks if isinstance(tasks, list) else []
    return {str(task["name"]): str(task.get("how")) for task in found if isinstance(task, dict) and "name" in task}


def _unfinished_text(run: str, record: Mapping[str, Any]) -> str:
    """Return what an earlier run has left, which no retry gives again; empty if that is nothing, or not known."""
    if record and record.get("exit_code") is None:
        return f"run {run} was killed; what it had not done is not given again"
    balance = record.get("balance")
    left = balance.get("left") if isinstance(balance, dict) else None
    if record.get("unfinished") or (isinstance(left, int) and left):
        return f"run {run} was cut short; what it left, and what its sources still had, is not given again"
    return ""


def _tasks_to_begin_again(plan: Plan, live: Collection[str], ends: Mapping[str, str]) -> set[str]:
    """Return the tasks without queues that had not ended well, and that may begin now."""
    candidates = {
        name
        for name, task in plan.tasks.items()
        if not task.config.inputs and not task.config.outputs_and_dead and ends.get(name, "ok") != "ok"
    }
    while True:
        there = {*live, *candidates}
        hindered = {
            name
            for name in candidates
            for other, wanted in plan.tasks[name].config.after.items()
            if other not in there and not _held(ends.get(other, "ok"), wanted)
        }
        if not hindered:
            return candidates
        candidates -= hindered


def _held(how: str, wanted: AfterState) -> bool:
    """Return True if the recorded end of a task is what another one waits for."""
    return wanted == "ended" or how == "ok" or (wanted == "started" and how in {"failed", "running"})
