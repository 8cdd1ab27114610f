"""Who holds what in which arena: the supervisor's side of large payloads.

    Output names slots ──▶ Lodged payload ──▶ ledger: chunks, pieces, leases, dead letters
                              │ holds               │ granted: the reader's account holds it too
                              ▼                     ▼
                            Slot ◀──────── kept: the reader said that something still looks at it
                              │ the last reference is gone
                              ▼
                            its arena's `freed`, told to the writer with its next grant or credit

Python's own counting of references is the count of holders: whatever drops a payload (an answer, a full queue, the end
of a run) gives its memory back, and nobody has to remember to. The dead are no exception: with a worker's account goes
everything that it held, and an arena whose writer is dead goes with its last slot.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.shm import reader, writer
from runner.structs import dataclass, field
from runner.transport.framing import FrameError
from runner.transport.messages import ArenaNotice, Credit, Grant, Produced, Reply, SharedPayload

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Arenas are numbered within a process: thread workers of several runs share the table of what is mapped.
_numbers = itertools.count(1)
_Key = tuple[int, int]
#: A writer is told what is free when it is so many-th part of what is held, at the latest.
_RIPE = 4


class Block:
    """Some bytes of an arena that somebody holds."""

    __slots__ = ("__weakref__", "arena", "length", "offset")

    def __init__(self, place: RegisteredArena, offset: int, length: int) -> None:
        self.arena, self.offset, self.length = place, offset, length

    def __del__(self) -> None:
        self.arena.free_block(self.offset)


@dataclass(eq=False)
class RegisteredArena:
    """An arena as the supervisor knows it. `owner` is None once its writer is dead."""

    number: int
    fd: int
    owner: WorkerMemory | None
    blocks: weakref.WeakValueDictionary[int, Block] = field(default_factory=weakref.WeakValueDictionary)
    #: Offsets without a slot: appended to by whatever thread drops the last reference.
    freed_offsets: deque[int] = field(default_factory=deque)
    held_blocks: int = 0
    #: Where to say that a fair part of what was held is free.
    arenas_to_report: deque[RegisteredArena] | None = None

    def free_block(self, offset: int) -> None:
        """Nobody holds it any more."""
        self.freed_offsets.append(offset)
        if self.arenas_to_report is not None and _RIPE * len(self.freed_offsets) >= self.held_blocks:
            self.arenas_to_report.append(self)

    def block_at(self, offset: int, length: int) -> Block:
        """The slot there, a new one for what has just been written."""
        slot = self.blocks.get(offset)
        if slot is None:
            slot = self.blocks[offset] = Block(self, offset, length)
            self.held_blocks += 1
        return slot

    def take_freed_offsets(self) -> tuple[int, ...]:
        """What is free since this was asked last."""
        freed = []
        while self.freed_offsets:
            freed.append(self.freed_offsets.popleft())
        self.held_blocks -= len(freed)
        return tuple(freed)


@dataclass(eq=False)
class WorkerMemory:
    """What one process worker has, and has been told."""

    number: int = field(default_factory=lambda: next(_numbers))
    arena: RegisteredArena | None = None
    #: Arenas whose descriptor it was given.
    known_arenas: set[int] = field(default_factory=set)
    #: Payloads of the grants that it has not answered, by lease.
    lent_payloads: dict[int, list[SharedPayload]] = field(default_factory=dict)
    #: Slots of items that are over, at which something in it still looks.
    still_viewed: dict[_Key, Block] = field(default_factory=dict)


class ArenaRegistry:
    """All arenas of one run."""

    def __init__(self) -> None:
        self._places: dict[int, RegisteredArena] = {}
        self._orphans: list[RegisteredArena] = []
        self._accounts: list[WorkerMemory] = []
        self._store: writer.ArenaWriter | None = None
        #: An arena has gone: workers that know it should unmap it.
        self.has_removed_arenas = False
        #: Arenas of which a fair part is free and their writers do not know.
        self.arenas_to_report: deque[RegisteredArena] = deque()

    @property
    def thread_arena(self) -> writer.ArenaWriter:
        """The arena of this process's own workers, its threads."""
        if self._store is None:
            self._store = writer.ArenaWriter(
                next(_numbers), self._own, writer.MAX_BYTES_IN_USE
            )  # threads are never made to wait
        return self._store

    def _own(self, number: int, fd: int) -> None:
        assert self._store is not None
        place = RegisteredArena(number, os.dup(fd), None, freed_offsets=self._store.freed_offsets)
        self._register(place)

    def _register(self, place: RegisteredArena) -> None:
        self._places[place.number] = place
        reader.open_arena(place.number, os.dup(place.fd), place.blocks)

    # -- process workers -----------------------------------------------------------------------

    def register_worker(self) -> WorkerMemory:
        """For a worker that is being started."""
        account = WorkerMemory()
        self._accounts.append(account)
        return account

    def register_arena(self, account: WorkerMemory, message: ArenaNotice) -> None:
        """A worker's first large buffer: its arena. FrameError when it is none that could be lent to others."""
        if message.fd < 0 or account.arena is not None or message.number != account.number:
            raise FrameError("an arena that it cannot have")
        if not _sound(message.fd):
            os.close(message.fd)
            raise FrameError("an arena that could shrink")
        account.arena = RegisteredArena(message.number, message.fd, account, arenas_to_report=self.arenas_to_report)
        account.known_arenas.add(message.number)
        self._register(account.arena)

    def message_from_worker(self, account: WorkerMemory, message: Any) -> Any:
        """A worker's message with its payloads' slots held; then what itself needs no longer is let go."""
        if type(message) is not Reply and type(message) is not Produced:
            return message
        for output in message.outputs:
            if output.block_refs:
                message = replace(message, outputs=self._held(account, message.outputs))
                break
        if type(message) is Reply and (account.lent_payloads or message.still_viewed or message.released):
            self._settle(account, message)
        if self._orphans:
            self._bury()
        return message

    def _held(self, account: WorkerMemory | None, outputs: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(
            replace(
                output,
                payload=SharedPayload(output.payload, tuple(self._slot(account, *slot) for slot in output.block_refs)),
            )
            if output.block_refs
            else output
            for output in outputs
        )

    def _slot(self, account: WorkerMemory | None, number: int, offset: int, length: int) -> Block:
        place = self._places.get(number)
        if place is None:
            raise FrameError("a buffer in an arena that there is not")
        slot = place.blocks.get(offset)
        if slot is None and account is not None and place is not account.arena:
            raise FrameError("a buffer of another's arena that it does not hold")
        return slot or place.block_at(offset, length)

    def _settle(self, account: WorkerMemory, answer: Reply) -> None:
        for number, offset in answer.still_viewed:
            slot = self._places[number].blocks.get(offset) if number in self._places else None
            if slot is None:
                raise FrameError("a buffer that it cannot hold")
            account.still_viewed[number, offset] = slot
        for key in answer.released:
            account.still_viewed.pop(key, None)
        for ack in answer.acks:
            if not ack.keeps_rest:
                account.lent_payloads.pop(ack.lease, None)

    def message_to_worker(self, account: WorkerMemory, message: Any) -> tuple[Any, list[ArenaNotice]]:
        """A message to a worker with what it brings along, and the arenas that the worker must be given before it."""
        arenas: list[ArenaNotice] = []
        if type(message) is Grant:
            for grant in (message, *message.other_grants):
                lodged = [part.payload for part in grant.parts if type(part.payload) is SharedPayload]
                if lodged:
                    account.lent_payloads[grant.lease] = lodged
                    arenas += self._introduced(account, lodged)
        elif type(message) is not Credit:
            return message, arenas
        if account.arena is not None and account.arena.freed_offsets:
            message = replace(message, freed_offsets=account.arena.take_freed_offsets())
        return message, arenas

    @staticmethod
    def _introduced(account: WorkerMemory, lodged: list[SharedPayload]) -> list[ArenaNotice]:
        """The arenas of some payloads that the worker does not know yet."""
        places = {slot.arena.number: slot.arena for payload in lodged for slot in payload.blocks}
        new = [ArenaNotice(number, place.fd) for number, place in places.items() if number not in account.known_arenas]
        account.known_arenas.update(places)
        return new

    def take_freed_notices(self) -> list[tuple[WorkerMemory, ArenaNotice]]:
        """The writers that should be told what is free, and what to tell them."""
        told = []
        while self.arenas_to_report:
            place = self.arenas_to_report.popleft()
            if place.owner is not None and _RIPE * len(place.freed_offsets) >= max(1, place.held_blocks):
                told.append((place.owner, ArenaNotice(place.number, freed_offsets=place.take_freed_offsets())))
        return told

    def forget_worker(self, account: WorkerMemory) -> None:
        """A worker is dead, and fenced: what it held is free, and its arena goes with the last slot of it."""
        self._accounts.remove(account)
        account.lent_payloads.clear()
        account.still_viewed.clear()
        place = account.arena
        if place is not None:
            place.owner = place.arenas_to_report = None
            place.take_freed_offsets()
            if place.held_blocks:
                writer.discard_unheld(place.fd, [(slot.offset, slot.length) for slot in list(place.blocks.values())])
            self._orphans.append(place)
            self._bury()

    def _bury(self) -> None:
        """Close the arenas that nobody writes to and nobody holds anything of."""
        reader.sweep_dead_views()
        for place in list(self._orphans):
            place.take_freed_offsets()
            if not place.held_blocks:
                self._orphans.remove(place)
                self._close(place)

    def take_removed_arenas(self, account: WorkerMemory) -> list[ArenaNotice]:
        """The arenas that a worker knows and that are gone."""
        gone = [number for number in account.known_arenas if number not in self._places]
        account.known_arenas.difference_update(gone)
        self.has_removed_arenas = False
        return [ArenaNotice(number) for number in gone]

    def _close(self, place: RegisteredArena) -> None:
        self.has_removed_arenas = True
        del self._places[place.number]
        reader.forget_arena(place.number)
        os.close(place.fd)

    # -- thread workers ------------------------------------------------------------------------

    def message_from_thread(self, message: Any) -> Any:
        """A thread worker's message; from its own thread."""
        if type(message) in {Reply, Produced} and any(output.block_refs for output in message.outputs):
            return replace(message, outputs=self._held(None, message.outputs))
        return message

    def close(self) -> None:
        """The run is over."""
        for account in list(self._accounts):
            self.forget_worker(account)
        for place in list(self._places.values()):
            self._close(place)
        self._orphans.clear()
        if self._store is not None:
            self._store.close()


def _sound(fd: int) -> bool:
    """Whether it is a file of the right size that cannot shrink: a reader would die of that."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return bool(seals & fcntl.F_SEAL_SHRINK) and os.fstat(fd).st_size >= writer.ARENA_BYTES
    except OSError:
        return False
