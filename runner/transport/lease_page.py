"""The lease page of a durable run: what its workers execute, in a file that survives all processes (not the power).

    cells   progress slots (`progress_page`)   each worker shows the lease and the item that it executes
            head                               names of the subscriptions; the boot of the machine
            entries                            the supervisor notes here which items each open lease holds

A lease is noted before it is granted, so what a progress slot shows can be looked up when nobody is alive any more.
Nothing waits here, and nothing is synced. An entry's lease is written last and cleared first, so one that is cut off
half-way is none.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from runner.linux_only import allocate_file
from runner.transport.progress_page import MAX_PROGRESS_SLOTS, PAGE_BYTES, SLOT_BYTES, unpack_position

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from runner.ledger.leases import Lease

CELLS_FILE = "cells"
_MAGIC = 0x31736C6C65636E72  # "rncells1"
#: Magic, whether what is shown counts, and the length of the head's text.
_HEAD, _HEAD_BYTES = struct.Struct("<3Q"), 1 << 15
#: Number of the subscription, of the chunk, first item and number of items in it; index of the first one in the lease,
#: slot and whether all of the lease is executed at once; the lease.
_ENTRY, _LEASE_OFFSET, _MAX_ENTRIES = struct.Struct("<7Q"), 48, 8192
_ALL_AT_ONCE = 1 << 32
_ENTRIES_AT = PAGE_BYTES + _HEAD_BYTES
_FILE_BYTES = _ENTRIES_AT + _MAX_ENTRIES * _ENTRY.size


class ExecutingRange(Struct, frozen=True):
    """Items of a chunk that are executed for a subscription."""

    line: str
    chunk_number: int
    start: int
    count: int


class LeasePageHead(Struct, frozen=True):
    """The life of the run whose page it is, the boot of the machine, and the names of the subscriptions."""

    life: str
    boot: str
    lines: tuple[str, ...]


class LeasePage:
    """The page of one life of a run, which takes the place of that of the life before. OSError: there is no room."""

    def __init__(self, path: Path, head: LeasePageHead) -> None:
        self._path = path
        self._lines = {name: number for number, name in enumerate(head.lines)}
        #: Places of entries: those that are free, and those of each open lease.
        self._free = [_ENTRIES_AT + number * _ENTRY.size for number in reversed(range(_MAX_ENTRIES))]
        self._places: dict[int, list[int]] = {}
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        text = msgspec.msgpack.encode(head)
        if len(text) > _HEAD_BYTES - _HEAD.size:
            raise OSError("the names of the queues are too many for it")
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            allocate_file(self.fd, _FILE_BYTES)  # with holes, a full disk would be SIGBUS
            self._map = mmap.mmap(self.fd, _FILE_BYTES)
        except BaseException:
            os.close(self.fd)
            path.unlink()
            raise
        self._map[PAGE_BYTES + _HEAD.size : PAGE_BYTES + _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._map, PAGE_BYTES, _MAGIC, 1, len(text))

    def note_lease(self, lease: Lease, slot: int, *, all_at_once: bool) -> None:
        """Note what a lease holds, before it is granted. `all_at_once`: its worker does not show what it executes."""
        flags = slot | (_ALL_AT_ONCE if all_at_once else 0)
        base, places = 0, []
        for line, piece in lease.item_ranges:
            if not self._free:
                break
            place = self._free.pop()
            known = (self._lines[line.name], piece.chunk.number, piece.start, piece.count, base, flags, lease.id)
            _ENTRY.pack_into(self._map, place, *known)
            base += piece.count
            places.append(place)
        self._places[lease.id] = places

    def forget_lease(self, lease_id: int) -> None:
        """Forget a lease that is over."""
        for place in self._places.pop(lease_id, ()):
            self._map[place + _LEASE_OFFSET : place + _ENTRY.size] = bytes(8)
            self._free.append(place)

    def renounce(self) -> None:
        """Let nothing count any more that is shown: the run is being ended."""
        _HEAD.pack_into(self._map, PAGE_BYTES, _MAGIC, 0, 0)

    def close(self) -> None:
        """Remove the page: this life has come to an orderly end; a second time does nothing.

        `fd` belongs to the `ProgressPage` that is made of it.
        """
        if self._map.closed:
            return
        self.renounce()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._map.close()


def read_executing(path: Path, boot: str) -> tuple[str, list[ExecutingRange]]:
    """Return the life whose page it is, and what was executed when its processes died; ("", []) for nothing to believe.

    A page of another boot may be any mixture of old and new, as nothing of it is synced.
    """
    nothing: tuple[str, list[ExecutingRange]] = ("", [])
    try:
        data = path.read_bytes()
        if not boot or len(data) != _FILE_BYTES:
            return nothing
        magic, counts, length = _HEAD.unpack_from(data, PAGE_BYTES)
        if magic != _MAGIC or not counts or length > _HEAD_BYTES - _HEAD.size:
            return nothing
        start = PAGE_BYTES + _HEAD.size
        head = msgspec.msgpack.decode(data[start : start + length], type=LeasePageHead)
    except (OSError, msgspec.MsgspecError):
        return nothing
    return (head.life, list(_executing(data, head.lines))) if head.boot == boot else nothing


def _executing(data: bytes, lines: Sequence[str]) -> Iterator[ExecutingRange]:
    for line, chunk_number, start, count, base, flags, lease in _ENTRY.iter_unpack(data[_ENTRIES_AT:]):
        slot = flags & _ALL_AT_ONCE - 1
        if not lease or line >= len(lines) or slot >= MAX_PROGRESS_SLOTS:
            continue
        first, end = 0, count
        if not flags & _ALL_AT_ONCE:
            position = unpack_position(*struct.unpack_from("<2Q", data, slot * SLOT_BYTES))
            if position.lease != lease:
                continue
            first = max(0, position.index - base)
            end = min(count, position.index + position.width - base)
        if first < end:
            yield ExecutingRange(lines[line], chunk_number, start + first, end - first)
