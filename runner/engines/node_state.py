"""What is known of a machine that has joined, of its shared memory, and of a worker that is or will be there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner.structs import dataclass, field
from runner.transport.agent_messages import ShownPosition

if TYPE_CHECKING:
    from runner.cluster.placement import MachineShares
    from runner.shm.reader import BlockKey
    from runner.shm.registry import Block, WorkerMemory
    from runner.transport.agent_messages import Hello
    from runner.transport.frame_link import FrameLink
    from runner.worker.spec import WorkerSpec


@dataclass(eq=False)
class NodeMemory:
    """What is known of a machine's shared memory. `number`: its arenas' numbers begin with it; 0: it has none."""

    number: int = 0
    #: Twins that it has.
    known_arenas: set[int] = field(default_factory=set)
    #: What has arrived for the message that comes next: a block, or the bytes themselves if there was no memory.
    arrived: dict[BlockKey, Block | bytearray] = field(default_factory=dict)


@dataclass(eq=False)
class Node:
    """A machine that has joined. `slots` are its workers, and `shares` what those of tasks have of it."""

    name: str
    peer: str
    hello: Hello
    link: FrameLink
    shares: MachineShares
    slots: set[int] = field(default_factory=set)
    workers_by_task: Counter[str] = field(default_factory=Counter)
    is_leaving: bool = False
    #: Starts that it has refused in a row, and until when others are preferred to it.
    refusals: int = 0
    avoided_until: float = 0.0
    watches_write: bool = False
    memory: NodeMemory = field(default_factory=NodeMemory)


@dataclass(slots=True, eq=False)
class RemoteWorker:
    """A worker that is to be: without a `node` it waits for a place, or its machine is gone."""

    spec: WorkerSpec
    generation: int
    node: Node | None = None
    shown: ShownPosition = ShownPosition(0, 0)
    stack: str = ""
    weight: int = 0
    is_ready: bool = False
    memory: WorkerMemory | None = None
