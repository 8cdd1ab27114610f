"""One run with real workers inside the test's own process, and the oracle that every such run must satisfy."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from helpers import descendants, existing, still_there
from remote_agents import open_remote

from runner.engines.processes import ProcessEngine
from runner.engines.reactor import LocalReactor, RealClock
from runner.engines.spawn import Spawner
from runner.engines.threads import ThreadEngine
from runner.model import Backoff, Batch, OutputPort, QueueConfig, Restarts, RunSettings, TaskConfig
from runner.shm.registry import ArenaRegistry
from runner.supervisor.dead_letters import DeadLetterSink
from runner.supervisor.loop import Supervisor
from runner.supervisor.plan import Plan, TaskPlan
from runner.tasks import Reference, inspect_shape
from runner.transport.progress_page import ProgressPage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_agents import Machines

    from runner import events

#: No run of a test takes so long: one that does hangs.
LIMIT = 90.0


@dataclass
class Outcome:
    """A run's end, with everything that was said of it."""

    result: Any
    collected: list[Any]
    said: list[events.Event] = field(default_factory=list)
    letters: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.said if isinstance(event, kind)]


class _Keeping(DeadLetterSink):
    def __init__(self) -> None:
        self.records: list[Any] = []

    def store_letter(self, given_up: Any, preview: str, kept: Any = None) -> None:
        self.records.append(SimpleNamespace(text=given_up.evidence.text, preview=preview))


def task(
    name: str,
    function: Any,
    inputs: str = "",
    outputs: str = "",
    *,
    workers: int = 1,
    mode: str = "process",
    args: tuple[Any, ...] = (),
    with_: dict[str, Any] | None = None,
    **options: Any,
) -> TaskPlan:
    """A task of a plan; its queues as words."""
    names = tuple(name if workers == 1 else f"{name}-{at + 1}" for at in range(workers))
    ports = (OutputPort("default", tuple(outputs.split())),) if outputs else ()
    options.setdefault("restarts", Restarts(1000, 60.0))
    options.setdefault("backoff", Backoff(0.001, 2.0, 0.01, 0.0))
    if isinstance(options.get("batch"), int):
        options["batch"] = Batch(options["batch"])
    config = TaskConfig(
        name=name,
        call=name,
        inputs=tuple(inputs.split()),
        ports=ports,
        mode=mode,  # type: ignore[arg-type]
        workers=names,
        **options,
    )
    reference = Reference(function.__module__, function.__qualname__)
    return TaskPlan(config, mode, reference, inspect_shape(function), pickle.dumps((args, with_ or {})))  # type: ignore[arg-type]


def plan(tasks: Sequence[TaskPlan], queues: dict[str, Any] | None = None, **settings: Any) -> Plan:
    """A plan; queues that are not described have their defaults."""
    names = {name for each in tasks for name in (*each.config.inputs, *each.config.outputs, each.config.dead) if name}
    described = queues or {}
    made = {name: described.get(name) or QueueConfig(name, elastic=True) for name in sorted(names)}
    return Plan("Faults", "faults", RunSettings(state=Path("unused"), **settings), made, {t.name: t for t in tasks})


def run(
    made: Plan,
    collected: list[Any] | None = None,
    method: str = "forkserver",
    on_event: Callable[[events.Event], None] | None = None,
    on_start: Callable[[Supervisor, LocalReactor], None] | None = None,
    keep: bool = True,
    on_machines: Callable[[Machines], None] | None = None,
    weighed: Sequence[str] = (),
    suspect_readers: bool = False,
    **machines_options: Any,
) -> Outcome:
    """Run it here, with a limit; what is printed goes where the test's output goes."""
    said: list[events.Event] = []

    def emit(event: events.Event) -> None:
        if keep:
            said.append(event)
        if on_event is not None:
            on_event(event)

    letters = _Keeping() if keep else DeadLetterSink()
    before = descendants()
    began = time.monotonic()
    with ExitStack() as stack:
        hub = LocalReactor()
        stack.callback(hub.close)
        page = ProgressPage()
        stack.callback(page.close)
        modes = {each.mode for each in made.tasks.values()}
        fleets: dict[str, Any] = {}
        process_tasks = [each for each in made.tasks.values() if each.mode == "process"]
        references = [each.reference for each in process_tasks]
        if "process" in modes and method == "agents":
            needs_asyncio = any(each.shape.is_async for each in process_tasks)
            fleets["process"], machines = open_remote(
                hub, stack, references, needs_asyncio=needs_asyncio, weighed=weighed, **machines_options
            )
            if on_machines is not None:
                on_machines(machines)
        elif "process" in modes:
            arenas = ArenaRegistry()
            stack.callback(arenas.close)
            spawner = Spawner(method)
            spawner.start_fork_server(references)
            fleets["process"] = ProcessEngine(hub, page, spawner, None, arenas)
            stack.callback(fleets["process"].close)
        if "thread" in modes:
            fleets["thread"] = ThreadEngine(hub)
            stack.callback(fleets["thread"].close)
        supervisor = Supervisor(made, fleets, hub, RealClock(), emit, letters, suspect_readers=suspect_readers)
        alarm = threading.Timer(LIMIT, _hung, (supervisor, hub))
        alarm.start()
        stack.callback(alarm.cancel)
        if on_start is not None:
            on_start(supervisor, hub)
        result = supervisor.run()
        assert alarm.is_alive(), f"it hung: {supervisor.ledger.leases}, {said[-5:]}"
        alarm.cancel()
        alarm.join()
    outcome = Outcome(
        result,
        collected if collected is not None else [],
        said,
        getattr(letters, "records", []),
        time.monotonic() - began,
    )
    oracle(outcome, before)
    return outcome


def _hung(supervisor: Supervisor, hub: LocalReactor) -> None:
    from runner.engines.engine_events import SignalReceived

    for _ in range(2):
        hub.post_event(SignalReceived(2))


def oracle(outcome: Outcome, before: set[int]) -> None:
    """What holds after every run, whatever happened in it; `before`: the processes that there were before it."""
    result = outcome.result
    assert result.exit_code != 70, result
    assert not result.ended.unbalanced, result
    assert result.headline.missing == 0, result.headline
    for name, tally in result.lines.items():
        assert tally.missing == 0, (name, tally)
    twice = [item for item, count in Counter(outcome.collected).items() if count > 1 and item != -1]
    assert not twice, f"came out twice: {twice}"
    dead = sum(task.dead for task in result.tasks.values())
    assert dead == result.headline.dead
    orphans = still_there(list(existing(descendants() - before)), limit=0)
    assert not orphans, orphans
