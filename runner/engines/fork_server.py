"""The process that forks workers: it has imported, once, what every worker needs.

    runner's own modules     always
    the standard library's   those that the plugins' files import at their top
    numpy                    the same; a worker gives its global generator another seed
    anything else            never: a worker imports what is the user's itself

A thread, a lock that is held, a connection or a generator of random numbers that an import has made would be broken or
shared in a fork; and a task's `env` is to be there before it. With an `env` in the run, nothing but runner's own is
imported. What cannot be imported here is left to the worker that needs it, which meets the same error and reports it.

`spawn` has the other end, and says why this is not multiprocessing's own fork server.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import sys
import time
from multiprocessing import get_context, resource_tracker
from multiprocessing import spawn as child_setup
from typing import TYPE_CHECKING, Any, NoReturn

from runner.engines.process_setup import ignore_terminal_signals
from runner.forked_copies import close_descriptors
from runner.gc_tuning import gc_paused
from runner.posix_only import resource

with gc_paused():
    import ctypes  # noqa: F401  so that a worker can make C's output line-buffered without importing it

    import runner.engines.child  # what every worker runs first
    import runner.local_modules  # noqa: F401  what finds local plugins

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Descriptors that come with a request at most.
_MAX_FDS = 16
#: They speak to the person in front of the machine as soon as they are imported.
_PRINTING_MODULES = {"antigravity", "this"}


def serve(control_fd: int) -> NoReturn:
    """Fork a worker for each request, and tell its exit code, until runner is gone or nothing can be forked.

    The first message has what to prepare, and a pipe for multiprocessing's resource tracker, if the program has none:
    the tracker is forked when a first byte arrives there.
    """
    gc.freeze()
    ignore_terminal_signals()
    control = socket.socket(fileno=control_fd)
    tracker_fd = _prepare_as_told(control)
    wakeup_fd, notify_fd = os.pipe()
    os.set_blocking(notify_fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(notify_fd, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (control_fd, wakeup_fd, *([] if tracker_fd < 0 else [tracker_fd])):
        poll.register(fd, select.POLLIN)
    status_fds: dict[int, int] = {}
    tracker_pid: int | None = None
    while True:
        ready = dict(poll.poll())
        if wakeup_fd in ready:
            os.read(wakeup_fd, 1 << 12)
            _report_exit_codes(status_fds)
        ours = (wakeup_fd, notify_fd, *status_fds.values())
        if tracker_fd in ready:
            poll.unregister(tracker_fd)
            if ready[tracker_fd] & select.POLLIN and (tracker_pid := _try_to_fork()) is not None:
                if tracker_pid == 0:
                    _become_child(control, *ours)
                    resource_tracker.main(tracker_fd)
                    os._exit(0)
                os.close(tracker_fd)  # so that those who write learn of its end
                tracker_fd = -1
        if control_fd not in ready:
            continue
        fds = socket.recv_fds(control, 1, _MAX_FDS)[1]
        pid = _try_to_fork() if fds else None
        if pid is None:  # runner is gone, or it learns from the closed descriptors that the fork has failed
            close_descriptors(*fds)
            _end_server(tracker_pid, tracker_fd)
        if pid == 0:
            _become_child(control, tracker_fd, *ours)
            become_worker("forkserver", *fds)
        status_fds[pid] = fds[0]
        _write_status(fds[0], pid)
        close_descriptors(*fds[1:])


def _prepare_as_told(control: socket.socket) -> int:
    """Do what the first message says; return the descriptor for the resource tracker, or -1."""
    preload_fd, tracker_fd, *_ = (*socket.recv_fds(control, 1, _MAX_FDS)[1], -1, -1)
    if preload_fd < 0:  # there is no run after all
        os._exit(0)
    with gc_paused():
        _prepare(**_read_pickle(preload_fd))
    gc.collect()
    gc.freeze()  # the collector writes to each object that it visits: kept off the pages that workers share
    return tracker_fd


def _try_to_fork() -> int | None:
    """Fork; return None if the machine allows no more processes."""
    try:
        return os.fork()
    except OSError:
        return None


def _become_child(control: socket.socket, *fds: int) -> None:
    """Let go, in a child of the server, of what is the server's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    close_descriptors(*fds)


