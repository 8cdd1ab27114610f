"""Ranges of workers with real workers: any number at any time in every form of a task, and what may be in its way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from faults import functions
from faults.functions import Fault
from faults.harness import plan, run, task
from faults.sinks import collector
from ranges import RandomDecisions

from runner import events, worker_scaling
from runner.engines.engine_events import SignalReceived
from runner.engines.processes import ProcessEngine
from runner.errors import SpawnError
from runner.model import Rate
from runner.worker_scaling import ScalingDecision, WorkerScaler

if TYPE_CHECKING:
    from pathlib import Path

    from faults.harness import Outcome

    from runner.worker_scaling import LoadSample

pytestmark = pytest.mark.usefixtures("fork_server")

FORMS: dict[str, dict[str, Any]] = {
    "items": {"middle": functions.Stage},
    "batch": {"middle": functions.Listed, "batch": 7},
    "async": {"middle": functions.Late, "concurrency": 5},
    "async batch": {"middle": functions.LateSpread, "concurrency": 3, "batch": 7},
    "boxes": {"middle": functions.boxed},
    "ordered": {"middle": functions.Stage, "ordered": True},
}


def ranged(each: Any, least: int) -> Any:
    return replace(each, config=replace(each.config, least_workers=least))


def line(middle: Any, count: int, *, least: int = 1, most: int = 6, **options: Any) -> tuple[Any, list[Any]]:
    """Numbers through a task with a range into a list."""
    collected: list[Any] = []
    tasks = [
        task("source", functions.numbers, outputs="a", args=(count,), mode="thread"),
        ranged(task("middle", middle, "a", "b", workers=most, **options), least),
        collector(collected, "b"),
    ]
    return plan(tasks), collected


def by_order(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Have these numbers of workers, one after the other, whatever the load is: this machine may be busy."""
    left = list(numbers)

    def decide(self: WorkerScaler, load: LoadSample) -> ScalingDecision | None:
        if not left or load.unready:
            return None
        before, self.number = self.number, left.pop(0)
        return ScalingDecision(self.number, before, "by order")

    monkeypatch.setattr(worker_scaling, "INTERVAL", 0.05)
    monkeypatch.setattr(WorkerScaler, "decide", decide)


def by_chance(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    decisions = RandomDecisions(seed)
    monkeypatch.setattr(worker_scaling, "INTERVAL", 0.03)
    monkeypatch.setattr(WorkerScaler, "decide", lambda self, load: decisions.decide(self, load))


def check_forms(
    form: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> tuple[Outcome, list[Any]]:
    """Any number at any time, while one worker dies of an item."""
    count, options = 150, dict(FORMS[form])
    by_chance(monkeypatch, seed)
    way = "_exit(0)" if how.get("mode") == "thread" else "SIGKILL"
    fault = Fault("never" if how.get("mode") == "thread" else "item", way, "middle", count // 2, tmp_path)
    middle, mode = options.pop("middle"), how.pop("mode", "process")
    with_ = {"name": "middle", "fault": fault}
    made, collected = line(middle, count, with_=with_, mode=mode, rate=Rate(200.0, 1.0), **options)
    outcome = run(made, collected, **how)
    assert outcome.result.exit_code == 0, (outcome.result, outcome.said[-10:])
    assert sorted(collected) == list(range(count))
    assert form != "ordered" or collected == sorted(collected)
    assert len(outcome.of(events.WorkersChanged)) > 5
    for worker in (worker for each in outcome.result.ended.tasks for worker in each.workers):
        spent = sum(getattr(worker.spent, state) for state in events.STATES)
        assert abs(spent - outcome.result.ended.seconds) < 1e-6, worker
    assert len(outcome.of(events.WorkerDied)) == (mode == "process")
    return outcome, collected


@pytest.mark.parametrize(
    "form", [*(pytest.param(form, marks=() if form == "items" else pytest.mark.slow) for form in FORMS)]
)
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_any_number_at_any_time_in_every_form(
    form: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_forms(form, 1, tmp_path, monkeypatch, mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_same_on_machines_that_have_room_for_three(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_forms(form, 2, tmp_path, monkeypatch, method="agents", agents=1, places=3)


def test_a_set_up_that_fails_for_the_fourth_worker_is_not_the_end_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_order(monkeypatch, 2, 4)
    made, collected = line(functions.Connected, 200, most=8, args=(tmp_path, 3))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(200))
    first, second, back = outcome.of(events.WorkersChanged)
    assert (first.number, second.number, back.number) == (2, 4, 3)
    assert "a further one could not start: ConnectionRefusedError: too many connections" in back.why
    assert not outcome.of(events.ItemFailed)


@pytest.mark.slow
def test_a_machine_that_refuses_a_further_process_is_not_the_end_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    by_order(monkeypatch, 2, 4)
    start, started = ProcessEngine.start, []

    def refuse(self: ProcessEngine, spec: Any, generation: int) -> int:
        if spec.task == "middle":
            started.append(spec.name)
            if len(started) > 2:
                raise SpawnError("no process could be started: Resource temporarily unavailable")
        return start(self, spec, generation)

    monkeypatch.setattr(ProcessEngine, "start", refuse)
    made, collected = line(functions.slowly, 300, most=8, args=(0.01,))
    outcome = run(made, collected)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(300))
    assert [each.number for each in outcome.of(events.WorkersChanged)] == [2, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_ctrl_c_while_it_grows_drains(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_order(monkeypatch, 2, 4, 8)
    made, collected = line(functions.slowly, 100_000, most=8, args=(0.01,), mode=mode)
    hubs: list[Any] = []

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.WorkersChanged) and event.number >= 4:
            hubs[0].post_event(SignalReceived(2))

    outcome = run(made, collected, on_event=interrupt, on_start=lambda _, hub: hubs.append(hub))
    assert outcome.result.exit_code == 130
    assert outcome.result.headline.read == len(collected) == len(set(collected))
    assert outcome.of(events.WorkersChanged)[-1].at <= outcome.of(events.RunStopping)[0].at


@pytest.mark.slow
def test_machines_without_room_keep_it_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    by_order(monkeypatch, 2, 4, 8)
    made, collected = line(functions.slowly, 300, most=8, args=(0.01,))
    outcome = run(made, collected, "agents", agents=1, places=2)
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(300))
    assert [each.number for each in outcome.of(events.WorkersChanged)] == [2, 4]
    assert len([each for each in outcome.of(events.WorkerReady) if each.task == "middle"]) == 2


@pytest.mark.slow
def test_a_time_limit_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    by_order(monkeypatch, 2, 4)
    made, collected = line(functions.hanging, 200, most=4, args=(77,), timeout=1.0)
    outcome = run(made, collected)
    assert outcome.result.exit_code == 4
    assert sorted(collected) == [number for number in range(200) if number != 77]
