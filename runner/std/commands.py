"""One command: fed, read and timed at once, and never left behind.

    worker ── pipe, never written ──▶ holder (`cat`), leads a process group
                                      command, its children: in the same group

The kernel kills the group when the worker's end of the pipe closes, so when the worker ends, however it ends
(fcntl(2), F_SETOWN and F_SETSIG, as runner does for its own workers). The holder is there before the command is, so
no moment is left in which a command would be on its own; and a time limit kills the group, not the worker, and
with it what the command has started in sessions of their own.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import TYPE_CHECKING, Literal

from runner import forked_copies, linux_only
from runner.posix_only import WNOHANG

if TYPE_CHECKING:
    import select
    import subprocess
    from collections.abc import Mapping

_MOST_ERR = 64 << 10
_PIECE = 1 << 16
#: A command that was killed is given so many seconds to be gone.
_PATIENCE = 1.0
#: Between two looks whether a command has ended, where nothing tells of it: doubled from the least to the most.
_LEAST_PAUSE, _MOST_PAUSE = 0.0005, 0.02
#: The process that leads a group and waits at its pipe; and the one that kills the group itself, where no kernel does.
_HOLDER, _KILLING_HOLDER = ["/bin/cat"], ["/bin/sh", "-c", "read -r _; kill -s KILL 0"]


class ProcessGroup:
    """A process group that dies with this worker; see the picture at the top."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self._line = -1

    def group_id(self) -> int:
        """Return its number; a group that was killed is made anew."""
        if self._holder is not None and self._holder.poll() is None:
            return self._holder.pid
        self.kill()
        import subprocess

        read_end, self._line = os.pipe()
        try:
            null = subprocess.DEVNULL
            holder = _HOLDER if linux_only.HAS_PIPE_SIGNALS else _KILLING_HOLDER
            self._holder = subprocess.Popen(holder, stdin=read_end, stdout=null, stderr=null, process_group=0)  # noqa: S603  our own
            linux_only.kill_group_when_closed(read_end, self._holder.pid)
        finally:
            os.close(read_end)
        return self._holder.pid

    def abandon_in_fork(self) -> None:
        """Forget the group in a copy of this process, which does not keep it alive."""
        forked_copies.close_descriptors(self._line)
        self._holder, self._line = None, -1

    def kill(self) -> None:
        """SIGKILL to everything in it, and give back what it held."""
        if self._holder is not None:
            if self._holder.poll() is None:  # else another process may have its number
                forked_copies.send_signal(os.killpg, self._holder.pid, signal.SIGKILL)
            self._holder.wait()
            self._holder = None
        if self._line >= 0:
            os.close(self._line)
            self._line = -1


class Command:
    """One command from its start to its end: fed, read and timed at once."""

    def __init__(self, group: ProcessGroup, most: int, limit: float) -> None:
        self._group, self._most = group, most
        self._until = time.monotonic() + limit if limit > 0 else None
        self.out, self.err = bytearray(), bytearray()
        self.kill_reason: Literal["time", "size"] | None = None
        self.exit_code = 0
        #: Bytes of standard error that are kept, the last ones; None: all, which count as output does.
        self.kept_err: int | None = _MOST_ERR

    def run(self, arguments: list[str], data: bytes, cwd: str | None, env: Mapping[bytes, bytes] | None) -> Command:
        """Run it; afterwards `exit_code`, `out`, `err` and `kill_reason` say how it went."""
        command = _start(arguments, cwd, env, self._group.group_id(), is_fed=bool(data))
        try:
            self._serve_pipes(command, data)
        finally:
            # Nothing that it has started may run on after an error.
            if self.kill_reason is not None or not command.has_ended():
                elsewhere = linux_only.descendant_pids(command.pid)  # what has a session of its own
                self._group.kill()
                forked_copies.kill([command.pid, *elsewhere])
            command.close_pipes()
            self.exit_code = command.wait(_PATIENCE)
        return self

    def _serve_pipes(self, command: _Process, data: bytes) -> None:
        """Feed and read the command until it has ended, or is to be killed."""
        view = memoryview(data)
        outputs = {command.out: self.out, command.err: self.err}
        poll, exit_fd = command.create_poll(), command.exit_fd
        # Without a limit there is nothing else to wait for, once the pipes are closed.
        tells_end = exit_fd is not None and self._until is not None
        while outputs or command.stdin >= 0 or tells_end:
            ready = [fd for fd, _ in poll.poll(self._milliseconds_left())]
            if self._is_late():
                return
            if command.stdin in ready and not (view := _feed_input(command, view)):
                poll.unregister(command.stdin)
                command.close_stdin()
            for fd in outputs.keys() & ready:
                if not self._read_output(fd, outputs[fd]):
                    poll.unregister(fd)
                    del outputs[fd]
            if self.kill_reason is not None:
                return
            if exit_fd in ready:
                self._read_rest(command, outputs)
                return
        command.wait(None if self._until is None else max(0.0, self._until - time.monotonic()))
        if not command.has_ended():
            self.kill_reason = "time"

    def _milliseconds_left(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic()) * 1000

    def _is_late(self) -> bool:
        if self._until is not None and time.monotonic() >= self._until:
            self.kill_reason = "time"
            return True
        return False

    def _read_output(self, fd: int, into: bytearray) -> bool:
        """Read once of a pipe that has something, or has ended: False then, and when the command is to be killed."""
        data = os.read(fd, _PIECE)
        if not data:
            return False
        into += data
        if into is self.err and self.kept_err is not None:
            del into[: -self.kept_err]
        elif len(into) > self._most:
            self.kill_reason = "size"
        return self.kill_reason is None

    def _read_rest(self, command: _Process, outputs: dict[int, bytearray]) -> None:
        """Read what a command that has ended left in its pipes; kill the child that still holds them open."""
        import select

        for fd, into in outputs.items():
            while select.select([fd], [], [], 0)[0]:
                if not self._read_output(fd, into):
                    break
            else:
                if self.kill_reason is None:  # it is open, and its command has ended
                    command.wait(None)
                    self._group.kill()


