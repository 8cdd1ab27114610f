"""Large payloads of a durable run: files of 64 MiB beside its ledger, allocated whole and written over when free.

SQLite costs 2.5 ms of processor time for each MiB of a row, a segment 0.25 ms; a new file costs more than one whose
blocks are there. What is written is synced before the transaction that names it, and a place is free only after the
transaction that forgets it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from runner import linux_only
from runner.shm.writer import PAGE_SIZE, PageAllocator

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Payloads of so many bytes do not go into SQLite.
LARGE_BYTES = 64 * 1024
SEGMENT_BYTES = 64 << 20


class SegmentPlace(Struct, frozen=True):
    """The place of one payload: the number of a segment, and where in it."""

    segment: int
    position: int
    length: int


class SegmentFolder:
    """All segments of one run. `places` are those that its ledger names; segments without any are removed.

    >>> import tempfile, pathlib
    >>> folder = SegmentFolder(pathlib.Path(tempfile.mkdtemp()) / "big")
    >>> place = folder.write(b"x" * LARGE_BYTES); folder.sync()
    >>> folder.read(place) == b"x" * LARGE_BYTES
    True
    >>> folder.free(place); folder.write(b"y" * 10) == SegmentPlace(1, 0, 10)
    True
    >>> folder.close()
    """

    def __init__(self, path: Path, places: Iterable[SegmentPlace] = ()) -> None:
        self._path = path
        self._fds: dict[int, int] = {}
        self._pages: dict[int, PageAllocator] = {}
        self._unsynced: set[int] = set()
        self._has_new_files = False
        by_segment: dict[int, list[SegmentPlace]] = {}
        for place in places:
            by_segment.setdefault(place.segment, []).append(place)
        names = {int(name): name for name in (os.listdir(path) if path.is_dir() else ()) if name.isdecimal()}  # noqa: PTH208  names alone are wanted
        for number, name in names.items():
            if number not in by_segment:
                os.unlink(path / name)  # noqa: PTH108  as everywhere in the store
        try:
            for number, held in by_segment.items():
                fd = self._fds[number] = os.open(path / names[number], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._pages[number] = _allocator_with(os.fstat(fd).st_size, held)
        except BaseException:  # one is missing
            self.close()
            raise

    def write(self, data: bytes) -> SegmentPlace:
        """Write a payload, and return its place; it is safe after `sync`. OSError: the disk refuses."""
        number, position = self._allocate(len(data))
        place, view = SegmentPlace(number, position, len(data)), memoryview(data)
        self._unsynced.add(number)
        try:
            while view:
                done = os.pwrite(self._fds[number], view, position)
                position += done
                view = view[done:]
        except OSError:
            self.free(place)
            raise
        return place

    def _allocate(self, length: int) -> tuple[int, int]:
        for number, pages in self._pages.items():
            if (position := pages.allocate_range(length)) is not None:
                return number, position
        number = max(self._fds, default=0) + 1
        self._add_segment(number, max(SEGMENT_BYTES, -(-length // SEGMENT_BYTES) * SEGMENT_BYTES))
        position = self._pages[number].allocate_range(length)
        assert position is not None
        return number, position

    def _add_segment(self, number: int, size: int) -> None:
        self._path.mkdir(mode=0o700, exist_ok=True)
        file = self._path / f"{number:06d}"
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            linux_only.allocate_file(fd, size)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(file)  # noqa: PTH108  as everywhere in the store
            raise
        self._fds[number], self._pages[number] = fd, PageAllocator(size)
        self._has_new_files = True

    def sync(self) -> None:
        """Make what was written safe. OSError: nothing of it may be believed."""
        for number in self._unsynced:
            linux_only.sync_data(self._fds[number])
        self._unsynced.clear()
        if self._has_new_files:
            sync_folder(self._path)
            sync_folder(self._path.parent)
            self._has_new_files = False

    def read(self, place: SegmentPlace) -> bytes:
        """Return a payload; shorter than it was, or empty, where its segment is cut or gone."""
        fd = self._fds.get(place.segment)
        return b"" if fd is None else os.pread(fd, place.length, place.position)

    def free(self, place: SegmentPlace) -> None:
        """Let a place be written over."""
        self._pages[place.segment].free_range(place.position)

    def close(self) -> None:
        """Close all files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _allocator_with(size: int, places: Iterable[SegmentPlace]) -> PageAllocator:
    """Return the pages of a segment of which some are in use."""
    pages, end = PageAllocator(size), 0
    pages.free_ranges.clear()
    for place in sorted(places, key=lambda each: each.position):
        length = -(-max(1, place.length) // PAGE_SIZE) * PAGE_SIZE
        if place.position > end:
            pages.free_ranges.append((end, place.position))
        pages.allocated_ranges[place.position] = length
        pages.allocated_bytes += length
        end = place.position + length
    if end < size:
        pages.free_ranges.append((end, size))
    return pages


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
