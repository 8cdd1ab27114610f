"""The machine's limits, looked at before the first worker starts."""

from __future__ import annotations

from runner.errors import ResourceError
from runner.transport.progress_page import MAX_PROGRESS_SLOTS

#: Of a process worker: socket, lifeline, pidfd, sentinel, stack file, two pipes of output, and its arena: one to lend,
#: two (one of them `mmap`'s own) where thread workers read it.
_FDS_PER_PROCESS = 10
#: The rest: terminal, plugins' files, the reactor, the printer, the fork server, and what one start needs for a moment.
_FDS_BASE = 64


def raise_open_files_limit(processes: int, workers: int) -> None:
    """Raise the soft limit of open files when that many process workers need it; ResourceError when it cannot be.

    `workers` counts those of all kinds.
    """
    if workers > MAX_PROGRESS_SLOTS:
        raise ResourceError(
            f"{workers:,} workers are more than one run can have ({MAX_PROGRESS_SLOTS:,}); lower `workers`"
        )
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = _FDS_BASE + _FDS_PER_PROCESS * processes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        subject = f"{processes:,} process workers need" if processes else "this run needs"
        raise ResourceError(
            f"{subject} about {needed:,} open files, and this shell allows {hard:,}"
            " (`ulimit -Hn`); lower `workers`, or raise the limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
