"""Process workers on other machines, each of which runs one agent.

    supervisor ─ RemoteEngine ◀── one connection ──▶ agent: ProcessEngine ─▶ workers
                     │ a place for each start, in turn; without one it waits until a machine joins, or a worker ends
                     │ a machine that is gone: its workers are told as lost, after the fence

What the agents know best they are asked for beforehand: positions of workers with a time limit, and of items that take
over a second; memory, where there is a limit. A death carries all of it exactly.

The fence: an agent that ends takes its workers with it, by their lifelines; one that is cut off kills them after half
of the time (`lost`) in which the supervisor hears nothing and gives it up.
"""

from __future__ import annotations

import pickle
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner import forked_copies
from runner.cluster.placement import MachineShares
from runner.cluster.versions import installed_versions
from runner.engines.engine_events import (
    Announcement,
    ExitStatus,
    MessageReceived,
    PlacesChanged,
    WorkerExited,
    WorkerLeaving,
)
from runner.engines.launched_nodes import LaunchedNodes
from runner.engines.node_state import Node, RemoteWorker
from runner.engines.node_traffic import TrafficRecord
from runner.engines.nodes import NodeDoor, end_agents, send_plan
from runner.engines.places import WorkerPlaces
from runner.engines.reactor import READ, WRITE
from runner.engines.remote_memory import RemoteMemory
from runner.engines.remote_output import RemoteOutput
from runner.errors import SpawnError
from runner.events import NodeJoined, NodeLost, Notice
from runner.transport import agent_messages as frames
from runner.transport import framing
from runner.transport.agent_messages import DeathReport, ShownPosition, decode_body
from runner.transport.framing import FrameError
from runner.transport.messages import ArenaNotice, Grant, Produced, Ready, Reply
from runner.transport.progress_page import Position

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from runner.cluster.versions import NodeVersions
    from runner.engines.launched_nodes import OpenLauncher
    from runner.engines.reactor import LocalReactor
    from runner.engines.remote_output import PrintOutput
    from runner.events import Event, NodeSummary
    from runner.model import Resources
    from runner.shm.registry import ArenaRegistry
    from runner.transport.agent_messages import AgentPlan, Hello
    from runner.transport.frame_link import ByteStream, Frame, FrameLink
    from runner.transport.messages import SharedPayload, ToWorker
    from runner.transport.peer_proof import PeerProof
    from runner.worker.spec import WorkerSpec

#: After the end of a connection: until the kernel of the other machine has killed the workers of an agent that died.
_FENCE_SECONDS = 0.1
#: Workers wait so long for a place before that is told.
_WAITING_SECONDS = 10.0
#: Agents have so long to end, together.
_END_SECONDS = 3.0
_NOWHERE = Position(0, 0)