def _report_exit_codes(status_fds: dict[int, int]) -> None:
    while status_fds:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        if pid in status_fds:
            _write_status(status_fds[pid], os.waitstatus_to_exitcode(status))
            os.close(status_fds.pop(pid))


def _write_status(fd: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # runner no longer asks
        os.write(fd, number.to_bytes(4, "little", signed=True))


def _end_server(tracker_pid: int | None, tracker_fd: int) -> NoReturn:
    """End without what plugins have registered with `atexit`: that is for the workers.

    But for `weakref.finalize`: what was made here once, such as a temporary folder, is given back here. And for the
    shared memory that workers have left: its tracker ends once they have, or this process is it at last.
    """
    weakref = sys.modules.get("weakref")
    if weakref is not None:
        with contextlib.suppress(BaseException):  # user code
            weakref.finalize._exitfunc()
    if tracker_pid:
        with contextlib.suppress(ChildProcessError):  # it has ended before
            os.waitpid(tracker_pid, 0)
    elif tracker_fd >= 0:
        resource_tracker.main(tracker_fd)
    os._exit(0)


def become_worker(start_method: str, status_fd: int, request_fd: int, tracker_fd: int, *fds: int) -> NoReturn:
    """Be the process that a request of `spawn.Spawner` describes, and end with its exit code."""
    code = 1
    try:
        for fd in (tracker_fd, *fds):
            os.set_inheritable(fd, False)
        if start_method == "spawn":
            os.set_inheritable(status_fd, False)  # closed by the end of this process, which is all that it says
        else:
            os.close(status_fd)
        resource_tracker._resource_tracker._fd = tracker_fd  # type: ignore[attr-defined]  # one for the whole run
        setup, runner_pid, name, target, args = _read_pickle(request_fd)
        child_setup.prepare(setup)
        # multiprocessing sees a process of its own: its name, its parent, and how its children are started.
        context: Any = get_context(start_method)
        process = context.Process(target=target, args=(*args, *fds), name=name)
        process._parent_pid = runner_pid
        code = process._bootstrap(fds[0] if fds else None)
    except Exception:  # noqa: BLE001  told as any program tells it
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)


def _read_pickle(fd: int) -> Any:
    with open(fd, "rb") as file:
        file.seek(0)
        return pickle.load(file)  # noqa: S301  written by runner, which started this process


def _prepare(
    modules: Sequence[str],
    files: Sequence[str],
    needs_asyncio: bool,
    environ: Mapping[str, str],
    sys_path: list[str],
    open_files: tuple[int, int],
) -> None:
    """Import what is safe, in the surroundings that runner has by now: a plugin may have changed the environment."""
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.path[:] = sys_path
    if resource.getrlimit(resource.RLIMIT_NOFILE) != open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    if needs_asyncio:
        import runner.worker.async_runner  # noqa: F401  async tasks' workers need it, and asyncio
    names = list(modules)
    for file in files:
        with contextlib.suppress(Exception):  # its worker says what is wrong with the file
            names += _fork_safe(file)
    for name in names:
        with contextlib.suppress(Exception):
            __import__(name)


def _fork_safe(file: str) -> Iterator[str]:
    """Yield the modules that a file imports at its top and that a fork does not harm; the file is not executed."""
    import dis
    from importlib.machinery import SourceFileLoader

    code = SourceFileLoader("file", file).get_code("file")
    assert code is not None
    for instruction in dis.get_instructions(code):
        name = str(instruction.argval)
        if instruction.opname == "IMPORT_NAME" and is_fork_safe(name):
            yield name


def is_fork_safe(name: str) -> bool:
    """Return True if a module may be imported before a fork.

    >>> is_fork_safe("concurrent.futures"), is_fork_safe("polars")
    (True, False)
    """
    top = name.partition(".")[0]
    return (top in sys.stdlib_module_names and top not in _PRINTING_MODULES) or name == "numpy"
