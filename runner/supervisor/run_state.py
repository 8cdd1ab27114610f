"""What the supervisor knows of every task and worker."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from runner.chunk_sizing import Grain
from runner.structs import dataclass, field
from runner.supervisor.time_accounting import Hours, Waiting

if TYPE_CHECKING:
    from runner.engines.base import Fleet
    from runner.supervisor.plan import TaskPlan
    from runner.supervisor.rate_limit import Throttle
    from runner.transport.progress_page import Position
    from runner.worker.spec import Group


class Phase(Enum):
    """Where a worker is in its life."""

    WAITING = "waiting"  # to be started (again), not before `Slot.start_at`
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"  # it was told that no more will come
    FINISHED = "finished"  # it has said so; its process may still be there
    GONE = "gone"


@dataclass(slots=True)
class Slot:
    """One worker's place. `life` counts the workers that have lived here."""

    index: int
    name: str
    task: TaskState
    phase: Phase = Phase.WAITING
    life: int = 0
    pid: int = 0
    leases: list[int] = field(default_factory=list)
    #: For a source: items it may have made in all, and items that have arrived.
    credit: int = 0
    received: int = 0
    unacked: bool = False
    start_at: float = 0.0
    #: It could not go on, and is started once more at `start_at`.
    again: bool = False
    items: int = 0
    #: Tries of a task without inputs: its call is the one item.
    attempt: int = 1
    deaths: int = 0
    #: It is replaced once it holds nothing (`lifespan`).
    retiring: bool = False
    #: What its cell showed last, and since when.
    seen: Position | None = None
    seen_at: float = 0.0
    #: What has taken too long. It is being killed for it, and nothing that it says any more counts: the request
    #: for its stack may have woken it, with half a result.
    overdue: Position | None = None
    #: What the item looks like over which workers have died before, as its worker has said.
    preview: str = ""
    #: Its worker is dead, and buried when it is known what the items look like that it may have died of: `looks`.
    fallen: bool = False
    #: Its work has come to its own end: it was neither stopped nor ended before.
    done: bool = False
    looks: dict[str, str] = field(default_factory=dict)
    #: The lease of an item over which workers have died before: in a worker that executes many, it flies alone.
    flies_alone: int = 0
    #: Where its time goes.
    hours: Hours = field(default_factory=lambda: Hours(Waiting(), 0.0, 0.0))

    def begin(self) -> None:
        """A new worker lives here."""
        self.life += 1
        self.phase = Phase.STARTING
        self.credit = self.received = self.items = 0
        self.unacked = self.retiring = self.again = False
        self.seen = self.overdue = None
        self.preview, self.fallen, self.looks, self.done = "", False, {}, False

    @property
    def takes(self) -> bool:
        """Whether it may be given items, as far as it is concerned."""
        return self.phase is Phase.READY and not (self.retiring or self.overdue or self.fallen)

    @property
    def working(self) -> bool:
        """Whether something will still come from this worker without anybody else's doing."""
        if self.phase in (Phase.STARTING, Phase.ENDING, Phase.FINISHED):
            return True
        if self.phase is not Phase.READY:
            return False
        if self.task.is_source:
            return not self.task.groups or self.credit > self.received
        return bool(self.leases)


@dataclass(slots=True, eq=False)
class TaskState:
    """One task."""

    plan: TaskPlan
    fleet: Fleet
    groups: tuple[Group, ...]
    bounding: tuple[str, ...]
    #: What is asked for at every chunk: the task's name, whether it has no inputs, whether its items fly, and whether
    #: a worker may hold a second lease. An only worker that hands back may not: what it hands back would come after
    #: the one that waits, out of order.
    name: str = field(init=False)
    is_source: bool = field(init=False)
    flying: bool = field(init=False)
    doubles: bool = field(init=False)
    slots: list[Slot] = field(default_factory=list)
    #: Workers that hold no lease, and those that hold one; whoever finds one that no longer does takes it out.
    free: tuple[dict[int, Slot], dict[int, Slot]] = field(default_factory=lambda: ({}, {}))
    #: How many workers take items; None: they must be counted.
    takers: int | None = None
    #: So many of the first workers are gone for good.
    gone: int = 0
    grain: Grain = field(default_factory=Grain)
    #: Items done since its workers last waited for room, or for the turn that a `rate` gives them.
    unhindered: int = 0
    ended: bool = False
    failed: str = ""
    early: bool = False
    batch_since: float | None = None
    boots_lost: int = 0
    deaths: deque[float] = field(default_factory=deque)
    results: dict[str, str] = field(default_factory=dict)
    busy: float = 0.0
    throttle: Throttle | None = None
    #: Why its free workers wait; how long its items take, as (class, items); when it began, and ended.
    waiting: Waiting = field(default_factory=Waiting)
    times: dict[int, int] = field(default_factory=dict)
    began_at: float | None = None
    ended_at: float | None = None
    #: See `chunking.lightness`.
    light: int = 1

    def __post_init__(self) -> None:
        config = self.plan.config
        self.name, self.is_source, self.flying = self.plan.name, not config.inputs, self.plan.flying
        self.doubles = len(config.workers.names) > 1 or self.plan.alone or config.ordered

    def may_take(self, slot: Slot) -> None:
        """A worker has become ready, or holds more or less than before."""
        if len(slot.leases) < len(self.free):
            self.free[len(slot.leases)][slot.index] = slot

    @property
    def depth(self) -> int:
        """How many leases one worker may hold: one, and one more that waits in it when items are quick."""
        if self.flying:  # as many again wait in the worker, if that is not for long, and no time limit counts it
            config = self.plan.config
            return config.concurrency * (2 if self.grain.quick and config.timeout is None else 1)
        return 2 if self.doubles and self.grain.quick else 1
