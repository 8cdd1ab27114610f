"""One command: fed, read and timed at once, and never left behind.

    worker ── pipe, never written ──▶ holder (`cat`), leads a process group
                                      command, its children: in the same group

The kernel kills the group when the worker's end of the pipe closes, so when the worker ends, however it ends
(fcntl(2), F_SETOWN and F_SETSIG, as runner does for its own workers). The holder is there before the command is, so
no moment is left in which a command would be on its own; and a time limit kills the group, not the worker, and
with it what the command has started in sessions of their own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Literal

from runner import forked_copies

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

_MOST_ERR = 64 << 10
_PIECE = 1 << 16
#: A command that was killed is given so many seconds to be gone.
_PATIENCE = 1.0


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
            self._holder = subprocess.Popen(["/bin/cat"], stdin=read_end, stdout=null, stderr=null, process_group=0)
            forked_copies.kill_group_when_closed(read_end, self._holder.pid)
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

    def run(self, arguments: list[str], data: bytes, cwd: str | None, env: Mapping[str, str] | None) -> Command:
        """Run it; afterwards `exit_code`, `out`, `err` and `kill_reason` say how it went."""
        import subprocess

        pipe = subprocess.PIPE
        stdin = pipe if data else subprocess.DEVNULL
        command = subprocess.Popen(  # noqa: S603  running what the file says is what it is for
            arguments, stdin=stdin, stdout=pipe, stderr=pipe, cwd=cwd, env=env, process_group=self._group.group_id()
        )
        try:
            self._serve_pipes(command, data)
        finally:
            # Nothing that it has started may run on after an error.
            if self.kill_reason is not None or command.poll() is None:
                elsewhere = forked_copies.descendant_pids(command.pid)  # what has a session of its own
                self._group.kill()
                forked_copies.kill([command.pid, *elsewhere])
            for pipe_end in (command.stdin, command.stdout, command.stderr):
                if pipe_end is not None:
                    with contextlib.suppress(OSError):  # it did not want what was left to be written
                        pipe_end.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # another user's: it is reaped when it has ended
                command.wait(_PATIENCE)
            self.exit_code = -signal.SIGKILL if command.returncode is None else command.returncode
        return self

    def _serve_pipes(self, command: subprocess.Popen[bytes], data: bytes) -> None:
        """Feed and read the command until it has ended, or is to be killed."""
        import selectors

        view = memoryview(data)
        outputs: dict[Any, bytearray] = {command.stdout: self.out, command.stderr: self.err}
        exit_fd = forked_copies.exit_fd(command.pid)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            if exit_fd is not None:
                stack.callback(os.close, exit_fd)
                selector.register(exit_fd, selectors.EVENT_READ)
            for stream in (*outputs, command.stdin):
                if stream is not None:
                    os.set_blocking(stream.fileno(), False)
                    is_read = stream in outputs
                    selector.register(stream, selectors.EVENT_READ if is_read else selectors.EVENT_WRITE)
            while self.kill_reason is None and selector.get_map():
                left = None if self._until is None else max(0.0, self._until - time.monotonic())
                ready = [key.fileobj for key, _ in selector.select(left)]
                if self._until is not None and time.monotonic() >= self._until:
                    self.kill_reason = "time"
                    return
                for stream in ready:
                    if stream in outputs:
                        self._read_output(selector, stream, outputs[stream])
                    elif stream != exit_fd:
                        view = self._feed_input(selector, stream, view)
                if exit_fd in ready:
                    self._read_rest(selector, command, outputs)
                    return

    @staticmethod
    def _feed_input(selector: Any, stdin: Any, view: memoryview) -> memoryview:
        try:
            view = view[os.write(stdin.fileno(), view[:_PIECE]) :]
        except BlockingIOError:
            return view
        except BrokenPipeError:  # it does not want the rest
            view = view[:0]
        if not view:
            selector.unregister(stdin)
            stdin.close()
        return view

    def _read_output(self, selector: Any, stream: Any, into: bytearray) -> bool:
        """Read what is there; False when there is nothing now, or at the end."""
        try:
            data = os.read(stream.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not data:
            selector.unregister(stream)
            return False
        into += data
        if into is self.err:
            del into[:-_MOST_ERR]
        elif len(into) > self._most:
            self.kill_reason = "size"
        return self.kill_reason is None

    def _read_rest(self, selector: Any, command: subprocess.Popen[bytes], outputs: dict[Any, bytearray]) -> None:
        """Read what a command that has ended left in its pipes; kill the child that still holds them open."""
        for stream, into in outputs.items():
            while stream in selector.get_map() and self._read_output(selector, stream, into):
                pass
        if self.kill_reason is None and any(stream in selector.get_map() for stream in outputs):
            command.wait()
            self._group.kill()
