"""Process workers.

    supervisor                                   worker (its own process group)
       link  ◀─── two private sockets, one ───▶  port
                  for each direction
       lifeline, write end ─────────────────▶    armed: SIGKILL to the group when runner is gone
       pidfd  ◀─── the kernel: it has ended
       printer ◀──── two pipes ──────────────    standard output and error

A death is what the pidfd says, never an end of file. Then: read what it still sent, kill its group (the fence),
learn the exit code, report. Only after that can its items be given to another worker.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner import forked_copies, linux_only
from runner.engines import shared_payloads
from runner.engines.child import worker_main
from runner.engines.engine_events import ExitStatus, MessageReceived, WorkerExited
from runner.engines.reactor import READ, WRITE
from runner.error_text import clean_stack, describe_refusal
from runner.errors import SpawnError
from runner.shm.registry import UnknownBlock, WorkerMemory
from runner.structs import dataclass, field
from runner.transport.messages import ArenaNotice, Credit, Failed, Finished, Grant, Produced, Reply
from runner.transport.socket_link import SupervisorLink, connected_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from runner.engines.reactor import LocalReactor
    from runner.engines.spawn import Spawner, StartedProcess
    from runner.shm.registry import ArenaRegistry
    from runner.transport import framing
    from runner.transport.messages import ToWorker
    from runner.transport.progress_page import Position, ProgressPage
    from runner.worker.spec import WorkerSpec

_EXIT_CODE_SECONDS = 2.0
#: Seconds that a worker may live without its socket, or in the middle of a message.
_BROKEN_SOCKET_SECONDS = 5.0
_MAX_START_ATTEMPTS = 3
_MAX_STACK_BYTES = 1 << 18


@dataclass(slots=True)
class _Worker:
    """The supervisor's side of one process worker."""

    generation: int
    process: StartedProcess
    link: SupervisorLink
    lifeline: int
    death_fd: int
    worker_memory: WorkerMemory
    #: A file in memory into which the worker's faulthandler writes; `told`: what of it has been read.
    stack_file: int
    stack_offset: int = 0
    output_pipes: list[Any] = field(default_factory=list)
    watches_write: bool = False
    #: It has sent its last message: its socket may close before it is gone. Or it sent what is not a message.
    sent_last_message: bool = False
    socket_broken: str = ""
    #: Bytes that had arrived when a message was last found to have begun and not ended.
    bytes_at_check: int = -1


