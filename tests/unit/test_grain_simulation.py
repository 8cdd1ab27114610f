"""The grain at work: the real supervisor and the real loop over items, on a clock on which only items take time.

What is exact here is exact on a real machine up to the time that messages take.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fake_engine import Script, random_plan, simulate, task
from helpers import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_workers import Day, day, idle_beside_work, work

from runner.chunk_sizing import GRANT_SECONDS, MAX_GRANT_BYTES, TIME_SLICE, ChunkSizer
from runner.ledger.leases import Again
from runner.ledger.ledger import Ledger
from runner.ledger.subscriptions import Subscription
from runner.model import Batch, QueueConfig
from runner.supervisor.dispatch import max_elastic_items
from runner.worker.measurements import MAX_BURST, SLOW_SECONDS

#: Whoever has to be quick enough must be so in this time.
SOON = 0.050
COSTS = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def also_slow(*values: object) -> list[object]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


# -- 1. the right grain is found ------------------------------------------------------------------


@pytest.mark.parametrize("cost", [*COSTS[2::2], *also_slow(COSTS[0], *COSTS[1::2])])
@pytest.mark.parametrize("workers", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_chunk_is_a_slice_of_work_after_fifty_milliseconds(cost: float, workers: int) -> None:
    count = min(700_000 * workers, max(10 * workers, int(0.2 * workers / cost)))
    done = work(count, lambda _: cost, workers)
    # A slice of work; or all that a queue holds for each worker, which for the quickest items is less.
    most = max_elastic_items(workers)
    right = max(1, min(round(TIME_SLICE / cost), -(-most // workers)))
    enough = min(workers * right, most // 2)  # with so many queued a fair share is no less
    least = right // 2 if workers * right <= enough else enough // workers // 8
    later = [call for call in done.given if call.at >= done.began + SOON]
    settled = [call for call in later if call.left + call.items >= enough]
    assert settled
    assert all(least <= call.items <= right for call in settled), Counter(call.items for call in settled)
    largest = max(call.items for call in done.given if call.at <= done.began + SOON)
    # Two are tried before anything is known.
    assert min(right / 3, 2 * least) <= largest <= max(right, 2), (largest, right)


@given(st.floats(1e-7, 1.0))
def test_any_cost_is_found_within_fifty_milliseconds_of_work(cost: float) -> None:
    grain, spent, size = ChunkSizer(), 0.0, 0
    right = max(1, int(TIME_SLICE / cost))
    while size < right // 3 and spent < SOON:
        size = grain.items_to_grant(10**9, 1)
        spent += size * cost
        grain.learn_cost(size, size * cost)
    assert size >= right // 3
    assert all(grain.items_to_grant(10**9, 1) <= max(2, right) for _ in range(3))


# -- 2. it follows when costs change --------------------------------------------------------------


def steps(*parts: tuple[int, float]) -> list[float]:
    return [cost for count, cost in parts for _ in range(count)]


def drawn(seed: int, count: int, *parts: tuple[float, float]) -> list[float]:
    """Costs drawn by their weights."""
    weights, costs = zip(*parts, strict=True)
    return random.Random(seed).choices(costs, weights, k=count)


MIXES: dict[str, list[float]] = {
    "quick, then slow": steps((5000, 1e-4), (100, 0.02)),
    "slow, then quick": steps((100, 0.02), (20_000, 1e-4)),
    "slow, quick, slow": steps((50, 0.02), (10_000, 1e-4), (50, 0.02)),
    "in turn": steps(*[(1, 1e-5), (1, 0.02)] * 150),
    "in turn, by the hundred": steps(*[(100, 1e-5), (5, 0.02)] * 30),
    "in turn, by the thousand": steps(*[(1000, 1e-5), (1000, 1e-3)] * 3),
    "10 us or 20 ms": drawn(1, 300, (1, 1e-5), (1, 0.02)),
    "1 in 100 is slow": drawn(2, 10_000, (99, 1e-4), (1, 0.02)),
    "1 in 100 is slower": drawn(3, 10_000, (99, 1e-4), (1, 0.1)),
    "1 in 1000 is slow": drawn(4, 50_000, (999, 1e-5), (1, 0.02)),
    "from 10 us to 10 ms": [10 ** random.Random(f"{at}").uniform(-5, -2) for at in range(3000)],
}


@pytest.mark.parametrize("mix", MIXES)
def test_two_workers_share_changing_items_as_well_as_one_could_wish(mix: str) -> None:
    costs = MIXES[mix]
    done = work(len(costs), costs.__getitem__)
    ideal = sum(costs) / 2
    assert done.makespan <= 1.05 * ideal + max(costs), f"{done.makespan / ideal:.3f} of the ideal"
    assert overrun(done) <= stride(costs), f"{overrun(done):.3f} s beyond two slices"


def overrun(done: Day) -> float:
    """The longest that a worker was silent beyond two slices."""
    return max(call.silent for call in done.given) - 2 * TIME_SLICE


def stride(costs: list[float]) -> float:
    """What a worker may execute between two looks at the clock: a stride of what was quick may turn out slow."""
    items = min(MAX_BURST, max(1, int(2 * SLOW_SECONDS / min(costs))))
    return max(sum(costs[at : at + items]) for at in range(0, len(costs), max(1, items // 8))) + max(costs)


@pytest.mark.parametrize("slow", [0.05, 0.2])
def test_nobody_is_silent_for_more_than_two_slices_and_an_item(slow: float) -> None:
    """Where an item takes as long as a look at the clock, the bound is sharp."""
    costs = steps((400, 1e-3), (40, slow), (400, 1e-3), (20, slow))
    done = work(len(costs), costs.__getitem__)
    assert overrun(done) <= slow + 1e-9
    assert done.makespan <= sum(costs) / 2 + slow + 2 * TIME_SLICE


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_skewed_items_keep_all_workers_busy(workers: int) -> None:
    costs = drawn(5, 10_000, (99, 1e-4), (1, 0.02))
    done = work(len(costs), costs.__getitem__, workers)
    ideal = sum(costs) / workers
    assert done.makespan <= 1.03 * ideal + 0.02


@given(st.lists(st.sampled_from([1e-4, 1e-3, 0.01, 0.02, 0.1]), min_size=1, max_size=120), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_whatever_the_costs_the_makespan_is_near_the_ideal(costs: list[float], workers: int) -> None:
    done = work(len(costs), costs.__getitem__, workers)
    assert done.makespan <= sum(costs) / workers + 2 * max(costs) + 2 * TIME_SLICE


def test_after_one_slow_item_the_next_chunk_is_small() -> None:
    costs = steps((5000, 1e-4), (1, 0.5), (10_000, 1e-4))
    done = work(len(costs), costs.__getitem__)
    (slow,) = [call for call in done.given if call.first <= 5000 < call.first + call.items and call.done]
    following = [call for call in done.given if slow.ended <= call.at < slow.ended + SOON]
    assert following[0].items <= 50  # of 500
    assert max(call.items for call in done.given if call.at > slow.ended + 2 * SOON) >= 100  # and it has risen again


# -- 3. the tail is handed back -------------------------------------------------------------------


def test_what_a_worker_cannot_do_in_two_slices_goes_to_the_others() -> None:
    costs = steps((300, 1e-3), (30, 0.03))
    done = work(len(costs), costs.__getitem__, 3)
    cut = [call for call in done.given if call.done < call.items]
    assert cut
    for each_cut in cut:
        assert 2 * TIME_SLICE < each_cut.ended - each_cut.began <= 2 * TIME_SLICE + 0.03 + 1e-9
        rest = range(each_cut.first + each_cut.done, each_cut.first + each_cut.items)
        takers = [other for other in done.given if other.first in rest and other.at >= each_cut.ended]
        assert takers
    assert done.makespan <= sum(costs) / 3 + 0.03 + TIME_SLICE


def test_who_has_nothing_to_do_gets_the_rest_at_the_very_moment() -> None:
    """A burst of twenty that look quick: one worker's ten are, the other's are not."""
    costs = steps((300, 1e-3), (10, 0.15), (10, 1e-3))
    done = work(320, costs.__getitem__, moments=lambda item: 1.0 if item < 300 else 10.0)
    first, second = [call for call in done.given if call.at >= 10.0][:2]
    assert first.items == 10
    assert (first.began, first.done, first.ended) == (10.0, 1, pytest.approx(10.15))
    assert any(other.slot == second.slot and other.at == other.began == first.ended for other in done.given)
    assert done.ended <= 10.0 + 0.15 * 5 + 0.15 + 2 * TIME_SLICE


def test_an_only_worker_keeps_its_tail_and_says_what_is_done() -> None:
    costs = steps((300, 1e-3), (30, 0.03))
    done = work(len(costs), costs.__getitem__, 1)
    assert done.fleet.executed["work"] == list(range(330))  # in order, for nobody else could go on with it
    assert all(call.done == call.items for call in done.given)
    assert overrun(done) <= 0.03 + 1e-9


# -- 4. the end of a stream is shared out ---------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 20))])
def test_the_last_items_are_shared_out(seed: int) -> None:
    draw = random.Random(seed)
    workers, cost, count = draw.randint(2, 8), 10 ** draw.uniform(-5, -1), draw.randint(1, 3000)
    costs = [cost * draw.uniform(0.7, 1.4) for _ in range(count)]
    done = work(count, costs.__getitem__, workers)
    least = int(workers * GRANT_SECONDS / (0.7 * cost))  # less would only keep the supervisor busy
    for each_given in done.given:
        fair = -(-(each_given.left + each_given.items) // workers)
        assert each_given.items <= max(fair, least), "more than a fair share"
    assert done.makespan <= sum(costs) / workers + 2 * cost + TIME_SLICE / 2


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_when_somebody_has_nothing_left_nobody_has_much(workers: int) -> None:
    """From when the first worker has nothing to do, the others have at most a share and the item at hand."""
    cost, count = 1e-3, 200 * workers
    done = work(count, lambda _: cost, workers)
    ends = Counter[int]()
    last: dict[int, float] = {}
    for each_given in done.given:
        last[each_given.slot] = max(last.get(each_given.slot, 0.0), each_given.ended)
        ends[each_given.slot] += each_given.items
    assert max(last.values()) - min(last.values()) <= TIME_SLICE / 2
    assert max(ends.values()) <= 1.1 * count / workers


def test_as_many_items_as_workers_are_one_for_each() -> None:
    done = work(16, lambda _: 1e-3, 16, queue=QueueConfig("", size=100))
    assert [call.items for call in done.given] == [1] * 16
    assert done.makespan == pytest.approx(1e-3)


# -- 5. capped in bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 300_000, 3 * MAX_GRANT_BYTES, *also_slow(10_000, MAX_GRANT_BYTES)])
def test_no_grant_holds_more_than_a_mebibyte_unless_it_is_one_item(size: int) -> None:
    done = work(3000, lambda _: 1e-6, size=size, queue=QueueConfig("", size=3000, bytes=1 << 40))
    assert all(call.bytes <= MAX_GRANT_BYTES or call.items == 1 for call in done.given)
    if size <= MAX_GRANT_BYTES // 4:  # and it is not just one item each time
        assert max(call.items for call in done.given) >= min(50, MAX_GRANT_BYTES // size // 2)


@pytest.mark.parametrize("size", [100, 300_000, 2 * MAX_GRANT_BYTES])
def test_a_batch_is_not_parted_for_its_bytes(size: int) -> None:
    tasks = [task("source", (), ("q",)), task("work", ("q",), count=2, batch=Batch(16))]
    done = day(tasks, 330, {"work": lambda _: 1e-6}, size=size, queue=QueueConfig("", size=400, bytes=1 << 40))
    *full, last = [call.items for call in done.given]
    assert all(items % 16 == 0 for items in full)
    assert last % 16 == 330 % 16
    if size > MAX_GRANT_BYTES // 16:
        assert set(full) == {16}


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([8, 1000, 40_000, 900_000, MAX_GRANT_BYTES, 5_000_000])),
        max_size=30,
    ),
    st.integers(1, 100),
    st.randoms(use_true_random=False),
)
@examples(15, 30)
def test_no_lease_holds_more_than_a_mebibyte_whatever_is_queued(
    chunks: list[tuple[int, int]], most: int, draw: random.Random
) -> None:
    specs = [Subscription(name, ("t",), size=1 << 40, bytes=1 << 40) for name in ("a", "b")]
    ledger = Ledger(specs)
    for count, size in chunks:
        ledger.put(draw.choice("ab"), [ledger.make_chunk(None, count, size * count)])
    for _ in range(10_000):
        lease = ledger.grant_lease("t", 0, most, MAX_GRANT_BYTES)
        if lease is None:
            break
        held = sum(piece.size for _, piece in lease.item_ranges)
        assert held <= MAX_GRANT_BYTES or lease.count == 1
        done = draw.randint(0 if draw.random() < 0.2 else 1, lease.count)
        failed = {done - 1: Again(0.0)} if done and draw.random() < 0.1 else {}
        ledger.settle_lease(lease.id, done, failed, [])
        ledger.wake_sleepers(1.0)
    assert not ledger.queued_items("t")


# -- 6. nothing is delayed ------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [1e-5, 1e-3])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_slow_sources_items_are_each_granted_as_they_arrive(cost: float, workers: int) -> None:
    draw = random.Random(7)
    moments, now = [], 0.01
    for _ in range(300):
        moments.append(now)
        now += cost + draw.choice([0.001, 0.05, 2.0])  # never faster than one worker
    tasks = [
        task("source", (), ("a",)),
        task("first", ("a",), ("b",), count=workers),
        task("second", ("b",), count=workers),
    ]
    done = day(tasks, 300, {"first": lambda _: cost, "second": lambda _: cost}, moments.__getitem__)
    for name, late in (("first", 0.0), ("second", cost)):
        for each_given in done.given:
            if each_given.task == name:
                assert each_given.items == 1
                assert each_given.at == pytest.approx(done.fleet.arrived[each_given.first] + late, abs=1e-9)
                assert each_given.began == each_given.at


def test_a_burst_among_single_items_is_shared_and_the_next_single_one_is_not_late() -> None:
    moments = [float(at // 50) if at < 500 else 10.0 + at for at in range(520)]
    done = work(520, lambda _: 1e-3, 2, moments=moments.__getitem__)
    for each_given in done.given:
        if each_given.first >= 500:
            assert each_given.began == done.fleet.arrived[each_given.first]
    for burst in range(10):
        ends = [each_given.ended for each_given in done.given if each_given.first // 50 == burst]
        assert max(ends) <= burst + 0.025 + TIME_SLICE / 2


@pytest.mark.parametrize("block", range(2))
def test_between_two_events_no_item_waits_beside_an_idle_worker(block: int) -> None:
    """In random topologies, with failures and deaths. (`day` looks at the same in all tests above.)"""
    for seed in range(block * 20, block * 20 + 20):
        draw = random.Random(seed)
        script = Script(
            seed,
            cost=draw.choice([1e-5, 2e-3, 0.1]),
            skew=draw.choice([0, 0.01]),
            spread=draw.choice([1, 3]),
            fails=draw.choice([0, 0.05]),
            kills=draw.choice([0, 0.03]),
        )
        simulate(random_plan(seed), script, draw.choice([5, 20]), watch=idle_beside_work)
