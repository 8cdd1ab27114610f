"""The program that starts agents on other machines, as the supervisor sees it; what it is told, and what it tells.

    supervisor                                     launcher: a program of its own, which imports nothing of runner's
      {"want": [{"workers": 24, "cpus": 1, ...}],      all that shall have a place on nodes of this program;
                "nodes": 8, "first": 4}                at most 8 agents, named from n4 on
      {"stop": "n3"}                  ──────────▶      end this one
      (end of input)                                   end all, and yourself
                          ◀──────────  {"started": "n3", "where": "10.0.0.7"}
                                       {"waiting": "3 nodes are pending"}    empty: not any more
                                       {"ended": "n3", "why": "its machine was taken away"}
                                       {"refused": "no machine has a GPU"}   what is wanted can never be had
                                       {"offers": [[8, 0, 16e9]]}            CPUs, GPUs and bytes of its machines

One line of JSON each. The way into the run, with its key, is in the environment (`JOIN_VARIABLE`), never an argument.
The program is in a process group that the kernel ends with runner, as commands of tasks are. One that dies is started
again, three times, and told what is wanted by then; the agents of other machines need it for nothing meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from typing import IO, TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runner import forked_copies, linux_only
from runner.engines.engine_events import ExitStatus
from runner.engines.reactor import READ, WRITE
from runner.std.commands import ProcessGroup
from runner.text import cut_text, printable_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.engines.reactor import LocalReactor

#: In the environment of a launcher: the text of the join file.
JOIN_VARIABLE = "RUNNER_JOIN"
#: A launcher that has died so often more than once is not started again.
MAX_RESTARTS = 3
#: Seconds before it is, times two for each time: its cluster may be what has died.
_FIRST_PAUSE = 0.5
#: Seconds in which a launcher that is told to end must do so: it gives back what a cluster has lent.
_END_SECONDS = 10.0
#: The longest line that is read, and what is kept of the program's own words.
_MAX_LINE, _MAX_ERR = 1 << 20, 1 << 14
_PIECE = 1 << 16


class WorkerBundle(Struct, frozen=True):
    """A number of workers that each need the same; `memory` is in bytes, 0 for any."""

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0


class LaunchReport(Struct, frozen=True):
    """What a launcher has said: one of these is set. `failed`: it has died too often, and why."""

    started: str = ""
    where: str = ""
    waiting: str | None = None
    ended: str = ""
    why: str = ""
    refused: str = ""
    failed: str = ""
    offers: tuple[tuple[float, float, float], ...] = ()


class Launcher:
    """A launcher's process, its restarts included.

    `wanted` is asked for what shall have a place on nodes that this launcher has started or will start, which are
    `nodes`; those of one that died are not. `report` is called in the loop.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        reactor: LocalReactor,
        wanted: Callable[[], Sequence[WorkerBundle]],
        report: Callable[[LaunchReport], None],
        most_nodes: int = 0,
    ) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._reactor, self._wanted, self._report = reactor, wanted, report
        self._most_nodes = most_nodes
        self._group = ProcessGroup()
        self._program: subprocess.Popen[bytes] | None = None
        self._exit_fd = -1
        self._unsent = b""
        self._unread = b""
        #: The end of what it has said on its standard error.
        self._err = b""
        self._told_want = b""
        self._deaths = 0
        self._last_number = 0
        self.is_closed = False
        #: The nodes that the present program has started and that have not ended.
        self.nodes: set[str] = set()
        self._fork_hook = forked_copies.ForkHook(self._abandon_in_fork)
        self._start()

    def _start(self) -> None:
        if self.is_closed:
            return
        pipe = subprocess.PIPE
        try:
            with forked_copies.fork_lock:
                group = self._group.group_id()
                self._program = subprocess.Popen(  # noqa: S603  the engine's own command
                    self._command,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=pipe,
                    cwd="/",
                    env={**os.environ, **self._environment},
                    process_group=group,
                )
        except OSError as error:
            self._give_up(f"it cannot be started: {error.strerror or error}")
            return
        for stream, call in ((self._program.stdout, self._read), (self._program.stderr, self._read_err)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._reactor.watch_fd(stream.fileno(), READ, call)
        assert self._program.stdin is not None
        os.set_blocking(self._program.stdin.fileno(), False)
        exit_fd = linux_only.exit_fd(self._program.pid)
        self._exit_fd = linux_only.watch_exit(self._program.wait) if exit_fd is None else exit_fd
        self._reactor.watch_fd(self._exit_fd, READ, lambda _: self._on_death())
        self._unsent = self._unread = self._err = self._told_want = b""
        self.nodes.clear()
        self.tell_wanted()

    def tell_wanted(self) -> None:
        """Ask what is wanted now, and tell the program if that has changed."""
        bundles = [each for each in self._wanted() if each.workers]
        want = msgspec.json.encode(bundles)
        if want != self._told_want and self._program is not None:
            self._told_want = want
            self._send({"want": bundles, "nodes": self._most_nodes, "first": self._last_number + 1})

    def stop_node(self, node: str) -> None:
        """Have the program end a node that it has started."""
        if node in self.nodes:
            self._send({"stop": node})

    def _send(self, message: object) -> None:
        self._unsent += msgspec.json.encode(message) + b"\n"
        self._flush()

    def _flush(self, _mask: int = WRITE) -> None:
        stdin = self._program and self._program.stdin
        if not stdin or stdin.closed:
            return
        with contextlib.suppress(BlockingIOError):
            try:
                while self._unsent:
                    self._unsent = self._unsent[os.write(stdin.fileno(), self._unsent) :]
            except BrokenPipeError:  # its death is told by the pidfd
                self._unsent = b""
        is_watched = self._reactor.is_watching_fd(stdin.fileno())
        if self._unsent and not is_watched:
            self._reactor.watch_fd(stdin.fileno(), WRITE, self._flush)
        elif is_watched and not self._unsent:
            self._reactor.unwatch_fd(stdin.fileno())

    def _read(self, _mask: int = READ) -> None:
        """Take the lines that have arrived whole; what is not one of ours ends the program."""
        *lines, self._unread = (self._unread + self._read_pipe(self._program.stdout if self._program else None)).split(
            b"\n"
        )
        for line in lines:
            try:
                self._take(msgspec.json.decode(line, type=LaunchReport))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                said = cut_text(printable_line(line.decode(errors="replace")), 200)
                self._kill(f"it said what is not a message: {said}")
                return
        if len(self._unread) > _MAX_LINE:
            self._kill(f"it said a line of more than {_MAX_LINE:,} bytes")

    def _take(self, said: LaunchReport) -> None:
        if said.started:
            self.nodes.add(said.started)
            number = said.started.removeprefix("n")
            self._last_number = max(self._last_number, int(number) if number.isdecimal() else 0)
        self.nodes.discard(said.ended)
        self._report(replace(said, failed=""))

    def _read_err(self, _mask: int = READ) -> None:
        self._err = (self._err + self._read_pipe(self._program.stderr if self._program else None))[-_MAX_ERR:]

    def _read_pipe(self, stream: IO[bytes] | None) -> bytes:
        """Return what a stream of the program's has, as far as more than the longest line is of no use."""
        data = b""
        while stream is not None and len(data) <= _MAX_LINE:
            try:
                piece = os.read(stream.fileno(), _PIECE)
            except BlockingIOError:
                break
            if not piece:
                self._reactor.unwatch_fd(stream.fileno())
                break
            data += piece
        return data

    def _kill(self, why: str) -> None:
        assert self._program is not None
        self._program.kill()
        self._on_death(why)

    def _on_death(self, why: str = "") -> None:
        """Start it again, unless that was too often. `why` it was killed; else its own last words count."""
        if not why:
            self._read_err()
            self._read()
        if self._program is None:  # what it said last has led here already
            return
        code = self._program.wait()
        status = str(ExitStatus(code) if code >= 0 else ExitStatus(signal=-code))
        words = self._err.decode(errors="replace").strip().splitlines()[-1:]
        reason = why or ": ".join([status, *(cut_text(printable_line(line), 300) for line in words)])
        self._forget_program()
        self._deaths += 1
        if self._deaths > MAX_RESTARTS:
            self._give_up(f"it has died {self._deaths} times; the last time: {reason}")
        else:
            self._reactor.call_later(_FIRST_PAUSE * 2 ** (self._deaths - 1), self._start)

    def _give_up(self, why: str) -> None:
        self.close()
        self._report(LaunchReport(failed=why))

    def _forget_program(self) -> None:
        """Close all that leads to the program, and end what is left of its group."""
        program, self._program = self._program, None
        if program is not None:
            for stream in (program.stdin, program.stdout, program.stderr):
                assert stream is not None
                if not stream.closed:
                    self._reactor.unwatch_fd(stream.fileno())
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._exit_fd >= 0:
            self._reactor.unwatch_fd(self._exit_fd)
            os.close(self._exit_fd)
            self._exit_fd = -1
        self._group.kill()

    def close(self) -> None:
        """Have the program end its nodes and itself; kill it if that takes too long. A second time does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self._fork_hook.close()
        program = self._program
        if program is not None:
            assert program.stdin is not None
            self._reactor.unwatch_fd(program.stdin.fileno())
            with contextlib.suppress(OSError):
                program.stdin.close()
            self._wait_for_end(program)
        self._forget_program()
        self.nodes.clear()

    def _wait_for_end(self, program: subprocess.Popen[bytes]) -> None:
        """Wait for its end, and read what it says meanwhile, so that it does not wait for that."""
        until = time.monotonic() + _END_SECONDS
        poll = select.poll()
        poll.register(self._exit_fd, READ)
        for stream in (program.stdout, program.stderr):
            if stream is not None:
                poll.register(stream.fileno(), READ)
        while program.poll() is None and (left := until - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if fd != self._exit_fd and not os.read(fd, _PIECE):
                    poll.unregister(fd)
        program.kill()
        program.wait()

    def _abandon_in_fork(self) -> None:
        """Let go of the program in a copy of this process, which does not keep it alive."""
        self._group.abandon_in_fork()
        if self._program is not None:
            streams = (self._program.stdin, self._program.stdout, self._program.stderr)
            forked_copies.close_descriptors(
                self._exit_fd, *(stream.fileno() for stream in streams if stream is not None)
            )
