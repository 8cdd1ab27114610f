"""The state of one run: all that its parts know together; what one part alone must know, it keeps itself."""

from __future__ import annotations

from collections import deque
from enum import Enum
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from runner.chunk_sizing import ChunkSizer, time_slice_for
from runner.structs import dataclass, field
from runner.supervisor.slot_history import SlotHistory
from runner.supervisor.time_accounting import TimeAccount, WaitReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.engines.base import Clock, Engine
    from runner.events import Event
    from runner.ledger.balance import ItemCounts
    from runner.ledger.ledger import Ledger
    from runner.supervisor.audit import BalanceAudit
    from runner.supervisor.dead_letters import DeadLetterSink
    from runner.supervisor.plan import Plan, TaskPlan
    from runner.supervisor.rate_limit import TokenBucket
    from runner.topology import Topology
    from runner.transport.lease_page import LeasePage
    from runner.transport.progress_page import Position
    from runner.worker.spec import OutputGroup


class Phase(Enum):
    """The phase of a worker's life."""

    WAITING = "waiting"  # to be started (again), not before `Slot.start_at`
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"  # it was told that no more will come
    FINISHED = "finished"  # it has said so; its process may still be there
    GONE = "gone"


@dataclass(slots=True)
class WorkerSlot:
    """One worker's place. `generation` counts the workers that have had it."""

    index: int
    name: str
    task: TaskState
    phase: Phase = Phase.WAITING
    generation: int = 0
    pid: int = 0
    #: The machine that it lives on, where that is not this one.
    node: str = ""
    #: The same, of the worker that was ready last.
    last_node: str = ""
    leases: list[int] = field(default_factory=list)
    #: For a source: items it may have made in all, and items that have arrived.
    credit: int = 0
    received_items: int = 0
    credit_unacknowledged: bool = False
    history: SlotHistory = field(default_factory=SlotHistory)
    start_at: float = 0.0
    #: It is one of its task's `accepting_workers`.
    is_counted: bool = False
    #: It could not go on, and is started once more at `start_at`.
    restart_requested: bool = False
    items: int = 0
    #: Tries of a task without inputs: its call is the one item.
    attempt: int = 1
    death_count: int = 0
    #: It is replaced once it holds nothing (`lifespan`, or its machine is to be taken away).
    retiring: bool = False
    #: Its machine is to be taken away.
    leaving: bool = False
    #: Of a task with a range: it is above the least number; and there are too many, so none follows it.
    is_extra: bool = False
    surplus: bool = False
    #: What its progress slot showed last, and since when.
    last_position: Position | None = None
    last_position_at: float = 0.0
    #: The item that it was seen at last: lease, index, and since when; None: at none.
    sampled_item: tuple[int, int, float] | None = None
    #: What has taken too long. It is being killed for it, and nothing that it says any more counts: the request
    #: for its stack may have woken it, with half a result.
    overdue_position: Position | None = None
    #: What the item looks like over which workers have died before, as its worker has said.
    preview: str = ""
    #: Its worker is dead; what follows from that waits for the previews of the items that it may have died of.
    death_pending: bool = False
    #: Its work has come to its own end: it was neither stopped nor ended before.
    ended_by_itself: bool = False
    suspect_previews: dict[str, str] = field(default_factory=dict)
    #: The lease of an item over which workers have died before: in a worker that executes many, it is given alone.
    isolated_lease: int = 0
    #: Where its time goes.
    time_account: TimeAccount = field(default_factory=lambda: TimeAccount(WaitReason(), 0.0, 0.0))

    def begin_generation(self) -> None:
        """Make the place ready for a new worker."""
        self.generation += 1
        self.phase = Phase.STARTING
        self.history.given_items += self.received_items
        self.credit = self.received_items = self.items = 0
        self.credit_unacknowledged = self.retiring = self.leaving = self.restart_requested = False
        self.last_position = self.overdue_position = self.sampled_item = None
        self.preview, self.death_pending, self.suspect_previews, self.ended_by_itself = "", False, {}, False

    def item_age(self, now: float) -> float | None:
        """Return how long it has been at the item that it was seen at last, in seconds."""
        return None if self.sampled_item is None else max(0.0, now - self.sampled_item[2])

    @property
    def accepts_items(self) -> bool:
        """Return True if the worker may be given items, as far as it is concerned."""
        return self.phase is Phase.READY and not (self.retiring or self.overdue_position or self.death_pending)

    @property
    def is_working(self) -> bool:
        """Return True if something will still come from this worker by itself."""
        if self.phase in (Phase.ENDING, Phase.FINISHED):
            return True
        if self.phase is Phase.STARTING:
            return not self._is_spare()
        if self.phase is not Phase.READY:
            return False
        if self.task.is_source:  # one that was told to end says so, although it may make nothing more
            return not self.task.output_groups or self.credit > self.received_items or self.task.dismissed
        return bool(self.leases)

    def _is_spare(self) -> bool:
        """Return True if it waits for a place, and another worker of its task is there already: it changes nothing."""
        waits = getattr(self.task.engine, "waits_for_place", None)
        if waits is None or not waits(self.index):
            return False
        return any(other.phase is Phase.READY for other in self.task.slots)


