"""What can happen in a run, as frozen dataclasses: the progress display, the summary, plugins and files see these.

Never one per item that goes well. `at` is seconds on the run's clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run begins: its id, its title, and its tasks."""

    run: str
    title: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """The run is over: every task is. The counts are those of the balance, `exit_code` the command's.

    `--dead-ok`, or output that could not be written, may still change the code that the command ends with.
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


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """One task at one moment: items done, dead, dropped and given again so far, and workers that execute now.

    `sent` is how many items it has put into its outputs; a task without inputs has nothing else to count.
    """

    done: int
    dead: int
    dropped: int
    repeated: int
    sent: int
    executing: int
    workers: int


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """How far everything is: four times a second, and only where somebody listens.

    `tasks` by name; `queues` is how many items wait in each queue, without those that workers hold.
    """

    tasks: dict[str, TaskCounts]
    queues: dict[str, int]


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
class WorkerReady(Event):
    """A worker has loaded its function and is set up."""

    task: str
    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(Event):
    """A worker has ended as it should; `result` is what a task without outputs returned, as JSON."""

    task: str
    worker: str
    result: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerDied(Event):
    """A worker has ended as it should not. `item` is what it executed, `why` how it ended."""

    task: str
    worker: str
    pid: int
    why: str
    item: str = ""
    will_restart: bool = False


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
class TimedOut(Event):
    """A worker has exceeded its task's `timeout` of `limit` seconds, and is being killed."""

    task: str
    worker: str
    pid: int
    limit: float
    item: str = ""


@dataclass(frozen=True, slots=True)
class Stack(Event):
    """What a worker was executing, as frames; `why` they are shown."""

    task: str
    worker: str
    pid: int
    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunStopping(Event):
    """The run stops before its tasks have ended: sources stop, what is queued drains until `until`."""

    why: str
    until: float


@dataclass(frozen=True, slots=True)
class RunKilled(Event):
    """The run ends at once."""

    why: str


@dataclass(frozen=True, slots=True)
class WorkerProgress(Event):
    """`Context.progress`."""

    task: str
    worker: str
    done: float
    total: float | None


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something a person should know: a worker held back, a stall, output lost."""

    text: str
