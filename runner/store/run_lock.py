"""The lock of a durable run: one process at a time goes on with it, and on a disk of its own machine.

No other process holds it: not the workers, which end with their run (`engines/lifeline`), nor a copy of runner that a
task's function has forked: a daemon of that kind would keep the run from going on for as long as it lives.

`flock` ends with its process however that ends, so no lock is left behind; what is written in the file only names who
has it.
"""

from __future__ import annotations

import os
import socket
from time import monotonic, sleep
from typing import TYPE_CHECKING

import msgspec

from runner.errors import LedgerRefused, UnsafeFolder
from runner.forked_copies import ForkHook, close_descriptors
from runner.linux_only import boot_id, file_system_of, process_start
from runner.posix_only import fcntl
from runner.store import run_folders

if TYPE_CHECKING:
    from pathlib import Path

_LOCK_FILE = "lock"
#: File systems whose locks, or whose shared memory, do not hold between machines: SQLite's WAL needs both.
_CLUSTER = {"afs", "beegfs", "ceph", "glusterfs", "gpfs", "lustre", "ocfs2"}
_NETWORK = {*_CLUSTER, "9p", "cifs", "nfs", "nfs4", "rclone", "smb3", "smbfs", "sshfs"}


#: So long the workers of a killed run may take to die; and so long it is tried in any case: a command that only looks
#: whether the lock is held, holds it for that moment.
_DYING_SECONDS, _LOOK_SECONDS = 5.0, 0.1


class RunLock:
    """The lock on a run's folder, until `close`. LedgerRefused: another process has it."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(folder / _LOCK_FILE, flags, 0o600)
        self._fork_hook = ForkHook(self._abandon_in_fork)
        try:
            self._take(folder)
            write_holder(self.fd)
        except BaseException:
            self.close()
            raise

    def _abandon_in_fork(self) -> None:
        close_descriptors(self.fd)  # it stays locked in this process's parent

    def _take(self, folder: Path) -> None:
        """Take the lock; wait a moment for the workers of a holder that is dead."""
        began = monotonic()
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = read_holder(self.fd)
                patience = _LOOK_SECONDS if holder is None or holder.may_live() else _DYING_SECONDS
                if monotonic() > began + patience:
                    who = holder or "another process"
                    raise LedgerRefused(f"run {folder.name} is going on: {who} has it") from None
                sleep(0.02)
            else:
                return

    def close(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self.fd >= 0:
            self._fork_hook.close()
            fd, self.fd = self.fd, -1
            os.close(fd)


def find_lock_holder(folder: Path) -> LockHolder | None:
    """Return who has a run; None if no process has it, or only workers that outlive their run by a moment."""
    try:
        with run_folders.open_run_file(folder / _LOCK_FILE) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = read_holder(file.fileno()) or LockHolder(0, "", "")
                return holder if holder.may_live() else None
    except (OSError, UnsafeFolder):
        pass
    return None


class LockHolder(msgspec.Struct, frozen=True):
    """Who has the lock, as the file says; without a pid if the file does not say it."""

    pid: int
    host: str
    boot: str
    #: When it was started (`process_start`), which tells it from a later process of the same number; 0: not known.
    started: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "another process"

    @property
    def is_here(self) -> bool:
        """Return True if its process is one of this machine, since it was started last."""
        return self.host == socket.gethostname() and self.boot == boot_id()

    def may_live(self) -> bool:
        """Return False if it is known to be dead."""
        if not self.is_here:
            return True
        import psutil  # only a look at another run needs it

        state = self._process_state()
        is_there = state is not None and state != psutil.STATUS_ZOMBIE  # one that has ended, and is not waited for
        return is_there and self.is_same_process()

    def is_suspended(self) -> bool:
        """Return True if its process was stopped (Ctrl-Z), and has not been continued."""
        import psutil

        return self.is_here and self._process_state() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}

    def _process_state(self) -> str | None:
        """Return psutil's word for the process that has its number; empty: it is not known; None: there is none."""
        import psutil

        try:
            return psutil.Process(self.pid).status()
        except psutil.NoSuchProcess:
            return None
        except psutil.Error:  # of another user
            return ""

    def is_same_process(self) -> bool:
        """Return False if its number is another process's by now."""
        return not self.started or process_start(self.pid) in {0, self.started}


def this_process() -> LockHolder:
    """Return this process as a holder of locks."""
    return LockHolder(os.getpid(), socket.gethostname(), boot_id(), process_start(os.getpid()))


def write_holder(fd: int) -> None:
    """Write into a file whose lock this process has taken that it has it."""
    holder = this_process()
    os.ftruncate(fd, 0)
    os.pwrite(fd, msgspec.json.encode(holder), 0)


def read_holder(fd: int) -> LockHolder | None:
    """Return who has written the file; None if it does not say it."""
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=LockHolder)
    except msgspec.MsgspecError:
        return None


def refuse_network_disk(folder: Path) -> None:
    """Raise LedgerRefused when the folder is on a network file system."""
    kind = file_system_of(folder)
    if kind.removeprefix("fuse.") in _NETWORK:
        text = f"{folder} is on a network file system ({kind}), where a ledger would not be safe"
        raise LedgerRefused(f"{text}; name a folder on a local disk with `state` in [run]")