@dataclass(slots=True, eq=False)
class TaskState:
    """One task."""

    plan: TaskPlan
    engine: Engine
    output_groups: tuple[OutputGroup, ...]
    bounding_queues: tuple[str, ...]
    #: It reads a queue in which what is next is decided when it is granted.
    takes_singly: bool = False
    #: It reads a queue with lanes; one that other tasks read too.
    reads_lanes: bool = False
    shares_lanes: bool = False
    #: Asked for at every chunk: the task's name, whether it has no inputs, whether a worker executes items side by
    #: side, and whether it may hold a second lease. An only worker that hands back may not: what it hands back would
    #: come after the one that waits, out of order.
    name: str = field(init=False)
    is_source: bool = field(init=False)
    is_async: bool = field(init=False)
    allows_prefetch: bool = field(init=False)
    #: It has as many workers as its engine has places: `workers = "auto"` on other machines.
    follows_places: bool = field(init=False)
    slots: list[WorkerSlot] = field(default_factory=list)
    #: Workers that hold no lease, and those that hold one; one that no longer does is taken out where it is found.
    free_slots: tuple[dict[int, WorkerSlot], dict[int, WorkerSlot]] = field(default_factory=lambda: ({}, {}))
    #: How many workers take items, and how many it is to have.
    accepting_workers: int = 0
    worker_count: int = 0
    #: So many of the first workers are gone for good.
    first_live: int = 0
    chunk_sizer: ChunkSizer = field(default_factory=ChunkSizer)
    #: Items done since its workers last waited for room, or for the turn that a `rate` gives them.
    unhindered_items: int = 0
    dismissed: bool = False
    failure_reason: str = ""
    returned_early: bool = False
    batch_since: float | None = None
    failed_starts: int = 0
    death_times: deque[float] = field(default_factory=deque)
    results: dict[str, str] = field(default_factory=dict)
    rate_limiter: TokenBucket | None = None
    #: Why its free workers wait; how long its items take, as (class, items); when it began, and ended.
    wait_reason: WaitReason = field(default_factory=WaitReason)
    time_histogram: dict[int, int] = field(default_factory=dict)
    began_at: float | None = None
    ended_at: float | None = None
    #: See `chunk_sizing.shared_discount_for`.
    shared_discount: int = 1

    def __post_init__(self) -> None:
        config = self.plan.config
        self.name, self.is_source, self.is_async = self.plan.name, not config.inputs, self.plan.is_async
        self.follows_places = self.plan.may_follow_places and hasattr(self.engine, "auto_worker_count")
        several = len(config.workers) > 1 or self.follows_places
        self.allows_prefetch = several or self.plan.is_only_worker or config.ordered

    def set_worker_count(self, count: int) -> None:
        """Note how many workers the task is to have."""
        self.worker_count = count
        self.chunk_sizer.time_slice = time_slice_for(count)

    def count_acceptor(self, slot: WorkerSlot) -> None:
        """Note that a worker takes items now, or does not any more.

        # bench virtual_nodes, 10,000 workers: counted anew at each start and death 11.6 ms, with this 0.2
        """
        if slot.accepts_items != slot.is_counted:
            slot.is_counted = not slot.is_counted
            self.accepting_workers += 1 if slot.is_counted else -1

    def update_free_slot(self, slot: WorkerSlot) -> None:
        """Note that a worker has become ready, or holds more or less than before."""
        if len(slot.leases) < len(self.free_slots):
            self.free_slots[len(slot.leases)][slot.index] = slot

    @property
    def max_leases_per_worker(self) -> int:
        """Return how many leases one worker may hold: one, and one more that waits in it when items are quick."""
        if self.is_async:  # as many again wait in the worker, if that is not for long, and no time limit counts it
            config = self.plan.config
            may_wait = self.chunk_sizer.is_quick and config.timeout is None and not self.takes_no_more
            return config.concurrency * (2 if may_wait else 1)
        return 2 if self.allows_prefetch and self.chunk_sizer.is_quick and not self.takes_no_more else 1

    @property
    def takes_no_more(self) -> bool:
        """Return True if nothing may wait in a worker: a better item may come, or other workers may have its lane."""
        return self.takes_singly or self.reads_lanes