def _feed_input(command: _Process, view: memoryview) -> memoryview:
    """Write what the command's standard input takes now; return the rest."""
    try:
        return view[os.write(command.stdin, view[:_PIECE]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:  # it does not want the rest
        return view[:0]


class _Process:
    """A command that was started: its process number, our ends of its pipes, and its exit code once it has ended."""

    def __init__(self, pid: int, stdin: int, out: int, err: int) -> None:
        self.pid, self.stdin, self.out, self.err = pid, stdin, out, err
        self.exit_fd: int | None = None
        self._exit_code: int | None = None

    def has_ended(self, options: int = WNOHANG) -> bool:
        """Return True once it has ended, and reap it then."""
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # another part of this process has reaped it, or SIGCHLD is ignored
                self._exit_code = 0
            else:
                self._exit_code = os.waitstatus_to_exitcode(status) if pid else None
        return self._exit_code is not None

    def wait(self, seconds: float | None) -> int:
        """Return its exit code; that of a kill if it has not ended by then (it is another user's)."""
        if seconds is None:
            self.has_ended(0)
        until = time.monotonic() + (seconds or 0.0)
        pause = _LEAST_PAUSE
        while not self.has_ended() and time.monotonic() < until:
            time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE)
        return -signal.SIGKILL if self._exit_code is None else self._exit_code

    def create_poll(self) -> select.poll:
        """Return what waits for its pipes, and for its end (`exit_fd`) where something tells of that."""
        import select

        poll = select.poll()
        self.exit_fd = linux_only.exit_fd(self.pid)
        for fd in (self.out, self.err, *([] if self.exit_fd is None else [self.exit_fd])):
            poll.register(fd, select.POLLIN)
        if self.stdin >= 0:
            os.set_blocking(self.stdin, False)
            poll.register(self.stdin, select.POLLOUT)
        return poll

    def close_stdin(self) -> None:
        """Close our end of its standard input: it has all."""
        os.close(self.stdin)
        self.stdin = -1

    def close_pipes(self) -> None:
        """Close our ends, and what tells of its end."""
        for fd in (self.stdin, self.out, self.err, self.exit_fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.stdin = self.out = self.err = -1
        self.exit_fd = None


def _start(
    arguments: list[str], cwd: str | None, env: Mapping[bytes, bytes] | None, group: int, *, is_fed: bool
) -> _Process:
    """Start a command in a process group. OSError: it cannot be started.

    `posix_spawn` takes two thirds of the processor time of `subprocess.Popen`, which is there for what it cannot do:
    another folder, and a PATH of its own (`bench/each.py`).
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for is_input in (True, False, False):
            if is_input and not is_fed:
                ours.append(-1)
                theirs.append(-1)
                continue
            read_end, write_end = os.pipe()
            ours.append(write_end if is_input else read_end)
            theirs.append(read_end if is_input else write_end)
        same_path = env is None or env.get(b"PATH") == os.environb.get(b"PATH")
        if cwd is None and same_path and hasattr(os, "posix_spawnp"):
            pid = _spawn(arguments, os.environb if env is None else env, group, theirs)
        else:
            pid = _fork_and_execute(arguments, cwd, env, group, theirs)
    except BaseException:
        forked_copies.close_descriptors(*(fd for fd in ours if fd >= 0))
        raise
    finally:
        forked_copies.close_descriptors(*(fd for fd in theirs if fd >= 0))
    return _Process(pid, *ours)


#: Signals that Python ignores, and a program expects to be as they are by default.
_RESTORED_SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signal, name)]


def _spawn(arguments: list[str], env: Mapping[bytes, bytes], group: int, pipes: list[int]) -> int:
    stdin, out, err = pipes
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [
        null if stdin < 0 else (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited_descriptors()),
    ]
    return os.posix_spawnp(
        arguments[0], arguments, env, file_actions=actions, setpgroup=group, setsigdef=_RESTORED_SIGNALS
    )


@functools.cache
def _inherited_descriptors() -> tuple[int, ...]:
    """Return the descriptors that this process was started with, which no command is to have; as they are at first."""
    return linux_only.inherited_descriptors()


def _fork_and_execute(
    arguments: list[str], cwd: str | None, env: Mapping[bytes, bytes] | None, group: int, pipes: list[int]
) -> int:
    import subprocess

    stdin, out, err = pipes
    command = subprocess.Popen(  # noqa: S603  running what the file says is what it is for
        arguments,
        stdin=subprocess.DEVNULL if stdin < 0 else stdin,
        stdout=out,
        stderr=err,
        cwd=cwd,
        env=env,
        process_group=group,
    )
    command.returncode = 0  # it is reaped by us, and not by the end of this object
    return command.pid
