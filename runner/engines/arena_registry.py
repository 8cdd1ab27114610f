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
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.shm import reader, writer
from runner.structs import dataclass, field
from runner.transport.framing import FrameError
from runner.transport.messages import Answer, Arena, Credit, Grant, Lodged, Made

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Arenas are numbered within a process: thread workers of several runs share the table of what is mapped.
_numbers = itertools.count(1)
_Key = tuple[int, int]
#: A writer is told what is free when it is so many-th part of what is held, at the latest.
_RIPE = 4


class Slot:
    """Some bytes of an arena that somebody holds."""

    __slots__ = ("__weakref__", "length", "offset", "place")

    def __init__(self, place: _Place, offset: int, length: int) -> None:
        self.place, self.offset, self.length = place, offset, length

    def __del__(self) -> None:
        self.place.free(self.offset)


@dataclass(eq=False)
class _Place:
    """An arena as the supervisor knows it. `owner` is None once its writer is dead."""

    number: int
    fd: int
    owner: Account | None
    slots: weakref.WeakValueDictionary[int, Slot] = field(default_factory=weakref.WeakValueDictionary)
    #: Offsets without a slot: appended to by whatever thread drops the last reference.
    freed: deque[int] = field(default_factory=deque)
    held: int = 0
    #: Where to say that a fair part of what was held is free.
    ripe: deque[_Place] | None = None

    def free(self, offset: int) -> None:
        """Nobody holds it any more."""
        self.freed.append(offset)
        if self.ripe is not None and _RIPE * len(self.freed) >= self.held:
            self.ripe.append(self)

    def slot(self, offset: int, length: int) -> Slot:
        """The slot there, a new one for what has just been written."""
        slot = self.slots.get(offset)
        if slot is None:
            slot = self.slots[offset] = Slot(self, offset, length)
            self.held += 1
        return slot

    def take_freed(self) -> tuple[int, ...]:
        """What is free since this was asked last."""
        freed = []
        while self.freed:
            freed.append(self.freed.popleft())
        self.held -= len(freed)
        return tuple(freed)


@dataclass(eq=False)
class Account:
    """What one process worker has, and has been told."""

    number: int = field(default_factory=lambda: next(_numbers))
    place: _Place | None = None
    #: Arenas whose descriptor it was given.
    knows: set[int] = field(default_factory=set)
    #: Payloads of the grants that it has not answered, by lease.
    loans: dict[int, list[Lodged]] = field(default_factory=dict)
    #: Slots of items that are over, at which something in it still looks.
    kept: dict[_Key, Slot] = field(default_factory=dict)


