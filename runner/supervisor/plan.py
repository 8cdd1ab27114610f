"""The plan of a run: the checked file, with everything about its functions that workers must know; and in words."""

from __future__ import annotations

import platform
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runner.cgroups import usable_cpus
from runner.chunk_sizing import shared_discount_for
from runner.config import resolved
from runner.events import Machine, QueuePlanned, RunLife, RunPlan, TaskPlanned
from runner.ledger.lanes import LanedSubscription
from runner.ledger.subscriptions import Subscription
from runner.linux_only import physical_memory
from runner.model import CLUSTER_ENGINES, AgentSettings, RaySettings
from runner.secret_masks import SecretMask
from runner.structs import dataclass, field
from runner.topology import TaskNode, Topology
from runner.transport.messages import OBJECTS, PICKLED, SHARED, FailureText
from runner.version import __version__
from runner.worker.spec import OutputGroup, RestartPoint, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.hookspecs import WorkerHook
    from runner.model import Config, Mode, QueueConfig, RunSettings, TaskConfig
    from runner.plugins import PluginSet
    from runner.tasks import Reference, Shape

_NO_BOUND = 1 << 60
_BEGINNING = RestartPoint()
#: Buckets of a queue with lanes for each item that is executed at a time: two lanes rarely wait for each other, and a
#: slice is not of too many chunks. Both are powers of two.
_BUCKETS_PER_WORKER, _MAX_BUCKETS = 64, 1024


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task: its table in the file, its function, how that is called; `arguments` is a pickle of (args, kwargs)."""

    config: TaskConfig
    mode: Mode
    reference: Reference
    shape: Shape
    arguments: bytes
    #: Its workers are given one item at a time, as those of a queue that ranks its items: it meets a fault of a test.
    takes_singly: bool = False

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.config.name

    @property
    def may_follow_places(self) -> bool:
        """Return True if it may have as many workers as its engine has places: not a source, whose items come again."""
        return self.config.auto_workers and self.mode == "process" and bool(self.config.inputs)

    @property
    def has_boxes(self) -> bool:
        """Return True if the function asks for its items itself."""
        return bool(self.shape.inboxes or self.shape.outboxes)

    @property
    def is_only_worker(self) -> bool:
        """Return True if an only worker executes item by item, in the order of the queue."""
        one = len(self.config.workers) == 1 and self.config.batch is None
        return one and not (self.has_boxes or self.shape.is_async or self.config.ordered)

    @property
    def only_calls(self) -> bool:
        """Return True if it is called for items alone: it has no tear-down, and puts nothing after the last item."""
        return bool(self.config.inputs) and self.shape.kind != "class" and not self.has_boxes

    @property
    def is_fed_in_halt(self) -> bool:
        """Return True if it goes on although `halt` has stopped the run: it shows what failed commands have written."""
        return (self.reference.module, self.reference.qualname) == ("runner.std", "WriteOutput")

    @property
    def is_async(self) -> bool:
        """Return True if a worker executes many items at a time."""
        return bool(self.config.inputs) and self.shape.is_async and not self.has_boxes


class RetriedItem(Struct, frozen=True):
    """An item that a dead letter of an earlier run has kept, and the queue and the reader that it is for.

    `payload` is that of a chunk with one item; with `text` it was a letter in a queue, and is one again. `bucket` is
    that of its lane, as far as it is known.
    """

    queue: str
    reader: str
    payload: bytes
    text: FailureText | None = None
    bucket: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    title: str
    run_id: str
    settings: RunSettings
    queues: Mapping[str, QueueConfig]
    tasks: Mapping[str, TaskPlan]
    payload_kinds: dict[str, int] = field(default_factory=dict)
    #: Plugins' `runner_worker`.
    worker_hooks: tuple[WorkerHook, ...] = ()
    #: Of a run whose processes are on machines that join.
    agents: AgentSettings = AgentSettings()
    ray: RaySettings = RaySettings()
    #: The plugins of the run, for the engine that executes it; None: there are none.
    plugins: PluginSet | None = field(default=None, repr=False, compare=False)
    #: The same for people, as events tell it.
    description: RunPlan = field(default_factory=RunPlan, repr=False, compare=False)
    #: What people should know before it begins.
    notices: tuple[str, ...] = ()
    #: What a durable run notes of the command that began it, to be read when it goes on.
    command: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    #: Of a durable run that goes on: tasks without inputs are not started, and what is queued is executed.
    drains: bool = False
    #: A trial: each source gives at most so many items, and ends.
    limit: int | None = None
    #: Of a durable run: its lives, this one last.
    lives: tuple[RunLife, ...] = ()
    #: The secrets of the file, for every text that is shown or kept.
    secret_mask: SecretMask = field(default_factory=SecretMask, repr=False, compare=False)
    #: Where the run comes from, for the heading of its dead letters.
    origin: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    #: The dead items of an earlier run, its id, that this run begins with.
    retried_run: str = ""
    retried_items: tuple[RetriedItem, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        topology = self.build_topology()
        readers = {queue: topology.readers.get(queue, []) for queue in self.queues}
        for queue, names in readers.items():
            # A dead letter carries its item in the form it had.
            dead = {letters for name in names if (letters := self.tasks[name].config.dead) is not None}
            writing = [name for name in topology.writers.get(queue, ()) if queue in self.tasks[name].config.outputs]
            ends = (*writing, *names, *(name for letters in dead for name in readers[letters]))
            # Objects travel as they are only between threads, and a ledger on disk holds bytes.
            threads = not self.settings.durable and all(self.tasks[n].mode == "thread" for n in ends)
            self.payload_kinds[queue] = OBJECTS if threads else PICKLED
        for queue in self._shared({name: len(names) for name, names in readers.items()}):
            if self.payload_kinds[queue] == OBJECTS:
                self.payload_kinds[queue] = SHARED

    def _shared(self, readers: dict[str, int]) -> set[str]:
        """Return the queues whose items have several readers, or are in another queue of objects as well."""
        found = {name for name, count in readers.items() if count > 1 and self.queues[name].fanout == "copy"}
        for task in self.tasks.values():
            for port in task.config.ports:
                objects = {queue for queue in port.queues if self.payload_kinds[queue] == OBJECTS}
                found |= objects if len(objects) > 1 else set()
        for task in self.tasks.values():  # a dead letter carries the item as it is in the queue it was in
            found |= set(task.config.inputs) if task.config.dead in found else set()
        return found

    @property
    def process_references(self) -> tuple[Reference, ...]:
        """Return the functions and hooks that workers in processes will load."""
        functions = [task.reference for task in self.tasks.values() if task.mode == "process"]
        return (*functions, *(hook.reference for hook in self.worker_hooks))

    def build_topology(self) -> Topology:
        """Return the graph of tasks and queues, with nothing started."""
        return Topology(
            TaskNode(
                name,
                task.config.inputs,
                task.config.outputs_and_dead,
                {other: state for other, state in task.config.after.items() if other in self.tasks},
            )
            for name, task in self.tasks.items()
        )

    def subscriptions(self, readers: Mapping[str, list[str]]) -> list[Subscription]:
        """Return the queues as the ledger wants them. A queue that closes a cycle never blocks its writers."""
        letters = {task.config.dead for task in self.tasks.values()}
        return [
            (partial(LanedSubscription, bucket_bits=self._bucket_bits(name)) if queue.lane else Subscription)(
                queue=name,
                readers=tuple(group),
                size=_NO_BOUND if queue.loop else self._size_of(queue),
                bytes=_NO_BOUND if queue.loop else queue.bytes,
                is_copy=queue.fanout == "copy",
                carries_dead_letters=name in letters,
                is_elastic=queue.elastic and not queue.loop,
                full=queue.full,
                order=queue.order,
            )
            for name, queue in self.queues.items()
            for group in ([[one] for one in readers[name]] if queue.fanout == "copy" else [readers[name]])
        ]

    def _size_of(self, queue: QueueConfig) -> int:
        """Return how many items a queue may hold; without a `size` in the file, the largest batch of a reader too."""
        if not queue.elastic:
            return queue.size
        readers = (task.config for task in self.tasks.values() if queue.name in task.config.inputs)
        return max([queue.size, *(reader.batch.items for reader in readers if reader.batch is not None)])

    def worker_spec(self, task: TaskPlan, name: str, slot: int, restart_point: RestartPoint = _BEGINNING) -> WorkerSpec:
        """Return what one worker of a task is told."""
        config, engine = task.config, self.settings.engine
        return WorkerSpec(
            task=config.name,
            name=name,
            run=self.run_id,
            slot=slot,
            reference=task.reference,
            arguments=task.arguments,
            inputs=config.inputs,
            output_groups=self.output_groups(config),
            batch=config.batch.items if config.batch else None,
            batch_bytes=config.batch.bytes if config.batch else None,
            ordered=config.ordered,
            keeps_lanes=config.attempts > 1 and self.keeps_lanes(config),
            concurrency=config.concurrency,
            attempts=config.attempts,
            retry_on=config.retry_on,
            timeout=config.timeout if task.is_async else None,
            is_only_worker=task.is_only_worker and not (task.may_follow_places and engine in CLUSTER_ENGINES),
            timed=config.timeout is not None,
            retried_run=self.retried_run,
            max_item_bytes=self.settings.max_item,
            max_kept_bytes=self._max_kept_bytes(config),
            shared_discount=self.shared_discount(config),
            restart_point=restart_point,
            grace=self.settings.grace,
            env={} if task.mode == "thread" else dict(config.env),  # threads share that of the whole run
            mode="thread" if task.mode == "thread" else "process" if engine == "local" else engine,
            hooks=self.worker_hooks,
            prefixes_hook_output=self.settings.log == "prefix",
            durable=self.settings.durable,
            key=config.key,
        )

    def _max_kept_bytes(self, config: TaskConfig) -> int:
        """Return the bytes that a dead item may have to be kept; a durable run keeps its items itself."""
        is_kept = config.dead is None and config.on_error != "skip" and not self.settings.durable
        return self.settings.dead_items if is_kept else 0

    def shared_discount(self, config: TaskConfig) -> int:
        """Return how much less bytes in arenas weigh than copied ones; a queue's bound must still mean something.

        At once go at most 1 MiB in pickles, and in arenas as much or a quarter of what the queues may hold.
        """
        bounds = [self.queues[queue].bytes for queue in (*config.inputs, *config.outputs)]
        return shared_discount_for(min(bounds, default=0))

    def keeps_lanes(self, config: TaskConfig) -> bool:
        """Return True if some of the task's items are in lanes."""
        return any(self.queues[queue].lane for queue in config.inputs)

    def _bucket_bits(self, queue: str) -> int:
        """Return how many bits of a hash tell the buckets of a queue apart: some for each item that is executed."""
        at_once = 0
        for task in self.tasks.values():
            if queue in task.config.inputs:
                side_by_side = task.config.concurrency if task.is_async else 1
                at_once += len(task.config.workers) * side_by_side
        return min(_MAX_BUCKETS, _BUCKETS_PER_WORKER * max(1, at_once)).bit_length() - 1

    def output_groups(self, config: TaskConfig) -> tuple[OutputGroup, ...]:
        """Return the queues of each port, grouped by what they receive.

        Async readers take single items of a chunk, and so do those of a queue with another order than "fifo".
        """
        groups: list[OutputGroup] = []
        for port in config.ports:
            sorts: dict[tuple[int, bool, bool, str, int], list[str]] = {}
            for queue in port.queues:
                kind = PICKLED if self.payload_kinds[queue] == PICKLED else OBJECTS
                singly = any(task.is_async for task in self.tasks.values() if queue in task.config.inputs)
                order, lane = self.queues[queue].order, self.queues[queue].lane
                marks = (order == "priority", lane, self._bucket_bits(queue) if lane else 0)
                sorts.setdefault((kind, singly or order != "fifo", *marks), []).append(queue)
            groups += [OutputGroup(port.name, tuple(queues), *sort) for sort, queues in sorts.items()]
        return tuple(groups)


