"""Large items between the supervisor and machines, without a process or a network: for `unit/test_far_memory.py`.

The links, the registries and both ends' memory are the real ones; workers, the queue and the connections are played.
Each item is bytes that say which one it is, over and over, so that a wrong byte anywhere is seen by its reader.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.agent.relay_memory import RelayMemory
from runner.cluster.placement import MachineShares
from runner.engines.node_state import Node, RemoteWorker
from runner.engines.remote_memory import RemoteMemory
from runner.shm import reader, registry
from runner.shm.registry import ArenaRegistry, RegisteredArena
from runner.shm.writer import MIN_SHARED_BYTES, PAGE_SIZE, ArenaWriter
from runner.tasks import Reference
from runner.transport import agent_messages as frames
from runner.transport import framing, item_codec, kept_items
from runner.transport.agent_messages import Hello
from runner.transport.frame_link import FrameLink
from runner.transport.messages import PICKLED, Ack, Grant, GrantedRange, Output, Reply, SharedPayload
from runner.worker.spec import WorkerSpec

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    import pytest

    from runner.shm.registry import WorkerMemory
    from runner.transport.frame_link import Frame


def content(number: int, length: int) -> bytes:
    return struct.pack("<Q", number) * (length // 8)


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Neither end may have anything to say against the other."""
    try:
        yield
    except framing.FrameError as error:
        raise AssertionError(str(error)) from error


class Connection:
    """One direction of a connection that takes and gives what the test lets it."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.room = 0
        self.other: Connection | None = None

    def fileno(self) -> int:
        return -1

    def sendmsg(self, buffers: list[Any], /) -> int:
        """Take bytes at the moment at which they are written, as a socket does."""
        if not self.room:
            raise BlockingIOError
        assert self.other is not None
        sent = 0
        for buffer in buffers:
            taken = bytes(buffer[: self.room])
            self.other.bytes += taken
            self.room -= len(taken)
            sent += len(taken)
        return sent

    def recv_into(self, buffer: memoryview, /) -> int:
        if not self.bytes:
            raise BlockingIOError
        count = min(len(buffer), len(self.bytes))
        buffer[:count] = self.bytes[:count]
        del self.bytes[:count]
        return count

    def close(self) -> None:
        pass


class Worker:
    """A worker of a machine: its arena, the leases that it holds, and the items that it looks at although it is done."""

    def __init__(self, slot: int, far: RemoteWorker, memory: WorkerMemory, machine: Machine) -> None:
        self.slot, self.far, self.memory, self.machine = slot, far, memory, machine
        self.writer = ArenaWriter(memory.number, self._announce, 1 << 40)
        self.encoder = item_codec.ItemEncoder(1 << 30, self.writer)
        #: Encoded items by lease, with their number; and those that are viewed still.
        self.leases: dict[int, tuple[int, Any]] = {}
        self.viewed: dict[tuple[int, int], tuple[int, Any]] = {}

    def _announce(self, number: int, fd: int) -> None:
        self.machine.registry.register_arena(self.memory, number, os.dup(fd))


class Machine:
    """An agent and its workers."""

    def __init__(self, name: str, world: World, *, shares_memory: bool) -> None:
        self.world = world
        self.ours, self.theirs = Connection(), Connection()
        self.ours.other, self.theirs.other = self.theirs, self.ours
        link = FrameLink(self.ours, frames.FROM_AGENT, frames.MADE)
        hello = Hello(name, name, 1, 1, 1, 9, "", "", page_size=PAGE_SIZE if shares_memory else 0)
        self.node = Node(name, name, hello, link, MachineShares(9, (), 1))
        world.memory.add_node(self.node)
        self.link = FrameLink(self.theirs, frames.TO_AGENT, frames.BLOCK)
        self.registry = ArenaRegistry()
        self.registry.node_number = self.node.memory.number
        self.memory = RelayMemory(self.link, self.registry)
        self.workers: dict[int, Worker] = {}

    # what `ProcessEngine` does for the relay

    def send_packed(self, slot: int, message: Any, lent: Any = ()) -> None:
        worker = self.workers[slot]
        for lease, blocks in lent:
            self.registry.lend_blocks(worker.memory, lease, blocks)
        grant = framing.unpack_whole(memoryview(message))
        (part,) = grant.parts
        (item,) = item_codec.decode_payload(part.payload)
        number = self.check(item)
        worker.leases[grant.lease] = number, item

    def check(self, item: Any) -> int:
        """Return which item it is; all of its bytes must be its own."""
        data = bytes(item) if type(item) is bytes else b"".join(bytes(self.read(*ref)) for ref in item[1])
        number: int = struct.unpack_from("<Q", data)[0]
        assert data == content(number, len(data)), "the bytes of an item are those of another"
        return number

    def read(self, number: int, offset: int, length: int) -> memoryview:
        arena = self.registry.find_arena(number)
        assert arena is not None, "a handle of an arena that this machine does not have"
        assert offset in arena.blocks, "a handle of bytes that this machine does not have"
        return arena.bytes_at(offset, length)

    def hear(self) -> None:
        """Take what has arrived here."""
        self.world.at = self.registry
        take = {
            frames.BLOCK: self.memory.take_block,
            frames.LENT: self.memory.note_lent,
            frames.FREED: self.memory.free_blocks,
            frames.GONE: self.memory.close_twins,
            frames.SEND: self._pass_on,
        }
        for frame in self.link.receive():
            with noticed():
                take[frame.kind](frame)
        assert not self.link.end_reason, self.link.end_reason
        for worker in self.workers.values():
            if worker.memory.arena is not None:
                worker.writer.freed_offsets.extend(worker.memory.arena.take_freed_offsets())

    def _pass_on(self, frame: Frame) -> None:
        lent = self.memory.take_lent()
        if frame.slot in self.workers:
            self.memory.pass_message(self, frame.slot, frame.body, lent)  # type: ignore[arg-type]  # it plays that

    def reply(self, worker: Worker, reply: Reply) -> None:
        """Hear a worker's message, as the engine does, and relay it."""
        self.world.at = self.registry
        from runner.engines import shared_payloads

        held: Any = shared_payloads.hold_message(self.registry, worker.memory, reply)
        sent = self.memory.send_outputs(worker.slot, 1, held)
        self.link.send(frames.HEARD, worker.slot, 1, framing.pack_message(sent))


