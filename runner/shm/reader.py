"""The reader's side of large payloads: other processes' arenas, mapped once each, and the views that are alive.

A mapping is private and writable. What a function writes into an array is a copy of that page, seen by this process
only (copy-on-write): the file keeps what was sent, so an item that is given again is what it was. When the last
view of a buffer dies, the pages that were written are dropped, and the supervisor is told that this process does
not need the buffer any more. A function that keeps an array keeps its buffer: nobody writes there meanwhile.

A buffer that is emitted as it came needs no copy: its handle is sent on. With a few pages changed, the handle goes
with those pages beside it (`Changes`), and the next reader writes them into its own mapping.

There is one table for the whole process. A worker process has one worker; thread workers share the table, so a
buffer that somebody here holds already is read into fresh memory for whoever comes second.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import threading
import weakref
from collections import deque
from typing import Any

from runner.shm.writer import ARENA_BYTES, MAP_NORESERVE, PAGE_SIZE, BlockRef

BlockKey = tuple[int, int]
#: What travels beside a handle: for some runs of pages, where each begins and the bytes of it.
PageChanges = tuple[tuple[int, bytes], ...]

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14: many pages in one call
#: A changed buffer is copied whole when it is smaller than this, or more than one in so many of its pages has changed,
#: or more than so many pages: what has changed travels in the pickle, and costs the next reader a page fault each.
_LEAST_CHANGED, _SHARE, _MOST_CHANGED = 512 * 1024, 32, 16
#: The high byte of a page's entry in /proc/self/pagemap: present (0x80) or swapped (0x40) and not the file's (0x20).
_WRITTEN = bytes(bool(byte & 0xC0 and not byte & 0x20) for byte in range(256))


class LiveView(weakref.ref[memoryview]):
    """A view that is alive. `keeps` is what must live as long (in the supervisor's own process)."""

    __slots__ = ("address", "kept_alive", "key", "length")
    key: BlockKey
    address: int
    length: int
    kept_alive: Any


class MappedArena:
    """One arena, as this process reads it; mapped when the first buffer is asked for."""

    def __init__(self, number: int, fd: int, slots: Any) -> None:
        self.number, self.fd, self.blocks = number, fd, slots
        self.memory: mmap.mmap | None = None
        self.view: memoryview | None = None
        self.base_address = 0
        self.mapped_until = 0
        self._tried = False

    def map_memory(self) -> memoryview | None:
        """The whole arena; None when this process may not map so much."""
        if self.view is None and not self._tried:
            self._tried = True
            with contextlib.suppress(OSError, ValueError):
                self.memory = mmap.mmap(self.fd, ARENA_BYTES, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
                self.base_address = _address(self.memory) or 0
                self.view = memoryview(self.memory)
        return self.view

    def populate_until(self, end: int) -> None:
        """Have the pages up to `end` mapped at once, before they are read one by one."""
        if end > self.mapped_until and self.memory is not None:
            with contextlib.suppress(OSError):
                self.memory.madvise(_POPULATE_READ, self.mapped_until, end - self.mapped_until)
            self.mapped_until = end

    def close(self) -> None:
        """The arena is gone; memory that somebody still looks at goes with its last view."""
        os.close(self.fd)
        if self.view is not None:
            with contextlib.suppress(BufferError):
                self.view.release()
                assert self.memory is not None
                self.memory.close()


_mappings: dict[int, MappedArena] = {}
_live: dict[BlockKey, LiveView] = {}
_by_address: dict[int, LiveView] = {}
#: Views that have died and were not yet cleaned up after. Appended to by the collector of garbage, anywhere.
_dead: deque[Any] = deque()
_lock = threading.RLock()
#: What the supervisor has not been told yet, and what it believes.
_fresh: set[BlockKey] = set()
_released: list[BlockKey] = []
_told: set[BlockKey] = set()
_pagemap: int | None = None


# -- arenas --------------------------------------------------------------------------------------


def open_arena(number: int, fd: int, slots: Any = None) -> None:
    """An arena's descriptor has arrived; it belongs to this table from now on. `slots[offset]` lives with a view."""
    _mappings[number] = MappedArena(number, fd, slots)


def forget_arena(number: int) -> None:
    """No handle will name this arena any more."""
    sweep_dead_views()
    mapping = _mappings.pop(number, None)
    if mapping is not None:
        mapping.close()
    if not _mappings:
        _close_pagemap()


# -- views ---------------------------------------------------------------------------------------


def borrow(number: int, offset: int, length: int, changes: PageChanges = ()) -> Any:
    """A buffer for `pickle.loads`: the memory itself, or a copy when somebody here holds it already.

    A view that is derived from a PickleBuffer keeps the buffer's own memoryview alive; one derived from a
    memoryview would not. That is what makes the watch see the last of them die.
    """
    mapping = _found(number)
    with _lock:
        sweep_dead_views()
        whole = mapping.map_memory()
        key = (number, offset)
        if whole is None or key in _live:
            return _copied(mapping, offset, length, changes)
        mapping.populate_until(offset + length)
        view = whole[offset : offset + length]
        watch = LiveView(view, _dead.append)
        watch.key, watch.length, watch.address = key, length, mapping.base_address + offset
        watch.kept_alive = None if mapping.blocks is None else mapping.blocks.get(offset)
        _live[key] = _by_address[watch.address] = watch
        if mapping.blocks is None and key not in _told:
            _fresh.add(key)
    for start, content in changes:
        view[start : start + len(content)] = content
    return pickle.PickleBuffer(view)


def peek(number: int, offset: int, length: int) -> memoryview:
    """The bytes of a buffer, for whoever only reads them and is done at once."""
    mapping = _found(number)
    with _lock:
        sweep_dead_views()
        whole = mapping.map_memory()
        if whole is None or (number, offset) in _live:
            return memoryview(_copied(mapping, offset, length, ()))
        mapping.populate_until(offset + length)
    return whole[offset : offset + length].toreadonly()


def _found(number: int) -> MappedArena:
    mapping = _mappings.get(number)
    if mapping is None:
        raise OSError(
            "the memory in which this item lies could not be opened here: too many open files (see `ulimit -n`)"
        )
    return mapping


def _copied(mapping: MappedArena, offset: int, length: int, changes: PageChanges) -> bytearray:
    copy = bytearray(length)
    done = 0
    with memoryview(copy) as rest:
        while done < length:
            got = os.preadv(mapping.fd, [rest[done:]], offset + done)
            if not got:
                raise OSError("the memory in which this item lies ends too early")
            done += got
    for start, content in changes:
        copy[start : start + len(content)] = content
    return copy


def sweep_dead_views() -> None:
    """Clean up after views that have died: drop the pages that were written, note that the buffer is not needed."""
    while _dead:
        with _lock:
            try:
                watch = _dead.popleft()
            except IndexError:  # another thread was faster
                return
            key = watch.key
            del _live[key], _by_address[watch.address]
            mapping = _mappings.get(key[0])
            if mapping is not None and mapping.memory is not None:
                for start, length in _written(watch):
                    mapping.memory.madvise(mmap.MADV_DONTNEED, key[1] + start, length)
            _fresh.discard(key)
            if key in _told:
                _released.append(key)
            watch.kept_alive = None


def take_view_changes() -> tuple[tuple[BlockKey, ...], tuple[BlockKey, ...]]:
    """What this process holds and the supervisor does not know, and what it holds no longer."""
    if _dead:
        sweep_dead_views()
    if not (_fresh or _released):
        return (), ()
    kept, gone = tuple(_fresh), tuple(key for key in _released if key not in _live)
    _fresh.clear()
    _released.clear()
    _told.difference_update(gone)
    _told.update(kept)
    return kept, gone


# -- what was written ------------------------------------------------------------------------------


def _written(watch: LiveView) -> list[tuple[int, int]]:
    """Runs of the view's pages that this process has written, as start and length; all, when nobody can tell."""
    global _pagemap  # noqa: PLW0603  one descriptor for each process, opened when it is needed
    pages = -(-watch.length // PAGE_SIZE)
    try:
        if _pagemap is None:
            _pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        entries = os.pread(_pagemap, 8 * pages, watch.address // PAGE_SIZE * 8)
    except OSError:
        return [(0, pages * PAGE_SIZE)]
    if len(entries) < 8 * pages:
        return [(0, pages * PAGE_SIZE)]
    marks = entries[7::8].translate(_WRITTEN)
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
    """The handle of a buffer that is emitted as it came, or nearly so; None when it must be copied."""
    if not _by_address:
        return None
    watch = _by_address.get(_address(raw) or -1)
    if watch is None or watch.length != len(raw) or watch() is None:
        return None
    runs = _written(watch)
    handle = (*watch.key, watch.length)
    if not runs:
        return BlockRef(handle)
    pages = sum(length for _, length in runs) // PAGE_SIZE
    if watch.length < _LEAST_CHANGED or pages > min(_MOST_CHANGED, watch.length // PAGE_SIZE // _SHARE):
        return None
    return BlockRef((*handle, tuple((start, bytes(raw[start : start + length])) for start, length in runs)))


class _Unknown(Exception):
    """The address of a buffer cannot be learned here."""


def _address(buffer: Any) -> int | None:
    """Where a buffer lies, read-only ones too: through C's own protocol, because there is no other way."""
    global _get  # noqa: PLW0603  made once, and only where a large buffer has been met
    try:
        if _get is None:
            _get = _getter()
        return int(_get(buffer))
    except (_Unknown, BufferError, ImportError, AttributeError):
        return None


_get: Any = None


def _getter() -> Any:
    import ctypes  # the fork server has it already

    class Buffer(ctypes.Structure):
        """`Py_buffer`, of which only the first field is read."""

        _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 128))

    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    release.argtypes = [ctypes.POINTER(Buffer)]
    release.restype = None

    def address(buffer: Any) -> int:
        place = Buffer()
        pointer = ctypes.byref(place)
        if get(buffer, pointer, 0):
            raise _Unknown
        found = place.buf
        release(pointer)
        return found or 0

    return address
