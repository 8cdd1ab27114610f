"""Process workers.

    supervisor                                   worker (its own process group)
       link  ◀──────── private socket ────────▶  port
       lifeline, write end ─────────────────▶    armed: SIGKILL to the group when runner is gone
       pidfd  ◀─── the kernel: it has ended
       printer ◀──── two pipes ──────────────    standard output and error

A death is what the pidfd says, never an end of file. Then: read what it still sent, kill its group (the fence),
learn the exit code, report. Only after that can its items be given to somebody else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import selectors
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import forked_copies
from runner.engines import fork_server
from runner.engines.arena_registry import ArenaRegistry, WorkerMemory
from runner.engines.base import ExitStatus, MessageReceived, WorkerExited
from runner.engines.child import WorkerBootstrap, worker_main
from runner.engines.spawn import InheritedFd, Spawner
from runner.error_text import clean_stack, describe_refusal
from runner.errors import SpawnError
from runner.structs import dataclass, field
from runner.transport.messages import ArenaNotice, Failed, Finished
from runner.transport.progress_page import memory_file
from runner.transport.socket_link import SupervisorLink, connected_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from runner.engines.reactor import LocalReactor
    from runner.transport.messages import ToWorker
    from runner.transport.progress_page import Position, ProgressPage
    from runner.worker import WorkerSpec

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_PATIENCE = 2.0
#: Seconds that a worker may live without its socket, or in the middle of a message.
_SILENCE = 5.0
_LAUNCHES = 3
_MOST_STACK = 1 << 18


@dataclass(slots=True)
class _Worker:
    """The supervisor's side of one process worker."""

    name: str
    generation: int
    process: BaseProcess
    pid: int
    link: SupervisorLink
    lifeline: int
    death_fd: int
    worker_memory: WorkerMemory
    #: A file in memory into which the worker's faulthandler writes; `told`: what of it has been read.
    stack_file: int
    stack_offset: int = 0
    output_pipes: list[Any] = field(default_factory=list)
    watches_write: bool = False
    #: It has said its last word: its socket may close before it is gone. Or it said what nobody understands.
    said_farewell: bool = False
    socket_broken: str = ""
    #: Bytes that had arrived when a message was last found to have begun and not ended.
    bytes_at_check: int = -1


