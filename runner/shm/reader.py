"""The reader's side of large payloads: other processes' arenas, mapped once each, and the views that are alive.

A mapping is private and writable. What a function writes into an array is a copy of that page, seen by this process
only (copy-on-write): the file keeps what was sent, so an item that is given again is what it was. When the last
view of a buffer dies, the pages that were written are dropped, and the supervisor is told that this process does
not need the buffer any more. A function that keeps an array keeps its buffer: the writer does not use it meanwhile.

A buffer that is emitted as it came needs no copy, its reference is sent on.
bench arrays-1m: without it 1.46, with it 1.
With a few pages changed, it goes with those pages beside it (`PageChanges`), and the next reader writes them into its
own mapping. bench arrays-1m: without it 1.15, with it 1.

There is one table for the whole process. A worker process has one worker; thread workers share the table, so a
buffer of which a view is alive here is read into fresh memory for the second reader.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import pickle
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.posix_only import resource
from runner.shm import linux_only
from runner.shm.writer import ARENA_BYTES, PAGE_SIZE, BlockRef

if TYPE_CHECKING:
    from collections.abc import Callable

BlockKey = tuple[int, int]
#: What travels beside a reference: for some runs of pages, where each begins and the bytes of it.
PageChanges = tuple[tuple[int, bytes], ...]

#: A changed buffer is copied whole when it is smaller than the first, when more than one page in the second has
#: changed, or more than the third: what has changed travels in the pickle, and costs the next reader a page fault each.
_MIN_PATCHED_BYTES, _MIN_UNCHANGED_RATIO, _MAX_CHANGED_PAGES = 512 * 1024, 32, 16
#: A function that rewrites a buffer rewrites most, and a page fault for each page takes far longer than a copy: so many
#: buffers after one of which more than half was written are copied. bench arrays-rewritten: without it 2.2, with it 1.
_COPIES_AFTER_REWRITE = 31


class LiveView(weakref.ref[memoryview]):
    """A view that is alive. `kept_alive` must live as long (in the supervisor's own process)."""

    __slots__ = ("address", "kept_alive", "key", "length", "seen_faults", "written_runs")
    key: BlockKey
    address: int
    length: int
    kept_alive: Any
    #: Runs (start, length) of pages that were written when the process had had so many page faults.
    written_runs: list[tuple[int, int]]
    seen_faults: int


class MappedArena:
    """One arena, as this process reads it; mapped when the first buffer is asked for."""

    def __init__(self, number: int, fd: int, blocks: Any) -> None:
        self.number, self.fd, self.blocks = number, fd, blocks
        self.memory: mmap.mmap | None = None
        self.view: memoryview | None = None
        self.base_address = 0
        self._map_attempted = False

    def map_memory(self) -> memoryview | None:
        """Return the whole arena's memory; None when this process may not map so much."""
        if self.view is None and not self._map_attempted:
            self._map_attempted = True
            with contextlib.suppress(OSError, ValueError):
                self.memory = linux_only.map_private(self.fd, ARENA_BYTES)
                self.base_address = _buffer_address(self.memory) or 0
                self.view = memoryview(self.memory)
        return self.view

    def close(self) -> None:
        """Close the arena; memory that a view still shows goes with the last view."""
        os.close(self.fd)
        if self.view is not None:
            with contextlib.suppress(BufferError):
                self.view.release()
                assert self.memory is not None
                self.memory.close()


_arenas: dict[int, MappedArena] = {}
_live_views: dict[BlockKey, LiveView] = {}
_views_by_address: dict[int, LiveView] = {}
#: Views that have died and were not yet cleaned up after. Appended to by the collector of garbage, anywhere.
_dead_views: deque[Any] = deque()
_lock = threading.RLock()
#: What the supervisor has not been told yet, and what it believes.
_unreported_views: set[BlockKey] = set()
_released_blocks: list[BlockKey] = []
_reported_views: set[BlockKey] = set()
_pagemap: int | None = None
_last_faults = -1
_copies_left = 0


def open_arena(number: int, fd: int, blocks: Any = None) -> None:
    """Add an arena whose descriptor has arrived, and own that from now on. `blocks[offset]` lives with a view."""
    _arenas[number] = MappedArena(number, fd, blocks)


def forget_arena(number: int) -> None:
    """Close an arena that no block reference will name any more."""
    sweep_dead_views()
    arena = _arenas.pop(number, None)
    if arena is not None:
        arena.close()
    if not _arenas:
        _close_pagemap()


def borrow(number: int, offset: int, length: int, changes: PageChanges = ()) -> Any:
    """Return a buffer for `pickle.loads`: the memory itself, or a copy if a view of it is alive here, or for speed.

    A view that is derived from a PickleBuffer keeps the buffer's own memoryview alive; one derived from a
    memoryview would not. That is what makes the watch see the last of them die.
    """
    arena = _mapped_arena(number)
    with _lock:
        sweep_dead_views()
        memory = arena.map_memory()
        key = (number, offset)
        if memory is None or key in _live_views:
            return _read_copy(arena, offset, length, changes)
        view = memory[offset : offset + length]
        if _copies_left:
            return _copy_view(view, changes)
        live_view = LiveView(view, _dead_views.append)
        live_view.key, live_view.length, live_view.address = key, length, arena.base_address + offset
        live_view.kept_alive = None if arena.blocks is None else arena.blocks.get(offset)
        _live_views[key] = _views_by_address[live_view.address] = live_view
        if arena.blocks is None and key not in _reported_views:
            _unreported_views.add(key)
    for start, content in changes:
        view[start : start + len(content)] = content
    live_view.written_runs = [(start, len(content)) for start, content in changes]
    # An older count costs no call; at worst the pages are asked about although nothing was written.
    live_view.seen_faults = _page_faults() if changes else _last_faults
    return pickle.PickleBuffer(view)


def _copy_view(view: memoryview, changes: PageChanges) -> bytearray:
    global _copies_left  # noqa: PLW0603  the process's own habit
    _copies_left -= 1
    return with_changes(bytearray(view), changes)


def with_changes(copy: bytearray, changes: PageChanges) -> bytearray:
    """Return a copy of a buffer with the pages that a function has changed."""
    for start, content in changes:
        copy[start : start + len(content)] = content
    return copy


def peek(number: int, offset: int, length: int) -> memoryview:
    """Return the bytes of a buffer for a caller that reads them at once and keeps no view."""
    arena = _mapped_arena(number)
    with _lock:
        sweep_dead_views()
        memory = arena.map_memory()
        if memory is None or (number, offset) in _live_views:
            return memoryview(_read_copy(arena, offset, length, ()))
    return memory[offset : offset + length].toreadonly()


def copy_block(number: int, offset: int, length: int, changes: PageChanges = ()) -> bytearray:
    """Return a copy of a buffer's bytes, whoever looks at the buffer."""
    return _read_copy(_mapped_arena(number), offset, length, changes)


def _mapped_arena(number: int) -> MappedArena:
    arena = _arenas.get(number)
    if arena is None:
        text = "the memory in which this item lies could not be opened here: too many open files (see `ulimit -n`)"
        raise OSError(text)
    return arena


def _read_copy(arena: MappedArena, offset: int, length: int, changes: PageChanges) -> bytearray:
    copy = bytearray(length)
    done = 0
    with memoryview(copy) as rest:
        while done < length:
            got = linux_only.read_into(arena.fd, rest[done:], offset + done)
            if not got:
                raise OSError("the memory in which this item lies ends too early")
            done += got
    return with_changes(copy, changes)


def sweep_dead_views() -> None:
    """Clean up after views that have died: drop the pages that were written, note that the buffer is not needed."""
    global _copies_left  # noqa: PLW0603  the process's own habit
    while _dead_views:
        with _lock:
            try:
                live_view = _dead_views.popleft()
            except IndexError:  # another thread was faster
                return
            key = live_view.key
            del _live_views[key], _views_by_address[live_view.address]
            arena = _arenas.get(key[0])
            if arena is not None and arena.memory is not None:
                runs = _written_runs(live_view)
                for start, length in runs:
                    linux_only.drop_written(arena.memory, key[1] + start, length)
                if 2 * sum([length for _, length in runs]) > live_view.length:
                    _copies_left = _COPIES_AFTER_REWRITE
            _unreported_views.discard(key)
            if key in _reported_views:
                _released_blocks.append(key)
            live_view.kept_alive = None


def take_view_changes() -> tuple[tuple[BlockKey, ...], tuple[BlockKey, ...]]:
    """Return the blocks that this process views and has not reported, and those that it no longer views."""
    if _dead_views:
        sweep_dead_views()
    if not (_unreported_views or _released_blocks):
        return (), ()
    still_viewed, released = tuple(_unreported_views), tuple(key for key in _released_blocks if key not in _live_views)
    _unreported_views.clear()
    _released_blocks.clear()
    _reported_views.difference_update(released)
    _reported_views.update(still_viewed)
    return still_viewed, released


def _page_faults() -> int:
    """Return the number of page faults that this process has had; -1 where they are not counted."""
    global _last_faults  # noqa: PLW0603  the process's own count, as it was last seen
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _last_faults = usage.ru_minflt + usage.ru_majflt if _faults_are_counted() else -1
    return _last_faults


@functools.cache
def _faults_are_counted() -> bool:
    """Return True if the first write into a page counts as a page fault here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        memory[0] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt > before


def _written_runs(live_view: LiveView) -> list[tuple[int, int]]:
    """Return runs (start, length) of the view's pages that this process has written; all, if that is unknown.

    The first write into a page is a page fault: without one since the last look, nothing has changed.
    bench a reader of arrays of 1 MiB: without it 1.6, with it 1.
    """
    faults = _page_faults()
    if faults != live_view.seen_faults or faults < 0:
        live_view.written_runs, live_view.seen_faults = _read_written_runs(live_view), faults
    return live_view.written_runs


def _read_written_runs(live_view: LiveView) -> list[tuple[int, int]]:
    global _pagemap  # noqa: PLW0603  one descriptor for each process, opened when it is needed
    pages = -(-live_view.length // PAGE_SIZE)
    try:
        if _pagemap is None:
            _pagemap = linux_only.open_pagemap()
        marks = linux_only.read_written_marks(_pagemap, live_view.address // PAGE_SIZE, pages)
    except OSError:
        return [(0, pages * PAGE_SIZE)]
    runs: list[tuple[int, int]] = []
    at = marks.find(1)
    while at >= 0:
        end = marks.find(0, at)
        end = pages if end < 0 else end
        runs.append((at * PAGE_SIZE, (end - at) * PAGE_SIZE))
        at = marks.find(1, end)
    return runs


def _close_pagemap() -> None:
    global _pagemap  # noqa: PLW0603  as above
    with _lock:
        if _pagemap is not None:
            os.close(_pagemap)
            _pagemap = None


def find_block_ref(raw: memoryview) -> BlockRef | None:
    """Return the reference of a buffer that is emitted as it came, or nearly so; None when it must be copied."""
    if not _views_by_address:
        return None
    live_view = _views_by_address.get(_buffer_address(raw) or -1)
    if live_view is None or live_view.length != len(raw) or live_view() is None:
        return None
    runs = _written_runs(live_view)
    block_ref = (*live_view.key, live_view.length)
    if not runs:
        return BlockRef(block_ref)
    pages = sum(length for _, length in runs) // PAGE_SIZE
    if live_view.length < _MIN_PATCHED_BYTES or pages > min(
        _MAX_CHANGED_PAGES, live_view.length // PAGE_SIZE // _MIN_UNCHANGED_RATIO
    ):
        return None
    return BlockRef((*block_ref, tuple((start, bytes(raw[start : start + length])) for start, length in runs)))


def _buffer_address(buffer: Any) -> int | None:
    """Return a buffer's address, of read-only ones too; None if it cannot be learned here."""
    try:
        return _address_getter()(buffer)
    except (BufferError, ImportError, AttributeError):
        return None


@functools.cache
def _address_getter() -> Callable[[Any], int]:
    """Return a function that asks through C's own protocol, the only way for all kinds of buffers."""
    import ctypes  # the fork server has it already

    class Buffer(ctypes.Structure):
        """`Py_buffer`, of which only the first field is read."""

        _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 128))

    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    release.argtypes = [ctypes.POINTER(Buffer)]
    release.restype = None

    def address(buffer: Any) -> int:
        c_buffer = Buffer()
        get(buffer, ctypes.byref(c_buffer), 0)  # raises a BufferError itself
        release(ctypes.byref(c_buffer))
        return c_buffer.buf or 0

    return address