class World:
    """The supervisor, with a queue of what its workers have made."""

    def __init__(self, draw: random.Random, *, failing: float) -> None:
        self.draw, self.failing = draw, failing
        self.registry = ArenaRegistry()
        self.at = self.registry
        self.memory = RemoteMemory(self.registry, set())
        self.machines: list[Machine] = []
        self.slots = 0
        self.far: dict[int, RemoteWorker] = {}
        #: Items that wait: their payload and number; and those that are leased, by lease.
        self.queue: deque[tuple[Any, int]] = deque()
        self.leased: dict[int, tuple[int, Any, int]] = {}
        self.made = self.done = self.leases = self.inlined = 0

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Keep the machines apart, which are one process here; now and then one has no memory."""
        place = RegisteredArena.room_at

        def room_at(arena: RegisteredArena, offset: int, length: int) -> memoryview:
            if self.draw.random() < self.failing:
                raise OSError("no memory")
            return place(arena, offset, length)

        def copy_block(number: int, offset: int, length: int, changes: Any = ()) -> bytearray:
            assert not changes
            arena = self.at.find_arena(number)
            assert arena is not None
            assert offset in arena.blocks
            return bytearray(arena.bytes_at(offset, length))

        # The same in each session: how long a payload is depends on them, and so what is cut where.
        patch.setattr(registry, "_numbers", itertools.count(1 << 20))
        patch.setattr(registry, "_node_numbers", itertools.count(1))
        patch.setattr(RegisteredArena, "room_at", room_at)
        patch.setattr(reader, "open_arena", lambda number, fd, blocks=None: os.close(fd))
        patch.setattr(reader, "forget_arena", lambda number: None)
        patch.setattr(reader, "sweep_dead_views", lambda: None)
        patch.setattr(reader, "copy_block", copy_block)
        patch.setattr(kept_items.inline_payload, "__defaults__", (copy_block,))
        patch.setattr(kept_items._without_arena, "__defaults__", (copy_block,))

    def add_machine(self, *, shares_memory: bool = True) -> Machine:
        machine = Machine(f"n{len(self.machines) + 1}", self, shares_memory=shares_memory)
        self.machines.append(machine)
        return machine

    def add_worker(self, machine: Machine) -> Worker:
        self.slots += 1
        spec = WorkerSpec("t", f"w{self.slots}", "r", self.slots, Reference("m", "f"), b"", ("in",), ())
        far = RemoteWorker(spec, 1, machine.node)
        shares = self.memory.add_worker(far)
        worker = Worker(self.slots, far, machine.registry.register_worker(), machine)
        if not shares:
            worker.encoder = item_codec.ItemEncoder(1 << 30)
        self.far[self.slots] = far
        machine.workers[self.slots] = worker
        return worker

    # what workers do

    def make(self, worker: Worker) -> None:
        """A worker makes an item."""
        self.made += 1
        data = content(self.made, MIN_SHARED_BYTES + 8 * self.draw.choice([0, 1, 511, 512, 3000, 20_000]))
        self._emit(worker, worker.encoder.encode_item(data), ())

    def answer(self, worker: Worker, lease: int) -> None:
        """A worker ends a lease: with the item as it came, or with nothing; and may look at it from now on."""
        number, item = worker.leases.pop(lease)
        views: list[tuple[int, int]] = []
        if type(item) is tuple and self.draw.random() < 0.3:
            views = [ref[:2] for ref in item[1]]
            worker.viewed.update((view, (number, item)) for view in views)
        ack = Ack(lease, 1)
        if self.draw.random() < 0.4:
            self._emit(worker, item, (ack,), views)
        else:
            worker.machine.reply(worker, Reply((ack,), (), 0.0, still_viewed=tuple(views)))

    def look_again(self, worker: Worker) -> None:
        """A worker sends on what it has kept, or lets go of it."""
        key = self.draw.choice(list(worker.viewed))
        number, item = worker.viewed[key]
        assert worker.machine.check(item) == number, "what a worker looks at has changed"
        if self.draw.random() < 0.3:
            self._emit(worker, item, ())
        else:
            del worker.viewed[key]
            worker.machine.reply(worker, Reply((), (), 0.0, released=(key,)))

    def _emit(self, worker: Worker, item: Any, acks: Any, views: Any = ()) -> None:
        (sent,), refs = (
            item_codec.mark_items_sent([item])
            if type(item) is tuple and item[1:] and hasattr(item[1][0], "mark_sent")
            else ([item], tuple(ref[:3] for ref in item[1]) if type(item) is tuple else ())
        )
        output = Output(0, 1, 1, item_codec.encode_payload([sent]), refs)
        worker.machine.reply(worker, Reply(acks, (output,), 0.0, still_viewed=tuple(views)))

    def kill(self, worker: Worker) -> None:
        """A worker dies; the agent tells it after all that the worker has said."""
        machine = worker.machine
        del machine.workers[worker.slot]
        machine.registry.forget_worker(worker.memory)
        worker.writer.close()
        machine.link.send(frames.DIED, worker.slot, 1)

    def lose(self, machine: Machine) -> None:
        """A machine goes, whatever is under way."""
        self.machines.remove(machine)
        self.memory.remove_node(machine.node)
        machine.node.link.close()
        machine.link.close()
        for slot in [slot for slot, far in self.far.items() if far.node is machine.node]:
            self._bury(slot)
        for worker in machine.workers.values():
            worker.writer.close()
        machine.memory.close()
        machine.registry.close()

    # the supervisor

    def hear(self, machine: Machine) -> None:
        """Take what has arrived from a machine."""
        self.at = self.registry
        for frame in machine.node.link.receive():
            far = self.far.get(frame.slot)
            if frame.kind == frames.MADE:
                with noticed():
                    self.memory.take_block(machine.node, far, frame)
            elif frame.kind == frames.DIED:
                self._bury(frame.slot)
            elif far is not None:
                self._take_reply(far, framing.unpack_whole(frame.body))
                machine.node.memory.arrived.clear()
        assert not machine.node.link.end_reason, machine.node.link.end_reason

    def _take_reply(self, far: RemoteWorker, reply: Any) -> None:
        with noticed():
            reply = self.memory.hold_message(far, reply)
        for output in reply.outputs:
            self.queue.append((output.payload, self.check(output.payload)))
        for ack in reply.acks:
            del self.leased[ack.lease]
            self.done += 1

    def check(self, payload: Any) -> int:
        """The supervisor has the bytes of whatever it was told of: an item is done now."""
        data = payload.data if type(payload) is SharedPayload else payload
        (item,) = item_codec.decode_payload(data)
        if type(item) is bytes:
            self.inlined += 1
            found = item
        else:
            found = b"".join(self._read(*ref) for ref in item[1])
        number: int = struct.unpack_from("<Q", found)[0]
        assert found == content(number, len(found)), "the supervisor does not have the bytes"
        return number

    def _read(self, number: int, offset: int, length: int) -> bytes:
        arena = self.registry.find_arena(number)
        assert arena is not None
        return bytes(arena.bytes_at(offset, length))

    def _bury(self, slot: int) -> None:
        """A worker is dead: what it held is given again."""
        self.memory.forget_worker(self.far.pop(slot))
        for lease, (holder, payload, number) in list(self.leased.items()):
            if holder == slot:
                del self.leased[lease]
                self.queue.append((payload, number))

    def grant(self, worker: Worker) -> None:
        """Give a worker what waits longest."""
        self.at = self.registry
        payload, number = self.queue.popleft()
        self.leases += 1
        self.leased[self.leases] = worker.slot, payload, number
        part = GrantedRange(1, 0, 1, 1, 0, PICKLED, payload)
        grant = self.memory.lend_payloads(worker.far, Grant(self.leases, 1.0, (part,)))
        worker.machine.node.link.gather(frames.SEND, worker.slot, 1, framing.pack_message(grant))

    def carry(self, machine: Machine, most: int) -> None:
        """Let some bytes pass in both directions, and both ends hear them."""
        self.memory.release_blocks()
        for connection, link in ((machine.ours, machine.node.link), (machine.theirs, machine.link)):
            connection.room = most
            link.flush()
            connection.room = 0
        machine.hear()
        self.hear(machine)

    def workers(self) -> Iterator[Worker]:
        for machine in self.machines:
            yield from machine.workers.values()

    def settle(self) -> None:
        """End everything that was begun; then nothing may be held anywhere."""
        for _ in range(400):
            for machine in self.machines:
                self.carry(machine, 1 << 40)
            for worker in list(self.workers()):
                for key in list(worker.viewed):
                    del worker.viewed[key]
                    worker.machine.reply(worker, Reply((), (), 0.0, released=(key,)))
                for lease in list(worker.leases):
                    del worker.leases[lease]
                    worker.machine.reply(worker, Reply((Ack(lease, 1),), (), 0.0))
            self.queue.clear()
            if not self.leased and not any(machine.ours.bytes or machine.theirs.bytes for machine in self.machines):
                break
        for _ in range(3):
            for machine in self.machines:
                self.carry(machine, 1 << 40)

    def close(self) -> None:
        for machine in list(self.machines):
            self.lose(machine)
        self.registry.close()
