"""Durable runs in which all features cross, whose supervisor crashes at random steps: their lives, and an oracle.

The oracle reads what came to disk, item by item, and computes from the script what becomes of an item. For each queue
and each group of its readers: what was put is over, once each. What sources have made is there once. An item that is
over in a task has all its results or none; those that have none are as many as the ledger calls dead or dropped. What
no worker ever held was dropped by its queue. What an ordered task sent has the order of its inputs, over all lives.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import crossed
from durable_lives import SupervisorCrash, VirtualLeasePage
from lane_watch import LANES, lane_of
from virtual_disk import VirtualDisk, VirtualKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from crossed import CrossedFleet, Item
    from fake_engine import FakeReactor, Script

    from runner.ledger.leases import Lease
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.plan import Plan

#: In the last one nothing kills it.
LIVES = 4


class LeasePage(VirtualLeasePage):
    """Its items may be executed side by side: after a crash nothing is known of them, as after a power cut."""

    def note_lease(self, lease: Lease, slot: int, *, all_at_once: bool) -> None:
        self.leases[lease.id] = lease


class LivesDisk(VirtualDisk):
    """A disk that also writes down in which life an item was over."""

    def __init__(self) -> None:
        super().__init__()
        self.life = 0
        self.over_in: dict[str, list[tuple[Item, int]]] = defaultdict(list)

    def commit(self, group: Any) -> None:
        before = {line: self.over[line].copy() for line, _ in group.owed}
        super().commit(group)
        for line, counts in before.items():
            self.over_in[line] += [(item, self.life) for item in (self.over[line] - counts).elements()]


class Life:
    """One life: a keeper of the run's disk, and the step at which the supervisor is gone; None: it comes to its end."""

    def __init__(self, lives: CrossedLives, number: int, crash_at: int | None) -> None:
        self.lives, self.number, self.crash_at = lives, number, crash_at
        self.disk, self.page = lives.disk, LeasePage()

    def begin(self, hub: FakeReactor, fleet: CrossedFleet) -> VirtualKeeper:
        """Let the workers know what their predecessors were given; return the keeper."""
        lives = self.lives
        fleet.names, lives.given[self.number] = lives.names, fleet.given
        lives.disk.life = self.number
        fleet.random = random.Random(f"{lives.seed} {self.number}")
        fleet.lanes.restore(self.disk.image)
        self.keeper = VirtualKeeper(hub, self.disk, f"{lives.seed} {self.number}", lives.slowness)
        return self.keeper

    def crash_when_due(self, hub: FakeReactor) -> None:
        """Raise SupervisorCrash if it is time."""
        if self.crash_at is not None and hub.steps >= self.crash_at:
            raise SupervisorCrash


