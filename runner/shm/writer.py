"""The writer's side of large payloads: one worker's arena, and its free pages.

The lowest free pages are used first, because used pages are mapped already: a page fault costs more
than copying the page does. The arena is made at the first large buffer.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.shm import linux_only
from runner.shm.linux_only import arenas_supported

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE = mmap.PAGESIZE
#: Bytes from which a buffer, and a pickle, goes into the arena.
MIN_SHARED_BYTES = 64 * 1024
#: Bytes of one arena that may be in use, and the file's size: room for what has no gap to fit into.
MAX_BYTES_IN_USE = 256 << 20
#: A source lets its readers give memory back before it takes more than this, which bounds memory. It waits so many
#: seconds at most, and takes twice as much from then on. bench arrays-1m: without it 1.03, with it 1.
READER_WAIT_BYTES = 64 << 20
READER_WAIT_SECONDS = 0.05
ARENA_BYTES = 2 * MAX_BYTES_IN_USE


class PageAllocator:
    """The free pages of an arena: the lowest gap that is large enough is used, neighbours grow together.

    >>> pages = PageAllocator(4 * PAGE_SIZE)
    >>> first, second = pages.allocate_range(100), pages.allocate_range(2 * PAGE_SIZE)
    >>> first, second // PAGE_SIZE, pages.allocate_range(2 * PAGE_SIZE)
    (0, 1, None)
    >>> pages.free_range(0); pages.free_range(second); pages.free_ranges == [(0, 4 * PAGE_SIZE)]
    True
    """

    def __init__(self, span: int, max_bytes: int | None = None) -> None:
        self.max_bytes = span if max_bytes is None else max_bytes
        #: Free ranges, start and end, in order; what is in use, by its start; and how many bytes that is.
        self.free_ranges: list[tuple[int, int]] = [(0, span)]
        self.allocated_ranges: dict[int, int] = {}
        self.allocated_bytes = 0

    def allocate_range(self, length: int) -> int | None:
        """Return the offset of `length` free bytes, now allocated; None without room."""
        length = -(-max(1, length) // PAGE_SIZE) * PAGE_SIZE
        if self.allocated_bytes + length > self.max_bytes:
            return None
        for at, (start, end) in enumerate(self.free_ranges):
            if end - start >= length:
                if end - start == length:
                    del self.free_ranges[at]
                else:
                    self.free_ranges[at] = (start + length, end)
                self.allocated_ranges[start] = length
                self.allocated_bytes += length
                return start
        return None

    def free_range(self, start: int) -> None:
        """Free the range that begins at `start`."""
        length = self.allocated_ranges.pop(start)
        self.allocated_bytes -= length
        end = start + length
        at = bisect_left(self.free_ranges, (start, end))
        if at < len(self.free_ranges) and self.free_ranges[at][0] == end:
            end = self.free_ranges.pop(at)[1]
        if at and self.free_ranges[at - 1][1] == start:
            at -= 1
            start = self.free_ranges.pop(at)[0]
        self.free_ranges.insert(at, (start, end))


class BlockRef(tuple[Any, ...]):  # noqa: SLOT001  Python allows a tuple none
    """A buffer in an arena, on its way: (arena, offset, length), and perhaps `reader.PageChanges`.

    Until it has been sent it is this process's to give back: an item that is rolled back, or whose neighbour part
    cannot be pickled, leaves nothing behind.
    """

    arena_writer: ArenaWriter | None = None

    def mark_sent(self) -> tuple[Any, ...]:
        """Return what travels. From now on the supervisor counts the holders."""
        self.arena_writer = None
        return tuple(self)

    def __del__(self) -> None:
        if self.arena_writer is not None:
            self.arena_writer.freed_offsets.append(self[1])


class ArenaWriter:
    """One writer's arena. `announce_arena(number, descriptor)` tells of it, before the first reference names it.

    `wait_threshold` is what it may take before it gives its readers time.
    """

    def __init__(
        self, number: int, announce_arena: Callable[[int, int], None], wait_threshold: int = READER_WAIT_BYTES
    ) -> None:
        self.arena_number = number
        self.fd = -1
        self._announce_arena = announce_arena
        #: Offsets that are free again. Only appended to, by any thread: `__del__` may run anywhere.
        self.freed_offsets: deque[int] = deque()
        self._lock = threading.Lock()  # thread workers share one store
        self._pages = PageAllocator(ARENA_BYTES, MAX_BYTES_IN_USE)
        self._view: memoryview | None = None
        #: Up to where there are pages.
        self._populated_until = 0
        self._disabled = not arenas_supported()
        self._wait_threshold = wait_threshold

    def should_wait_for_readers(self) -> bool:
        """Return True if so much is in use that readers should be given time first."""
        return self._pages.allocated_bytes > self._wait_threshold and self.bytes_in_use > self._wait_threshold

    def double_wait_threshold(self) -> None:
        """Double the threshold: this run's readers do not give memory back in time."""
        self._wait_threshold *= 2

    @property
    def bytes_in_use(self) -> int:
        """Return the bytes that have a holder."""
        with self._lock:
            self._free_released()
            return self._pages.allocated_bytes

    def copy_in(self, buffers: list[Any], length: int) -> BlockRef | None:
        """Copy buffers into the arena, one behind the other; None when they must travel in the pickle."""
        if self._disabled:
            return None
        with self._lock:
            self._free_released()
            at = self._pages.allocate_range(length)
            if at is None or not self._populate_until(at + length):
                if at is not None:
                    self._pages.free_range(at)
                return None
        view, end = self._view, at
        assert view is not None
        for buffer in buffers:
            start, end = end, end + len(buffer)
            view[start:end] = buffer
        block_ref = BlockRef((self.arena_number, at, length))
        block_ref.arena_writer = self
        return block_ref

    def _free_released(self) -> None:
        while self.freed_offsets:
            self._pages.free_range(self.freed_offsets.popleft())

    def _populate_until(self, end: int) -> bool:
        """Have memory up to `end`, before it is written to: a write must not fail. False: there is none."""
        if end <= self._populated_until:
            return True
        try:
            if self._view is None:
                self._open_arena()
            end = -(-end // PAGE_SIZE) * PAGE_SIZE
            linux_only.have_memory(self.fd, self._populated_until, end - self._populated_until)
        except (OSError, ValueError):  # no descriptor or no memory is left, or the machine does not allow it
            self._disabled = self._view is None
            return False
        self._populated_until = end
        return True

    def _open_arena(self) -> None:
        with contextlib.ExitStack() as undo:
            fd = linux_only.create_arena_file(ARENA_BYTES)
            undo.callback(os.close, fd)
            self._map = linux_only.map_shared(fd, ARENA_BYTES)
            self._announce_arena(self.arena_number, fd)
            undo.pop_all()
        self.fd = fd
        self._view = memoryview(self._map)

    def close(self) -> None:
        """Give the memory back; readers keep what they have mapped."""
        self._disabled = True
        if self._view is not None:
            self._view.release()
            self._map.close()
            os.close(self.fd)
            self._view = None


def discard_unheld(fd: int, held: list[tuple[int, int]]) -> None:
    """Give back the memory of an arena whose writer is dead, apart from the ranges (start, length) that are held."""
    with (
        contextlib.suppress(OSError, ValueError),
        linux_only.map_shared(fd, ARENA_BYTES) as memory,
    ):
        at = 0
        for start, length in [*sorted(held), (ARENA_BYTES, 0)]:
            if start > at:
                linux_only.discard_pages(memory, at, start - at)
            at = max(at, start + -(-length // PAGE_SIZE) * PAGE_SIZE)
