"""What an agent passes on: frames of the supervisor to the engine, and what the engine reports back as frames."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from dataclasses import replace as dataclass_replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.agent.relay_memory import RelayMemory
from runner.cluster.sent_code import CodeRefused, open_code
from runner.engines.engine_events import MessageReceived, SignalReceived, WorkerExited
from runner.engines.processes import ProcessEngine
from runner.engines.reactor import READ, WRITE
from runner.engines.spawn import Spawner
from runner.errors import SpawnError
from runner.shm.registry import ArenaRegistry
from runner.structs import dataclass
from runner.tasks import Reference
from runner.transport import agent_messages as frames
from runner.transport import framing
from runner.transport.agent_messages import AgentPlan, DeathReport, ShownPosition, decode_body, encode_body, plain_text
from runner.transport.link_meter import LinkMeter
from runner.transport.linux_only import is_pipe_full
from runner.transport.messages import Produced, Reply
from runner.transport.progress_page import Position, ProgressPage

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.cluster.sent_code import CodeFolder
    from runner.engines.engine_events import EngineEvent
    from runner.engines.reactor import LocalReactor
    from runner.transport.frame_link import Frame, FrameLink
    from runner.worker.spec import WorkerSpec

#: Positions of workers that have a time limit are looked at so often, and all that there is to tell about others.
_SAMPLE, _SLOW_SAMPLE = 0.05, 0.5
#: A position that has been shown for so long is told: if the machine is lost, its item may have been the reason.
_STANDS = 1.0
#: Between two looks at the connection; what they have found is told when it has changed, after five of them.
_LOOK_SECONDS, _LOOKS_TOLD = 0.1, 5
#: A stack is told when two looks see the same one, or when it has not come by then.
_STACK_LOOK, _STACK_LIMIT = 0.025, 2.0
#: Bytes of output that may be under way to the supervisor; beyond them workers wait, as on any pipe that is full.
OUTPUT_WINDOW = 1 << 18
_OUTPUT_PIECE, _DRAIN_ROUNDS = 1 << 16, 64
_IDLE = Position(0, 0)


@dataclass(slots=True)
class _RelayedWorker:
    """A worker, and what the supervisor was told of it."""

    spec: WorkerSpec
    generation: int
    is_weighed: bool
    position: Position = _IDLE
    since: float = 0.0
    told: ShownPosition = ShownPosition(0, 0)
    weight: int = 0


class _RelayedPipe:
    """The read end of a worker's output; read while the supervisor takes what there is."""

    def __init__(self, relay: Relay, fd: int, stream: str, slot: int, generation: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._relay, self._mark = relay, stream[:1].encode()
        self._slot, self._generation = slot, generation

    def full(self) -> bool:
        """Return True if its worker waits until the supervisor has taken what it printed."""
        return self.fd >= 0 and is_pipe_full(self.fd)

    def on_ready(self, _mask: int) -> None:
        """Send what there is, at most one piece."""
        self.pass_on()

    def pass_on(self) -> bool:
        """Send what there is, at most one piece; False when nothing more can come now."""
        try:
            data = os.read(self.fd, _OUTPUT_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._relay.send_output(self._slot, self._generation, self._mark, data)
        else:
            self._relay.forget_pipe(self)
        return bool(data)

    def finish(self) -> None:
        """Send what a dead worker has left; bounded, as a child that was left behind may print for ever."""
        for _ in range(_DRAIN_ROUNDS):
            if self.fd < 0 or not self.pass_on():
                break
        self._relay.forget_pipe(self)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)
        self.fd = -1


class Relay:
    """One agent that has joined. `is_over` once there is nothing more for it to do."""

    def __init__(self, link: FrameLink, reactor: LocalReactor) -> None:
        self._link, self._reactor = link, reactor
        self._stack = contextlib.ExitStack()
        self._page = ProgressPage()
        self._stack.callback(self._page.close)
        self._arenas = ArenaRegistry()
        self._stack.callback(self._arenas.close)
        self._memory = RelayMemory(link, self._arenas)
        self._stack.callback(self._memory.close)
        self._spawner = Spawner()
        self._engine = ProcessEngine(reactor, self._page, self._spawner, self._attach_output, self._arenas)
        self._stack.callback(self._engine.close)
        #: Local plugins that this machine does not have as the supervisor has them.
        self._code: CodeFolder | None = None
        self._workers: dict[int, _RelayedWorker] = {}
        self._pipes: set[_RelayedPipe] = set()
        self._output_room = OUTPUT_WINDOW
        #: The worker that is being started: whose pipes are handed over.
        self._starting = 0, 0
        self._is_sampling = False
        self._watches_write = False
        self._is_leaving = False
        self.is_over = False
        #: Why it has ended, unless the supervisor said so or the machine is taken away.
        self.failure = ""
        self._takes: dict[int, Callable[[Frame], None]] = {
            frames.PLAN: self._take_plan,
            frames.START: self._start_worker,
            frames.SEND: self._pass_message,
            frames.KILL: lambda frame: self._of_worker(frame, self._engine.kill),
            frames.DUMP: lambda frame: self._of_worker(frame, self._begin_stack),
            frames.PAUSE: lambda frame: self._engine.pause_workers(going_on=bool(frame.slot)),
            frames.WRITTEN: lambda frame: self._add_output_room(frame.slot),
            frames.CLOSE: self._end,
            frames.BLOCK: self._memory.take_block,
            frames.LENT: self._memory.note_lent,
            frames.FREED: self._memory.free_blocks,
            frames.GONE: self._memory.close_twins,
        }
        self._meter = LinkMeter(link.fileno(), time.monotonic())
        reactor.call_later(_LOOK_SECONDS, partial(self._look_at_link, _LOOKS_TOLD, 0.0))
        reactor.watch_fd(link.fileno(), READ, self._on_ready)
        reactor.before_wait.append(self._flush_link)
        self._on_ready()  # a connection may have read ahead

    # -- from the supervisor -------------------------------------------------------------------------------

    def _on_ready(self, _mask: int = READ) -> None:
        for frame in self._link.receive():
            try:
                self._takes[frame.kind](frame)
            except framing.FrameError as error:
                self._link.end_reason = str(error)
        self._link.flush()
        self._watch_writing()

    def _flush_link(self) -> None:
        """Send what was gathered in this turn of the loop."""
        if self._link.wants_to_write and not self._watches_write:
            self._link.flush()
            self._watch_writing()

    def _watch_writing(self) -> None:
        if self._link.end_reason:
            if not self.is_over:
                self.failure = self._link.end_reason
            self.is_over = True
        elif self._link.wants_to_write != self._watches_write:
            self._watches_write = self._link.wants_to_write
            self._reactor.change_fd_events(self._link.fileno(), READ | (WRITE if self._watches_write else 0))

    def _take_plan(self, frame: Frame) -> None:
        plan = decode_body(frame.body, AgentPlan)
        self._arenas.node_number = plan.node_number
        if plan.folder and Path(plan.folder).is_dir():
            os.chdir(plan.folder)
        try:
            self._code = open_code(plan.code, plan.shared, plan.folder)
        except CodeRefused as error:
            self.failure, self.is_over = str(error), True
            self.send(frames.UNABLE, 0, 0, plain_text(error).encode())
            return
        found = [self._locate(each) for each in plan.sys_path]
        sys.path += [each for each in found if each not in sys.path and Path(each).exists()]
        if self._code is not None:
            self._stack.callback(self._code.close)
            sys.path.append(self._code.import_entry)
        references = [Reference(module, "", path and self._locate(path)) for module, path in plan.preload]
        self._spawner.start_fork_server(references, plan.needs_asyncio, [{"": ""}] if plan.has_env else [])

    def _locate(self, path: str) -> str:
        return path if self._code is None else self._code.locate(path)

    def _start_worker(self, frame: Frame) -> None:
        spec, is_weighed = pickle.loads(frame.body)  # noqa: S301  the supervisor has proved who it is
        if (code := self._code) is not None:
            hooks = tuple(
                dataclass_replace(each, reference=code.locate_reference(each.reference)) for each in spec.hooks
            )
            spec = replace(spec, reference=code.locate_reference(spec.reference), hooks=hooks)
        self._starting = frame.slot, frame.generation
        try:
            self._engine.start(spec, frame.generation)
        except SpawnError as error:
            # In the next turn: a signal that has hurried the start is told first.
            refusal = frames.REFUSED, frame.slot, frame.generation, plain_text(error).encode()
            self._reactor.call_later(0.0, partial(self.send, *refusal))
            return
        self._workers[frame.slot] = _RelayedWorker(spec, frame.generation, is_weighed, since=time.monotonic())
        if not self._is_sampling:
            self._is_sampling = True
            self._reactor.call_later(_SAMPLE, self._sample)

    def _of_worker(self, frame: Frame, act: Callable[[int], Any]) -> None:
        worker = self._workers.get(frame.slot)
        if worker is not None and worker.generation == frame.generation:
            act(frame.slot)

    def _pass_message(self, frame: Frame) -> None:
        lent = self._memory.take_lent()
        self._of_worker(frame, lambda slot: self._memory.pass_message(self._engine, slot, frame.body, lent))

    def _end(self, frame: Frame) -> None:
        self.failure = bytes(frame.body).decode("utf-8", "replace")
        self.is_over = True

    # -- to the supervisor ---------------------------------------------------------------------------------

    def send(self, kind: int, slot: int = 0, generation: int = 0, *body: framing.WireBuffer) -> None:
        """Hand a frame over."""
        self._link.send(kind, slot, generation, body)
        self._watch_writing()

    def handle_event(self, event: EngineEvent) -> None:
        """Pass on what the engine has heard, or a signal."""
        if isinstance(event, MessageReceived):
            message = event.message
            if self._arenas.is_used and (type(message) is Reply or type(message) is Produced):
                message = self._memory.send_outputs(event.slot, event.generation, message)
            self._link.gather(frames.HEARD, event.slot, event.generation, framing.pack_message(message))
        elif isinstance(event, WorkerExited):
            self._report_death(event)
        elif isinstance(event, SignalReceived):
            self.leave()

    def leave(self) -> None:
        """Tell that the machine is to be taken away, and end once its workers have; a second time: at once."""
        self.is_over = self.is_over or self._is_leaving
        self._is_leaving = True
        self.send(frames.LEAVING)
        self._end_if_left()

    def _end_if_left(self) -> None:
        if self._is_leaving and all(each.spec.previews_suspects for each in self._workers.values()):
            self.is_over = True

    def _report_death(self, event: WorkerExited) -> None:
        self._workers.pop(event.slot, None)
        ended, position = event.exit_status, event.position
        report = DeathReport(
            *(ended.code, ended.signal, plain_text(ended.text)),
            *(position.lease, position.index, position.width),
            *(plain_text(event.stack), event.socket_broken),
        )
        self.send(frames.DIED, event.slot, event.generation, encode_body(report))
        self._end_if_left()

    def _sample(self) -> None:
        """Tell what has changed: positions, and memory."""
        now = time.monotonic()
        self._is_sampling = bool(self._workers)
        pause = _SLOW_SAMPLE
        for slot, worker in self._workers.items():
            position = self._engine.current_position(slot)
            if position != worker.position:
                worker.position, worker.since = position, now
            stands = bool(position.lease) and now - worker.since >= _STANDS
            if worker.spec.timed:
                pause = _SAMPLE
            if not worker.spec.timed and not stands and not worker.told.stands:
                continue  # nobody asks where it is
            blocked = worker.spec.timed and self._engine.is_output_blocked(slot)
            shown = ShownPosition(position.lease, position.index, position.width, stands, blocked)
            if shown != worker.told:
                worker.told = shown
                self.send(frames.SHOWS, slot, worker.generation, encode_body(shown))
        for slot, worker in self._workers.items():
            if worker.is_weighed and (weight := self._engine.resident_bytes(slot)) != worker.weight:
                worker.weight = weight
                self.send(frames.WEIGHS, slot, worker.generation, encode_body(weight))
        if self._is_sampling:
            self._reactor.call_later(pause, self._sample)

    def _look_at_link(self, left: int, told: float) -> None:
        """Measure for how long the network holds up what is sent, and tell it; `left` looks until it is told again."""
        self._meter.look(time.monotonic(), is_waiting=self._link.wants_to_write)
        if left <= 1 and self._meter.full_seconds != told:
            told = self._meter.full_seconds
            self.send(frames.TRAFFIC, 0, 0, encode_body(told))
        if not self.is_over:
            left = left - 1 if left > 1 else _LOOKS_TOLD
            self._reactor.call_later(_LOOK_SECONDS, partial(self._look_at_link, left, told))

    def _begin_stack(self, slot: int) -> None:
        self._engine.request_stack(slot)
        until, generation = time.monotonic() + _STACK_LIMIT, self._workers[slot].generation
        self._reactor.call_later(_STACK_LOOK, partial(self._look_at_stack, slot, generation, until, ""))

    def _look_at_stack(self, slot: int, generation: int, until: float, seen: str) -> None:
        worker = self._workers.get(slot)
        if worker is None or worker.generation != generation:
            return  # its death tells it
        stack = self._engine.read_stack(slot)
        if (stack and stack == seen) or time.monotonic() >= until:
            self.send(frames.STACK, slot, generation, plain_text(stack).encode())
        else:
            self._reactor.call_later(_STACK_LOOK, partial(self._look_at_stack, slot, generation, until, stack))

    # -- output --------------------------------------------------------------------------------------------

    def _attach_output(self, name: str, fd: int, stream: str) -> _RelayedPipe:  # noqa: ARG002  the printer's signature
        pipe = _RelayedPipe(self, fd, stream, *self._starting)
        self._pipes.add(pipe)
        self._reactor.watch_fd(fd, READ if self._output_room > 0 else 0, pipe.on_ready)
        return pipe

    def send_output(self, slot: int, generation: int, mark: bytes, data: bytes) -> None:
        """Send what a worker has printed."""
        had_room = self._output_room > 0
        self._output_room -= len(data)
        self.send(frames.OUTPUT, slot, generation, mark, data)
        if had_room and self._output_room <= 0:
            self._watch_pipes(0)

    def _add_output_room(self, count: int) -> None:
        had_room = self._output_room > 0
        self._output_room += count
        if not had_room and self._output_room > 0:
            self._watch_pipes(READ)

    def _watch_pipes(self, events: int) -> None:
        for pipe in self._pipes:
            if self._reactor.is_watching_fd(pipe.fd):
                self._reactor.change_fd_events(pipe.fd, events)

    def forget_pipe(self, pipe: _RelayedPipe) -> None:
        """Close a pipe into which nothing more will be written; a second time does nothing."""
        if pipe in self._pipes:
            self._pipes.discard(pipe)
            self._reactor.unwatch_fd(pipe.fd)
            pipe.close()

    def close(self) -> None:
        """Kill what is left, and give everything back; the connection last, for its end says that all are dead."""
        self._stack.close()
        for pipe in list(self._pipes):
            self.forget_pipe(pipe)
        self._link.flush()
        self._reactor.unwatch_fd(self._link.fileno())
        self._link.close()
