"""What workers on other machines print: it is printed here, and their agents are told that it was, and read on."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from runner.transport import agent_messages as frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.engines.node_state import Node, RemoteWorker
    from runner.engines.reactor import LocalReactor
    from runner.transport.frame_link import Frame

    PrintOutput = Callable[[str, bytes, str, Callable[[], object]], None]


class RemoteOutput:
    """The output of a run's machines. `unflushed` takes the machines for which something has been gathered."""

    def __init__(
        self, reactor: LocalReactor, nodes: Mapping[str, Node], print_output: PrintOutput, unflushed: set[Node]
    ) -> None:
        self._reactor, self._nodes, self._print_output = reactor, nodes, print_output
        self._unflushed = unflushed
        #: Output that has been printed, by node: appended to by the printer's thread.
        self._printed: deque[tuple[Node, int]] = deque()

    def on_output(self, worker: RemoteWorker, frame: Frame) -> None:
        """Print what a worker has printed."""
        node, data = worker.node, bytes(frame.body[1:])
        assert node is not None
        stream = "err" if bytes(frame.body[:1]) == b"e" else "out"

        def confirm() -> None:
            if self._nodes.get(node.name) is node:  # else the run may have ended, and the reactor with it
                self._printed.append((node, len(data)))
                with contextlib.suppress(OSError, ValueError):
                    self._reactor.wake_up()

        self._print_output(worker.spec.name, data, stream, confirm)

    def confirm_printed(self) -> None:
        """Tell agents that output of theirs has been printed: they read on."""
        counts: Counter[Node] = Counter()
        while self._printed:
            node, count = self._printed.popleft()
            counts[node] += count
        for node, count in counts.items():
            if self._nodes.get(node.name) is node:
                self._unflushed.add(node)
                node.link.gather(frames.WRITTEN, count)
