"""The supervisor's side of large payloads: the holders of each block of each arena.

Python's own counting of references is the count of holders: whatever drops a payload (a reply, a full queue, the end
of a run) gives its memory back, and no code has to remember to. Dead workers are no exception: with a worker's
account goes everything that it held, and an arena whose writer is dead goes with its last block.

An arena of another machine is known here by its *twin*: a memory file under the same number, sparse, with each block at
its own offset. So a payload says the same on every machine, and is not read on its way. `copies` says which
machines have the bytes of a block; they are told when it has no holder any more (`freed_copies`), and not before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.shm import linux_only, reader, writer
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.shm.reader import BlockKey

#: Arenas are numbered within a process: thread workers of several runs share the table of what is mapped.
_numbers = itertools.count(1)
#: Those of a machine that has joined a run begin with the machine's own number, which is in these bits and above.
NODE_SHIFT = 32
_node_numbers = itertools.count(1)
#: A writer is told what is free at the latest when one block in this number is.
_MIN_FREED_SHARE = 4
#: A twin gives memory back when so few of the blocks are left that it had at once, if it has so much: what is used
#: again soon is not worth the page faults.
_TRIM_RATIO, MIN_TRIMMED_BYTES = 8, 16 << 20


class UnknownBlock(Exception):
    """An arena or a block that a worker has named and that it cannot have."""


class Block:
    """Some bytes of an arena that have a holder."""

    __slots__ = ("__weakref__", "arena", "length", "offset")

    def __init__(self, arena: RegisteredArena, offset: int, length: int) -> None:
        self.arena, self.offset, self.length = arena, offset, length

    def __del__(self) -> None:
        self.arena.free_block(self.offset)


@dataclass(eq=False)
class RegisteredArena:
    """An arena as the supervisor knows it. `owner` is None once its writer is dead."""

    number: int
    fd: int
    owner: WorkerMemory | None
    blocks: weakref.WeakValueDictionary[int, Block] = field(default_factory=weakref.WeakValueDictionary)
    #: Offsets without a block: appended to by the thread that drops the last reference.
    freed_offsets: deque[int] = field(default_factory=deque)
    held_blocks: int = 0
    #: Where to say that a fair part of what was held is free.
    arenas_to_report: deque[RegisteredArena] | None = None
    #: The machines that have the bytes of a block, by its offset; and where to say that they need them no longer.
    copies: dict[int, list[Any]] = field(default_factory=dict)
    freed_copies: deque[tuple[RegisteredArena, int, list[Any]]] | None = None
    #: All of it, mapped when its bytes are first read or written by this process itself.
    _memory: memoryview | None = None
    #: Of a twin: its pages that have memory, blocks whose bytes are on their way, and the most blocks held at once.
    _pages: bytearray | None = None
    _arriving: dict[int, int] = field(default_factory=dict)
    _most_blocks: int = 0

    def free_block(self, offset: int) -> None:
        """Note that a block has lost its last holder."""
        # Before its writer may use the place again: the machines are told of this block first, and then of the next.
        if self.freed_copies is not None and (holders := self.copies.pop(offset, None)):
            self.freed_copies.append((self, offset, holders))
        self.freed_offsets.append(offset)
        if self.arenas_to_report is not None and _MIN_FREED_SHARE * len(self.freed_offsets) >= self.held_blocks:
            self.arenas_to_report.append(self)

    def block_at(self, offset: int, length: int) -> Block:
        """Return the block there, a new one for what has just been written."""
        block = self.blocks.get(offset)
        if block is None:
            block = self.blocks[offset] = Block(self, offset, length)
            self.held_blocks += 1
            if self._pages is not None:
                self._arriving.pop(offset, None)
                self._most_blocks = max(self._most_blocks, self.held_blocks)
        return block

    def bytes_at(self, offset: int, length: int) -> memoryview:
        """Return the bytes of a block, where they are."""
        if self._memory is None:
            self._memory = memoryview(linux_only.map_shared(self.fd, writer.ARENA_BYTES))
        return self._memory[offset : offset + length]

    def room_at(self, offset: int, length: int) -> memoryview:
        """Return where the bytes of a block go in a twin. OSError without memory: a write into it must not fail."""
        room = self.bytes_at(offset, length)
        if self._pages is None:
            self._pages = bytearray(writer.ARENA_BYTES // writer.PAGE_SIZE)
        first, end = offset // writer.PAGE_SIZE, -(-(offset + length) // writer.PAGE_SIZE)
        if self._pages.find(0, first, end) >= 0:
            linux_only.have_memory(self.fd, offset, length)
            self._pages[first:end] = b"\1" * (end - first)
        self._arriving[offset] = length
        return room

    def _trim_twin(self, pages: bytearray) -> None:
        """Give back the memory of free pages: the writer keeps its own, but here lie the twins of all writers."""
        self._most_blocks = self.held_blocks
        if pages.count(1) * writer.PAGE_SIZE < MIN_TRIMMED_BYTES:
            return
        held = [(block.offset, block.length) for block in list(self.blocks.values())] + [*self._arriving.items()]
        writer.discard_unheld(self.fd, held)
        kept = bytearray(len(pages))
        for offset, length in held:
            first, end = offset // writer.PAGE_SIZE, -(-(offset + length) // writer.PAGE_SIZE)
            kept[first:end] = pages[first:end]
        pages[:] = kept

    def close(self) -> None:
        """Close the file; its memory goes with the last view of it."""
        if self._memory is not None:
            memory: Any = self._memory.obj
            self._memory.release()
            with contextlib.suppress(BufferError):  # bytes of it are under way
                memory.close()
        os.close(self.fd)

    def take_freed_offsets(self) -> tuple[int, ...]:
        """Return the offsets that became free since the last call."""
        freed = []
        while self.freed_offsets:
            freed.append(self.freed_offsets.popleft())
        self.held_blocks -= len(freed)
        if self._pages is not None and _TRIM_RATIO * self.held_blocks < self._most_blocks:
            self._trim_twin(self._pages)
        return tuple(freed)


@dataclass(eq=False)
class WorkerMemory:
    """The memory that one process worker has, and what it has been told."""

    number: int
    arena: RegisteredArena | None = None
    #: Arenas whose descriptor it was given.
    known_arenas: set[int] = field(default_factory=set)
    #: Blocks of the grants to which it has not replied, by lease.
    lent_blocks: dict[int, Sequence[Block]] = field(default_factory=dict)
    #: Blocks of items that are over, of which views in it are alive.
    still_viewed: dict[BlockKey, Block] = field(default_factory=dict)


class ArenaRegistry:
    """All arenas of one run."""

    def __init__(self) -> None:
        #: The machine's number, at the beginning of those of its arenas; 0 where the supervisor is.
        self.node_number = 0
        self._arenas: dict[int, RegisteredArena] = {}
        #: There has been an arena: until then no payload has anything to lend.
        self.is_used = False
        #: Arenas whose writers are gone.
        self.orphans: list[RegisteredArena] = []
        self._workers: list[WorkerMemory] = []
        self._thread_writer: writer.ArenaWriter | None = None
        #: An arena has gone: workers that know it should unmap it.
        self.has_removed_arenas = False
        #: Arenas of which a fair part is free and their writers do not know.
        self.arenas_to_report: deque[RegisteredArena] = deque()
        #: Blocks that no longer have a holder here, and the machines that have their bytes.
        self.freed_copies: deque[tuple[RegisteredArena, int, list[Any]]] = deque()

    @property
    def thread_arena(self) -> writer.ArenaWriter:
        """Return the arena of this process's own workers, its threads."""
        if self._thread_writer is None:
            self._thread_writer = writer.ArenaWriter(
                next(_numbers), self._register_thread_arena, writer.MAX_BYTES_IN_USE
            )  # threads are never made to wait
        return self._thread_writer

    def _register_thread_arena(self, number: int, fd: int) -> None:
        assert self._thread_writer is not None
        arena = RegisteredArena(
            number, os.dup(fd), None, freed_offsets=self._thread_writer.freed_offsets, freed_copies=self.freed_copies
        )
        self._add_arena(arena)

    def _add_arena(self, arena: RegisteredArena) -> None:
        self._arenas[arena.number] = arena
        self.is_used = True
        reader.open_arena(arena.number, os.dup(arena.fd), arena.blocks)

    def register_worker(self) -> WorkerMemory:
        """Make the account of a worker that is being started."""
        worker_memory = WorkerMemory(self.node_number << NODE_SHIFT | next(_numbers))
        self._workers.append(worker_memory)
        return worker_memory

    def register_arena(self, worker_memory: WorkerMemory, number: int, fd: int) -> None:
        """Add the arena that a worker announces; UnknownBlock when it could not be lent to others."""
        refused = fd < 0 or worker_memory.arena is not None or number != worker_memory.number
        if refused or not linux_only.is_sealed(fd, writer.ARENA_BYTES):
            if fd >= 0:
                os.close(fd)
            raise UnknownBlock("an arena that it cannot have" if refused else "an arena that could shrink")
        worker_memory.arena = RegisteredArena(number, fd, worker_memory, arenas_to_report=self.arenas_to_report)
        worker_memory.known_arenas.add(number)
        self._add_arena(worker_memory.arena)

    def find_arena(self, number: int) -> RegisteredArena | None:
        """Return the arena, or twin, that has the number."""
        return self._arenas.get(number)

    def twin_of(self, number: int) -> RegisteredArena:
        """Return the twin of an arena on another machine, a new one the first time. OSError: it cannot be made."""
        arena = self._arenas.get(number)
        if arena is None:
            arena = RegisteredArena(
                number, linux_only.create_arena_file(writer.ARENA_BYTES), None, freed_copies=self.freed_copies
            )
            self._add_arena(arena)
        return arena

    def abandon_twins(self, node_number: int) -> None:
        """Give up twins that were made for blocks that never arrived whole: their machine is gone."""
        for arena in self._arenas.values():
            if arena.number >> NODE_SHIFT == node_number and arena.owner is None and arena not in self.orphans:
                self.orphans.append(arena)

    def close_twin(self, number: int) -> None:
        """Close a twin that no payload will name any more."""
        if (arena := self._arenas.get(number)) is not None:
            self._close_arena(arena)

    def hold_block(self, worker_memory: WorkerMemory | None, number: int, offset: int, length: int) -> Block:
        """Return the block that a worker's output names; None: a thread worker's."""
        arena = self._arenas.get(number)
        if arena is None:
            raise UnknownBlock("a buffer in an arena that there is not")
        block = arena.blocks.get(offset)
        if block is None and worker_memory is not None and arena is not worker_memory.arena:
            raise UnknownBlock("a buffer of another's arena that it does not hold")
        return block or arena.block_at(offset, length)

    def note_views(
        self, worker_memory: WorkerMemory, still_viewed: Iterable[BlockKey], released: Iterable[BlockKey]
    ) -> None:
        """Hold the blocks of which a worker says that its views are alive; let go of those it has released."""
        for number, offset in still_viewed:
            block = self._arenas[number].blocks.get(offset) if number in self._arenas else None
            if block is None:
                raise UnknownBlock("a buffer that it cannot hold")
            worker_memory.still_viewed[number, offset] = block
        for key in released:
            worker_memory.still_viewed.pop(key, None)

    @staticmethod
    def lend_blocks(worker_memory: WorkerMemory, lease: int, blocks: Sequence[Block]) -> list[tuple[int, int]]:
        """Hold blocks for a worker until the lease is over; return arenas (number, fd) that it does not know yet."""
        worker_memory.lent_blocks[lease] = blocks
        arenas = {block.arena.number: block.arena.fd for block in blocks}
        unknown = [(number, fd) for number, fd in arenas.items() if number not in worker_memory.known_arenas]
        worker_memory.known_arenas.update(arenas)
        return unknown

    def take_freed_offsets(self) -> list[tuple[WorkerMemory, tuple[int, ...]]]:
        """Return the writers that should be told which of their offsets are free, and these."""
        found = []
        while self.arenas_to_report:
            arena = self.arenas_to_report.popleft()
            if arena.owner is not None and _MIN_FREED_SHARE * len(arena.freed_offsets) >= max(1, arena.held_blocks):
                found.append((arena.owner, arena.take_freed_offsets()))
        return found

    def forget_worker(self, worker_memory: WorkerMemory) -> None:
        """Release all that a dead, fenced worker held; its arena is closed with the last block in it."""
        self._workers.remove(worker_memory)
        worker_memory.lent_blocks.clear()
        worker_memory.still_viewed.clear()
        arena = worker_memory.arena
        if arena is not None:
            arena.owner = arena.arenas_to_report = None
            arena.take_freed_offsets()
            if arena.held_blocks:
                writer.discard_unheld(arena.fd, [(block.offset, block.length) for block in list(arena.blocks.values())])
            self.orphans.append(arena)
            self.close_orphans()

    def close_orphans(self) -> None:
        """Close the arenas that have neither a writer nor a held block."""
        reader.sweep_dead_views()
        for arena in list(self.orphans):
            arena.take_freed_offsets()
            if not arena.held_blocks:
                self.orphans.remove(arena)
                self._close_arena(arena)

    def take_removed_arenas(self, worker_memory: WorkerMemory) -> list[int]:
        """Return the arenas that a worker knows and that are gone."""
        removed = [number for number in worker_memory.known_arenas if number not in self._arenas]
        worker_memory.known_arenas.difference_update(removed)
        self.has_removed_arenas = False
        return removed

    def _close_arena(self, arena: RegisteredArena) -> None:
        self.has_removed_arenas = True
        del self._arenas[arena.number]
        reader.forget_arena(arena.number)
        arena.close()

    def close(self) -> None:
        """Close all arenas: the run is over."""
        for worker_memory in list(self._workers):
            self.forget_worker(worker_memory)
        for arena in list(self._arenas.values()):
            self._close_arena(arena)
        self.orphans.clear()
        if self._thread_writer is not None:
            self._thread_writer.close()


def next_node_number() -> int:
    """Return the number of a machine that joins; no other in this process has or had it."""
    return next(_node_numbers)
