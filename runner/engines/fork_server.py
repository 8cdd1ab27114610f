"""multiprocessing's fork server, as a run needs it: reachable whatever becomes of TMPDIR, and never waited for in vain.

    runner ── socket, by a short name ──▶ fork server ── fork ──▶ worker
                                              └── number of the process, later its exit code, by a pipe

What is private in the standard library and has to be touched for that is touched here.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import tempfile
import time
from multiprocessing import context, forkserver, popen_forkserver, process, reduction, resource_tracker, spawn, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import forked_copies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

#: Seconds that the server may take to fork; it has imported everything before. The second once a signal has come.
START_TIMEOUT, START_TIMEOUT_AFTER_SIGNAL = 10.0, 1.0
#: Between two looks whether a signal has come.
_SIGNAL_CHECK_SECONDS = 0.1
#: Seconds in which a server that is told to end must do so.
_END_SECONDS = 1.0
_FD_FOLDER = "/proc/self/fd"
_O_PATH = getattr(os, "O_PATH", 0)
#: Private, as are its parts, which no stub knows.
_server: Any = forkserver._forkserver


class ForkServerTimeout(ConnectionError):
    """The fork server has not answered in time; it has been killed, and the next start makes a new one."""


def is_server_running() -> bool:
    """Return True if a fork server runs; another program's is taken as it is."""
    pid = getattr(_server, "_forkserver_pid", None)
    if pid is None:
        return False
    try:
        return not _has_ended(pid)
    except ChildProcessError:
        return False


def _has_ended(pid: int) -> bool:
    """Return True if a child has ended; it still can be waited for. ChildProcessError: it is not a child of ours."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def forget_inherited_server() -> None:
    """Forget a fork server that is another process's: after a fork, this one could neither wait for it nor end it."""
    pid = getattr(_server, "_forkserver_pid", None)
    if pid is None:
        return
    try:
        _has_ended(pid)
    except ChildProcessError:
        os.close(_server._forkserver_alive_fd)
        _close_address(_server._forkserver_address)
        _server._forkserver_alive_fd = _server._forkserver_address = _server._forkserver_pid = None


@contextlib.contextmanager
def use_unlinked_socket() -> Iterator[None]:
    """Have a server that is started meanwhile listen on a socket that no name leads to: one has 107 bytes at most.

    The file of the socket is held open and removed: however long TMPDIR is, and even if it is swept, the socket is
    reached as a descriptor of this process. (A socket without a file, in the abstract name space, would let every
    user of the machine execute code in the server: CVE-2022-42919.) Without /proc it is done as multiprocessing does.
    """
    if not _O_PATH or not Path(_FD_FOLDER).is_dir():
        yield
        return
    config = process.current_process()._config  # type: ignore[attr-defined]  # private, where it keeps its folder
    before, server = config.get("tempdir"), _server
    folder = _make_folder()
    fd = os.open(folder, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    old = server._forkserver_address
    try:
        config["tempdir"] = f"{_FD_FOLDER}/{fd}"
        yield
        address = server._forkserver_address
        if address != old:
            _close_address(old)
            server._forkserver_address = f"{_FD_FOLDER}/{os.open(address, _O_PATH | os.O_CLOEXEC)}"
            Path(address).unlink()
    finally:
        config["tempdir"] = before
        os.close(fd)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def _make_folder() -> str:
    """Make a folder of this user's only; OSError when there is no place for one."""
    for parent in (None, "/tmp", "/var/tmp", "/dev/shm", "."):  # noqa: S108  made by `mkdtemp`
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="runner-", dir=parent)
    raise FileNotFoundError("no folder for temporary files can be written to")


def _close_address(address: Any) -> None:
    """Close the descriptor by which a server was reached."""
    if isinstance(address, str) and address.startswith(f"{_FD_FOLDER}/") and address.count("/") == 4:
        with contextlib.suppress(OSError, ValueError):
            os.close(int(address.rpartition("/")[2]))


class _Popen(popen_forkserver.Popen):
    """Asks the server for a process, and waits for nothing."""

    def _launch(self, process_obj: Any) -> None:
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), buffer)
            reduction.dump(process_obj, buffer)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, self.data = _server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]  # private
        # As in the standard library: the child sees by its other end whether this process lives.
        self.finalizer = util.Finalize(self, forked_copies.close_descriptors, (os.dup(self.data), self.sentinel))
        self.left = memoryview(buffer.getvalue())
        self.pid = 0


