"""The parts of a checked file: frozen dataclasses, every one with its defaults.

`config.examine` is the only maker of these; everything below it in the house reads them and
nothing writes them. Durations are seconds (float), sizes are bytes (int).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from runner.problems import Location, Problem, nearest_location
from runner.structs import dataclass, field

Mode = Literal["thread", "process"]
Fanout = Literal["share", "copy"]
Full = Literal["wait", "drop-new", "drop-old"]
Order = Literal["fifo", "lifo", "priority"]
OnError = Literal["dead", "skip", "fail", "stop"]
AfterState = Literal["started", "ended", "ok"]
Log = Literal["prefix", "raw"]
Overlap = Literal["allow", "refuse", "wait"]

KIB, MIB = 1024, 1024 * 1024

DEFAULT_PORT = "default"


@dataclass(frozen=True, slots=True)
class Halt:
    """The condition under which dead items stop the run: never (both None), after `count`, or above `share` (0..1)."""

    count: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The `[run]` table."""

    halt: Halt = Halt()
    deadline: float | None = None
    grace: float = 10.0
    engine: str = "local"
    log: Log = "prefix"
    state: Path = Path(".runner")
    record: int = 20
    dead_items: int = 64_000_000
    max_item: int = 256 * MIB
    durable: bool = False
    overlap: Overlap = "allow"


#: Engines whose workers live on machines that join, and all names of engines that a plugin cannot have.
CLUSTER_ENGINES = ("agents", "ray")
OWN_ENGINES = ("local", *CLUSTER_ENGINES)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The `[agents]` table: of a run whose processes are on other machines. `nodes` None: as many as join."""

    nodes: int | None = None
    listen: str = ""
    lost: float = 10.0
    folder: str = ""
    encrypt: bool = True


@dataclass(frozen=True, slots=True)
class RaySettings:
    """The `[ray]` table: the cluster whose machines have the processes of a run."""

    address: str = "auto"


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One `[queues.NAME]` table."""

    name: str
    size: int = 1000
    bytes: int = 64_000_000
    fanout: Fanout | None = None
    full: Full = "wait"
    order: Order = "fifo"
    #: The field that says of which lane an item is; "": there are none.
    lane: str = ""
    #: The file says no `size`: more than the default may be under way where readers are quick.
    elastic: bool = False
    loop: bool = False

    @property
    def drops(self) -> bool:
        """Return True if it drops items when it is full, and its writers never wait."""
        return self.full != "wait"

    @property
    def is_ranked(self) -> bool:
        """Return True if what is next is decided when it is granted: its readers take one item, or one batch."""
        return self.order != "fifo"


@dataclass(frozen=True, slots=True)
class OutputPort:
    """A named output of a task; every item sent to the port goes to each of its queues."""

    name: str
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The function takes a list: at most `items` and `bytes`, waiting at most `wait` seconds to fill."""

    items: int
    bytes: int | None = None
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the n-th retry: first * factor**(n-1), at most `max`, spread by `jitter` (0..1)."""

    first: float = 0.1
    factor: float = 2.0
    max: float = 30.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Restarts:
    """Unblamed deaths of workers within `window` seconds before the task fails."""

    times: int = 5
    window: float = 60.0