class CrossedLives:
    """One run over all its lives."""

    def __init__(self, made: Plan, play: Script, items: int, seed: int) -> None:
        self.made, self.play, self.items, self.seed = made, play, items, seed
        self.disk = LivesDisk()
        self.names: dict[str, Item] = {}
        #: What workers were given, by life and task.
        self.given: dict[int, dict[str, set[Item]]] = {}
        self.draw = random.Random(f"crossed lives {seed}")
        self.slowness = self.draw.choice([0.0, 0.001, 0.05, 1.0])
        self.crashes = self.begun = self.changes = 0

    def live(self, watch: Callable[[Supervisor], None] | None, interval: float) -> Any:
        """Live until the run has ended by itself; return its result."""
        for number in range(1, LIVES + 1):
            crash_at = None if number == LIVES else int(10 ** self.draw.uniform(0, 3))
            life = Life(self, number, crash_at)
            try:
                result, fleet, _ = crossed.run(self.made, self.play, self.items, watch, interval=interval, life=life)
            except SupervisorCrash:
                self.crashes += 1
                life.keeper.crash()
                continue
            self.begun, self.changes = fleet.lanes.begun, fleet.changes
            return result
        raise AssertionError("it does not end in its last life")

    # -- the oracle ----------------------------------------------------------------------------

    def judge(self, result: Any) -> int:
        """Look at what came to disk; return how many items queues have dropped."""
        disk, seed = self.disk, self.seed
        assert result.exit_code in {0, 4}, f"seed {seed}: {result}"
        assert not result.headline.left, f"seed {seed}: {result}"
        for line, items in disk.put.items():
            odd = Counter(items) - disk.over[line], disk.over[line] - Counter(items)
            assert not any(odd), f"seed {seed}, {line}: missing {odd[0]}, unexpected {odd[1]}"
        self._check_sources()
        self._check_results()
        self._check_orders()
        return self._count_dropped()

    def _lines_of(self, queue: str, task: str = "") -> list[str]:
        """The subscriptions of a queue, those that a task reads."""
        lines = [line for line in self.disk.image.line_counts if line.partition("->")[0] == queue]
        return [line for line in lines if not task or line in (queue, f"{queue}->{task}")]

    def _put_into(self, queue: str) -> list[Item]:
        """What was put into a queue, in order: the same for each group of its readers."""
        found = [self.disk.put[line] for line in self._lines_of(queue)]
        assert all(each == found[0] for each in found), f"seed {self.seed}, {queue}: its readers have got other items"
        return found[0] if found else []

    def _check_sources(self) -> None:
        for each in self.made.tasks.values():
            if each.config.inputs:
                continue
            wanted = Counter((name, index) for name in each.config.workers for index in range(self.items))
            for queue in each.config.outputs:
                came = Counter(
                    item for item in self._put_into(queue) if item[0] in each.config.workers and len(item) == 2
                )
                assert came == wanted, f"seed {self.seed}, {queue}: {came - wanted}, {wanted - came}"

    def _check_results(self) -> None:
        """By group of tasks that share queues: each item has all results or none, and none are as many as failed."""
        for lines, members in self._groups():
            over = Counter[Any]()
            for line in lines:
                over += Counter(self.disk.over[line])
            without, is_known = over.copy(), True
            for name in members:
                results, known = self._results_of(name, over)
                is_known &= known
                assert results <= without, f"seed {self.seed}, {name}: results of {results - without}"
                without -= results
            counts = [self.disk.image.line_counts[line] for line in lines]
            lost = sum(each.dead + each.dropped for each in counts)
            if is_known:
                assert without.total() == lost, f"seed {self.seed}, {members}: {lost} have failed, not {without}"

    def _results_of(self, name: str, over: Counter[Item]) -> tuple[Counter[Item], bool]:
        """Of which items the results are there, how often; and if every item has results by which that is known."""
        plan = self.made.tasks[name]
        groups = self.made.output_groups(plan.config)
        worker: Any = SimpleNamespace(spec=SimpleNamespace(task=name, output_groups=groups))
        fleet: Any = SimpleNamespace(script=self.play)
        fleet.port = lambda *args: crossed.CrossedFleet.port(fleet, *args)
        queues: dict[str | None, set[str]] = defaultdict(set)
        for group in groups:
            queues[group.port].update(group.queues)
        came = {
            queue: Counter(item for item in self._put_into(queue) if self._is_of(name, item))
            for found in queues.values()
            for queue in found
        }
        results, is_known = Counter[Any](), bool(groups)
        for item in over:
            wanted = [
                (queue, child)
                for port, child in crossed.CrossedFleet.come(fleet, worker, item)
                for queue in (queues[port] if port is not None else ())
            ]
            is_known &= bool(wanted)
            times = {came[queue].pop(child, 0) for queue, child in wanted} or {0}
            assert len(times) == 1, f"seed {self.seed}, {name}: {item} has a part of its results"
            results[item] = times.pop()
        odd = {queue: found for queue, found in came.items() if found}
        assert not odd, f"seed {self.seed}, {name}: results of nothing: {odd}"
        return +results, is_known

    @staticmethod
    def _is_of(name: str, item: Item) -> bool:
        return isinstance(item[-1], tuple) and item[-1][0] == name

    def _groups(self) -> list[tuple[set[str], set[str]]]:
        """Subscriptions and their readers, together where a reader has several."""
        groups: list[tuple[set[str], set[str]]] = []
        for name, each in self.made.tasks.items():
            lines, members = {line for queue in each.config.inputs for line in self._lines_of(queue, name)}, {name}
            for other in [other for other in groups if other[0] & lines]:
                groups.remove(other)
                lines, members = lines | other[0], members | other[1]
            if lines:
                groups.append((lines, members))
        return groups

    def _count_dropped(self) -> int:
        """What no worker was given in the life in which it was over was dropped, by a queue; return how many.

        Of what came twice nobody knows. What a worker had when everything was gone waits again, and may be dropped.
        """
        total = 0
        for lines, members in self._groups():
            if any(self.made.tasks[name].config.on_error == "skip" for name in members) or "letters" in lines:
                continue
            over = [each for line in lines for each in self.disk.over_in[line]]
            unseen = sum(not any(item in self.given[life][name] for name in members) for item, life in over)
            dropped = sum(self.disk.image.line_counts[line].dropped for line in lines)
            if len({item for item, _ in over}) == len(over):
                assert unseen == dropped, f"seed {self.seed}, {members}: {unseen} never seen, {dropped} dropped"
            total += dropped
        return total

    def _check_orders(self) -> None:
        """An ordered task keeps its order over all lives, unless it competes: what the other one had may come to it."""
        readers = Counter(queue for each in self.made.tasks.values() for queue in each.config.inputs)
        for each in self.made.tasks.values():
            if not each.config.ordered or len(each.config.inputs) != 1:
                continue
            (queue_name,) = each.config.inputs
            if readers[queue_name] > 1 and self.made.queues[queue_name].fanout == "share":
                continue
            came = self._put_into(queue_name)
            times = Counter(came)  # what has come by two ways cannot be told apart
            places = {item: place for place, item in enumerate(came) if times[item] == 1}
            for output in dict.fromkeys(each.config.outputs):
                queue = self.made.queues[output]
                if queue.order == "priority":  # what leaves together is parted by its priorities
                    continue
                sent = [item for item in self._put_into(output) if self._is_of(each.name, item) and item[:-1] in places]
                for lane in range(LANES) if queue.lane else (None,):
                    order = [places[item[:-1]] for item in sent if lane in (None, lane_of(item))]
                    assert order == sorted(order), f"seed {self.seed}: {each.name} sent {order} into {output}"