class ProcessEngine:
    """Processes of this machine.

    `attach(worker's name, descriptor, "out" or "err")` hands an output pipe to whoever prints it, and returns a
    thing to `finish` once the worker is dead; None leaves output alone. `holdings` may be shared with other fleets;
    who made it closes it, after the fleets.
    """

    def __init__(
        self,
        hub: LocalReactor,
        page: ProgressPage,
        spawner: Spawner,
        attach: Callable[[str, int, str], Any] | None,
        holdings: ArenaRegistry | None = None,
    ) -> None:
        self._holdings = holdings or ArenaRegistry()
        self._own_holdings = holdings is None
        hub.before_wait.append(self._tell_of_memory)
        self._hub = hub
        self._page = page
        self._spawner = spawner
        self._attach = attach
        self._workers: dict[int, _Worker] = {}
        self._forget = forked_copies.register_fork_hook(self.abandon_in_fork)

    def abandon_in_fork(self) -> None:
        """This is a copy that something in this process has forked: it must not hold what keeps workers alive."""
        for worker in self._workers.values():
            worker.link.close()
            forked_copies.close_descriptors(worker.lifeline, worker.death_fd, worker.stack_file)
        self._spawner.abandon_in_fork()

    # -- starting ------------------------------------------------------------------------------

    def start(self, spec: WorkerSpec, life: int) -> int:
        """Start a process that bears the worker's name; return its pid."""
        self._page.clear(spec.slot)
        with forked_copies.fork_lock:
            worker = self._try_to_launch(spec, life)
            self._workers[spec.slot] = worker
        self._hub.watch_fd(worker.link.fileno(), READ, partial(self._on_link, spec.slot, worker))
        self._hub.watch_fd(worker.death_fd, READ, lambda _: self._on_death(spec.slot, worker))
        return worker.pid

    def _try_to_launch(self, spec: WorkerSpec, life: int) -> _Worker:
        """The fork server may die at any moment, and a new one is started by the next try."""
        for attempt in range(_LAUNCHES):
            with contextlib.ExitStack() as theirs:
                try:
                    return self._launch(spec, life, theirs)
                except (EOFError, ConnectionError) as error:
                    if attempt + 1 == _LAUNCHES:
                        raise _cannot_start(spec, error) from error
                except (OSError, MemoryError, pickle.PicklingError) as error:
                    raise _cannot_start(spec, error) from error
        raise AssertionError("unreachable")

    def _launch(self, spec: WorkerSpec, life: int, theirs: contextlib.ExitStack) -> _Worker:
        with contextlib.ExitStack() as ours:  # closed again if anything below fails
            our_end, their_end = connected_pair()
            ours.callback(our_end.close)
            theirs.callback(their_end.close)
            life_read, life_write = self._pipe(ours, theirs)
            account = self._holdings.register_worker()
            ours.callback(self._holdings.forget_worker, account)
            notes = memory_file("runner-stack")
            ours.callback(os.close, notes)
            outlets: list[tuple[int, str]] = []
            given: dict[str, InheritedFd | None] = {"out": None, "err": None}
            if self._attach is not None:
                for stream in ("out", "err"):
                    # The pipe's ends are the other way round here: the worker writes.
                    read_end, write_end = os.pipe()
                    ours.callback(os.close, read_end)
                    theirs.callback(os.close, write_end)
                    outlets.append((read_end, stream))
                    given[stream] = InheritedFd(write_end)
            kit = WorkerBootstrap(
                spec=spec,
                socket_fd=InheritedFd(their_end.fileno()),
                progress_page=InheritedFd(self._page.fd),
                lifeline_fd=InheritedFd(life_read),
                stack_file=InheritedFd(notes),
                out=given["out"],
                err=given["err"],
                runner_pid=os.getpid(),
                arena_number=account.number,
            )
            process = self._spawner.start(worker_main, (kit,), spec.name, self._hub.has_pending_signal)
            pid = process.pid
            assert pid is not None
            death_fd = _death_fd(process, pid)
            ours.pop_all()
        worker = _Worker(spec.name, life, process, pid, SupervisorLink(our_end), life_write, death_fd, account, notes)
        if self._attach is not None:
            worker.output_pipes = [self._attach(spec.name, fd, stream) for fd, stream in outlets]
        return worker

    @staticmethod
    def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
        read_end, write_end = os.pipe()
        theirs.callback(os.close, read_end)
        ours.callback(os.close, write_end)
        return read_end, write_end

    # -- talking -------------------------------------------------------------------------------

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; what the socket does not take yet goes out when it does."""
        worker = self._workers.get(slot)
        if worker is not None:
            message, arenas = self._holdings.message_to_worker(worker.worker_memory, message)
            for arena in arenas:
                worker.link.send(arena)
            worker.link.send(message)
            self._watch_writing(worker)

    def _watch_writing(self, worker: _Worker) -> None:
        wants = worker.link.wants_to_write
        if wants != worker.watches_write:
            worker.watches_write = wants
            self._hub.change_fd_events(worker.link.fileno(), READ | WRITE if wants else READ)

    def _on_link(self, slot: int, worker: _Worker, mask: int) -> None:
        if mask & WRITE:
            worker.link.flush()
            self._watch_writing(worker)
        if mask & READ:
            self._read(slot, worker)

    def _read(self, slot: int, worker: _Worker) -> None:
        messages, alive = worker.link.receive()
        for message in messages:
            if type(message) is ArenaNotice:
                self._holdings.register_arena(worker.worker_memory, message)
            else:
                worker.said_farewell = type(message) in {Finished, Failed}
                self._hub.post_event(
                    MessageReceived(
                        slot, worker.generation, self._holdings.message_from_worker(worker.worker_memory, message)
                    )
                )
        if worker.link.is_garbled:  # something wrote into it that is not ours: nothing it says can be trusted any more
            self._spoil(worker, "wrote into the socket that it has to runner")
        if not alive:
            self._hub.unwatch_fd(worker.link.fileno())  # the pidfd tells the rest
            self._hub.call_later(_SILENCE, partial(self._deaf, slot, worker))
        elif worker.link.has_partial_message and worker.bytes_at_check < 0:
            worker.bytes_at_check = worker.link.received_bytes
            self._hub.call_later(_SILENCE, partial(self._mute, slot, worker))

    def _spoil(self, worker: _Worker, why: str) -> None:
        worker.socket_broken = f"{why}, and was killed"
        self._kill(worker)

    def _deaf(self, slot: int, worker: _Worker) -> None:
        """Its socket is closed, and it lives: it has closed what it does not know, and would be waited for in vain."""
        if self._workers.get(slot) is worker and not worker.said_farewell:
            self._spoil(worker, "closed the socket that it has to runner")

    def _mute(self, slot: int, worker: _Worker) -> None:
        """A message had begun: has it ended meanwhile, or at least gone on?"""
        if self._workers.get(slot) is not worker or worker.socket_broken:
            return
        before, worker.bytes_at_check = worker.bytes_at_check, -1
        if worker.link.has_partial_message:
            if worker.link.received_bytes == before and not _is_stopped(worker.pid):
                self._spoil(worker, "wrote the beginning of a message into the socket that it has to runner")
                return
            worker.bytes_at_check = worker.link.received_bytes
            self._hub.call_later(_SILENCE, partial(self._mute, slot, worker))

    def _tell_of_memory(self) -> None:
        """Tell workers of memory that is free, and of arenas that are gone."""
        if not (self._holdings.arenas_to_report or self._holdings.has_removed_arenas):
            return
        for account, arena in self._holdings.take_freed_notices():
            worker = next(worker for worker in self._workers.values() if worker.worker_memory is account)
            worker.link.send(arena)
            self._watch_writing(worker)
        if self._holdings.has_removed_arenas:
            for worker in self._workers.values():
                for arena in self._holdings.take_removed_arenas(worker.worker_memory):
                    worker.link.send(arena)
                    self._watch_writing(worker)

    # -- ending --------------------------------------------------------------------------------

    def _on_death(self, slot: int, worker: _Worker) -> None:
        self._hub.unwatch_fd(worker.death_fd)
        if self._hub.is_watching_fd(worker.link.fileno()):
            self._read(slot, worker)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)  # what it started dies with it
        death = self._exit_status(worker)
        position = self._page.position(slot)
        stack = self._stack(worker)
        if death.code and stack.startswith("Traceback "):  # what it raised was no Exception
            death = ExitStatus(text=f"ended by {stack.rstrip().splitlines()[-1]}")
        self._page.clear(slot)
        with forked_copies.fork_lock:
            del self._workers[slot]
            self._dispose(worker)
        self._hub.post_event(WorkerExited(slot, worker.generation, death, position, stack, bool(worker.socket_broken)))

    def _exit_status(self, worker: _Worker) -> ExitStatus:
        self._join(worker, _PATIENCE)
        if worker.socket_broken:
            return ExitStatus(text=worker.socket_broken)
        code = worker.process.exitcode
        if code is None or (code == 255 and self._spawner.start_method == "forkserver"):
            # The fork server is gone, or slow: it alone knew. That the process has ended is certain all the same.
            return (
                ExitStatus(text="ended, nobody knows how (the fork server is gone)")
                if code is None
                else ExitStatus(code=code)
            )
        return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)

    def _join(self, worker: _Worker, patience: float) -> None:
        """Wait until the fork server has told the exit code; one that does not (stopped, perhaps) is ended."""
        worker.process.join(patience)
        if worker.process.exitcode is None and self._spawner.start_method == "forkserver":
            fork_server.kill()
            worker.process.join(_PATIENCE)

    def _dispose(self, worker: _Worker) -> None:
        self._hub.unwatch_fd(worker.link.fileno())
        worker.link.close()
        self._holdings.forget_worker(worker.worker_memory)
        os.close(worker.lifeline)
        os.close(worker.stack_file)
        if worker.death_fd != worker.process.sentinel:
            os.close(worker.death_fd)
        for outlet in worker.output_pipes:
            outlet.finish()
        with contextlib.suppress(ValueError):  # still running, says multiprocessing, when the fork server is gone
            worker.process.close()

    def kill(self, slot: int) -> bool:
        """SIGKILL to the worker's group; `WorkerExited` follows when the kernel says so."""
        worker = self._workers.get(slot)
        if worker is not None:
            self._kill(worker)
        return True

    @staticmethod
    def _kill(worker: _Worker) -> None:
        elsewhere = forked_copies.descendant_pids(worker.pid)  # it may have given what it started groups of their own
        for send in (os.killpg, os.kill):  # it may not have made its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(worker.pid, signal.SIGKILL)
        forked_copies.kill(elsewhere)

    def current_position(self, slot: int) -> Position:
        """What the slot's worker executes."""
        return self._page.position(slot)

    def request_stack(self, slot: int) -> None:
        """Ask for the worker's stack; faulthandler answers in the signal handler itself."""
        worker = self._workers.get(slot)
        if worker is not None:
            worker.stack_offset = os.fstat(worker.stack_file).st_size
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(worker.pid, signal.SIGQUIT)

    def read_stack(self, slot: int) -> str:
        """What the worker's faulthandler has written since it was asked."""
        worker = self._workers.get(slot)
        return "" if worker is None else self._stack(worker)

    @staticmethod
    def _stack(worker: _Worker) -> str:
        data = os.pread(worker.stack_file, _MOST_STACK, worker.stack_offset)
        return clean_stack(data.decode("utf-8", "backslashreplace"))

    def resident_bytes(self, slot: int) -> int:
        """Resident bytes of the worker, without its children."""
        worker = self._workers.get(slot)
        return 0 if worker is None else _resident(worker.pid)

    def is_output_blocked(self, slot: int) -> bool:
        """Whether the worker waits until what it has printed is taken: its pipe is full, or runner's own output."""
        worker = self._workers.get(slot)
        if worker is None:
            return False
        if self._attach is None:
            return any(map(_full, (1, 2)))
        return any(outlet.full() for outlet in worker.output_pipes if hasattr(outlet, "full"))

    def pause_workers(self, *, going_on: bool) -> None:
        """SIGSTOP or SIGCONT to every worker's group."""
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGCONT if going_on else signal.SIGSTOP)

    def close(self) -> None:
        """Kill what is left, wait for it, and give everything back."""
        self._forget()
        for worker in self._workers.values():
            self._kill(worker)
        for slot, worker in list(self._workers.items()):
            self._join(worker, _PATIENCE)
            self._hub.unwatch_fd(worker.death_fd)
            del self._workers[slot]
            self._dispose(worker)
        if self._own_holdings:
            self._holdings.close()
        self._spawner.close()


def _full(fd: int) -> bool:
    """Whether a write would wait now."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return not poll.poll(0)


def _cannot_start(spec: WorkerSpec, error: Exception) -> SpawnError:
    why = describe_refusal(error) or str(error) or type(error).__name__
    if isinstance(error, EOFError):
        why = "the fork server dies over it; this machine may allow no more processes or memory (see `ulimit -a`)"
    return SpawnError(f"worker `{spec.name}` of task `{spec.task}` could not be started: {why}")


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # not Linux, or just gone
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _is_stopped(pid: int) -> bool:
    """Whether it has been stopped, as by SIGSTOP; False where nobody can tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in {b"T", b"t"}
    except (OSError, IndexError):
        return False


def _death_fd(process: BaseProcess, pid: int) -> int:
    """A descriptor that is readable once the process has ended, whoever its parent is."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return process.sentinel
