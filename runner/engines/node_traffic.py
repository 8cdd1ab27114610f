"""The machines of a run, as its record has them: who joined when, who left why, and what went over the network.

supervisor ── a `LinkMeter` looks at each connection ──▶ agent
           ◀── the agent's own looks: TRAFFIC ──
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runner.events import NodeSummary
from runner.structs import dataclass
from runner.transport.agent_messages import decode_body
from runner.transport.framing import FrameError
from runner.transport.link_meter import LinkMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.engines.node_state import Node
    from runner.engines.reactor import LocalReactor
    from runner.transport.frame_link import Frame

#: Seconds between two looks; more where a look at all nodes, of about 5 us each, would take a hundredth of a processor.
LOOK_SECONDS, _NODES_PER_LOOK = 0.1, 200
#: Machines that have left are told one by one up to this number, those that left first.
MAX_FORMER_NODES = 2000


@dataclass(eq=False)
class _NodeTraffic:
    """One machine: `agent_seconds` is what its agent has told last."""

    node: Node
    joined: float
    meter: LinkMeter
    agent_seconds: float = 0.0
    workers: int = 0


class TrafficRecord:
    """All machines that have joined."""

    def __init__(self, reactor: LocalReactor) -> None:
        self._reactor = reactor
        self._present: dict[str, _NodeTraffic] = {}
        self._former: list[NodeSummary] = []
        self._is_looking = False

    def add_node(self, node: Node) -> None:
        """Begin with a machine that has joined."""
        now = time.monotonic()
        self._present[node.name] = _NodeTraffic(node, now, LinkMeter(node.link.fileno(), now))
        if not self._is_looking:
            self._is_looking = True
            self._reactor.call_later(LOOK_SECONDS, self._look)

    def count_worker(self, node: Node) -> None:
        """Count a worker that is started there."""
        self._present[node.name].workers += 1

    def hear_agent(self, node: Node, frame: Frame) -> None:
        """Take what its agent has measured."""
        try:
            self._present[node.name].agent_seconds = decode_body(frame.body, float)
        except FrameError as error:
            node.link.end_reason = str(error)

    def remove_node(self, node: Node, why: str) -> None:
        """End with a machine, while its connection is still there."""
        traffic = self._present.pop(node.name)
        if len(self._former) < MAX_FORMER_NODES:
            now = time.monotonic()
            traffic.meter.look(now, is_waiting=False)
            self._former.append(_summarize(traffic, now, why))

    def _look(self) -> None:
        self._is_looking = bool(self._present)
        now = time.monotonic()
        for traffic in self._present.values():
            traffic.meter.look(now, is_waiting=traffic.node.link.wants_to_write)
        if self._is_looking:
            self._reactor.call_later(LOOK_SECONDS * max(1.0, len(self._present) / _NODES_PER_LOOK), self._look)

    def summarize(self, now: float) -> Iterator[NodeSummary]:
        """Yield all machines; times are those of the monotonic clock."""
        yield from self._former
        for traffic in self._present.values():
            yield _summarize(traffic, now)


def _summarize(traffic: _NodeTraffic, now: float, why: str | None = None) -> NodeSummary:
    hello, meter = traffic.node.hello, traffic.meter
    seconds = max(now - traffic.joined, 1e-6)
    sending, receiving = (min(1.0, each / seconds) for each in (meter.full_seconds, traffic.agent_seconds))
    return NodeSummary(
        name=traffic.node.name,
        host=hello.host,
        places=int(hello.places),
        cpus=hello.cpus,
        memory=hello.memory,
        joined=traffic.joined,
        left=None if why is None else now,
        why=why or "",
        workers=traffic.workers,
        sent=meter.sent,
        received=meter.received,
        sending=round(sending, 4),
        receiving=round(receiving, 4),
        round_trip=meter.round_trip,
    )
