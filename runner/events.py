"""Events of a run, as frozen dataclasses: the progress display, the summary, plugins and files see these.

Never one per item that goes well. `at` is seconds on the run's clock. What is no `Event` is a part of one.
"""

from __future__ import annotations

from runner.structs import dataclass, field

#: What a worker can be doing; each second of its place in the run is exactly one of these.
STATES = ("starting", "item", "executing", "encoding", "room", "turn", "ended")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class TaskPlanned:
    """One task as the file has it. `rate` is items a second over all workers, `concurrency` that of `async def`.

    Of a range, `workers` are the names of the most, and `least_workers` is its lower end; 0: the number is fixed.
    """

    name: str
    call: str
    mode: str
    workers: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    dead: str = ""
    after: tuple[str, ...] = ()
    rate: float | None = None
    concurrency: int | None = None
    batch: int | None = None
    ordered: bool = False
    help: str = ""
    least_workers: int = 0


@dataclass(frozen=True, slots=True)
class QueuePlanned:
    """One queue as the file has it; a bound that is None was not given."""

    name: str
    size: int | None = None
    bytes: int | None = None
    fanout: str = ""
    loop: bool = False
    letters: bool = False
    lane: str = ""
    full: str = "wait"
    order: str = "fifo"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a run: `cores` that it may use, bytes of `memory`."""

    system: str = ""
    python: str = ""
    runner: str = ""
    cores: int = 1
    memory: int = 0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run as planned: the file's path, its resolved text with secrets hidden, its tasks and queues, the machine.

    `retried_run`: its items are dead ones of that earlier run (`runner dead retry`).
    """

    file: str = ""
    resolved: str = ""
    tasks: tuple[TaskPlanned, ...] = ()
    queues: tuple[QueuePlanned, ...] = ()
    machine: Machine = field(default_factory=Machine)
    retried_run: str = ""


@dataclass(frozen=True, slots=True)
class RunLife:
    """One life of a durable run: from the time at which the run began, or went on, to the end of that process.

    `began` is the time of day in seconds since 1970, `done_before` how many items were done by then. `seconds` is how
    long it lasted; of a life that was killed, how long at least. `end` says why it ended; empty: it has not. With
    `count` above 1 this is so many lives in a row.
    """

    began: float = 0.0
    seconds: float = 0.0
    end: str = ""
    done_before: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run begins: its id, its title, its tasks, the `plan`; `unix` is the time of day in seconds since 1970.

    `lives` are those of a durable run, the one that begins now last.
    """

    run: str
    title: str
    tasks: tuple[str, ...]
    plan: RunPlan = field(default_factory=RunPlan)
    unix: float = 0.0
    pid: int = 0
    lives: tuple[RunLife, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of workers' places, by what they were doing. For one worker they add up to the time since the run began.

    `starting`: from its start until it is ready. `item`: ready, and waiting for an item, or an item is on its way.
    `executing`: in the task function (a source: making items). `encoding`: turning items into bytes and back.
    `room`: an output is at its bound. `turn`: its task has not begun (`after`), or `rate`, `lane`, `ordered` or a
    back-off holds the next item back. `ended`: no more will come for it: it is torn down, or gone; where
    the number of workers changes, it was not there, or is not any more.
    """

    starting: float = 0.0
    item: float = 0.0
    executing: float = 0.0
    encoding: float = 0.0
    room: float = 0.0
    turn: float = 0.0
    ended: float = 0.0

    @property
    def worked(self) -> float:
        """Seconds in which something was done.

        >>> Spent(executing=2, encoding=1, item=5).worked
        3
        """
        return self.executing + self.encoding


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """One worker: what it is doing now (one of `STATES`), and all it has done since the run began.

    `items` it took or made; `cpu` is its processor time in seconds, `memory` its peak in bytes, that of its process:
    None for a thread. `item_age` is how long it has been at its present item, in seconds, as seen a few times a second;
    None where that is not known: it waits, it is a source, or it has many at a time (`async def`). `node` is its
    machine, or the last one that it had, if that is not this one.
    """

    name: str
    state: str
    spent: Spent
    pid: int = 0
    items: int = 0
    cpu: float = 0.0
    memory: int | None = None
    item_age: float | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """One machine of a run: `joined` and `left` are seconds since the run began; `left` None: it stayed to the end.

    `why` it left. `workers` is how many were started there. `sent` and `received` are the bytes that the supervisor
    sent to it and received from it. `sending` and `receiving` are shares of its time (0 to 1) in which more was to be
    sent, in that direction, than the network took; 0 also where the system does not tell. `round_trip` is the last
    time, in seconds, until the other machine confirmed what it was sent; None: not known.
    """

    name: str
    host: str = ""
    places: int = 0
    cpus: int = 0
    memory: int = 0
    joined: float = 0.0
    left: float | None = None
    why: str = ""
    workers: int = 0
    sent: int = 0
    received: int = 0
    sending: float = 0.0
    receiving: float = 0.0
    round_trip: float | None = None


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task at its end: `how` is "ok", "failed" or "skipped" (never started), and `why`.

    `taken` are the items it took from its queues; `left` those of them that were not finished; `sent` what it put
    into its outputs. `times` is how long its items took: a histogram as (seconds, items) pairs, the upper edge of each
    class and how many items are in it; `median` and `p99` are read from it (None: nothing was measured). `active` is
    the time in seconds from the start of its first worker to its end, `busy` the share of its workers' time from ready
    to ended in which they executed or encoded. `results` are JSON texts by worker.
    """

    name: str
    how: str
    why: str = ""
    taken: int = 0
    done: int = 0
    dead: int = 0
    dropped: int = 0
    left: int = 0
    repeated: int = 0
    sent: int = 0
    median: float | None = None
    p99: float | None = None
    busy: float = 0.0
    active: float = 0.0
    times: tuple[tuple[float, int], ...] = ()
    workers: tuple[WorkerNow, ...] = ()
    results: dict[str, str] = field(default_factory=dict)

    @property
    def peak(self) -> int | None:
        """The most memory that one worker's process has had."""
        return max((worker.memory for worker in self.workers if worker.memory is not None), default=None)


