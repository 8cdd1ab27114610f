"""What workers on other machines cost: two agents on loopback, beside local processes.

    PYTHONPATH=tests python bench/cluster.py

Each figure is of the engine alone.
"""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import statistics
import time
from collections import deque
from contextlib import ExitStack
from typing import Any

from bare_copy import measure_arrays
from remote_agents import open_remote, wait_until

from runner.engines.engine_events import MessageReceived
from runner.engines.processes import ProcessEngine
from runner.engines.reactor import LocalReactor
from runner.engines.spawn import Spawner
from runner.shm.registry import ArenaRegistry
from runner.tasks import Reference
from runner.transport import item_codec
from runner.transport.messages import PICKLED, Grant, GrantedRange, Ready, Reply
from runner.transport.progress_page import ProgressPage
from runner.worker.spec import OutputGroup, WorkerSpec

WORKERS, IN_FLIGHT = 4, 2


class Bench:
    """An engine of one kind, with its workers ready."""

    def __init__(self, kind: str, stack: ExitStack, workers: int = WORKERS, machines: int = 2) -> None:
        self.hub = LocalReactor()
        stack.callback(self.hub.close)
        if kind != "local":
            encrypted = kind == "agents, TLS"
            self.engine, self.machines = open_remote(self.hub, stack, encrypted=encrypted, agents=machines)
            wait_until(self.hub, lambda: len(self.engine._nodes) == machines)
        else:
            page = ProgressPage()
            stack.callback(page.close)
            arenas = ArenaRegistry()
            stack.callback(arenas.close)
            spawner = Spawner()
            spawner.start_fork_server([])
            self.engine = ProcessEngine(self.hub, page, spawner, None, arenas)
            stack.callback(self.engine.close)
        self.leases = 0
        ready = 0
        for slot in range(workers):
            self.start(slot, 1)
        while ready < workers:
            ready += sum(type(each) is Ready for _, each in self.heard())

    def start(self, slot: int, life: int, function: str = "builtins:abs", **given: Any) -> None:
        groups = (OutputGroup("default", ("out",), PICKLED),)
        reference, arguments = Reference(*function.split(":")), pickle.dumps(((), given))
        spec = WorkerSpec("work", f"w{slot}", "r", slot, reference, arguments, ("in",), groups)
        self.engine.start(spec, life)

    def heard(self) -> list[tuple[int, Any]]:
        return [(each.slot, each.message) for each in self.hub.wait(5.0) if isinstance(each, MessageReceived)]

    def grant(self, slot: int, payload: Any, count: int) -> None:
        self.leases += 1
        self.engine.send(slot, Grant(self.leases, 0.05, (GrantedRange(self.leases, 0, count, 1, 0, PICKLED, payload),)))


def payload(count: int) -> bytes:
    return item_codec.encode_payload([item_codec.ItemEncoder(1 << 30).encode_item(-each) for each in range(count)])


def chunks(kind: str, items: int, seconds: float = 3.0) -> tuple[float, float]:
    """Chunks a second with two in flight for each worker, and the processor time of each here, in us."""
    with ExitStack() as stack:
        bench, data, done = Bench(kind, stack), payload(items), 0
        for slot in range(WORKERS):
            for _ in range(IN_FLIGHT):
                bench.grant(slot, data, items)
        began, cpu = time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - began) < seconds:
            for slot, message in bench.heard():
                if type(message) is Reply:
                    for _ in message.acks:
                        done += 1
                        bench.grant(slot, data, items)
        return done / spent, (time.process_time() - cpu) / done * 1e6