class DirtyTasks:
    """The tasks that are to be looked at, each at most once; the farthest from the sources comes out first.

    >>> from runner.topology import TaskNode, Topology
    >>> graph = Topology([TaskNode("bake", outputs=("bread",)), TaskNode("eat", inputs=("bread",))])
    >>> dirty = DirtyTasks(graph)
    >>> dirty.add_tasks(["bake", "bake"]); dirty.add_readers("bread")
    >>> dirty.pop_farthest(), dirty.pop_farthest(), bool(dirty)
    ('eat', 'bake', False)
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        depths = topology.task_depths()
        self._names = sorted(depths, key=depths.__getitem__, reverse=True)
        self._ranks = {name: rank for rank, name in enumerate(self._names)}
        self._due: set[str] = set()
        #: Their places in the order in which they come out; empty when there is none.
        self.heap: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._due)

    def add_tasks(self, names: Iterable[str]) -> None:
        """Look at these tasks, too."""
        for name in names:
            if name not in self._due:
                self._due.add(name)
                heappush(self.heap, self._ranks[name])

    def add_readers(self, queue: str) -> None:
        """Look at the readers of a queue: something came into it."""
        self.add_tasks(self._topology.readers[queue])

    def add_input_writers(self, task: str) -> None:
        """Look at the tasks that write the task's inputs: something left them."""
        for queue in self._topology.nodes[task].inputs:
            self.add_tasks(self._topology.writers[queue])

    def add_input_readers(self, task: str) -> None:
        """Look at the tasks that share the task's inputs: something went back into them."""
        for queue in self._topology.nodes[task].inputs:
            self.add_tasks(self._topology.readers[queue])

    def pop_farthest(self) -> str:
        """Take out the next task."""
        name = self._names[heappop(self.heap)]
        self._due.discard(name)
        return name


@dataclass(slots=True, eq=False)
class RunState:
    """One run. `emit` is told of everything that a person may want to know."""

    plan: Plan
    clock: Clock
    emit: Callable[[Event], None]
    topology: Topology
    ledger: Ledger
    tasks: dict[str, TaskState]
    dead_letters: DeadLetterSink
    audit: BalanceAudit
    #: Tasks for which something has changed: it is looked whether they can be fed.
    dirty_tasks: DirtyTasks
    #: All workers, by their index.
    slots: list[WorkerSlot] = field(default_factory=list)
    #: Of a durable run that goes on: what had ended before, by task, and how; `halt` does not count it again.
    earlier_counts: dict[str, ItemCounts] = field(default_factory=dict)
    #: Of a durable run that is only drained: the sources that count as ended, although they may have more to give; the
    #: file need not have them any more.
    drained_sources: set[str] = field(default_factory=set)
    #: Of a durable run: where it is noted what each lease holds.
    lease_page: LeasePage | None = None
    began_at: float = 0.0
    #: When the loop came by last.
    last_step_at: float = 0.0
    #: A task may have become startable, or unstartable; one may have ended, or its inputs.
    check_starts: bool = True
    check_ends: bool = True
    #: Sources end, and what is queued is drained; workers are killed; no more work is handed out.
    stopping: bool = False
    killing: bool = False
    halted: bool = False
