"""A run's record: everything that is known of it afterwards, folded from its events.

The summary, its JSON, `runner report` and its plots all read this. It is bounded, however long the run and however many
its items: a moment that repeats is counted, and the series get coarser as they get longer.
"""

from __future__ import annotations

import json

import msgspec

from runner import events
from runner.errors import UsageError
from runner.ledger.balance import Balance
from runner.structs import dataclass, field

#: Of the JSON that people's scripts read: raised when a key is taken away or means something else.
RECORD_VERSION = 1
#: Ends of a run by its exit code; none of a run that goes on, or whose runner was killed.
_ENDS_BY_CODE: dict[int | None, str] = {
    None: "going on, or was killed",
    0: "ended well",
    1: "failed",
    4: "ended, and some items are dead",
    5: "stopped: too many items were dead",
    70: "a fault of runner's own",
    124: "stopped by its deadline",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}


def describe_exit_code(code: int | None) -> str:
    """Return what an exit code says of a run.

    >>> describe_exit_code(143), describe_exit_code(77)
    ('stopped by SIGTERM', 'ended with exit code 77')
    """
    return _ENDS_BY_CODE.get(code, f"ended with exit code {code}")


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one kind (`error`'s type) in one task; the first of them is told whole."""

    task: str
    kind: str
    verdict: str
    count: int
    first_item: str
    worker: str
    error: str
    traceback: str = ""
    preview: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that is told once: a death, a time limit, a stop, a notice. `at`: seconds since the run began."""

    at: float
    kind: str
    text: str
    task: str = ""
    worker: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The limit of the run, as one sentence, and what it is made of.

    `kind`: "work" (the task's workers are busy), "rate", "concurrency" (of `async def`), "interpreter" (threads share
    one), "machine" (all cores are busy), "network" (between the supervisor and `node`), "balanced".
    `workers` is how many the task would have to have for `gain` times the throughput; None: more would not help. `gain`
    without `workers` is what the sentence's other advice would give.
    """

    sentence: str
    kind: str
    task: str = ""
    workers: int | None = None
    gain: float | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """All that was seen over time: `at` are the ends of the intervals, in seconds since the run began.

    The time between two lives of a durable run is left out of that.

    Everything else has one entry for each of them. `done` and `sent` are cumulative counts by task, `queues` lengths
    by queue, `workers` by task and worker: for each interval the shares of it (0 to 1) in the order of
    `events.STATES`.
    """

    at: tuple[float, ...] = ()
    done: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sent: dict[str, tuple[int, ...]] = field(default_factory=dict)
    queues: dict[str, tuple[int, ...]] = field(default_factory=dict)
    workers: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `began` is seconds since 1970; without an `exit_code` it is going on, or was killed.

    Of a durable run that has gone on it tells all its `lives` (empty: it is not durable): `seconds` is how long these
    were together, and times within the run leave out what is between them. Counts, `times` and `cpu` are those of all
    lives, `limit`, `reasons`, `idle` and `pid` those of the last one.

    `idle` is the share of the processors' time in which they had nothing to do, neither for the run nor for others;
    `cpu` the processor time, in seconds, of runner's own process, with its threads, and `pid` its number.
    """

    run: str
    title: str
    began: float = 0.0
    seconds: float = 0.0
    exit_code: int | None = None
    balance: Balance = field(default_factory=Balance)
    limit: Bottleneck | None = None
    tasks: tuple[events.TaskSummary, ...] = ()
    queues: tuple[events.QueueSummary, ...] = ()
    failures: tuple[FailureGroup, ...] = ()
    moments: tuple[Incident, ...] = ()
    reasons: tuple[str, ...] = ()
    unbalanced: tuple[str, ...] = ()
    plan: events.RunPlan = field(default_factory=events.RunPlan)
    series: Series = field(default_factory=Series)
    idle: float | None = None
    cpu: float = 0.0
    pid: int = 0
    #: Tasks without inputs that had not ended by themselves: a source among them had more.
    unfinished: tuple[str, ...] = ()
    lives: tuple[events.RunLife, ...] = ()
    #: The machines that joined, in the order in which they did; of a durable run, those of its last life.
    nodes: tuple[events.NodeSummary, ...] = ()
    version: int = RECORD_VERSION


def parse_record(text: str, where: str) -> RunRecord:
    """Return the record of a JSON text that came from `where`; raise UsageError if the text is not one."""
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > RECORD_VERSION:
        text = f"{where}: a record of version {version}, and this runner knows {RECORD_VERSION}: use a newer one"
        raise UsageError(text)
    try:
        record = msgspec.convert(found, RunRecord)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: not a record of a run: {error}") from None
    if ragged := _ragged(record.series):
        raise UsageError(f"{where}: not a record of a run: series.{ragged}: not one entry for each of series.at")
    return record


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _ragged(series: Series) -> str:
    """Return the key of a series that lacks an entry for some interval; an empty text if none does."""
    length = len(series.at)
    for key in ("done", "sent", "queues"):
        if any(len(values) != length for values in getattr(series, key).values()):
            return key
    for workers in series.workers.values():
        for shares in workers.values():
            if len(shares) != length or any(len(each) != len(events.STATES) for each in shares):
                return "workers"
    return ""


def record_schema() -> dict[str, object]:
    """Return the JSON Schema of a record. What `run --json` writes has no `series`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(RunRecord)}
