"""A Linux without what macOS does not have; in force in each interpreter that has this folder on its PYTHONPATH.

Python imports `sitecustomize` when it starts, so workers, fork servers, agents and commands are masked as well as the
tests themselves (`masked_platform.environment`). What is masked is gone as it is elsewhere: the names do not exist, and
there is no /proc. Three things stay as they are:

- `sys.platform`: the standard library and psutil choose their own implementation by it, and runner does so nowhere
  where a name can be asked for.
- /proc for psutil, which asks the system for the same in another way on macOS, and for the files of the tests.
- `os.fork`, `socket.socketpair` and all else that POSIX has.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

#: By module: names of Linux alone, those of which runner has a use on Linux, and SCM_RIGHTS, which macOS has and others
#: do not.
NAMES: dict[str, tuple[str, ...]] = {
    # First, as `selectors` takes what is there when `socket` imports it.
    "select": ("epoll", "EPOLLET", "EPOLLIN", "EPOLLOUT"),
    "os": (
        *("memfd_create", "MFD_CLOEXEC", "MFD_ALLOW_SEALING", "pidfd_open", "eventfd", "eventfd_write", "eventfd_read"),
        *("posix_fallocate", "posix_fadvise", "fdatasync", "sched_getaffinity", "sched_setaffinity"),
        *("sched_getscheduler", "pipe2", "splice", "copy_file_range", "waitid", "WNOWAIT", "P_PIDFD", "O_TMPFILE"),
        *("getxattr", "setxattr", "getrandom", "accept4", "SCHED_BATCH", "O_PATH", "O_DIRECT", "unshare", "setns"),
    ),
    "signal": ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGPOLL", "SIGPWR", "SIGRTMIN", "SIGRTMAX"),
    "socket": (
        *("SCM_RIGHTS", "SCM_CREDENTIALS", "send_fds", "recv_fds", "CMSG_SPACE", "CMSG_LEN", "MSG_CMSG_CLOEXEC"),
        *("TCP_INFO", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK"),
    ),
    "fcntl": (
        *("F_SETSIG", "F_GETSIG", "F_ADD_SEALS", "F_GET_SEALS", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"),
        *("F_SEAL_WRITE", "F_GETPIPE_SZ", "F_SETPIPE_SZ", "F_OFD_SETLK", "F_OFD_SETLKW", "F_OFD_GETLK"),
    ),
    "mmap": ("MADV_REMOVE", "MADV_DONTFORK", "MADV_HUGEPAGE", "MAP_POPULATE", "MAP_NORESERVE"),
}
FOLDERS = ("/proc", "/sys/fs/cgroup", "/dev/shm")
#: Who reads there all the same: see above.
_TESTS = str(Path(__file__).resolve().parent.parent)
#: The standard library's ways to a file: who calls them is who reads.
_WAYS = {"pathlib", "os", "posixpath", "genericpath", "io", "codecs", "glob", "fnmatch", "_io", "contextlib", __name__}
_EVENTS = {"open", "os.listdir", "os.scandir"}


def is_masked_path(path: object) -> bool:
    """Return True for /proc and what is in it."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    text = path if isinstance(path, str) else str(path) if isinstance(path, os.PathLike) else ""
    return any(text == folder or text.startswith(f"{folder}/") for folder in FOLDERS)


def may_read_proc() -> bool:
    """Return True if psutil, or a file of the tests, is who reads."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in _WAYS:
            file = frame.f_code.co_filename
            return name.partition(".")[0] == "psutil" or file.startswith(_TESTS)
        frame = frame.f_back
    return False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS and is_masked_path(arguments[0]) and not may_read_proc():
        raise FileNotFoundError(2, "No such file or directory (masked)", str(arguments[0]))


def _guard(name: str) -> None:
    """Have a function of `os` that no audit event tells of find nothing there."""
    function = getattr(os, name)

    def guarded(path: Any, *args: Any, **options: Any) -> Any:
        if is_masked_path(path) and not may_read_proc():
            if name == "access":
                return False
            raise FileNotFoundError(2, "No such file or directory (masked)", str(path))
        return function(path, *args, **options)

    guarded.__name__ = name
    setattr(os, name, guarded)
    for supported in (os.supports_follow_symlinks, os.supports_dir_fd, os.supports_fd, os.supports_effective_ids):
        if function in supported:
            supported.add(guarded)


def mask() -> None:
    """Take away what macOS does not have, in this process."""
    for module, names in NAMES.items():
        masked = importlib.import_module(module)
        for name in names:
            if hasattr(masked, name):
                delattr(masked, name)
    for name in ("stat", "lstat", "readlink", "access"):
        _guard(name)
    sys.addaudithook(_refuse)


if __name__ == "sitecustomize":
    mask()
