"""Nodes that a launcher starts: a scripted one, whose machines are agents of this machine."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import functions
from faults.harness import plan, run, task
from faults.sinks import collector

from runner import events
from runner.model import Resources, Restarts

PROGRAM = str(Path(__file__).parents[1] / "scripted_launcher.py")
COUNT = 300


def launched(*words: str, workers: int = 3, resources: Resources | None = None, on_event: Any = None) -> Any:
    """Run two tasks on nodes of two CPUs each, which the launcher starts."""
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(COUNT,)),
            task("middle", functions.slowly, "a", "b", workers=workers, args=(0.005,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(
        made, collected, "agents", on_event, agents=0, launcher=[sys.executable, PROGRAM, *words],
        encrypted=True, resources={} if resources is None else {"middle": resources},
    )  # fmt: skip
    return outcome, collected


def arrived_once(outcome: Any, collected: list[Any]) -> None:
    assert outcome.result.exit_code == 0, (outcome.result, outcome.said[-10:])
    assert sorted(collected) == list(range(COUNT))


@pytest.mark.slow
def test_as_many_nodes_are_started_as_the_workers_need() -> None:
    outcome, collected = launched("2")
    arrived_once(outcome, collected)
    assert sorted(event.node for event in outcome.of(events.NodeJoined)) == ["n1", "n2"]
    assert {event.node for event in outcome.of(events.WorkerReady) if event.task != "collect"} == {"n1", "n2"}


@pytest.mark.slow
def test_workers_with_resources_take_more_room_and_are_told_what_they_have() -> None:
    outcome, collected = launched("2", workers=2, resources=Resources(2))
    arrived_once(outcome, collected)
    nodes = {event.worker: event.node for event in outcome.of(events.WorkerReady)}
    assert nodes["middle-1"] != nodes["middle-2"]
    assert len(outcome.of(events.NodeJoined)) >= 2


def test_each_worker_is_told_its_gpus_and_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node, which may see two devices, and whose library threads would be four."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    collected: list[Any] = []
    names = ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"]
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(60,)),
            task("middle", functions.surroundings, "a", "b", workers=2, args=(names,), restarts=Restarts(0)),
            collector(collected, "b"),
        ]
    )
    outcome = run(
        made, collected, "agents", agents=0, launcher=[sys.executable, PROGRAM, "4"],
        resources={"middle": Resources(1.5, 1)},
    )  # fmt: skip
    assert outcome.result.exit_code == 0, outcome.result
    assert len(collected) == 60
    assert {each[1:] for each in collected} == {(4, 1), (5, 1)}


class _Killer:
    """Kills the first worker's agent, once, when the worker is ready."""

    def __init__(self) -> None:
        self.killed = 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, events.WorkerReady) and event.task == "middle" and not self.killed:
            self.killed = event.pid
            # The worker's parent is the agent's fork server, whose parent is the agent.
            server = int(Path(f"/proc/{event.pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)


@pytest.mark.slow
def test_another_node_is_started_for_one_that_dies() -> None:
    outcome, collected = launched("2", workers=1, on_event=_Killer())
    arrived_once(outcome, collected)
    assert [event.node for event in outcome.of(events.NodeLost)] == ["n1"]
    assert [event.node for event in outcome.of(events.NodeJoined)] == ["n1", "n2"]


@pytest.mark.slow
def test_a_launcher_that_dies_is_started_again(tmp_path: Path) -> None:
    outcome, collected = launched("2", "die", str(tmp_path / "died"))
    assert (tmp_path / "died").exists()
    arrived_once(outcome, collected)


@pytest.mark.slow
def test_a_launcher_that_dies_again_and_again_fails_the_tasks_that_wait() -> None:
    outcome, collected = launched("2", "die", "always")
    assert outcome.result.exit_code == 1
    assert not collected
    why = "what starts nodes is gone: it has died 4 times; the last time: exited with code 7"
    assert {event.why for event in outcome.of(events.WorkerDied)} == {f"could not be started: {why}"}


@pytest.mark.parametrize("workers", [1, 4])
def test_what_can_never_be_had_fails_the_task_with_the_launchers_words(workers: int) -> None:
    outcome, collected = launched("2", "refuse", "no machine has 9 CPUs", workers=workers)
    assert outcome.result.exit_code == 1
    assert not collected
    died = [event.why for event in outcome.of(events.WorkerDied)]
    assert died
    assert all("could not be started: no machine has 9 CPUs" in why for why in died)