class ProcessEngine:
    """Processes of this machine.

    `attach_output(worker's name, descriptor, "out" or "err")` hands an output pipe to the printer, and returns an
    object to `finish` once the worker is dead; None leaves output alone. `arena_registry` is shared with other engines:
    its maker closes it after them.
    """

    def __init__(
        self,
        reactor: LocalReactor,
        progress_page: ProgressPage,
        spawner: Spawner,
        attach_output: Callable[[str, int, str], Any] | None,
        arena_registry: ArenaRegistry,
    ) -> None:
        self._arena_registry = arena_registry
        reactor.before_wait.append(self._send_memory_notices)
        self._reactor = reactor
        self._progress_page = progress_page
        self._spawner = spawner
        self._attach_output = attach_output
        self._workers: dict[int, _Worker] = {}
        self._fork_hook = forked_copies.ForkHook(self.abandon_in_fork)

    def abandon_in_fork(self) -> None:
        """Let go, in a copy that code in this process has forked, of what keeps workers alive."""
        for worker in self._workers.values():
            worker.link.close()
            forked_copies.close_descriptors(
                worker.lifeline, worker.death_fd, worker.process.status_fd, worker.stack_file
            )
        self._spawner.abandon_in_fork()

    def start(self, spec: WorkerSpec, generation: int) -> int:
        """Start a process that bears the worker's name; return its pid."""
        self._progress_page.clear(spec.slot)
        with forked_copies.fork_lock:
            worker = self._try_to_launch(spec, generation)
            self._workers[spec.slot] = worker
        self._reactor.watch_fd(worker.link.fileno(), READ, partial(self._read_messages, spec.slot, worker))
        self._reactor.watch_fd(worker.link.outgoing_fileno(), 0, partial(self._on_outgoing, spec.slot, worker))
        self._reactor.watch_fd(worker.death_fd, READ, lambda _: self._on_death(spec.slot, worker))
        return worker.process.pid

    def _try_to_launch(self, spec: WorkerSpec, generation: int) -> _Worker:
        """Start a worker, again if the fork server dies meanwhile: each try starts a new one if need be."""
        for attempt in range(_MAX_START_ATTEMPTS):
            try:
                return self._launch_process(spec, generation)
            except (EOFError, ConnectionError) as error:
                if attempt + 1 == _MAX_START_ATTEMPTS:
                    raise _cannot_start(spec, error) from error
            except (OSError, MemoryError, pickle.PicklingError) as error:
                raise _cannot_start(spec, error) from error
        raise AssertionError("unreachable")

    def _launch_process(self, spec: WorkerSpec, generation: int) -> _Worker:
        # `ours` are closed again if anything below fails.
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            our_ends, their_ends = connected_pairs()
            for our_end, their_end in zip(our_ends, their_ends, strict=True):
                ours.callback(our_end.close)
                theirs.callback(their_end.close)
            life_read, life_write = _make_pipe(theirs, ours)
            worker_memory = self._arena_registry.register_worker()
            ours.callback(self._arena_registry.forget_worker, worker_memory)
            stack_file = linux_only.memory_file("runner-stack")
            ours.callback(os.close, stack_file)
            given = [life_read, *(end.fileno() for end in their_ends), self._progress_page.fd, stack_file]
            outlets: list[tuple[int, str]] = []
            if self._attach_output is not None:
                for stream in ("out", "err"):
                    read_end, write_end = _make_pipe(ours, theirs)
                    outlets.append((read_end, stream))
                    given.append(write_end)
            args = (spec, os.getpid(), worker_memory.number)
            process = self._spawner.start(worker_main, args, spec.name, given, self._reactor.has_pending_signal)
            death_fd = process.open_exit_fd()
            ours.pop_all()
        return _Worker(
            generation=generation,
            process=process,
            link=SupervisorLink(*our_ends),
            lifeline=life_write,
            death_fd=death_fd,
            worker_memory=worker_memory,
            stack_file=stack_file,
            output_pipes=[self._attach_output(spec.name, fd, stream) for fd, stream in outlets if self._attach_output],
        )

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; what the socket does not take yet goes out when it does."""
        worker = self._workers.get(slot)
        if worker is not None:
            worker.link.send(self._lend_payloads(worker, message) if self._arena_registry.is_used else message)
            if worker.link.wants_to_write:
                self._watch_writing(worker)

    def _lend_payloads(self, worker: _Worker, message: ToWorker) -> ToWorker:
        """Lend what of a grant lies in arenas, and give the worker these first; add the offsets that are free."""
        worker_memory = worker.worker_memory
        if type(message) is Grant:
            for grant in (message, *message.other_grants):
                if blocks := shared_payloads.granted_blocks(grant):
                    self._lend_blocks(worker, grant.lease, blocks)
        elif type(message) is not Credit:
            return message
        if worker_memory.arena is not None and worker_memory.arena.freed_offsets:
            message = replace(message, freed_offsets=worker_memory.arena.take_freed_offsets())
        return message

    def _lend_blocks(self, worker: _Worker, lease: int, blocks: Sequence[Any]) -> None:
        for number, fd in self._arena_registry.lend_blocks(worker.worker_memory, lease, blocks):
            worker.link.send(ArenaNotice(number, fd))

    def send_packed(
        self, slot: int, message: framing.WireBuffer, lent: Iterable[tuple[int, Sequence[Any]]] = ()
    ) -> None:
        """Hand over a message that is bytes already, and that came from elsewhere; `lent`: the blocks of its leases."""
        worker = self._workers.get(slot)
        if worker is None:
            return
        for lease, blocks in lent:
            self._lend_blocks(worker, lease, blocks)
        arena = worker.worker_memory.arena
        if arena is not None and arena.freed_offsets:
            worker.link.send(ArenaNotice(arena.number, freed_offsets=arena.take_freed_offsets()))
        worker.link.send_packed(message)
        if worker.link.wants_to_write:
            self._watch_writing(worker)

    def _watch_writing(self, worker: _Worker) -> None:
        wants = worker.link.wants_to_write
        if wants != worker.watches_write:
            worker.watches_write = wants
            self._reactor.change_fd_events(worker.link.outgoing_fileno(), WRITE if wants else 0)

    def _on_outgoing(self, slot: int, worker: _Worker, mask: int) -> None:
        worker.link.flush()
        self._watch_writing(worker)
        if mask & ~WRITE:
            self._on_closed_socket(slot, worker, worker.link.outgoing_fileno())

    def _on_closed_socket(self, slot: int, worker: _Worker, fd: int) -> None:
        self._reactor.unwatch_fd(fd)  # the pidfd tells the rest
        self._reactor.call_later(_BROKEN_SOCKET_SECONDS, partial(self._check_closed_socket, slot, worker))

    def _read_messages(self, slot: int, worker: _Worker, _mask: int = READ) -> None:
        messages, alive = worker.link.receive()
        try:
            for message in () if worker.socket_broken else messages:
                if type(message) is ArenaNotice:
                    self._arena_registry.register_arena(worker.worker_memory, message.number, message.fd)
                else:
                    held = self._hold_payloads(worker, message)
                    worker.sent_last_message = type(message) is Finished or type(message) is Failed
                    self._reactor.post_event(MessageReceived(slot, worker.generation, held))
        except UnknownBlock as error:
            self._distrust_worker(worker, f"named {error}")
        if worker.link.is_garbled:  # something wrote into it that is not ours: nothing it says can be trusted any more
            self._distrust_worker(worker, "wrote into the socket that it has to runner")
        if not alive:
            self._on_closed_socket(slot, worker, worker.link.fileno())
        elif worker.link.partial_message and worker.bytes_at_check < 0:
            self._watch_partial_message(slot, worker)

    def _hold_payloads(self, worker: _Worker, message: Any) -> Any:
        """Hold what of a message's outputs lies in arenas; let go of what the worker itself no longer needs."""
        if type(message) is Reply or type(message) is Produced:
            message = shared_payloads.hold_message(self._arena_registry, worker.worker_memory, message)
            if self._arena_registry.orphans:
                self._arena_registry.close_orphans()
        return message

    def _distrust_worker(self, worker: _Worker, why: str) -> None:
        worker.socket_broken = f"{why}, and was killed"
        self._kill_group(worker)

    def _check_closed_socket(self, slot: int, worker: _Worker) -> None:
        """Kill a worker that lives although its socket is closed: the run would wait for it for ever."""
        if self._workers.get(slot) is worker and not worker.sent_last_message:
            self._distrust_worker(worker, "closed the socket that it has to runner")

    def _watch_partial_message(self, slot: int, worker: _Worker) -> None:
        """Kill a worker whose message has begun and does not go on."""
        before, worker.bytes_at_check = worker.bytes_at_check, -1
        if self._workers.get(slot) is worker and not worker.socket_broken and worker.link.partial_message:
            if worker.link.received_bytes == before and not _is_stopped(worker.process.pid):
                self._distrust_worker(worker, "wrote the beginning of a message into the socket that it has to runner")
                return
            worker.bytes_at_check = worker.link.received_bytes
            self._reactor.call_later(_BROKEN_SOCKET_SECONDS, partial(self._watch_partial_message, slot, worker))

    def _send_memory_notices(self) -> None:
        """Tell workers of memory that is free, and of arenas that are gone."""
        if not (self._arena_registry.arenas_to_report or self._arena_registry.has_removed_arenas):
            return
        for worker_memory, freed_offsets in self._arena_registry.take_freed_offsets():
            worker = next(worker for worker in self._workers.values() if worker.worker_memory is worker_memory)
            worker.link.send(ArenaNotice(worker_memory.number, freed_offsets=freed_offsets))
            self._watch_writing(worker)
        if self._arena_registry.has_removed_arenas:
            for worker in self._workers.values():
                for number in self._arena_registry.take_removed_arenas(worker.worker_memory):
                    worker.link.send(ArenaNotice(number))
                    self._watch_writing(worker)

    def _on_death(self, slot: int, worker: _Worker) -> None:
        self._reactor.unwatch_fd(worker.death_fd)
        if self._reactor.is_watching_fd(worker.link.fileno()):
            self._read_messages(slot, worker)
        forked_copies.send_signal(os.killpg, worker.process.pid, signal.SIGKILL)  # what it started dies with it
        exit_status = self._exit_status(worker)
        position = self._progress_page.position(slot)
        stack = self._stack_text(worker)
        if exit_status.code and stack.startswith("Traceback "):  # what it raised was no Exception
            exit_status = ExitStatus(text=f"ended by {stack.rstrip().splitlines()[-1]}")
        self._progress_page.clear(slot)
        with forked_copies.fork_lock:
            del self._workers[slot]
            self._release_worker(worker)
        self._reactor.post_event(
            WorkerExited(slot, worker.generation, exit_status, position, stack, bool(worker.socket_broken))
        )

    def _exit_status(self, worker: _Worker) -> ExitStatus:
        self._await_exit_code(worker)
        if worker.socket_broken:
            return ExitStatus(text=worker.socket_broken)
        code = worker.process.exit_code
        if code is None:  # the fork server alone knew; that the process has ended is certain all the same
            return ExitStatus(text="ended in an unknown way (the fork server is gone)")
        return ExitStatus(signal=-code) if code < 0 else ExitStatus(code=code)

    def _await_exit_code(self, worker: _Worker) -> None:
        """Wait until the fork server has told the exit code; one that does not (stopped, perhaps) is ended."""
        worker.process.wait_for_exit_code(_EXIT_CODE_SECONDS)
        if worker.process.exit_code is None and self._spawner.start_method == "forkserver":
            self._spawner.kill_server()
            worker.process.wait_for_exit_code(_EXIT_CODE_SECONDS)

    def _release_worker(self, worker: _Worker) -> None:
        self._reactor.unwatch_fd(worker.link.fileno())
        self._reactor.unwatch_fd(worker.link.outgoing_fileno())
        worker.link.close()
        self._arena_registry.forget_worker(worker.worker_memory)
        os.close(worker.lifeline)
        os.close(worker.stack_file)
        forked_copies.close_descriptors(*{worker.death_fd, worker.process.status_fd})
        for outlet in worker.output_pipes:
            outlet.finish()

    def kill(self, slot: int) -> bool:
        """Send SIGKILL to the worker's group; `WorkerExited` follows when the kernel says so."""
        worker = self._workers.get(slot)
        if worker is not None:
            self._kill_group(worker)
        return True

    @staticmethod
    def _kill_group(worker: _Worker) -> None:
        pid = worker.process.pid
        elsewhere = linux_only.descendant_pids(pid)  # it may have given what it started groups of their own
        forked_copies.send_signal(os.killpg, pid, signal.SIGKILL)
        forked_copies.kill([pid, *elsewhere])  # it may not have made its group yet

    def current_position(self, slot: int) -> Position:
        """Return the position that the slot's worker shows."""
        return self._progress_page.position(slot)

    def request_stack(self, slot: int) -> None:
        """Ask for the worker's stack; faulthandler answers in the signal handler itself."""
        worker = self._workers.get(slot)
        if worker is not None:
            worker.stack_offset = os.fstat(worker.stack_file).st_size
            forked_copies.send_signal(os.kill, worker.process.pid, signal.SIGQUIT)

    def read_stack(self, slot: int) -> str:
        """Return what the worker's faulthandler has written since it was asked."""
        worker = self._workers.get(slot)
        return "" if worker is None else self._stack_text(worker)

    @staticmethod
    def _stack_text(worker: _Worker) -> str:
        data = os.pread(worker.stack_file, _MAX_STACK_BYTES, worker.stack_offset)
        return clean_stack(data.decode("utf-8", "backslashreplace"))

    def resident_bytes(self, slot: int) -> int:
        """Return the worker's resident bytes, without those of its children."""
        worker = self._workers.get(slot)
        if worker is not None:
            import psutil  # for a task with a limit of memory only

            with contextlib.suppress(psutil.Error):
                return int(psutil.Process(worker.process.pid).memory_info().rss)
        return 0

    def is_output_blocked(self, slot: int) -> bool:
        """Return True if the worker waits until its output is taken: its pipe is full, or runner's own output."""
        worker = self._workers.get(slot)
        if worker is None:
            return False
        if self._attach_output is None:
            return any(not select.select([], [fd], [], 0)[1] for fd in (1, 2))
        return any(outlet.full() for outlet in worker.output_pipes if hasattr(outlet, "full"))

    def pause_workers(self, *, going_on: bool) -> None:
        """Send SIGSTOP or SIGCONT to every worker's group."""
        for worker in self._workers.values():
            forked_copies.send_signal(os.killpg, worker.process.pid, signal.SIGCONT if going_on else signal.SIGSTOP)

    def close(self) -> None:
        """Kill what is left, wait for it, and give everything back."""
        self._fork_hook.close()
        for worker in self._workers.values():
            self._kill_group(worker)
        for slot, worker in list(self._workers.items()):
            self._await_exit_code(worker)
            self._reactor.unwatch_fd(worker.death_fd)
            del self._workers[slot]
            self._release_worker(worker)
        self._spawner.close()


def _make_pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Return the two ends of a pipe, each to be closed with its side's stack."""
    read_end, write_end = os.pipe()
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _cannot_start(spec: WorkerSpec, error: Exception) -> SpawnError:
    why = describe_refusal(error) or str(error) or type(error).__name__
    if isinstance(error, EOFError):
        why = "the fork server dies over it; this machine may allow no more processes or memory (see `ulimit -a`)"
    return SpawnError(f"worker `{spec.name}` of task `{spec.task}` could not be started: {why}")


def _is_stopped(pid: int) -> bool:
    """Return True if a process has been stopped, as by SIGSTOP; False if that is unknown."""
    import psutil  # few runs need it

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    return False