def describe_run(config: Config, tasks: Mapping[str, TaskPlan], queues: Iterable[QueueConfig]) -> RunPlan:
    """The plan of a run in words and numbers; secrets are hidden, as `runner show` hides them."""
    letters = {task.config.dead for task in tasks.values()}
    return RunPlan(
        file=str(config.file),
        resolved=resolved.render_resolved(config),
        tasks=describe_tasks(tasks),
        queues=tuple(_describe_queue(queue, letters=queue.name in letters) for queue in queues),
        machine=describe_machine(),
    )


def describe_tasks(tasks: Mapping[str, TaskPlan]) -> tuple[TaskPlanned, ...]:
    """Return the tasks as events tell them."""
    return tuple(_describe_task(task) for task in tasks.values())


def _describe_task(task: TaskPlan) -> TaskPlanned:
    config = task.config
    return TaskPlanned(
        **{word: getattr(config, word) for word in ("name", "call", "workers", "inputs", "outputs", "ordered", "help")},
        least_workers=config.least_workers,
        mode=task.mode,
        dead=config.dead or "",
        after=tuple(config.after),
        rate=None if config.rate is None else config.rate.count / config.rate.period,
        concurrency=config.concurrency if task.is_async else None,
        batch=None if config.batch is None else config.batch.items,
    )


def _describe_queue(queue: QueueConfig, *, letters: bool) -> QueuePlanned:
    bound = None if queue.loop or queue.elastic else queue.size
    return QueuePlanned(
        queue.name, bound, queue.bytes, queue.fanout or "", queue.loop, letters, queue.lane, queue.full, queue.order
    )


def describe_machine() -> Machine:
    """This machine, as far as it may be used.

    >>> describe_machine().cores > 0
    True
    """
    names = platform.uname()
    system = f"{names.system} {names.release} {names.machine}"
    return Machine(system, platform.python_version(), __version__, usable_cpus(), physical_memory())
