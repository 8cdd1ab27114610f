"""The progress page: 16 bytes per worker in shared memory, which show the lease and the item it executes.

A worker writes its own cell before each item (about 40 ns); the supervisor reads it when the worker dies or
exceeds a time limit, and so blames one item, not a chunk. Nothing waits for anybody here, and a cell is meaningful
without any lock: lease 0 means idle, and a lease that is no longer open is ignored.
"""

from __future__ import annotations

import mmap
import os
import tempfile

from msgspec import Struct

MAX_PROGRESS_SLOTS = 4096
_WORDS = 2
_INDEX_BITS = 40


class Position(Struct, frozen=True):
    """Position of a worker: its lease (0: none), the index of the item in it, and the number of suspects from there."""

    lease: int
    index: int
    width: int = 1


def pack_burst(index: int, width: int) -> int:
    """A cell's second word for several items that are executed together, because each takes next to no time.

    >>> unpack_position(7, pack_burst(5, 200)), unpack_position(7, 5)
    (Position(lease=7, index=5, width=200), Position(lease=7, index=5, width=1))
    """
    return width << _INDEX_BITS | index


def unpack_position(lease: int, word: int) -> Position:
    """The position that a cell's words show."""
    return Position(lease, word & (1 << _INDEX_BITS) - 1, (word >> _INDEX_BITS) or 1)


class ProgressPage:
    """All cells of a run. The supervisor makes it; a process worker opens it by its descriptor.

    Whoever has a cell releases it before `close`.

    >>> page = ProgressPage()
    >>> cell = page.progress_slot(3)
    >>> cell[0], cell[1] = 17, 4
    >>> page.position(3)
    Position(lease=17, index=4, width=1)
    >>> cell.release(); page.close()
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _page_file() if fd is None else fd
        self._map = mmap.mmap(self.fd, MAX_PROGRESS_SLOTS * _WORDS * 8)
        self._words = memoryview(self._map).cast("Q")

    def progress_slot(self, slot: int) -> memoryview:
        """One worker's two words, lease and index, to be written by that worker only."""
        return self._words[slot * _WORDS : (slot + 1) * _WORDS]

    def position(self, slot: int) -> Position:
        """Return the position of the worker in this slot."""
        return unpack_position(self._words[slot * _WORDS], self._words[slot * _WORDS + 1])

    def clear(self, slot: int) -> None:
        """The slot gets a new worker."""
        self._words[slot * _WORDS] = 0

    def close(self) -> None:
        """Give the memory back; workers that still have it mapped keep theirs until they end."""
        self._words.release()
        self._map.close()
        os.close(self.fd)


def memory_file(name: str) -> int:
    """A file without a name in any folder; it is gone with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # not Linux: an unlinked file serves as well
        return os.dup(file.fileno())


def _page_file() -> int:
    fd = memory_file("runner-cells")
    os.ftruncate(fd, MAX_PROGRESS_SLOTS * _WORDS * 8)
    return fd
