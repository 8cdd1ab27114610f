"""One suite for every engine: threads, processes, those of other machines and the scripted one keep the same promises."""

from __future__ import annotations

import pickle
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from fake_engine import FakeClock, FakeEngine, FakeReactor, Script
from remote_agents import open_remote

from runner.engines.engine_events import MessageReceived, WorkerExited
from runner.engines.processes import ProcessEngine
from runner.engines.reactor import LocalReactor
from runner.engines.spawn import Spawner
from runner.engines.threads import ThreadEngine
from runner.shm.linux_only import arenas_supported
from runner.shm.registry import ArenaRegistry
from runner.tasks import Reference
from runner.transport import item_codec
from runner.transport.messages import (
    OBJECTS,
    PICKLED,
    Credit,
    Finished,
    Grant,
    GrantedRange,
    Produced,
    Ready,
    Reply,
    Stop,
)
from runner.transport.progress_page import ProgressPage
from runner.worker.spec import OutputGroup, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("fork_server")

#: Threads, processes and the fake by default; the other two share what these show.
KINDS = ["thread", "forkserver", "fake", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("spawn", "agents"))]


class Rig:
    """One fleet with its hub."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self.backlog: list[Any] = []
        if kind == "fake":
            self.hub: Any = FakeReactor(FakeClock())
            self.fleet: Any = FakeEngine(self.hub, Script(1), 3)
            return
        self.hub = LocalReactor()
        stack.callback(self.hub.close)
        page = ProgressPage()
        stack.callback(page.close)
        if kind == "agents":
            self.fleet, _ = open_remote(self.hub, stack)
            return
        if kind == "thread":
            self.fleet = ThreadEngine(self.hub)
        else:
            spawner = Spawner(kind)
            spawner.start_fork_server([])
            arenas = ArenaRegistry()
            stack.callback(arenas.close)
            self.fleet = ProcessEngine(self.hub, page, spawner, None, arenas)
        stack.callback(self.fleet.close)

    @property
    def form(self) -> int:
        return PICKLED if self.kind in {"forkserver", "spawn", "agents"} else OBJECTS

    def spec(self, function: str = "abs", **options: Any) -> WorkerSpec:
        module = options.pop("module", "builtins")
        groups = tuple(OutputGroup("default", (queue,), self.form) for queue in options.pop("queues", ("out",)))
        given: dict[str, Any] = {"inputs": ("in",), "arguments": pickle.dumps(((), {})), "output_groups": groups}
        given.update(options)
        return WorkerSpec(task="work", name="worker", run="r", slot=0, reference=Reference(module, function), **given)

    def payload(self, items: list[Any]) -> Any:
        if self.kind == "fake":
            return [(item,) for item in items]
        return (
            item_codec.encode_payload([item_codec.ItemEncoder(1 << 30).encode_item(item) for item in items])
            if self.form == PICKLED
            else items
        )

    def grant(self, lease: int, items: list[Any]) -> Grant:
        return Grant(lease, 1.0, (GrantedRange(lease, 0, len(items), 1, 0, self.form, self.payload(items)),))

    def items(self, message: Any) -> list[Any]:
        found: list[Any] = []
        for output in message.outputs:
            found += (
                [
                    item_codec.decode_item(each)
                    for each in item_codec.decode_payload(getattr(output.payload, "data", output.payload))
                ]
                if self.form == PICKLED
                else output.payload
            )
        return found

    def until(self, kind: type, life: int = 1) -> Any:
        for _ in range(200):
            self.backlog += [] if self.backlog else self.hub.wait(10.0)
            while self.backlog:
                event = self.backlog.pop(0)
                if isinstance(event, kind):
                    return event
                if isinstance(event, MessageReceived) and isinstance(event.message, kind):
                    assert (event.slot, event.generation) == (0, life)
                    return event.message
        raise AssertionError(f"no {kind.__name__}")


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(request.param, stack)


def test_a_worker_is_ready_answers_and_finishes(rig: Rig) -> None:
    pid = rig.fleet.start(rig.spec(), 1)
    ready = rig.until(Ready)
    if rig.kind == "agents":
        assert pid == 0
        assert ready.node in {"n1", "n2"}
    else:
        assert pid > 0
        assert not ready.node
    rig.fleet.send(0, rig.grant(7, [-1, -2, -3]))
    answer = rig.until(Reply)
    assert [(ack.lease, ack.done, ack.failures) for ack in answer.acks] == [(7, 3, ())]
    if rig.kind != "fake":
        assert rig.items(answer) == [1, 2, 3]
    rig.fleet.send(0, Stop(inputs_ended=True))
    rig.until(Finished)
    died = rig.until(WorkerExited)
    assert (died.slot, died.generation, died.exit_status.code) == (0, 1, 0)


def test_a_large_item_arrives_and_can_be_given_again(rig: Rig) -> None:
    """By its place in shared memory where there is some: what has come is given to the same worker, as it is."""
    if rig.kind == "fake":
        pytest.skip("its workers send no bytes")
    rig.fleet.start(rig.spec("bytes"), 1)
    rig.until(Ready)
    rig.fleet.send(0, rig.grant(1, [300_000]))
    (output,) = (answer := rig.until(Reply)).outputs
    assert bool(output.block_refs) is (rig.form == PICKLED and arenas_supported())
    for lease in (2, 3):
        assert rig.items(answer) == [bytes(300_000)]
        part = GrantedRange(lease, 0, 1, 1, 0, rig.form, output.payload)
        rig.fleet.send(0, Grant(lease, 1.0, (part,)))
        (output,) = (answer := rig.until(Reply)).outputs


def test_grants_that_wait_are_executed_in_turn(rig: Rig) -> None:
    rig.fleet.start(rig.spec(), 1)
    rig.until(Ready)
    for lease in (1, 2, 3):
        rig.fleet.send(0, rig.grant(lease, [lease]))
    assert [rig.until(Reply).acks[0].lease for _ in range(3)] == [1, 2, 3]


def test_a_failing_item_is_told_apart_from_its_neighbours(rig: Rig) -> None:
    if rig.kind == "fake":
        pytest.skip("its failures are scripted")
    rig.fleet.start(rig.spec("int"), 1)
    rig.until(Ready)
    rig.fleet.send(0, rig.grant(7, ["1", "two", "3"]))
    answer = rig.until(Reply)
    assert rig.items(answer) == [1, 3]
    (failure,) = answer.acks[0].failures
    assert (answer.acks[0].done, failure.index, failure.error.type) == (3, 1, "ValueError")


def test_a_source_makes_no_more_than_its_credit(rig: Rig) -> None:
    if rig.kind == "fake":
        pytest.skip("its sources are scripted")
    arguments = pickle.dumps(((5,), {}))
    spec = rig.spec("count_to", module="sample_functions", inputs=(), arguments=arguments)
    rig.fleet.start(spec, 1)
    rig.until(Ready)
    rig.fleet.send(0, Credit(2, 0.01))
    made: list[Any] = []
    while len(made) < 2:
        made += rig.items(rig.until(Produced))
    assert made == [0, 1]
    rig.fleet.send(0, Credit(5, 0.01))
    while len(made) < 5:
        made += rig.items(rig.until(Produced))
    assert made == [0, 1, 2, 3, 4]
    rig.fleet.send(0, Credit(9, 0.01))
    rig.until(Finished)


def test_a_kill_is_reported_as_a_death_with_its_position(rig: Rig) -> None:
    rig.fleet.start(rig.spec("hang", module="sample_functions", timed=True), 1)
    rig.until(Ready)
    rig.fleet.send(0, rig.grant(9, [(1,)]))
    if rig.kind == "thread":
        assert rig.fleet.kill(0) is False
        import sample_functions

        sample_functions.go_on.set()
        return
    while rig.fleet.current_position(0).lease != 9:
        rig.hub.wait(0.01)
    assert rig.fleet.kill(0) is True
    died = rig.until(WorkerExited)
    assert died.exit_status.signal == signal.SIGKILL
    assert (died.position.lease, died.position.index) == (9, 0)


def test_a_slot_can_have_another_life(rig: Rig) -> None:
    for life in (1, 2):
        rig.fleet.start(rig.spec(), life)
        rig.until(Ready, life)
        rig.fleet.send(0, Stop(inputs_ended=True))
        rig.until(WorkerExited, life)
