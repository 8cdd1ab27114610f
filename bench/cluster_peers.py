"""Ray tasks, Ray actors, Ray Data and Dask beside runner's agents: the same work on the same two nodes of one machine.

    PYTHONPATH=tests python -m bench.cluster_peers [--seconds 3] [--only agents,dask]

Needs `pip install 'toml-runner[ray]' 'ray[data]' 'dask[distributed]'`; what is missing is left out, and that said.
Four workers on two nodes with two places each. *calls*: `abs` of one number, two calls under way for each worker.
*there and back*: one call at a time. *items*: numbers, made here, squared there, added up here; Ray Data and Dask in
batches of 1,000 as their documentation advises, runner as its file says. *arrays*: 1 MiB there and back in each call.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from faults import functions
from faults.harness import plan, run, task
from faults.sinks import collector

from bench import cluster

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS, IN_FLIGHT = 4, 2
ITEMS = 200_000
MIB = 1 << 20


def steady(submit: Callable[[int], Any], wait: Callable[[list[Any]], list[Any]], seconds: float, flight: int) -> float:
    """Return the calls a second with `flight` of them under way; `wait` returns those that have ended, one at least."""
    under_way = {submit(number): number for number in range(flight)}
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for ended in wait(list(under_way)):
            number = under_way.pop(ended)
            done += 1
            under_way[submit(number)] = number
    return done / spent


def there_and_back(call: Callable[[], Any], times: int = 300) -> float:
    """Return the median of a call, in ms."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def row(what: str, rate: float, back: float, items: float | None, arrays: float | None) -> None:
    told = [f"{rate:8,.0f} calls a second", f"{back:6.2f} ms there and back"]
    told += [f"{items:10,.0f} items a second"] if items else []
    told += [f"{arrays:6,.0f} MB/s arrays"] if arrays else []
    print(f"{what:12} {', '.join(told)}", flush=True)


def agents(seconds: float) -> None:
    for kind in ("agents", "agents, TLS"):
        rate, _ = cluster.chunks(kind, 1, seconds)
        row(kind, rate, cluster.there_and_back(kind, 300), items_of("agents", encrypted="TLS" in kind), None)
    rate, _ = cluster.chunks("local", 1, seconds)
    row("local", rate, cluster.there_and_back("local", 300), items_of("forkserver"), None)


def items_of(method: str, **options: Any) -> float:
    """Return the items a second of a whole pipeline, from its first worker being ready to the end."""
    collected: list[Any] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(ITEMS,), mode="thread"),
            task("square", functions.identity, "a", "b", workers=WORKERS),
            collector(collected, "b"),
        ]
    )
    outcome = run(made, collected, method, keep=False, **({"places": 2, **options} if method == "agents" else {}))
    assert len(collected) == ITEMS
    began = min(each.spent.starting + each.spent.turn for each in outcome.result.tasks["square"].workers)
    return ITEMS / (outcome.result.ended.seconds - began)


def ray_rows(seconds: float) -> None:
    ray = importlib.import_module("ray")
    made = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        echo = ray.remote(num_cpus=1)(abs_of)

        def wait(refs: list[Any]) -> list[Any]:
            ended: list[Any] = ray.wait(refs, num_returns=1)[0]
            ray.get(ended)
            return ended

        ray.get([echo.remote(1) for _ in range(2 * WORKERS)])
        rate = steady(lambda _: echo.remote(-1), wait, seconds, WORKERS * IN_FLIGHT)
        row("Ray tasks", rate, there_and_back(lambda: ray.get(echo.remote(-1))), None, None)

        actor_class = ray.remote(num_cpus=1)(Echo)
        actors = [actor_class.remote() for _ in range(WORKERS)]
        ray.get([actor.abs_of.remote(1) for actor in actors])
        rate = steady(lambda at: actors[at % WORKERS].abs_of.remote(-1), wait, seconds, WORKERS * IN_FLIGHT)
        back = there_and_back(lambda: ray.get(actors[0].abs_of.remote(-1)))
        data = bytes(MIB)

        def array(at: int) -> Any:
            return actors[at % WORKERS].same.remote(data)

        ray.get([array(at) for at in range(WORKERS)])
        arrays = steady(array, wait, seconds, WORKERS) * MIB / 1e6
        for actor in actors:
            ray.kill(actor)
        row("Ray actors", rate, back, None, arrays)
        data_rows(ray)
    finally:
        ray.shutdown()
        made.shutdown()


def data_rows(ray: Any) -> None:
    try:
        data = importlib.import_module("ray.data")
    except ImportError as error:
        print(f"{'Ray Data':12} is left out: {error}", flush=True)
        return
    data.DataContext.get_current().enable_progress_bars = False
    squares = data.range(ITEMS).map_batches(square_batch, batch_size=1000)
    squares.sum("id")  # its workers are there then
    began = time.perf_counter()
    total = sum(sum(batch["id"].tolist()) for batch in squares.iter_batches(batch_size=1000))
    assert total == sum(n * n for n in range(ITEMS)), (ray, total)
    print(f"{'Ray Data':12} {ITEMS / (time.perf_counter() - began):10,.0f} items a second", flush=True)


def dask_rows(seconds: float) -> None:
    distributed = importlib.import_module("distributed")
    with ExitStack() as stack:
        made = stack.enter_context(
            distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50)
        )
        client = stack.enter_context(distributed.Client(made))

        def wait(futures: list[Any]) -> list[Any]:
            ended = list(distributed.wait(futures, return_when="FIRST_COMPLETED").done)
            client.gather(ended)
            return ended

        client.gather([client.submit(abs_of, 1, pure=False) for _ in range(8)])
        rate = steady(lambda _: client.submit(abs_of, -1, pure=False), wait, seconds, WORKERS * IN_FLIGHT)
        back = there_and_back(lambda: client.submit(abs_of, -1, pure=False).result())
        batches = [list(range(at, at + 1000)) for at in range(0, ITEMS, 1000)]
        began = time.perf_counter()
        results = client.gather(client.map(square_list, batches, pure=False))
        items = ITEMS / (time.perf_counter() - began)
        assert sum(map(sum, results)) == sum(n * n for n in range(ITEMS))
        row("Dask", rate, back, items, None)


def abs_of(number: int) -> int:
    return abs(number)


def square_list(numbers: list[int]) -> list[int]:
    return [number * number for number in numbers]


def square_batch(batch: dict[str, Any]) -> dict[str, Any]:
    return {"id": batch["id"] ** 2}


class Echo:
    """An actor's class."""

    def abs_of(self, number: int) -> int:
        return abs(number)

    def same(self, data: bytes) -> bytes:
        return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="agents,ray,dask")
    options = parser.parse_args()
    for name in options.only.split(","):
        rows, needs = {"agents": (agents, "msgspec"), "ray": (ray_rows, "ray"), "dask": (dask_rows, "distributed")}[
            name
        ]
        if importlib.util.find_spec(needs) is None:
            print(f"{name:12} is not installed, and left out", flush=True)
        else:
            rows(options.seconds)


if __name__ == "__main__":
    main()
