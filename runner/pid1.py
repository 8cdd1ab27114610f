"""Process 1 of a container, which is given all orphans and must reap them.

    process 1: reaps, and passes signals on ──fork──▶ runner, in a process group (and the foreground) of its own

Runner cannot reap orphans itself: it could not tell them from what a thread task has started with `subprocess`, whose
exit code would be gone. So it goes on as a child, and its parent is the small init that `docker run --init` would add.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn

_PASSED_ON = [
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH),
]


def fork_behind_init() -> None:
    """Return in a child; this process ends with it, and with its exit code."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_PASSED_ON, signal.SIGCHLD, signal.SIGTTOU])
    child = os.fork()
    if child:
        _reap_until_exit(child)
    with contextlib.suppress(OSError):  # a signal of the terminal's reaches runner once, not twice
        os.setpgid(0, 0)
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reap_until_exit(child: int) -> NoReturn:
    while True:
        number = signal.sigwait([*_PASSED_ON, signal.SIGCHLD])
        if number != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    os._exit(code if code >= 0 else 128 - code)
