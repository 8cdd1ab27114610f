"""Large payloads of workers on other machines: the supervisor has the bytes of all of them, in twins of their arenas.

    node n1                          supervisor                         node n2
    worker's arena ── MADE, bytes ──▶ twin, same number and offsets ── BLOCK, bytes ──▶ twin, the same
      ▲                                │ counts the holders, as of local workers          ▲
      └───────────── FREED ◀───────────┴ no holder any more ──────────── FREED ──────────▶┘

Bytes travel before the message that names them, on the same connection: so what a message names is here when it is
heard, and an item is never done while its bytes lie elsewhere only. A machine keeps what it has made, or was sent,
until it is told that no task needs it: so the supervisor knows which bytes a machine has, and a grant to a worker of
that machine is a handle. A machine without such memory, or with pages of another size, is given payloads that bring
their buffers along, and so does what finds no memory here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.engines import shared_payloads
from runner.engines.inline_payloads import inline_grant
from runner.shm.linux_only import arenas_supported
from runner.shm.registry import NODE_SHIFT, UnknownBlock, next_node_number
from runner.shm.writer import PAGE_SIZE
from runner.transport import agent_messages as frames
from runner.transport import kept_items
from runner.transport.frame_link import BLOCK_HEAD, check_place
from runner.transport.framing import FrameError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.engines.node_state import Node, RemoteWorker
    from runner.shm.reader import BlockKey
    from runner.shm.registry import ArenaRegistry, Block
    from runner.transport.frame_link import Frame
    from runner.transport.messages import Grant, Output, Produced, Reply, SharedPayload


class RemoteMemory:
    """The shared memory of all machines of a run, as the supervisor has it in `registry`.

    Machines to which it has handed something over are put into `unflushed`.
    """

    def __init__(self, registry: ArenaRegistry, unflushed: set[Node]) -> None:
        self.registry = registry
        self._unflushed = unflushed
        self._nodes: set[Node] = set()

    def add_node(self, node: Node) -> None:
        """Take the blocks of a machine that has joined, if it can have any."""
        self._nodes.add(node)
        if arenas_supported() and node.hello.page_size == PAGE_SIZE:
            node.memory.number = next_node_number()

            def place_block(number: int, offset: int, length: int) -> memoryview:
                return self._place_block(node, number, offset, length)

            node.link.place_block = place_block

    def remove_node(self, node: Node) -> None:
        """Forget a machine that is gone; what it has sent stays."""
        self._nodes.discard(node)
        node.memory.arrived.clear()
        if node.memory.number:
            self.registry.abandon_twins(node.memory.number)

    def add_worker(self, worker: RemoteWorker) -> bool:
        """Keep the account of a worker that is started; return True if its large items go into an arena."""
        assert worker.node is not None
        worker.memory = self.registry.register_worker()
        return worker.node.memory.number > 0

    def forget_worker(self, worker: RemoteWorker) -> None:
        """Release all that a dead worker held."""
        if worker.memory is not None:
            self.registry.forget_worker(worker.memory)
            worker.memory = None

    # -- from a machine --------------------------------------------------------------------------------------

    def _place_block(self, node: Node, number: int, offset: int, length: int) -> memoryview:
        """Return where the bytes of a block go."""
        check_place(number, offset, length)
        if number >> NODE_SHIFT != node.memory.number:
            raise FrameError(f"it sent bytes of an arena that is not its own ({number})")
        try:
            return self.registry.twin_of(number).room_at(offset, length)
        except (OSError, ValueError):  # no descriptor, no memory or no addresses are left
            return memoryview(bytearray(length))

    def take_block(self, node: Node, worker: RemoteWorker | None, frame: Frame) -> None:
        """Hold a block that has arrived until the message that names it; `worker` has made it, and None is gone."""
        number, offset = BLOCK_HEAD.unpack(frame.body)
        assert frame.block is not None
        arena = self.registry.find_arena(number)
        if worker is None or worker.memory is None:
            if arena is not None and arena.owner is None and arena not in self.registry.orphans:
                self.registry.orphans.append(arena)
            self._tell_freed(node, [(number, offset)])
            return
        if arena is not None and arena.owner is None and worker.memory.arena is None:
            arena.owner, worker.memory.arena = worker.memory, arena
        if arena is not None and arena.owner is not worker.memory:
            raise FrameError("it sent bytes of the arena of another worker")
        if type(frame.block.obj) is bytearray:
            node.memory.arrived[number, offset] = frame.block.obj
            self._tell_freed(node, [(number, offset)])
        elif arena is None or offset in arena.blocks:
            raise FrameError("it sent bytes for a place that is in use")
        else:
            node.memory.arrived[number, offset] = arena.block_at(offset, len(frame.block))
            arena.copies[offset] = [node]

    def hold_message(self, worker: RemoteWorker, message: Reply | Produced) -> Reply | Produced:
        """Return a worker's message with the blocks held that it names. FrameError: it names what it cannot."""
        assert worker.node is not None
        assert worker.memory is not None
        arrived = worker.node.memory.arrived
        if any(type(each) is bytearray for each in arrived.values()):
            message = replace(message, outputs=tuple([self._inline_output(each, arrived) for each in message.outputs]))
        try:
            return shared_payloads.hold_message(self.registry, worker.memory, message)
        except UnknownBlock as error:
            raise FrameError(f"worker `{worker.spec.name}` named {error}") from None

    def _inline_output(self, output: Output, arrived: dict[BlockKey, Block | bytearray]) -> Output:
        """Return an output that brings along the bytes for which there was no memory."""
        if not any(type(arrived.get((number, offset))) is bytearray for number, offset, _ in output.block_refs):
            return output
        try:
            payload = kept_items.inline_payload(output.payload, kept_items.block_reader(arrived))
        except kept_items.NotKept as error:
            raise FrameError(str(error)) from None
        return replace(output, payload=payload, block_refs=())

    # -- to a machine ----------------------------------------------------------------------------------------

    def lend_payloads(self, worker: RemoteWorker, message: Grant) -> Grant:
        """Send a worker's machine what it lacks of a grant's bytes; return the grant as it is sent."""
        node = worker.node
        assert node is not None
        assert worker.memory is not None
        if not node.memory.number:
            return inline_grant(message)
        lent: list[tuple[int, list[BlockKey]]] = []
        self.release_blocks()
        for grant in (message, *message.other_grants):
            if blocks := shared_payloads.granted_blocks(grant):
                self.registry.lend_blocks(worker.memory, grant.lease, blocks)
                for block in blocks:
                    self._send_block(node, block)
                lent.append((grant.lease, [(block.arena.number, block.offset) for block in blocks]))
        if lent:
            node.link.gather(frames.LENT, worker.spec.slot, worker.generation, [frames.encode_body(lent)])
        return message

    def _send_block(self, node: Node, block: Block) -> None:
        arena = block.arena
        holders = arena.copies.setdefault(block.offset, [])
        if node not in holders:
            head = BLOCK_HEAD.pack(arena.number, block.offset)
            node.link.gather(frames.BLOCK, body=(head, arena.bytes_at(block.offset, block.length)))
            holders.append(node)
            node.memory.known_arenas.add(arena.number)

    @staticmethod
    def has_bytes(node: Node | None, payload: SharedPayload) -> bool:
        """Return True if a machine has the bytes of a payload, of which the first block stands for all."""
        block = payload.blocks[0]
        return node is not None and node in block.arena.copies.get(block.offset, ())

    def release_blocks(self) -> None:
        """Tell machines which blocks have no holder any more, and which arenas are gone."""
        freed: dict[Node, list[BlockKey]] = defaultdict(list)
        registry = self.registry
        while registry.freed_copies:
            arena, offset, holders = registry.freed_copies.popleft()
            if arena.owner is not None:  # else its writer, or `close_orphans`, takes them
                arena.take_freed_offsets()
            for node in holders:
                freed[node].append((arena.number, offset))
        for node, keys in freed.items():
            self._tell_freed(node, keys)
        if registry.orphans:
            registry.close_orphans()
        if registry.has_removed_arenas:
            registry.has_removed_arenas = False
            for node in self._nodes:
                if removed := [number for number in node.memory.known_arenas if registry.find_arena(number) is None]:
                    node.memory.known_arenas.difference_update(removed)
                    self._unflushed.add(node)
                    node.link.gather(frames.GONE, body=[frames.encode_body(removed)])

    def _tell_freed(self, node: Node, keys: Iterable[BlockKey]) -> None:
        if node in self._nodes:
            self._unflushed.add(node)
            node.link.gather(frames.FREED, body=[frames.encode_body(list(keys))])