class Holdings:
    """All arenas of one run."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._orphans: list[_Place] = []
        self._accounts: list[Account] = []
        self._store: writer.Store | None = None
        #: An arena has gone: workers that know it should unmap it.
        self.parting = False
        #: Arenas of which a fair part is free and their writers do not know.
        self.ripe: deque[_Place] = deque()

    @property
    def store(self) -> writer.Store:
        """The arena of this process's own workers, its threads."""
        if self._store is None:
            self._store = writer.Store(next(_numbers), self._own, writer.CAP)  # threads are never made to wait
        return self._store

    def _own(self, number: int, fd: int) -> None:
        assert self._store is not None
        place = _Place(number, os.dup(fd), None, freed=self._store.freed)
        self._register(place)

    def _register(self, place: _Place) -> None:
        self._places[place.number] = place
        reader.opened(place.number, os.dup(place.fd), place.slots)

    # -- process workers -----------------------------------------------------------------------

    def account(self) -> Account:
        """For a worker that is being started."""
        account = Account()
        self._accounts.append(account)
        return account

    def opened(self, account: Account, message: Arena) -> None:
        """A worker's first large buffer: its arena. FrameError when it is none that could be lent to others."""
        if message.fd < 0 or account.place is not None or message.number != account.number:
            raise FrameError("an arena that it cannot have")
        if not _sound(message.fd):
            os.close(message.fd)
            raise FrameError("an arena that could shrink")
        account.place = _Place(message.number, message.fd, account, ripe=self.ripe)
        account.knows.add(message.number)
        self._register(account.place)

    def heard(self, account: Account, message: Any) -> Any:
        """A worker's message with its payloads' slots held; then what itself needs no longer is let go."""
        if type(message) is not Answer and type(message) is not Made:
            return message
        for output in message.outputs:
            if output.slots:
                message = replace(message, outputs=self._held(account, message.outputs))
                break
        if type(message) is Answer and (account.loans or message.kept or message.gone):
            self._settle(account, message)
        if self._orphans:
            self._bury()
        return message

    def _held(self, account: Account | None, outputs: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(
            replace(output, payload=Lodged(output.payload, tuple(self._slot(account, *slot) for slot in output.slots)))
            if output.slots
            else output
            for output in outputs
        )

    def _slot(self, account: Account | None, number: int, offset: int, length: int) -> Slot:
        place = self._places.get(number)
        if place is None:
            raise FrameError("a buffer in an arena that there is not")
        slot = place.slots.get(offset)
        if slot is None and account is not None and place is not account.place:
            raise FrameError("a buffer of another's arena that it does not hold")
        return slot or place.slot(offset, length)

    def _settle(self, account: Account, answer: Answer) -> None:
        for number, offset in answer.kept:
            slot = self._places[number].slots.get(offset) if number in self._places else None
            if slot is None:
                raise FrameError("a buffer that it cannot hold")
            account.kept[number, offset] = slot
        for key in answer.gone:
            account.kept.pop(key, None)
        for ack in answer.acks:
            if not ack.more:
                account.loans.pop(ack.lease, None)

    def prepared(self, account: Account, message: Any) -> tuple[Any, list[Arena]]:
        """A message to a worker with what it brings along, and the arenas that the worker must be given before it."""
        arenas: list[Arena] = []
        if type(message) is Grant:
            for grant in (message, *message.others):
                lodged = [part.payload for part in grant.parts if type(part.payload) is Lodged]
                if lodged:
                    account.loans[grant.lease] = lodged
                    arenas += self._introduced(account, lodged)
        elif type(message) is not Credit:
            return message, arenas
        if account.place is not None and account.place.freed:
            message = replace(message, freed=account.place.take_freed())
        return message, arenas

    @staticmethod
    def _introduced(account: Account, lodged: list[Lodged]) -> list[Arena]:
        """The arenas of some payloads that the worker does not know yet."""
        places = {slot.place.number: slot.place for payload in lodged for slot in payload.slots}
        new = [Arena(number, place.fd) for number, place in places.items() if number not in account.knows]
        account.knows.update(places)
        return new

    def ripened(self) -> list[tuple[Account, Arena]]:
        """The writers that should be told what is free, and what to tell them."""
        told = []
        while self.ripe:
            place = self.ripe.popleft()
            if place.owner is not None and _RIPE * len(place.freed) >= max(1, place.held):
                told.append((place.owner, Arena(place.number, freed=place.take_freed())))
        return told

    def left(self, account: Account) -> None:
        """A worker is dead, and fenced: what it held is free, and its arena goes with the last slot of it."""
        self._accounts.remove(account)
        account.loans.clear()
        account.kept.clear()
        place = account.place
        if place is not None:
            place.owner = place.ripe = None
            place.take_freed()
            if place.held:
                writer.punch(place.fd, [(slot.offset, slot.length) for slot in list(place.slots.values())])
            self._orphans.append(place)
            self._bury()

    def _bury(self) -> None:
        """Close the arenas that nobody writes to and nobody holds anything of."""
        reader.sweep()
        for place in list(self._orphans):
            place.take_freed()
            if not place.held:
                self._orphans.remove(place)
                self._close(place)

    def farewells(self, account: Account) -> list[Arena]:
        """The arenas that a worker knows and that are gone."""
        gone = [number for number in account.knows if number not in self._places]
        account.knows.difference_update(gone)
        self.parting = False
        return [Arena(number) for number in gone]

    def _close(self, place: _Place) -> None:
        self.parting = True
        del self._places[place.number]
        reader.forgotten(place.number)
        os.close(place.fd)

    # -- thread workers ------------------------------------------------------------------------

    def adopted(self, message: Any) -> Any:
        """A thread worker's message; from its own thread."""
        if type(message) in {Answer, Made} and any(output.slots for output in message.outputs):
            return replace(message, outputs=self._held(None, message.outputs))
        return message

    def close(self) -> None:
        """The run is over."""
        for account in list(self._accounts):
            self.left(account)
        for place in list(self._places.values()):
            self._close(place)
        self._orphans.clear()
        if self._store is not None:
            self._store.close()


def _sound(fd: int) -> bool:
    """Whether it is a file of the right size that cannot shrink: a reader would die of that."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return bool(seals & fcntl.F_SEAL_SHRINK) and os.fstat(fd).st_size >= writer.SPAN
    except OSError:
        return False
