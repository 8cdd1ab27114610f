"""Faults of a test: workers that are killed or stopped, and a run that is interrupted, once so many items have ended.

An engine around each engine sees what workers are started and what they are given, a reactor what they answer. So the
engine's own code knows nothing of faults; only the tasks that meet one are given their items one by one, or the first
answer of a quick worker would be its last one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.engines.engine_events import MessageReceived, SignalReceived, WorkerExited
from runner.engines.reactor import LocalReactor
from runner.errors import UsageError
from runner.fed_runs import is_added_task
from runner.structs import dataclass
from runner.transport.messages import Grant, Produced, Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from runner.engines.base import Engine
    from runner.engines.engine_events import EngineEvent
    from runner.model import Fault
    from runner.supervisor.plan import Plan
    from runner.transport.messages import ToWorker
    from runner.worker.spec import WorkerSpec


#: A worker of items that take less is killed when it is given one: it would have ended before it is seen to execute.
_QUICK = 0.005
#: Seconds between two looks at a worker that is to meet its fault.
_LOOK_SECONDS = 0.0005
#: A worker that does not show what it executes, such as one of `async def`, is killed after so many seconds.
_PATIENCE = 0.2


def with_single_items(plan: Plan, faults: Collection[Fault]) -> Plan:
    """Return the plan in which the tasks that meet a fault are given one item at a time; UsageError for threads."""
    for fault in faults:
        name = fault.kill or fault.stop
        if name is not None and plan.tasks[name].mode == "thread":
            raise UsageError(f"a fault of task `{name}`: its workers are threads, as its function declares")
    if not faults:
        return plan
    all_meet = any(fault.interrupt_run is not None for fault in faults)
    met = {fault.kill or fault.stop for fault in faults}
    tasks = {
        name: replace(task, takes_singly=not is_added_task(name)) if all_meet or name in met else task
        for name, task in plan.tasks.items()
    }
    return replace(plan, tasks=tasks)


@dataclass(slots=True)
class _WatchedWorker:
    """A worker that has been started: where it is, of what task, and the lease that it holds since when."""

    engine: Engine
    task: str
    pid: int
    is_alive: bool = True
    lease: int = 0
    granted_at: float = 0.0


class FaultInjector:
    """Lets the faults happen; `pending` are those that have not. `interrupted`: the run got its Ctrl-C."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.pending = list(faults)
        self.interrupted = False
        self._workers: dict[int, _WatchedWorker] = {}
        self._ended: Counter[str] = Counter()
        #: Seconds that the last item of a task took.
        self._seconds: dict[str, float] = {}
        self._all_ended = 0

    def wrap_engine(self, engine: Engine) -> Engine:
        """Return an engine that does what `engine` does, and is watched."""
        made: Any = _WatchedEngine(engine, self)
        return made  # type: ignore[no-any-return]  # it has what it does not define from the engine

    def make_reactor(self) -> LocalReactor:
        """Return the reactor of one life of the run."""
        return _WatchedReactor(self)

    def note_start(self, slot: int, worker: _WatchedWorker) -> None:
        """Note a worker that has been started."""
        self._workers[slot] = worker

    def note_grant(self, slot: int, grant: Grant) -> None:
        """Note what a worker has been given; a worker of quick items is killed now, or it would never be with one."""
        worker = self._workers[slot]
        worker.lease, worker.granted_at = grant.lease, time.monotonic()
        fault = self._due_fault(worker)
        if fault is not None and fault.kill and self._seconds.get(worker.task, _QUICK) < _QUICK:
            self._meet_fault(slot, worker, fault)

    def note_event(self, event: EngineEvent) -> None:
        """Count what has ended, before the supervisor hears of it."""
        if not isinstance(event, (MessageReceived, WorkerExited)) or (worker := self._workers.get(event.slot)) is None:
            return
        if isinstance(event, WorkerExited):
            worker.is_alive = False
            return
        message = event.message
        if type(message) is Reply:
            was_missed = self._due_fault(worker) is not None
            ended = sum(ack.done - sum(failure.count for failure in ack.failures) for ack in message.acks)
            self._ended[worker.task] += ended
            self._all_ended += 0 if is_added_task(worker.task) else ended
            if not any(ack.keeps_rest for ack in message.acks):
                worker.lease = 0
                # An item that should have met it ended before it was seen: the next one is not waited for.
                self._seconds[worker.task] = 0.0 if was_missed else time.monotonic() - worker.granted_at
        elif type(message) is Produced:
            self._ended[worker.task] += message.item_count
            if (fault := self._due_fault(worker)) is not None:
                self._meet_fault(event.slot, worker, fault)

    def is_watching(self) -> bool:
        """Return True if a worker is to meet its fault as soon as it executes what it holds."""
        return any(worker.lease and self._due_fault(worker) is not None for worker in self._workers.values())

    def look_at_workers(self) -> bool:
        """Let the workers that execute meet their faults; return True if the run is to get Ctrl-C now."""
        for slot, worker in self._workers.items() if self.pending else ():
            if worker.lease and (fault := self._due_fault(worker)) is not None:
                executes = worker.engine.current_position(slot).lease == worker.lease
                waits_long = fault.kill and time.monotonic() - worker.granted_at > _PATIENCE
                if executes or waits_long:
                    self._meet_fault(slot, worker, fault)
        for fault in self.pending:
            if fault.interrupt_run is not None and self._all_ended >= fault.interrupt_run:
                self.pending.remove(fault)
                self.interrupted = True
                return True
        return False

    def _due_fault(self, worker: _WatchedWorker) -> Fault | None:
        if not worker.is_alive:
            return None
        mine = (fault for fault in self.pending if worker.task == (fault.kill or fault.stop))
        return next((fault for fault in mine if self._ended[worker.task] >= (fault.after or 0)), None)

    def _meet_fault(self, slot: int, worker: _WatchedWorker, fault: Fault) -> None:
        self.pending.remove(fault)
        if fault.kill:
            worker.is_alive = False
            worker.engine.kill(slot)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGSTOP)


class _WatchedEngine:
    """An engine around an engine."""

    def __init__(self, engine: Engine, injector: FaultInjector) -> None:
        self._engine, self._injector = engine, injector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self, spec: WorkerSpec, generation: int) -> int:
        """Start a worker, and note it."""
        pid = self._engine.start(spec, generation)
        self._injector.note_start(spec.slot, _WatchedWorker(self._engine, spec.task, pid))
        return pid

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; a worker with an item may meet its fault then."""
        self._engine.send(slot, message)
        if type(message) is Grant:
            self._injector.note_grant(slot, message)


class _WatchedReactor(LocalReactor):
    """A reactor that shows its events to the injector."""

    def __init__(self, injector: FaultInjector) -> None:
        super().__init__()
        self._injector = injector

    def wait(self, timeout: float | None) -> list[EngineEvent]:
        """Return the events, with Ctrl-C behind them when it is time."""
        if self._injector.is_watching():
            timeout = _LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS)
        events = super().wait(timeout)
        for event in events:
            self._injector.note_event(event)
        if self._injector.look_at_workers():
            events.append(SignalReceived(signal.SIGINT))
        return events