class RemoteEngine:
    """Workers on machines that join. `address` is where agents dial in, as people are told it.

    `arenas` is shared with other engines: its maker closes it after them.
    `prove` begins the proof of a connection. `print_output(name, data, stream, then)` prints, and calls `then` in
    another thread; `finish_output(name)` prints the line that a dead worker has not ended. `weighed_tasks` have a limit
    of memory; `worker_count` is the number of all workers, for messages; as many machines as `max_nodes` may join.
    """

    def __init__(
        self,
        reactor: LocalReactor,
        listener: socket.socket,
        prove: Callable[[socket.socket, str], PeerProof[ByteStream]],
        plan: AgentPlan,
        *,
        versions: NodeVersions | None = None,
        lost: float,
        invitation: str,
        worker_count: int,
        print_output: PrintOutput,
        finish_output: Callable[[str], None],
        weighed_tasks: Iterable[str] = (),
        max_nodes: int | None = None,
        resources: Mapping[str, Resources] | None = None,
        arenas: ArenaRegistry,
    ) -> None:
        self._reactor, self._plan, self._lost = reactor, plan, lost
        self._invitation, self._worker_count = invitation, worker_count
        self._finish_output = finish_output
        self._weighed_tasks, self._max_nodes = frozenset(weighed_tasks), max_nodes
        self._workers: dict[int, RemoteWorker] = {}
        #: Machines for which something has been gathered in this turn of the loop.
        self._unflushed: set[Node] = set()
        self._memory = RemoteMemory(arenas, self._unflushed)
        self._places = WorkerPlaces(resources or {})
        self._nodes, self._waiting = self._places.nodes, self._places.waiting
        self._is_waiting_watched = False
        self._output = RemoteOutput(reactor, self._nodes, print_output, self._unflushed)
        #: Workers are to be started: all those of one turn together, as a look at all machines takes its time.
        self._has_new_starts = False
        self._traffic = TrafficRecord(reactor)
        self._launched = LaunchedNodes(
            self._workers, self._places, self._tell, self._refuse_waiting, partial(reactor.post_event, PlacesChanged())
        )
        self._hears: dict[int, Callable[[Node, RemoteWorker | None, Frame], None]] = {
            frames.TRAFFIC: lambda node, _, frame: self._traffic.hear_agent(node, frame),
            frames.LEAVING: lambda node, _, __: self._on_leaving(node),
            frames.UNABLE: self._on_unable,
            frames.MADE: self._memory.take_block,
        }
        self._takes: dict[int, Callable[[RemoteWorker, Frame], None]] = {
            frames.HEARD: self._on_message,
            frames.DIED: self._on_death,
            frames.REFUSED: self._on_refusal,
            frames.OUTPUT: self._output.on_output,
            frames.SHOWS: self._on_position,
            frames.WEIGHS: self._on_weight,
            frames.STACK: self._on_stack,
        }
        self._before_wait = (
            self._start_new,
            self._output.confirm_printed,
            self._memory.release_blocks,
            self._launched.tell_wanted,
            self._flush_links,
        )
        reactor.before_wait += self._before_wait
        versions = versions or installed_versions(())
        self._door = NodeDoor(reactor, listener, prove, versions, lost, self._on_joined, self._tell)
        if invitation:
            self._tell(invitation)
        self._fork_hook = forked_copies.ForkHook(self.abandon_in_fork)

    def abandon_in_fork(self) -> None:
        """Let go of the connections in a copy that code in this process has forked: agents end with the supervisor."""
        for node in self._nodes.values():
            node.link.close()
        self._door.close_descriptors()

    # -- what the supervisor asks for ------------------------------------------------------------------------

    def start(self, spec: WorkerSpec, generation: int) -> int:
        """Start a worker where there is a place, or when there is one; return 0."""
        worker = RemoteWorker(spec, generation)
        if spec.previews_suspects:  # a reader of suspect items, which waits for nothing
            if (node := self._places.emptiest_node()) is None:
                raise SpawnError("there is no machine for it")
            self._workers[spec.slot] = worker
            worker.node = node
            self._start_placed(worker)
            return 0
        self._workers[spec.slot] = worker
        self._places.add_waiting(worker)
        self._launched.is_behind = self._has_new_starts = True
        return 0

    def waits_for_place(self, slot: int) -> bool:
        """Return True if the slot's worker has not been started because there is no place for it."""
        return slot in self._waiting

    def withdraw_start(self, slot: int) -> bool:
        """Start it no more; False if it has been started."""
        if self._places.withdraw(slot) is None:
            return False
        del self._workers[slot]
        self._launched.is_behind = True
        return True

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; never blocks."""
        worker = self._workers.get(slot)
        if worker is not None and worker.node is not None:
            if type(message) is Grant and self._memory.registry.is_used:
                message = self._memory.lend_payloads(worker, message)
            body = framing.pack_message(message)
            worker.node.link.gather(frames.SEND, slot, worker.generation, body)
            self._unflushed.add(worker.node)

    def nearest_slot(self, payload: SharedPayload, slots: Iterable[int]) -> int | None:
        """Return the slot of a worker whose machine has the bytes of a payload; None: none has."""
        for slot in slots:
            worker = self._workers.get(slot)
            if worker is not None and self._memory.has_bytes(worker.node, payload):
                return slot
        return None

    def kill(self, slot: int) -> bool:
        """End the slot's worker at once; `WorkerExited` follows."""
        worker = self._workers.get(slot)
        if self._places.withdraw(slot) is not None:
            assert worker is not None
            self._exit(slot, worker, ExitStatus(text="was not started"))
        elif worker is not None and worker.node is not None:
            self._send(worker.node, frames.KILL, slot, worker.generation)
            self._reactor.call_later(self._lost, partial(self._check_killed, slot, worker, worker.node))
        return True

    def _check_killed(self, slot: int, worker: RemoteWorker, node: Node) -> None:
        """Give up a machine whose agent has not killed a worker (it is stopped, perhaps): the run could never end."""
        if self._workers.get(slot) is worker and worker.node is node:
            self._lose_node(node, f"is given up: it has not ended a worker within {self._lost:g}s")

    def current_position(self, slot: int) -> Position:
        """Return what was told last; it is told in time for workers that have a time limit."""
        worker = self._workers.get(slot)
        return _NOWHERE if worker is None else Position(worker.shown.lease, worker.shown.index, worker.shown.width)

    def request_stack(self, slot: int) -> None:
        """Ask the worker for its stack."""
        worker = self._workers.get(slot)
        if worker is not None and worker.node is not None:
            worker.stack = ""
            self._send(worker.node, frames.DUMP, slot, worker.generation)

    def read_stack(self, slot: int) -> str:
        """Return the stack that has come since it was asked for."""
        return "" if (worker := self._workers.get(slot)) is None else worker.stack

    def resident_bytes(self, slot: int) -> int:
        """Return what was told last."""
        worker = self._workers.get(slot)
        return 0 if worker is None else worker.weight

    def is_output_blocked(self, slot: int) -> bool:
        """Return True if the worker waits until its output is taken."""
        return (worker := self._workers.get(slot)) is not None and worker.shown.blocked

    def pause_workers(self, *, going_on: bool) -> None:
        """Stop all workers where they are, or let them go on."""
        for node in list(self._nodes.values()):
            self._send(node, frames.PAUSE, int(going_on))

    def summarize_nodes(self, now: float) -> Iterator[NodeSummary]:
        """Yield the machines that have joined, for the run's record; `now` and their times are monotonic."""
        return self._traffic.summarize(now)

    def close(self) -> None:
        """End all agents, and wait a moment for that: their ends say that their workers are dead."""
        self._fork_hook.close()
        self._door.close()
        for each in self._before_wait:
            self._reactor.before_wait.remove(each)
        links = [node.link for node in self._nodes.values()]
        for link in links:
            self._reactor.unwatch_fd(link.fileno())
        end_agents(links, _END_SECONDS)
        self._launched.close()
        self._nodes.clear()
        self._workers.clear()
        self._waiting.clear()

    # -- places ----------------------------------------------------------------------------------------------

    def _start_new(self) -> None:
        if self._has_new_starts:  # in this turn
            self._has_new_starts = False
            self._start_waiting()
            self._refuse_waiting()
            self._watch_waiting()

    def _start_waiting(self) -> None:
        """Start what waits as far as there are places."""
        for worker in self._places.give_places():
            self._start_placed(worker)

    def _start_placed(self, worker: RemoteWorker) -> None:
        node, slot = worker.node, worker.spec.slot
        assert node is not None
        node.slots.add(slot)
        self._traffic.count_worker(node)
        spec = self._places.placed_spec(worker)
        if not self._memory.add_worker(worker):
            spec = replace(spec, inline_payloads=True)
        body = pickle.dumps((spec, worker.spec.task in self._weighed_tasks), 5)
        node.link.send(frames.START, slot, worker.generation, [body])
        self._watch_writing(node)

    def _avoid_node(self, node: Node) -> None:
        """Prefer other machines to one that cannot start a worker; when that is over, look again at what waits."""
        self._reactor.call_later(self._places.avoid_node(node), self._start_waiting)

    def _watch_waiting(self) -> None:
        if not self._is_waiting_watched and self._waiting:
            self._is_waiting_watched = True
            self._reactor.call_later(_WAITING_SECONDS, partial(self._tell_waiting, set(self._waiting)))

    def _tell_waiting(self, before: set[int]) -> None:
        """Say what is missing if workers have waited for all the time since."""
        self._is_waiting_watched = False
        if before & set(self._waiting):
            count = max(self._worker_count, len(self._workers))
            text = self._places.describe_waiting(count, self._invitation)
            self._tell(": ".join(each for each in (text, self._launched.waits_for) if each))
        elif self._waiting:
            self._watch_waiting()

    # -- what starts machines --------------------------------------------------------------------------------

    def use_launcher(self, open_launcher: OpenLauncher) -> None:
        """Have machines started by what `open_launcher(wanted, report)` returns; it is closed with this."""
        self._launched.open(open_launcher)

    def auto_worker_count(self, task: str) -> int:
        """Return how many workers a task with `workers = "auto"` has now: one for each place that it could have."""
        return self._launched.capacity(task, self._max_nodes)

    def _refuse_waiting(self) -> None:
        """End what waits for a place that it will never have: its task fails with the reason."""
        for slot in list(self._waiting) if self._launched.refusal else ():
            worker = self._places.withdraw(slot)
            assert worker is not None
            self._exit(slot, worker, ExitStatus(text=f"could not be started: {self._launched.refusal}"))

    def _tell(self, text: str) -> None:
        self._announce(Notice(time.monotonic(), text))

    def _announce(self, event: Event) -> None:
        self._reactor.post_event(Announcement(event))

    # -- machines --------------------------------------------------------------------------------------------

    def _on_joined(self, link: FrameLink, hello: Hello, peer: str, more: list[Frame]) -> None:
        if self._max_nodes is not None and len(self._nodes) >= self._max_nodes:
            link.send(frames.CLOSE, body=[b"refused: the run has as many nodes as it may have"])
            link.close()
            self._tell(f"{peer} was refused: the run has as many nodes as it may have (`nodes` in [agents])")
            return
        name, number = hello.node, 1
        while name in self._nodes:
            number += 1
            name = f"{hello.node}-{number}"
        shares = MachineShares(hello.places, hello.gpus, hello.memory)
        node = self._nodes[name] = Node(name, peer, hello, link, shares)
        self._reactor.watch_fd(link.fileno(), READ, partial(self._on_ready, node))
        self._traffic.add_node(node)
        self._announce(NodeJoined(time.monotonic(), name, hello.host, int(hello.places), hello.cpus, hello.memory))
        self._memory.add_node(node)
        self._reactor.post_event(PlacesChanged())
        send_plan(link, replace(self._plan, node_number=node.memory.number))
        self._hear(node, more)
        self._start_waiting()
        self._watch_writing(node)

    def _on_ready(self, node: Node, _mask: int) -> None:
        self._hear(node, node.link.receive())
        if node.link.wants_to_write:
            node.link.flush()
        self._watch_writing(node)

    def _send(self, node: Node, kind: int, slot: int = 0, generation: int = 0) -> None:
        node.link.send(kind, slot, generation)
        self._watch_writing(node)

    def _flush_links(self) -> None:
        """Send what was gathered in this turn."""
        while self._unflushed:
            node = self._unflushed.pop()
            if self._nodes.get(node.name) is node:
                if not node.watches_write:
                    node.link.flush()
                self._watch_writing(node)

    def _watch_writing(self, node: Node) -> None:
        """Have the reactor say when what waits can be written; see to a connection that has ended."""
        if node.link.end_reason:
            has_left = node.is_leaving and node.shares.is_empty
            self._lose_node(node, "has left" if has_left else f"is gone: {node.link.end_reason}")
        elif node.link.wants_to_write != node.watches_write and self._nodes.get(node.name) is node:
            node.watches_write = node.link.wants_to_write
            self._reactor.change_fd_events(node.link.fileno(), READ | (WRITE if node.watches_write else 0))

    def _hear(self, node: Node, got: list[Frame]) -> None:
        for frame in got:
            worker = self._workers.get(frame.slot)
            if worker is not None and (worker.node is not node or worker.generation != frame.generation):
                worker = None  # what it says is of a worker that is not there any more
            try:
                if (hear := self._hears.get(frame.kind)) is not None:
                    hear(node, worker, frame)
                elif worker is not None and (take := self._takes.get(frame.kind)) is not None:
                    take(worker, frame)
            except FrameError as error:  # its machine cannot be trusted any more, or cannot go on
                node.link.end_reason = str(error)
                return
            if node.memory.arrived and frame.kind == frames.HEARD:  # no message will name what this one has not
                node.memory.arrived.clear()

    def _on_unable(self, _node: Node, _worker: RemoteWorker | None, frame: Frame) -> None:
        raise FrameError(bytes(frame.body).decode("utf-8", "replace"))

    def _on_leaving(self, node: Node) -> None:
        node.is_leaving = True
        for slot in sorted(node.slots):
            self._reactor.post_event(WorkerLeaving(slot, self._workers[slot].generation))

    def _lose_node(self, node: Node, why: str) -> None:
        """Tell that a machine is gone, and, after the fence, that its workers are."""
        if self._nodes.get(node.name) is not node:
            return
        del self._nodes[node.name]
        self._memory.remove_node(node)
        self._traffic.remove_node(node, why)
        self._reactor.unwatch_fd(node.link.fileno())
        node.link.close()
        lost = [(slot, self._workers[slot]) for slot in sorted(node.slots)]
        for _, worker in lost:
            worker.node = None
        names = (worker.spec.name for _, worker in lost if not worker.spec.previews_suspects)
        self._announce(NodeLost(time.monotonic(), node.name, why, tuple(names)))
        if lost:
            self._reactor.call_later(_FENCE_SECONDS, partial(self._tell_lost, node, lost))

    def _tell_lost(self, node: Node, lost: list[tuple[int, RemoteWorker]]) -> None:
        for slot, worker in lost:
            shown = worker.shown
            position = Position(shown.lease, shown.index, shown.width) if shown.stands else _NOWHERE
            self._places.give_back(worker, None)
            self._exit(slot, worker, ExitStatus(text=f"was lost with node {node.name}"), position, lost=True)
        self._start_waiting()

    def _exit(
        self,
        slot: int,
        worker: RemoteWorker,
        exit_status: ExitStatus,
        position: Position = _NOWHERE,
        stack: str = "",
        *,
        socket_broken: bool = False,
        lost: bool = False,
    ) -> None:
        del self._workers[slot]
        self._memory.forget_worker(worker)
        self._launched.is_behind = True
        self._finish_output(worker.spec.name)
        event = WorkerExited(slot, worker.generation, exit_status, position, stack, socket_broken, lost)
        self._reactor.post_event(event)

    # -- what workers say ------------------------------------------------------------------------------------

    def _on_message(self, worker: RemoteWorker, frame: Frame) -> None:
        message: Any = framing.unpack_whole(frame.body)
        assert worker.node is not None
        if type(message) is Ready:
            message = Ready(message.pid, worker.node.name)
            worker.is_ready, worker.node.refusals, worker.node.avoided_until = True, 0, 0.0
        elif type(message) is Reply or type(message) is Produced:
            message = self._memory.hold_message(worker, message)
        elif type(message) is ArenaNotice:
            return
        self._reactor.post_event(MessageReceived(frame.slot, frame.generation, message))

    def _on_death(self, worker: RemoteWorker, frame: Frame) -> None:
        report = decode_body(frame.body, DeathReport)
        self._places.give_back(worker, worker.node)
        if worker.node is not None and not worker.is_ready:
            self._avoid_node(worker.node)
        exit_status = ExitStatus(report.code, report.signal, report.text)
        position = Position(report.lease, report.index, report.width)
        broken = report.socket_broken
        self._exit(frame.slot, worker, exit_status, position, report.stack, socket_broken=broken)
        self._start_waiting()

    def _on_refusal(self, worker: RemoteWorker, frame: Frame) -> None:
        assert worker.node is not None
        text = bytes(frame.body).decode("utf-8", "replace").partition(" could not be started: ")[2]
        self._places.give_back(worker, worker.node)
        self._avoid_node(worker.node)
        exit_status = ExitStatus(text=f"could not be started on node {worker.node.name}: {text}")
        self._exit(frame.slot, worker, exit_status, lost=worker.node.is_leaving)  # a machine that is to go hurries
        self._start_waiting()

    @staticmethod
    def _on_position(worker: RemoteWorker, frame: Frame) -> None:
        worker.shown = decode_body(frame.body, ShownPosition)

    @staticmethod
    def _on_weight(worker: RemoteWorker, frame: Frame) -> None:
        worker.weight = decode_body(frame.body, int)

    @staticmethod
    def _on_stack(worker: RemoteWorker, frame: Frame) -> None:
        worker.stack = bytes(frame.body).decode("utf-8", "replace")
