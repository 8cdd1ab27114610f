"""What a run on other machines knows of its launcher: what that is to have places for, and what it has said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.cluster.placement import MachineShares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.engines.launcher import Launcher, LaunchReport, WorkerBundle
    from runner.engines.node_state import Node, RemoteWorker
    from runner.engines.places import WorkerPlaces

    OpenLauncher = Callable[[Callable[[], Sequence[WorkerBundle]], Callable[[LaunchReport], None]], Launcher]


class LaunchedNodes:
    """The launcher, if there is one. `tell` says something to people; `on_refused` and `on_offers` are called then.

    `is_behind`: it must be told what is wanted, as that has changed. `waits_for` and `refusal` are what it said last.
    """

    def __init__(
        self,
        workers: Mapping[int, RemoteWorker],
        places: WorkerPlaces,
        tell: Callable[[str], None],
        on_refused: Callable[[], None],
        on_offers: Callable[[], None],
    ) -> None:
        self._workers, self._places = workers, places
        self._tell, self._on_refused, self._on_offers = tell, on_refused, on_offers
        self._launcher: Launcher | None = None
        self._offers: tuple[tuple[float, float, float], ...] = ()
        self.is_behind = False
        self.waits_for = self.refusal = ""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Return the machines that have joined."""
        return self._places.nodes

    def open(self, open_launcher: OpenLauncher) -> None:
        """Have machines started by what `open_launcher(wanted, report)` returns."""
        self._launcher = open_launcher(self._wanted_bundles, self._hear)

    def _wanted_bundles(self) -> Sequence[WorkerBundle]:
        launched = self._launcher.nodes if self._launcher is not None else ()
        return self._places.wanted_bundles(self._workers.values(), launched)

    def tell_wanted(self) -> None:
        """Tell it what is wanted, if that has changed; called before each wait."""
        if self.is_behind and self._launcher is not None:
            self.is_behind = False
            self._launcher.tell_wanted()

    def _hear(self, said: LaunchReport) -> None:
        if said.waiting is not None:
            self.waits_for = said.waiting
        if said.ended and said.ended not in self.nodes:
            self._tell(f"node `{said.ended}` has ended: {said.why}")
        if said.refused or said.failed:
            self.refusal = said.refused or f"what starts nodes is gone: {said.failed}"
            self._on_refused()
        if said.offers:
            self._offers = said.offers
            self._on_offers()

    def capacity(self, task: str, most_nodes: int | None) -> int:
        """Return how many workers of a task the machines could have: those that are offered, else those that joined."""
        if self._launcher is None:
            return self._places.capacity(task)
        wanted = self._places.wanted_by(task)
        machines = [
            MachineShares(cpus, ("",) * int(gpus), int(memory)).capacity(wanted) for cpus, gpus, memory in self._offers
        ]
        return sum(sorted(machines, reverse=True)[:most_nodes])

    def close(self) -> None:
        """End it; its nodes have ended."""
        if self._launcher is not None:
            self._launcher.close()
