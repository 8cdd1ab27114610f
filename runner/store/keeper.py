"""The keeper: a thread that writes the groups of the journal, all that wait in one transaction.

    keep(group) ──▶ waiting ──▶ payloads to segments, rows to SQLite, one commit ──▶ post(number of the last group)

A disk that is full, or a file that must not grow, is trouble that may pass: the groups are kept and tried again each
second, and `post(0)` makes the supervisor look. Any other error of the disk is the end: after a failed write or sync
nothing that was not committed before may be believed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections import deque
from typing import TYPE_CHECKING

from runner.store.run_folders import LEDGER_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.ledger.journal import JournalGroup
    from runner.store.ledger_file import LedgerFile

#: One transaction takes so many bytes of payloads, and at least one group.
_MAX_BYTES = 4 << 20
#: After so many seconds it is tried again.
_PAUSE = 1.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: What is written to see why SQLite could not; and its primary code for that.
_PROBE_BYTES = 64 * 1024
_IO_ERROR = sqlite3.SQLITE_IOERR


class LedgerKeeper:
    """Writes groups to a ledger file. `trouble` says why it cannot at the moment; `is_broken`: nor ever again.

    `post` is called in its thread, with the number of the last group that is on disk. `fault` is an error of runner's
    own.
    """

    def __init__(self, ledger_file: LedgerFile, folder: Path, post: Callable[[int], None]) -> None:
        self.trouble = ""
        self.is_broken = False
        self.fault: BaseException | None = None
        self._file, self._folder, self._post = ledger_file, folder, post
        self._waiting: deque[JournalGroup] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write_all, name="runner-keeper", daemon=True)
        self._thread.start()

    def keep(self, group: JournalGroup) -> None:
        """Write a group; never blocks."""
        with self._changed:
            self._waiting.append(group)
            self._changed.notify()

    def _write_all(self) -> None:
        try:
            while groups := self._next_groups():
                if not self._write_groups(groups):
                    return
        except BaseException as error:  # noqa: BLE001  it is told, and ends the run
            self.fault, self.trouble, self.is_broken = error, f"{type(error).__name__}: {error}", True
            self._post(0)

    def _next_groups(self) -> list[JournalGroup]:
        """Return what waits, up to some bytes; wait for it. Nothing: it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            groups: list[JournalGroup] = []
            size = 0
            while self._waiting and (not groups or size < _MAX_BYTES):
                groups.append(self._waiting.popleft())
                size += sum(chunk.size for chunk in groups[-1].chunks)
            return groups

    def _write_groups(self, groups: list[JournalGroup]) -> bool:
        """Write groups, as often as it takes; return False when that will never succeed."""
        while True:
            try:
                self._file.write_groups(groups)
            except (OSError, sqlite3.Error) as error:
                is_full = self._is_full(error)
                self.trouble = f"the ledger cannot be written: {getattr(error, 'strerror', None) or error}"
                self.is_broken = not is_full
                self._post(0)
                if not is_full:
                    return False
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closing, _PAUSE):
                        return False
            else:
                self.trouble = ""
                self._post(groups[-1].number)
                return True

    def _is_full(self, error: OSError | sqlite3.Error) -> bool:
        """Return True if the disk has no room, or a file must not grow: that may pass."""
        if isinstance(error, OSError):
            return error.errno in _FULL
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == _IO_ERROR:  # SQLite does not tell the reason: what does a file say that is as long?
            return self._probe() in _FULL
        return bool(code & 0xFF == sqlite3.SQLITE_FULL)

    def _probe(self) -> int:
        """Return the number of the error that a write at the end of a file as long as the ledger's has, or 0."""
        sizes = [0]
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                sizes.append((self._folder / f"{LEDGER_FILE}{suffix}").stat().st_size)
        probe = self._folder / "probe"
        try:
            fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.pwrite(fd, bytes(_PROBE_BYTES), max(sizes)) < _PROBE_BYTES:
                    return errno.EFBIG
                os.fsync(fd)
            finally:
                os.close(fd)
                os.unlink(probe)  # noqa: PTH108  as everywhere in the store
        except OSError as error:
            return error.errno or 0
        return 0

    def close(self) -> None:
        """Write what waits, unless the disk refuses it, and end the thread; the file stays open."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