@dataclass(frozen=True, slots=True)
class Lifespan:
    """A worker is replaced after so many items, or above so many bytes of memory."""

    items: int | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` items per `period` seconds, over all workers of a task."""

    count: float
    period: float


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker of a task needs of its machine: CPUs, GPUs (or a share of one), bytes of memory (0: any)."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """One `[tasks.NAME]` table. `mode` is None until the function's own declaration is known."""

    name: str
    call: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    ports: tuple[OutputPort, ...] = ()
    mode: Mode | None = None
    workers: tuple[str, ...] = ()  # their names; with a range, of the most
    least_workers: int = 0  # of a range; 0: their number is fixed
    auto_workers: bool = False  # the file says "auto"
    concurrency: int = 100
    batch: Batch | None = None
    ordered: bool = False
    key: str = ""
    timeout: float | None = None
    attempts: int = 1
    backoff: Backoff = Backoff()
    retry_on: tuple[str, ...] = ()
    on_error: OnError = "dead"
    dead: str | None = None
    rate: Rate | None = None
    after: dict[str, AfterState] = field(default_factory=dict)
    restarts: Restarts = Restarts()
    lifespan: Lifespan | None = None
    enabled: bool = True
    help: str = ""
    env: dict[str, str] = field(default_factory=dict)
    resources: Resources | None = None

    @property
    def is_adaptive(self) -> bool:
        """Return True if the number of its workers follows the load."""
        return bool(self.least_workers)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The queues this task writes, each once, in the order of the file (without `dead`)."""
        return tuple(dict.fromkeys(queue for port in self.ports for queue in port.queues))

    @property
    def outputs_and_dead(self) -> tuple[str, ...]:
        """The same with the queue of its dead letters."""
        return (*self.outputs, self.dead) if self.dead else self.outputs


@dataclass(frozen=True, slots=True)
class Stub:
    """The function that stands in for a task's own in a test: it waits `slow` seconds, fails, or gives `gives`.

    The first `fails` tries of an item fail with `error`; all of them, if only an error is named. None: not in the file.
    """

    gives: Any = None
    fails: int | None = None
    error: str = ""
    slow: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a test: a worker of `kill` is killed, of `stop` stopped, once `after` items of its task have ended.

    `interrupt_run`: the run gets Ctrl-C once so many items have ended.
    """

    kill: str | None = None
    stop: str | None = None
    after: int | None = None
    interrupt_run: int | None = None


@dataclass(frozen=True, slots=True)
class QueueExpectation:
    """The items that a test expects in one queue; None: not said."""

    count: int | None = None
    any_order: list[Any] | None = None
    ordered: list[Any] | None = None
    contains: list[Any] | None = None
    matches: str | None = None


@dataclass(frozen=True, slots=True)
class TaskExpectation:
    """The counts that a test expects of one task; None: not said."""

    done: int | None = None
    dead: int | None = None
    tries: int | None = None


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a test expects of its run."""

    exit: int = 0
    queues: dict[str, QueueExpectation] = field(default_factory=dict)
    tasks: dict[str, TaskExpectation] = field(default_factory=dict)
    repeated: int | None = None
    dropped: int | None = None


@dataclass(frozen=True, slots=True)
class FileTest:
    """One `[[tests]]` table; `expect` is None if it expects nothing but a good end. `place` is where it stands."""

    name: str
    only: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    feed: dict[str, list[Any]] = field(default_factory=dict)
    stub: dict[str, Stub] = field(default_factory=dict)
    fault: tuple[Fault, ...] = ()
    timeout: float = 10.0
    expect: Expectations | None = None
    place: Location = field(default_factory=lambda: Location(""), compare=False)


@dataclass(frozen=True, slots=True)
class Param:
    """One declared param; `config.params` converts values to its type."""

    name: str
    type: str = "str"
    default: Any = None
    required: bool = False
    choices: tuple[Any, ...] | None = None
    min: Any = None
    max: Any = None
    env: str | None = None
    secret: bool = False
    help: str = ""


@dataclass(frozen=True, slots=True)
class GivenValues:
    """What a command gave to its file, so that another run can be given the same.

    `params` by name, from `-p` or the environment; `sets` as (path, TOML); `only` and `skip` are names of tasks.
    """

    params: dict[str, Any] = field(default_factory=dict)
    sets: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """One checked file: what `runner run` needs to know."""

    file: str
    folder: Path
    title: str
    run: RunSettings
    params: dict[str, Any]
    queues: dict[str, QueueConfig]
    tasks: dict[str, TaskConfig]
    plugins: tuple[str, ...] | None = None
    agents: AgentSettings = AgentSettings()
    ray: RaySettings = RaySettings()
    tests: tuple[FileTest, ...] = ()
    locations: dict[tuple[str, ...], Location] = field(default_factory=dict, repr=False, compare=False)
    unused_params: tuple[str, ...] = ()  # params that nothing refers to
    problems: tuple[Problem, ...] = ()  # what `examine` has found; never an error in what `load` returns
    unknown_paths: frozenset[tuple[str, ...]] = frozenset()  # paths that are not what the file's author meant
    declared_params: dict[str, Param] = field(default_factory=dict)  # `[params]`
    param_sources: dict[str, str] = field(default_factory=dict)  # param -> what gave its value, if not the file
    param_references: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)  # by path
    given: GivenValues = field(default_factory=GivenValues, repr=False, compare=False)
    raw_tables: dict[str, Any] = field(default_factory=dict, repr=False)  # what the file says
    filled_tables: dict[str, Any] = field(default_factory=dict, repr=False)  # the same with the values of params

    def is_unknown(self, *path: str) -> bool:
        """Return True if the value at this path, or a table around it, is unknown because of a reported problem."""
        return any(path[:end] in self.unknown_paths for end in range(1, len(path) + 1))

    @property
    def display_title(self) -> str:
        """The title on one line, or else the file."""
        return " ".join((self.title or self.file).splitlines())

    def place(self, *path: str) -> Location:
        """Return the location of the key `path` (such as `"tasks", "bake", "call"`), or of its nearest parent."""
        return nearest_location(self.locations, path, self.file)

    def problem(self, text: str, *path: str, hint: str = "", warning: bool = False) -> Problem:
        """Return a finding of a plugin's `runner_check` about the value at `path`, such as `"tasks", "bake"`.

        It is an error, or a warning; `hint` says how to go on.
        """
        place = self.place(*path)
        return Problem("W407", text, place, "warning", hint) if warning else Problem("E314", text, place, hint=hint)

    def contains_secret(self, path: tuple[str, ...]) -> bool:
        """Return True if a secret is part of the value at this path."""
        names = self.param_references.get(path, ())
        return any(self.declared_params[name].secret for name in names if name in self.declared_params)