class ForkedProcess(context.ForkServerProcess):
    """A process that is started by the fork server; call `await_started` after `start`."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  the name that multiprocessing looks for
        return _Popen(process_obj)


def await_started(started: BaseProcess, hurried: Callable[[], bool]) -> None:
    """Hand over what the process needs, and learn its pid; raise ForkServerTimeout, or EOFError if the server died."""
    popen = started._popen  # type: ignore[attr-defined]  # private
    began = time.monotonic()
    try:
        os.set_blocking(popen.data, False)
        while True:
            if not popen.left:
                if _wait_ready(popen.sentinel, select.POLLIN, _SIGNAL_CHECK_SECONDS):
                    break
            elif _wait_ready(popen.data, select.POLLOUT, _SIGNAL_CHECK_SECONDS):
                popen.left = popen.left[os.write(popen.data, popen.left) :]
                if not popen.left:
                    os.close(popen.data)
                    popen.data = -1
            waited = time.monotonic() - began
            if waited > START_TIMEOUT or (waited > START_TIMEOUT_AFTER_SIGNAL and hurried()):
                raise ForkServerTimeout(f"the fork server has not answered for {waited:.0f} s")
        popen.pid = forkserver.read_signed(popen.sentinel)
    except (OSError, EOFError):
        kill_server()
        raise
    finally:
        if popen.data >= 0:
            os.close(popen.data)
        if not popen.pid:
            started.join(_END_SECONDS)
            with contextlib.suppress(ValueError):
                started.close()


def _wait_ready(fd: int, events: int, seconds: float) -> bool:
    """Return True if a descriptor (of any number: `select.select` ends at 1,023) becomes ready in time."""
    look = select.poll()
    look.register(fd, events)
    return bool(look.poll(seconds * 1000))


def kill_server() -> None:
    """End the fork server at once, also a stopped one. The exit codes that it alone knew are lost."""
    pid = getattr(_server, "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            _wait_ended(pid, _END_SECONDS)


def helper_processes() -> list[Any]:
    """Return the fork server and the resource tracker that run now."""
    found = (
        (getattr(forkserver, "_forkserver", None), "_forkserver_pid"),
        (getattr(resource_tracker, "_resource_tracker", None), "_pid"),
    )
    return [server for server, pid in found if server is not None and getattr(server, pid, None) is not None]


def end_helper(server: Any) -> None:
    """End one of them: its pipe is closed, it is waited for, and killed when that takes too long."""
    alive, number = ("_fd", "_pid") if hasattr(server, "_fd") else ("_forkserver_alive_fd", "_forkserver_pid")
    pid = getattr(server, number, None)
    if pid is None:
        return
    with server._lock:
        os.close(getattr(server, alive))
        setattr(server, alive, None)
        setattr(server, number, None)
        if server is _server:
            _close_address(server._forkserver_address)
            server._forkserver_address = None
        with contextlib.suppress(ChildProcessError):
            if not _wait_ended(pid, _END_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def hide_helper_pipes() -> list[int]:
    """Keep the pipes to the fork server and the tracker from what a worker starts; return their descriptors."""
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    fds_or_none = (getattr(tracker, "_fd", None), getattr(_server, "_forkserver_alive_fd", None))
    fds = [fd for fd in fds_or_none if fd is not None]
    for fd in fds:
        os.set_inheritable(fd, False)
    forked_copies.register_fork_hook(release_helpers)
    return fds


def release_helpers(foreign_servers: Sequence[Any] = ()) -> None:
    """Let go of the fork server in a copy of this process; a run that needs one there starts a new one."""
    if _server not in foreign_servers and getattr(_server, "_forkserver_alive_fd", None) is not None:
        forked_copies.close_descriptors(_server._forkserver_alive_fd)
        _close_address(_server._forkserver_address)
        _server._forkserver_alive_fd = _server._forkserver_pid = _server._forkserver_address = None


def _wait_ended(pid: int, seconds: float) -> bool:
    """Return True if a child ends within `seconds`."""
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError, AttributeError):  # no such call here
        fd = os.pidfd_open(pid)
        try:
            return _wait_ready(fd, select.POLLIN, seconds)
        finally:
            os.close(fd)
    while not _has_ended(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
