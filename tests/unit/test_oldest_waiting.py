"""The item of a queue that has waited longest: for every order, and whatever comes back, against a list of arrivals."""

from __future__ import annotations

import random
from math import inf

import pytest

from runner.ledger.lanes import LanedSubscription
from runner.ledger.leases import Again, Lease
from runner.ledger.ledger import Ledger
from runner.ledger.subscriptions import Subscription
from runner.supervisor.arrival_meter import ArrivalMeter

KINDS = {
    "fifo": lambda: Subscription("q", ("eat",)),
    "lifo": lambda: Subscription("q", ("eat",), order="lifo"),
    "priority": lambda: Subscription("q", ("eat",), order="priority"),
    "lanes": lambda: LanedSubscription("q", ("eat",), bucket_bits=2),
}


class Arrivals:
    """Knows of each item when it came, and whether it waits: by its own name, whatever the ledger counts."""

    def __init__(self) -> None:
        self.came: dict[tuple[int, int], float] = {}
        self.held: dict[int, set[tuple[int, int]]] = {}

    def oldest(self, now: float) -> float | None:
        held = set().union(*self.held.values()) if self.held else set()
        waiting = [at for item, at in self.came.items() if item not in held]
        return now - min(waiting) if waiting else None

    def grant(self, lease: Lease) -> None:
        self.held[lease.id] = {
            (piece.chunk.number, at) for _, piece in lease.item_ranges for at in range(piece.start, piece.start + piece.count)
        }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_the_oldest_waiting_item_is_that_of_a_list_of_arrivals(kind: str, seed: int) -> None:
    draw, now = random.Random(seed), 100.0
    line = KINDS[kind]()
    ledger, arrivals = Ledger([line]), Arrivals()
    meter = ArrivalMeter(ledger, listening=True)
    waited = 0
    for _ in range(200):
        now += draw.choice([0.0, 0.25, 1.0])
        ledger.wake_sleepers(now)
        match draw.choice(["put", "put", "grant", "grant", "end", "back", "again"]):
            case "put":
                chunk = ledger.make_chunk(b"", draw.randint(1, 4), 4, rank=draw.random(), bucket=4 + draw.randrange(4))
                arrivals.came |= {(chunk.number, at): now for at in range(chunk.count)}
                ledger.put("q", [chunk])
            case "grant":
                if (lease := ledger.grant_lease("eat", 0, draw.randint(1, 5))) is not None:
                    arrivals.grant(lease)
            case deed if ledger.leases:
                lease = ledger.leases[draw.choice([*ledger.leases])]
                held = arrivals.held.pop(lease.id)
                if deed == "end":
                    for item in held:
                        del arrivals.came[item]
                    ledger.settle_lease(lease.id, lease.count, {}, [])
                elif deed == "back":
                    ledger.release_lease(lease.id)
                else:
                    again = {at: Again(until=now + draw.random()) for at in range(lease.count)}
                    ledger.settle_lease(lease.id, lease.count, again, [])
        meter.look(now)
        expected = arrivals.oldest(now)
        found = meter.oldest_waits(now).get("q")
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found == pytest.approx(expected, abs=0.01 + expected / 50)
            waited += expected > 2.0
    assert waited > 10, "nothing waited for long"


def test_an_age_stays_exact_however_long_the_run() -> None:
    line = Subscription("q", ("eat",), order="lifo")
    ledger = Ledger([line])
    meter = ArrivalMeter(ledger, listening=True)
    for tick in range(6_000):
        if tick % 100 == 7:
            ledger.put("q", [ledger.make_chunk(b"", 1, 1)])  # it stays below whatever comes later
        ledger.put("q", [ledger.make_chunk(b"", 1, 1)])
        if (lease := ledger.grant_lease("eat", 0, 1)) is not None:
            ledger.settle_lease(lease.id, 1, {}, [])
        meter.look(tick / 4)
    age = 6_000 / 4 - 7 / 4
    assert meter.oldest_waits(6_000 / 4)["q"] == pytest.approx(age, rel=0.02)
    assert len(meter._moments["q"]) <= 1024


def test_without_a_listener_nothing_is_looked_at() -> None:
    meter = ArrivalMeter(Ledger([Subscription("q", ("eat",))]), listening=False)
    assert (meter.due, meter.oldest_waits(1.0)) == (inf, {})
    assert ArrivalMeter(Ledger([KINDS["lanes"]()]), listening=False).due == 0.0


def test_of_a_copied_queue_the_longest_wait_counts() -> None:
    lines = [Subscription("q", (name,), is_copy=True) for name in ("slow", "fast")]
    ledger = Ledger(lines)
    meter = ArrivalMeter(ledger, listening=True)
    for now in (1.0, 5.0):
        ledger.put("q", [ledger.make_chunk(b"", 1, 1)])
        meter.look(now)
    ledger.grant_lease("fast", 0, 1)
    assert meter.oldest_waits(6.0) == {"q": 5.0}
