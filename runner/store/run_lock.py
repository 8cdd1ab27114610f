"""The lock of a durable run: one process at a time goes on with it, and on a disk of its own machine.

`flock` ends with its process however that ends, so no lock is left behind; what is written in the file only names who
has it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from runner.errors import LedgerRefused

_LOCK_FILE = "lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mountinfo")
#: File systems whose locks, or whose shared memory, do not hold between machines: SQLite's WAL needs both.
_CLUSTER = {"afs", "beegfs", "ceph", "glusterfs", "gpfs", "lustre", "ocfs2"}
_NETWORK = {*_CLUSTER, "9p", "cifs", "nfs", "nfs4", "rclone", "smb3", "smbfs", "sshfs"}


class RunLock:
    """The lock on a run's folder, until `close`. LedgerRefused: another process has it."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(folder / _LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"run {folder.name} is going on: {_describe_holder(os.pread(self.fd, 4096, 0))}"
            os.close(self.fd)
            raise LedgerRefused(text) from None
        except BaseException:
            os.close(self.fd)
            raise
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id()}
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(holder).encode(), 0)

    def close(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _describe_holder(data: bytes) -> str:
    try:
        holder = json.loads(data)
        return f"process {int(holder['pid'])} on {holder['host']} has it"
    except (ValueError, KeyError, TypeError):
        return "another process has it"


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def refuse_network_disk(folder: Path) -> None:
    """Raise LedgerRefused when the folder is on a network file system."""
    kind = _file_system_of(folder)
    if kind.removeprefix("fuse.") in _NETWORK:
        text = f"{folder} is on a network file system ({kind}), where a ledger would not be safe"
        raise LedgerRefused(f"{text}; name a folder on a local disk with `state` in [run]")


def _file_system_of(folder: Path) -> str:
    """Return the kind of the file system that holds a folder; empty where that is not known."""
    try:
        device = folder.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with _MOUNTS.open(encoding="utf-8", errors="replace") as lines:
            for words in map(str.split, lines):
                if words[2] == wanted:
                    return words[words.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""
