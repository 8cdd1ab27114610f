"""Readers of suspects, on the scripted engine: a death that waited for one is handled once."""

from __future__ import annotations

from typing import Any

from fake_engine import FakeClock, FakeEngine, FakeReactor, Script, check_end, plan, task

from runner.errors import SpawnError
from runner.model import QueueConfig
from runner.supervisor.loop import Supervisor


class FleetWithoutReaders(FakeEngine):
    """An engine that can start workers, and no reader."""

    refused = 0

    def start(self, spec: Any, life: int) -> int:
        if spec.previews_suspects:
            self.refused += 1
            raise SpawnError("no process could be started")
        return super().start(spec, life)


def test_a_death_whose_reader_cannot_be_started_is_told_once() -> None:
    clock = FakeClock()
    hub = FakeReactor(clock)
    fleet = FleetWithoutReaders(hub, Script(1, kills=0.2), 50)
    tasks = [task("source", (), ("q",)), task("work", ("q",), count=2)]
    seen: list[Any] = []
    made = plan(tasks, [QueueConfig("q")])
    supervisor = Supervisor(made, {"process": fleet, "thread": fleet}, hub, clock, seen.append, suspect_readers=True)
    result = supervisor.run()
    check_end(result, seen[-1])
    assert result.exit_code == 0, result
    died = [event for event in seen if type(event).__name__ == "WorkerDied"]
    assert fleet.refused > 0
    assert fleet.deaths == len(died) > 2
    assert all("no reader could be started" in event.preview for event in died), died[0]


class FleetWithSlowReaders(FakeEngine):
    """An engine whose readers show nothing, and take their time to die."""

    readers_at_once = 0

    def start(self, spec: Any, life: int) -> int:
        if spec.previews_suspects:
            former = self.workers.get(spec.slot)
            self.readers_at_once += former is not None and former.alive
        return super().start(spec, life)

    def send(self, slot: int, message: Any) -> None:
        if not self.workers[slot].spec.previews_suspects:
            super().send(slot, message)

    def kill(self, slot: int) -> bool:
        self.hub.at(0.5, lambda: self._die(self.workers[slot]))
        return True


def test_the_next_reader_is_started_when_the_former_is_gone() -> None:
    clock = FakeClock()
    hub = FakeReactor(clock)
    fleet = FleetWithSlowReaders(hub, Script(1, kills=0.2, cost=0.1), 50)
    tasks = [task("source", (), ("q",)), task("work", ("q",), count=4)]
    seen: list[Any] = []
    made = plan(tasks, [QueueConfig("q")])
    supervisor = Supervisor(made, {"process": fleet, "thread": fleet}, hub, clock, seen.append, suspect_readers=True)
    result = supervisor.run()
    check_end(result, seen[-1])
    assert result.exit_code == 0, result
    died = [event for event in seen if type(event).__name__ == "WorkerDied"]
    assert len([event for event in died if "showing it took more than 2s" in event.preview]) > 2
    assert not fleet.readers_at_once