@dataclass(frozen=True, slots=True)
class FullestBucket:
    """The bucket of a queue with lanes in which the most items waited: its number, of how many there are.

    The first of its `items` had waited for `seconds`, as far as is known: arrivals are noted four times a second.
    """

    number: int
    buckets: int
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """One queue at the end: `put` = `done` + `dead` + `dropped` + `left`, the sums over all its readers' copies.

    `most` is the longest that it was seen to be; `fullest` its fullest bucket when that held the most, if it has lanes.
    `oldest`, in the record of a run that goes on, is for how many seconds the item has waited that has waited longest.
    """

    name: str
    put: int = 0
    done: int = 0
    dead: int = 0
    dropped: int = 0
    left: int = 0
    most: int = 0
    fullest: FullestBucket | None = None
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """The run is over: every task is. The counts are those of the balance, `exit_code` the command's.

    `--dead-ok`, or output that could not be written, may still change the code that the command ends with. `reasons`
    say why it ended before its tasks had; `unfinished` are the tasks without inputs that had not ended by themselves (a
    source among them had more); `unbalanced` names queues that do not add up, which is runner's own fault.
    `idle` is the share of the processors' time in which they had nothing to do, neither for the run nor for others;
    `cpu` the processor time, in seconds, of runner's own process, with its threads. `nodes` are the other machines.
    """

    run: str
    exit_code: int
    seconds: float
    read: int
    made: int
    done: int
    dead: int
    dropped: int
    left: int
    repeated: int
    tasks: tuple[TaskSummary, ...] = ()
    queues: tuple[QueueSummary, ...] = ()
    reasons: tuple[str, ...] = ()
    unbalanced: tuple[str, ...] = ()
    idle: float | None = None
    cpu: float = 0.0
    unfinished: tuple[str, ...] = ()
    nodes: tuple[NodeSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """One task at one moment: items done, dead, dropped and given again so far, and workers that execute now.

    `sent` is how many items it has put into its outputs; a task without inputs has nothing else to count. `workers`
    are those that are ready, `starting` those that are not yet; of the ready ones some are `executing` and others
    wait: `item`, `room`, `turn`. `stage` is the task's: "waiting" (to start), "running", "ok", "failed", "skipped".
    `wanted` is how many workers a task with a range is to have now; None: the number is fixed.
    """

    done: int
    dead: int
    dropped: int
    repeated: int
    sent: int
    executing: int
    workers: int
    starting: int = 0
    item: int = 0
    room: int = 0
    turn: int = 0
    stage: str = "running"
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """The state of all tasks and queues: four times a second, and only if a display or a plugin listens.

    `tasks` by name; `queues` is how many items wait in each queue, without those that workers hold; `workers` by task.
    `oldest` is for how many seconds the item has waited that has waited longest, of queues in which one waits: arrivals
    are noted four times a second. `dropped` are the items that a queue, or its readers, have dropped so far, if any;
    `fullest` the fullest buckets of queues with lanes.
    """

    tasks: dict[str, TaskCounts]
    queues: dict[str, int]
    workers: dict[str, tuple[WorkerNow, ...]] = field(default_factory=dict)
    oldest: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    fullest: dict[str, FullestBucket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskStarted(Event):
    """A task's workers are being started."""

    task: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskEnded(Event):
    """A task is over: `how` is "ok", "failed" or "skipped" (it never started); `why` says more unless it is ok."""

    task: str
    how: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class WorkersChanged(Event):
    """A task with a range (`workers = "2..16"`) has another `number` of workers from now on; it had `before`.

    Those that are too many end once they hold nothing; those that are new are being started.
    """

    task: str
    number: int
    before: int
    why: str


@dataclass(frozen=True, slots=True)
class WorkerReady(Event):
    """A worker has loaded its function and is set up. `node` is its machine, if that is not this one."""

    task: str
    worker: str
    pid: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class WorkerEnded(Event):
    """A worker has ended as it should; `result` is what a task without outputs returned, as JSON."""

    task: str
    worker: str
    result: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerDied(Event):
    """A worker has ended as it should not. `item` is what it executed, `why` how it ended.

    `preview` shows the item; with `count` above 1 it is the first of `count` items, of which the worker executed one.
    `told`: that and why was told before, in an `ItemFailed` or a `NodeLost`.
    """

    task: str
    worker: str
    pid: int
    why: str
    item: str = ""
    will_restart: bool = False
    preview: str = ""
    count: int = 1
    told: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class ItemFailed(Event):
    """A task function has raised. `verdict`: "again", "dead", "dropped", or "fatal" for a task without inputs."""

    task: str
    worker: str
    item: str
    error: str
    traceback: str
    attempt: int
    verdict: str
    preview: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class ItemTimedOut(Event):
    """A worker has exceeded its task's `timeout` of `limit` seconds, and was killed."""

    task: str
    worker: str
    pid: int
    limit: float
    item: str = ""
    preview: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Stack(Event):
    """The frames that a worker was executing, and `why` they are shown."""

    task: str
    worker: str
    pid: int
    text: str
    why: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class RunStopping(Event):
    """The run stops before its tasks have ended: sources stop, what is queued drains until `until`.

    `drains` is False when a run is halted: only what workers hold already may end until then.
    """

    why: str
    until: float
    drains: bool = True


@dataclass(frozen=True, slots=True)
class RunKilled(Event):
    """The run ends at once."""

    why: str


@dataclass(frozen=True, slots=True)
class WorkerProgress(Event):
    """`Context.progress`. `done` below 0: as many items as the worker has sent."""

    task: str
    worker: str
    done: float
    total: float | None


@dataclass(frozen=True, slots=True)
class NodeJoined(Event):
    """A machine has become part of the run: its name, its host, and how many workers it takes."""

    node: str
    host: str
    places: int
    cpus: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class NodeLost(Event):
    """A machine is not part of the run any more, and `why`; `workers` are those that were lost with it."""

    node: str
    why: str
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """A message for people: a worker held back, a stall, lost output."""

    text: str
