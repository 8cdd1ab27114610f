"""The lock of a file of tasks, for `overlap` in `[run]`: of runs that a timer begins, one at a time goes on.

It is in the state folder, under a digest of the file's path. `flock` ends with its process, however that ends; a run
that was killed holds nobody up.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from time import sleep
from typing import TYPE_CHECKING

from runner.errors import RunRefused
from runner.posix_only import fcntl
from runner.store import run_folders
from runner.store.run_lock import read_holder, write_holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FOLDER = "files"
#: Between two looks whether the other run has ended.
_PAUSE = 0.1


@contextlib.contextmanager
def hold_file(state: Path, file: str, *, waits: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file; while another run has it, wait, which is told once, or raise RunRefused."""
    name = hashlib.sha256(os.fsencode(file)).hexdigest()[:32]
    state.parent.mkdir(parents=True, exist_ok=True)
    with run_folders.open_state_folder(state, _FOLDER, make=True) as folder:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        _take(fd, waits=waits, tell=tell)
        write_holder(fd)
        yield
    finally:
        os.close(fd)


def _take(fd: int, *, waits: bool, tell: Callable[[str], None]) -> None:
    is_told = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = read_holder(fd) or "another process"
            if not waits:
                raise RunRefused(f'a run of this file is going on ({who}), and `overlap = "refuse"`') from None
            if not is_told:
                tell(f"a run of this file is going on ({who}); this one waits for its end")
            is_told = True
            sleep(_PAUSE)
        else:
            return