def arrays(kind: str, machines: int, size: int = 1 << 20, seconds: float = 3.0) -> tuple[float, float]:
    """MB/s of arrays from a worker through the supervisor to another, and the processor time of a MiB here, in ms.

    With two machines each array goes over the network twice: in, and out. With one it goes in only, and is read in
    place where it was made.
    """
    with ExitStack() as stack:
        bench, done, ready = Bench(kind, stack, 0, machines), 0, 0
        bench.start(0, 1, "numpy:full", fill_value=1)
        bench.start(1, 1, "numpy:max")
        while ready < 2:
            ready += sum(type(each) is Ready for _, each in bench.heard())
        encoder = item_codec.ItemEncoder(1 << 30)
        count = item_codec.encode_payload([encoder.encode_item(size // 8)])
        waiting: deque[Any] = deque()  # a queue between them, of four arrays
        makes = reads = 0
        began, cpu = time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - began) < seconds:
            while makes < IN_FLIGHT and makes + len(waiting) < 4:
                bench.grant(0, count, 1)
                makes += 1
            while reads < IN_FLIGHT and waiting:
                bench.grant(1, waiting.popleft(), 1)
                reads += 1
            for slot, message in bench.heard():
                if type(message) is Reply and slot == 0:
                    makes -= len(message.acks)
                    waiting.extend(output.payload for output in message.outputs)
                elif type(message) is Reply:
                    reads -= len(message.acks)
                    done += len(message.acks)
        waiting.clear()
        return done * size / spent / 1e6, (time.process_time() - cpu) / max(done, 1) / (size >> 20) * 1e3


def there_and_back(kind: str, times: int = 2000) -> float:
    """The median of a chunk of one number, in ms."""
    with ExitStack() as stack:
        bench, data, took = Bench(kind, stack, 1), payload(1), []
        for _ in range(times):
            began = time.perf_counter()
            bench.grant(0, data, 1)
            while not any(type(message) is Reply for _, message in bench.heard()):
                pass
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1e3


def killed(kind: str, times: int = 20) -> float:
    """From a SIGKILL of a worker until its successor is ready: the median, in ms."""
    from runner.engines.engine_events import WorkerExited

    with ExitStack() as stack:
        bench, took = Bench(kind, stack, 1), []
        for life in range(2, times + 2):
            began = time.perf_counter()
            assert bench.engine.kill(0)
            while not any(isinstance(each, WorkerExited) for each in bench.hub.wait(5.0)):
                pass
            bench.start(0, life)
            while not any(type(message) is Ready for _, message in bench.heard()):
                pass
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1e3


def agent_killed(times: int = 5) -> float:
    """From a SIGKILL of an agent until its workers have been told as lost: the median, in ms."""
    from runner.engines.engine_events import WorkerExited

    took = []
    for _ in range(times):
        with ExitStack() as stack:
            bench = Bench("agents", stack)
            began = time.perf_counter()
            os.kill(bench.machines.agents[0].pid, signal.SIGKILL)
            lost = 0
            while not lost:
                lost = sum(isinstance(each, WorkerExited) and each.lost for each in bench.hub.wait(5.0))
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    for kind in ("local", "agents", "agents, TLS"):
        for items in (1, 1000):
            rate, cost = chunks(kind, items, seconds)
            print(f"{kind:11} chunks of {items:5,}: {rate:8,.0f} a second, {cost:5.0f} us each here", flush=True)
        print(f"{kind:11} there and back: {there_and_back(kind):.3f} ms", flush=True)
        print(f"{kind:11} worker killed, successor ready: {killed(kind):.1f} ms", flush=True)
    rows = [("local", 1)] + [(kind, machines) for kind in ("agents", "agents, TLS") for machines in (1, 2)]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(5):  # interleaved, because the machine may be busy with something else
        for row in rows:
            found[row].append(arrays(*row, seconds=seconds / 3))
    for (kind, machines), each in found.items():
        ratios = [rate / anchor for (rate, _), (anchor, _) in zip(each, found["local", 1], strict=True)]
        rate, cost = (statistics.median(values) for values in zip(*each, strict=True))
        print(
            f"{kind:11} arrays of 1 MiB, {machines} machine{'s' * (machines > 1)}: {rate:5,.0f} MB/s,"
            f" {statistics.median(ratios):.2f} of local, {cost:.2f} ms a MiB here"
        )
    shares = [measure_arrays(1 << 20, 1.0, copies=True) / measure_arrays(1 << 20, 1.0, copies=False) for _ in range(5)]
    share = statistics.median(shares)
    print(f"by hand     arrays of 1 MiB, each copied once more through a loopback socket: {share:.2f} of without")
    print(f"agent killed, its workers told as lost: {agent_killed():.0f} ms")


if __name__ == "__main__":
    main()
