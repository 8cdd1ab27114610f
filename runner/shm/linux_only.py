"""Facilities of Linux that arenas are made of. Elsewhere there are none, and large buffers travel in the pickle.

sealed memory files           a file that could shrink would kill its readers
pages given back, one by one  of a writer that is dead; of a reader that has written into its own
the pagemap                   which pages of a view have been written
descriptors beside a message  how readers come to an arena
"""

from __future__ import annotations

import mmap
import os
import socket
import sys

from runner.posix_only import fcntl

#: Where large buffers travel in the pickle, whatever the machine could do.
DISABLE_VARIABLE = "RUNNER_NO_ARENA"
#: `mmap` has the name since Python 3.13. Pages are paid for when they are used, not when they are mapped.
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
#: The high byte of a page's entry in /proc/self/pagemap: present (0x80) or swapped (0x40) and not the file's (0x20).
_IS_WRITTEN = bytes(bool(byte & 0xC0 and not byte & 0x20) for byte in range(256))
_ENTRY_BYTES = 8


def arenas_supported() -> bool:
    """Return True if this machine has what arenas need."""
    return (
        not os.environ.get(DISABLE_VARIABLE)
        and hasattr(os, "memfd_create")
        and hasattr(socket, "SCM_RIGHTS")
        and hasattr(socket, "CMSG_SPACE")
        and hasattr(fcntl, "F_ADD_SEALS")
    )


def create_arena_file(size: int) -> int:
    """Return a new memory file, sparse and sealed."""
    fd = os.memfd_create("runner-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        # A file that could shrink would kill its readers.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_sealed(fd: int, size: int) -> bool:
    """Return True if a file has the right size and cannot shrink: a reader would die of that."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return bool(seals & fcntl.F_SEAL_SHRINK) and os.fstat(fd).st_size >= size
    except OSError:
        return False


def have_memory(fd: int, offset: int, length: int) -> None:
    """Have memory for a part of an arena, before it is written to. OSError: there is none."""
    os.posix_fallocate(fd, offset, length)


def map_shared(fd: int, size: int) -> mmap.mmap:
    """Map an arena as its writer does."""
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | _MAP_NORESERVE)


def map_private(fd: int, size: int) -> mmap.mmap:
    """Map an arena as readers do: a page that is written is this process's own from then on."""
    return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE)


def discard_pages(memory: mmap.mmap, start: int, length: int) -> None:
    """Give back the memory of an arena's pages, for all who have mapped it."""
    memory.madvise(mmap.MADV_REMOVE, start, length)


def drop_written(memory: mmap.mmap, start: int, length: int) -> None:
    """Drop what this process has written into pages: it reads the arena's own again."""
    memory.madvise(mmap.MADV_DONTNEED, start, length)


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Read of an arena into a buffer; return the number of bytes."""
    return os.preadv(fd, [buffer], offset)


def open_pagemap() -> int:
    """Return a descriptor of this process's pagemap. OSError: there is none."""
    return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def read_written_marks(pagemap: int, page: int, pages: int) -> bytes:
    """Return, for some pages, a byte each: 1 for one that this process has written. OSError: that is not known."""
    entries = os.pread(pagemap, _ENTRY_BYTES * pages, page * _ENTRY_BYTES)
    if len(entries) < _ENTRY_BYTES * pages:
        raise OSError("the pagemap ends too early")
    return entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_IS_WRITTEN)
