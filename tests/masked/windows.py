"""`python windows.py VERB ...`: a command of runner without the modules and names that Windows does not have.

The standard library and the libraries of others are imported before, as they have their own way there; what they would
do there is not shown, only that runner's own modules can be imported, and what they say.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from typing import Any

#: What runner imports of others.
OTHERS = (
    *("asyncio", "concurrent.futures", "multiprocessing.resource_tracker", "multiprocessing.util", "subprocess"),
    *("tempfile", "shutil", "sqlite3", "ssl", "selectors", "socket", "http.server", "faulthandler", "ctypes", "mmap"),
    *("psutil", "typer", "rich.console", "pydantic", "jinja2", "msgspec", "pluggy", "tomli", "difflib", "getpass"),
    *("typer.rich_utils", "typer.completion", "rich.progress", "importlib.metadata", "inspect", "unittest"),
)
MODULES = ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "syslog", "crypt", "readline")
NAMES = {
    "os": (
        *("fork", "forkpty", "register_at_fork", "setpgid", "setsid", "getsid", "getpgrp", "getpgid", "killpg", "wait"),
        *(
            "posix_spawn",
            "posix_spawnp",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "WNOHANG",
            "O_CLOEXEC",
            "O_NOFOLLOW",
        ),
        *("O_DIRECTORY", "O_NONBLOCK", "getpriority", "PRIO_PROCESS", "sched_getaffinity", "sched_yield", "pread"),
        *("memfd_create", "pidfd_open", "eventfd", "posix_fallocate", "preadv", "pwrite", "pwritev", "fdatasync"),
        *("getloadavg", "sysconf", "uname", "environb", "mkfifo", "statvfs", "fchmod", "chown", "tcsetpgrp", "pipe2"),
    ),
    "signal": (
        *("SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT", "SIGSTOP", "SIGKILL", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGALRM"),
        *("SIGWINCH", "SIGPIPE", "SIGTTOU", "SIGTTIN", "SIGXFSZ", "pthread_sigmask", "sigwait", "setitimer"),
    ),
    "socket": ("AF_UNIX", "SCM_RIGHTS", "send_fds", "recv_fds", "CMSG_SPACE"),
    "select": ("poll", "epoll", "EPOLLET", "POLLIN", "POLLOUT"),
    "mmap": ("MAP_SHARED", "MAP_PRIVATE", "MAP_NORESERVE", "MADV_REMOVE", "MADV_DONTNEED"),
    "time": ("tzset",),
}


def mask() -> None:
    """Take away, in this process, what Windows does not have."""
    for name in OTHERS:
        importlib.import_module(name)
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(MODULES))
    for module, names in NAMES.items():
        for name in names:
            if hasattr(modules[module], name):
                delattr(modules[module], name)


if __name__ == "__main__":
    mask()
    sys.argv[0] = "runner"
    runpy.run_module("runner", run_name="__main__", alter_sys=True)
