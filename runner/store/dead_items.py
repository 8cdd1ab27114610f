"""Bytes of a run's dead items, one behind the other in a file beside its letters, which say where each one is.

They may hold whatever an item holds, so the file is its owner's alone, as the folder is. Nothing here unpickles them.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import TYPE_CHECKING, Any

from runner.errors import UnsafeFolder
from runner.store import run_folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ITEMS_FILE = "dead.items"


class DeadItemFile:
    """The items of one run, `most` bytes of them; made with the first one."""

    def __init__(self, state: Path, run: str, most: int) -> None:
        self.room = most
        self._state, self._run = state, run
        self._fd: int | None = None
        self._size = 0

    def append(self, data: bytes) -> dict[str, int]:
        """Write one item; return where it is, for its letter. OSError, or UnsafeFolder: it is not kept."""
        if self._fd is None:
            with run_folders.open_run_folder(self._state, self._run, make=True) as at:
                self._fd = run_folders.create_file(at, ITEMS_FILE)
        place = {"at": self._size, "size": len(data), "crc": zlib.crc32(data)}
        self._size = run_folders.append_whole(self._fd, data, self._size)
        self.room -= len(data)
        return place

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.close(fd)


def read_items(folder: Path, places: list[Mapping[str, Any]]) -> list[bytes | str]:
    """Return the bytes of each item, or why there are none; `folder` is the run's."""
    try:
        with run_folders.open_run_file(folder / ITEMS_FILE) as file:
            return [_read_item(file.fileno(), place) for place in places]
    except (OSError, UnsafeFolder) as error:
        why = f"{folder / ITEMS_FILE} cannot be read: {getattr(error, 'strerror', None) or error}"
        return [why] * len(places)


def _read_item(fd: int, place: Mapping[str, Any]) -> bytes | str:
    try:
        data = os.pread(fd, int(place["size"]), int(place["at"]))
        if data and len(data) == place["size"] and zlib.crc32(data) == place["crc"]:
            return data
    except (KeyError, TypeError, ValueError, OverflowError, OSError, MemoryError):
        pass
    return "its bytes in the run's folder are damaged"
