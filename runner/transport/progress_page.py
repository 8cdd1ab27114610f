"""The progress page: 16 bytes per worker in shared memory, which show the lease and the item it executes.

A worker writes its own slot before each item (about 40 ns); the supervisor reads it when the worker dies or
exceeds a time limit, and so blames one item, not a chunk. Nothing waits here, and a slot is meaningful
without any lock: lease 0 means idle, and a lease that is no longer open is ignored. In a durable run the page is the
beginning of a file (`lease_page`), and threads write into it as well.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from msgspec import Struct

from runner import linux_only

#: Workers of one run, on all of its machines: half a MiB, of which only what is written takes memory.
MAX_PROGRESS_SLOTS = 1 << 15
_WORDS_PER_SLOT = 2
SLOT_BYTES = _WORDS_PER_SLOT * 8
PAGE_BYTES = MAX_PROGRESS_SLOTS * SLOT_BYTES
_INDEX_BITS = 40


class Position(Struct, frozen=True):
    """The position that a progress slot shows: lease (0: none), index of the item, how many are suspect."""

    lease: int
    index: int
    width: int = 1


def pack_burst(index: int, width: int) -> int:
    """Return a progress slot's second word for a burst: items that are executed together, each in next to no time.

    >>> unpack_position(7, pack_burst(5, 200)), unpack_position(7, 5)
    (Position(lease=7, index=5, width=200), Position(lease=7, index=5, width=1))
    """
    return width << _INDEX_BITS | index


def unpack_position(lease: int, word: int) -> Position:
    """Return the position that a progress slot's words show."""
    return Position(lease, word & (1 << _INDEX_BITS) - 1, (word >> _INDEX_BITS) or 1)


class ProgressPage:
    """All progress slots of a run. The supervisor makes it; a process worker opens it by its descriptor.

    A progress slot is released before `close`.

    >>> page = ProgressPage()
    >>> words = page.progress_slot(3)
    >>> words[0], words[1] = 17, 4
    >>> page.position(3)
    Position(lease=17, index=4, width=1)
    >>> words.release(); page.close()
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = linux_only.memory_file("runner-cells") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, PAGE_BYTES)
        self._map = mmap.mmap(self.fd, PAGE_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def progress_slot(self, slot: int) -> memoryview:
        """Return one worker's two words, lease and index, to be written by that worker only."""
        return self._words[slot * _WORDS_PER_SLOT : (slot + 1) * _WORDS_PER_SLOT]

    def position(self, slot: int) -> Position:
        """Return the position that the worker in this slot shows."""
        return unpack_position(self._words[slot * _WORDS_PER_SLOT], self._words[slot * _WORDS_PER_SLOT + 1])

    def clear(self, slot: int) -> None:
        """Clear the slot for a new worker."""
        self._words[slot * _WORDS_PER_SLOT] = 0

    def close(self) -> None:
        """Give the memory back; workers that still have it mapped keep theirs until they end."""
        self._words.release()
        with contextlib.suppress(BufferError):  # a thread that is left behind still shows what it executes
            self._map.close()
        os.close(self.fd)
