"""Agents on a Ray cluster: `python -P ray.py ADDRESS`, with the way into the run in the environment.

    launcher ── an actor for each agent, with the CPUs, GPUs and memory of its workers ──▶ Ray: finds a node, or waits
                  actor ── executes `runner agent`, and waits for it. It dies with the actor (PR_SET_PDEATHSIG).

No placement group: an agent is of use as soon as one of them has a place, and a group waits until all have. The way
into the run travels as the argument of a call between launcher and actor, which Ray keeps in no table and no log.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

#: Workers that need the same: CPUs, GPUs and bytes of memory of each.
Shape = tuple[float, float, float]
_KEYS = ("CPU", "GPU", "memory")
#: An agent that has ended sooner has not joined. So many in a row, and something is wrong on all nodes.
_SHORT_LIFE, _MAX_SHORT_LIVES = 20.0, 3
#: Seconds between two looks whether what waits could have a place elsewhere, and before waiting is told.
_LOOK_SECONDS, _TELL_SECONDS = 2.0, 5.0

#: Where Ray's first autoscaler says, in JSON, what it does.
_FIRST_AUTOSCALER = "__autoscaling_status"

#: The first thing that an actor's child does: it dies with the actor, however that dies. Then it is the agent.
_EXECUTE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-P", "-m", "runner", "agent", *sys.argv[2:]])
"""


class AgentActor:
    """What Ray places: it executes one agent. Pickled by value, so it refers to nothing outside."""

    def start(self, join: str, execute: str, words: list[str]) -> str:
        """Execute the agent; return the address of the node."""
        import importlib
        import os
        import subprocess
        import sys

        fd = os.memfd_create("runner-join")
        os.fchmod(fd, 0o600)
        os.write(fd, join.encode())
        command = [sys.executable, "-P", "-c", execute, str(os.getpid()), "--join", f"/proc/self/fd/{fd}", *words]
        null = subprocess.DEVNULL
        self.agent = subprocess.Popen(  # noqa: S603  this Python itself
            command, stdin=null, stdout=null, stderr=subprocess.PIPE, pass_fds=[fd], cwd="/"
        )
        os.close(fd)
        return str(importlib.import_module("ray").util.get_node_ip_address())

    def wait(self) -> str:
        """Wait for the agent's end; return its last words."""
        err = self.agent.communicate()[1].decode(errors="replace").strip().splitlines()
        return err[-1] if err else f"its agent has ended with code {self.agent.returncode}"


class RayNode:
    """An agent that has been asked for: the workers that it is for, and the node that is meant for it, if one is."""

    def __init__(self, name: str, load: Counter[Shape], where: str) -> None:
        self.name, self.load, self.where = name, load, where
        self.actor: Any = None
        self.is_started = False
        self.since = time.monotonic()


def needed(load: Counter[Shape]) -> list[float]:
    """Return the CPUs, GPUs and memory of some workers together.

    >>> needed(Counter({(1, 0.25, 100): 4}))
    [4, 1.0, 400]
    """
    return [sum(shape[at] * count for shape, count in load.items()) for at in range(3)]


def plan_agents(
    missing: Counter[Shape], free: dict[str, list[float]], largest: list[float], most: int
) -> list[tuple[str, Counter[Shape]]]:
    """Return at most `most` agents (0: any number): the node of each, and its workers, spread over what is free.

    What has no room gets agents without a node, as large as the largest node, so that Ray waits, or has more started.

    >>> plan_agents(Counter({(1, 0, 0): 5}), {"a": [2, 0, 0], "b": [1, 0, 0]}, [2, 0, 0], 0)
    [('a', Counter({(1, 0, 0): 2})), ('b', Counter({(1, 0, 0): 1})), ('', Counter({(1, 0, 0): 2}))]
    """
    nodes = sorted(free, key=lambda node: free[node], reverse=True)[: most or None]
    left = {node: list(free[node]) for node in nodes}
    loads: dict[str, Counter[Shape]] = {node: Counter() for node in nodes}
    waiting: list[Counter[Shape]] = []
    for shape in sorted(missing.elements(), key=lambda shape: (shape[1], shape[0], shape[2]), reverse=True):
        having_room = [node for node in nodes if fits(shape, left[node])]
        if having_room:
            node = max(having_room, key=lambda node: left[node])
            left[node] = [has - needs for has, needs in zip(left[node], shape, strict=True)]
            loads[node][shape] += 1
        else:
            room = next((load for load in waiting if fits(needed(load + Counter([shape])), largest)), None)
            if room is None:
                waiting.append(room := Counter())
            room[shape] += 1
    found = [(node, load) for node, load in loads.items() if load] + [("", load) for load in waiting]
    return found[: most or None]


def fits(needs: Shape | list[float], has: list[float]) -> bool:
    """Return True if there is enough of each; of sums of fractions a ten-thousandth may be missing, as Ray counts."""
    return all(need <= there + 1e-4 for need, there in zip(needs, has, strict=True))


class RayLauncher:
    """The agents of one run on one cluster."""

    def __init__(self, ray: Any, join: str, out: Any) -> None:
        self.ray, self.join, self.out = ray, join, out
        self.events: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self.wanted: Counter[Shape] = Counter()
        self.most = 0
        self.next_number = 1
        self.agents: dict[str, RayNode] = {}
        self.short_lives = 0
        self.told_waiting = ""
        #: What was free on each machine when it was seen first: as many workers there are with `workers = "auto"`.
        self.offers: dict[str, list[float]] = {}
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        self.node_affinity = strategies.NodeAffinitySchedulingStrategy
        self.get_status = importlib.import_module("ray.autoscaler.v2.sdk").get_cluster_status
        self.get_entry = importlib.import_module("ray.experimental.internal_kv")._internal_kv_get
        self.actor_class = ray.remote(max_restarts=0, max_task_retries=0)(AgentActor)

    def say(self, **message: Any) -> None:
        """Tell the supervisor."""
        print(json.dumps(message), file=self.out, flush=True)

    def run(self) -> None:
        """Do what is wanted until the end of the input."""
        threading.Thread(target=self._read_input, daemon=True).start()
        self.look_at_cluster()
        while True:
            try:
                kind, name, value = self.events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self.place_again()
                continue
            if kind == "end":
                break
            getattr(self, f"on_{kind}")(name, value)
        for agent in self.agents.values():
            self.ray.kill(agent.actor)

    def _read_input(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            self.events.put(("stop", message["stop"], None) if "stop" in message else ("want", "", message))
        self.events.put(("end", "", None))

    def on_want(self, _: str, message: dict[str, Any]) -> None:
        """Ask for what is missing; where less is wanted, what has no place yet is asked for anew."""
        self.most = message["nodes"]
        self.next_number = max(self.next_number, message["first"])
        self.wanted = Counter()
        for each in message["want"]:
            self.wanted[each["cpus"], each["gpus"], each["memory"]] += each["workers"]
        left = Counter(self.wanted)
        for agent in self.agents.values():
            left.subtract(agent.load)
        if min(left.values(), default=0) < 0:
            self.drop_waiting()
        self.ask_for_missing()

    def on_stop(self, name: str, _: Any) -> None:
        """End an agent; its end is told as any other."""
        if name in self.agents:
            self.ray.kill(self.agents[name].actor)

    def missing(self) -> Counter[Shape]:
        """Return the workers that no agent is for."""
        left = Counter(self.wanted)
        for agent in self.agents.values():
            left.subtract(agent.load)
        return +left

    def drop_waiting(self) -> None:
        """Take back what has no place yet."""
        for name in [name for name, agent in self.agents.items() if not agent.is_started]:
            self.ray.kill(self.agents.pop(name).actor)

    def ask_for_missing(self) -> None:
        """Make an actor for each agent of the plan, or say what can never be had."""
        room = self.most - len(self.agents)
        missing = self.missing()
        if not missing or (self.most and room <= 0):
            return
        cluster = self.look_at_cluster()
        for shape in missing:
            if (
                cluster.totals
                and not cluster.is_scaling
                and not any(fits(shape, has) for has in cluster.totals.values())
            ):
                self.say(refused=f"no machine has {in_words(shape)}; {cluster.describe()}")
                self.wanted.clear()
                return
        # Where machines are started, nobody knows how large they will be: what waits is one worker each.
        largest = [0.0] * 3 if cluster.is_scaling else max(cluster.totals.values(), default=[0.0] * 3)
        for where, load in plan_agents(missing, cluster.free, largest, room if self.most else 0):
            self.start_agent(where, load)

    def look_at_cluster(self) -> Cluster:
        """Ask Ray for its machines; what our agents have asked for and Ray has not counted yet is not free."""
        status = self.get_status(self.ray.get_runtime_context().gcs_address)
        entry = json.loads(self.get_entry(_FIRST_AUTOSCALER) or "{}")
        cluster = Cluster(status, entry.get("autoscaler_report") or {})
        if cluster.free.keys() - self.offers.keys():
            self.offers = {**cluster.free, **self.offers}
            self.say(offers=list(self.offers.values()))
        for agent in self.agents.values():
            if not agent.is_started and agent.where in cluster.free:
                free = cluster.free[agent.where]
                left = [has - needs for has, needs in zip(free, needed(agent.load), strict=True)]
                cluster.free[agent.where] = [max(0.0, each) for each in left]  # it may have been counted by now
        return cluster

    def start_agent(self, where: str, load: Counter[Shape]) -> None:
        """Have Ray find a place for an agent; the one that was free a moment ago if it still is."""
        name = f"n{self.next_number}"
        self.next_number += 1
        agent = self.agents[name] = RayNode(name, load, where)
        cpus, gpus, memory = needed(load)
        options: dict[str, Any] = {"num_cpus": cpus, "memory": memory or None}
        options["num_gpus"] = gpus if gpus <= 1 else math.ceil(gpus - 1e-4)  # Ray knows no 1.5 GPUs
        if where:
            options["scheduling_strategy"] = self.node_affinity(where, soft=True)
        agent.actor = self.actor_class.options(**options).remote()
        words = ["--name", name, "--places", f"{cpus:g}", *(["--memory", f"{memory:.0f}"] if memory else [])]
        started = agent.actor.start.remote(self.join, _EXECUTE, words).future()
        ended = agent.actor.wait.remote().future()
        started.add_done_callback(lambda done: self.events.put(("started", name, done)))
        ended.add_done_callback(lambda done: self.events.put(("ended", name, done)))

    def on_started(self, name: str, done: Any) -> None:
        """Tell that an agent has been executed; if it has not, its end tells why."""
        if name in self.agents and done.exception() is None:
            self.agents[name].is_started = True
            self.agents[name].since = time.monotonic()
            self.say(started=name, where=done.result())
            self.tell_waiting()

    def on_ended(self, name: str, done: Any) -> None:
        """Tell the end of an agent, and have another one started in its place."""
        agent = self.agents.pop(name, None)
        if agent is None:
            return
        error = done.exception()
        why = done.result() if error is None else str(error).strip().splitlines()[-1].strip()
        self.say(ended=name, why=why)
        ended_at_once = error is None and time.monotonic() - agent.since < _SHORT_LIFE
        self.short_lives = self.short_lives + 1 if ended_at_once else 0
        if self.short_lives >= _MAX_SHORT_LIVES:
            self.say(refused=f"{self.short_lives} agents in a row have ended at once; the last one: {why}")
            self.wanted.clear()
        self.ask_for_missing()

    def place_again(self) -> None:
        """Plan anew what waits if some of it would have room now, and ask for what is missing; tell what waits."""
        waiting = [agent for agent in self.agents.values() if not agent.is_started]
        if any(time.monotonic() - agent.since > _TELL_SECONDS for agent in waiting):
            free = self.look_at_cluster().free
            shapes = {shape for agent in waiting for shape in agent.load}
            if any(fits(shape, room) for shape in shapes for room in free.values()):
                self.drop_waiting()
        self.ask_for_missing()
        self.tell_waiting()

    def tell_waiting(self) -> None:
        """Say what waits, and what Ray has, if that has changed."""
        now = time.monotonic()
        load: Counter[Shape] = Counter()
        for agent in self.agents.values():
            if not agent.is_started and now - agent.since > _TELL_SECONDS:
                load += agent.load
        text = f"{in_words(needed(load))} are not free; {self.look_at_cluster().describe()}" if load else ""
        if text != self.told_waiting:
            self.told_waiting = text
            self.say(waiting=text)


class Cluster:
    """Ray's machines at one moment: what each has, and what of that is free. `is_scaling`: it starts more of them.

    Ray's first autoscaler, which clusters of `ray up` have, is not in the `status`; it leaves a `report` of its own.
    """

    def __init__(self, status: Any, report: dict[str, Any]) -> None:
        self.totals: dict[str, list[float]] = {}
        self.free: dict[str, list[float]] = {}
        self.is_scaling = False
        for node in [*status.active_nodes, *status.idle_nodes]:
            usage = {each.resource_name: each for each in node.resource_usage.usage}
            rows = [usage.get(key) for key in _KEYS]
            self.totals[node.node_id] = [row.total if row else 0.0 for row in rows]
            cpus, gpus, memory = (row.total - row.used if row else 0.0 for row in rows)
            self.free[node.node_id] = [cpus, float(int(gpus)) if gpus > 1 else gpus, memory]
            # Ray makes up a type for each machine that nobody has described, and that it could start no second one of.
            self.is_scaling |= node.ray_node_type_name != f"node_{node.node_id}"
        # So does the report: `node_` and its number.
        self.is_scaling |= any(not name.startswith("node_") for name in report.get("active_nodes") or ())
        self.pending = len(status.pending_nodes) + sum(each.count for each in status.pending_launches)
        self.pending += len(report.get("pending_nodes") or ()) + sum((report.get("pending_launches") or {}).values())
        self.failures = [each.details or each.instance_type_name for each in status.failed_launches]

    def describe(self) -> str:
        """Return what there is, in words."""
        total, free = ([sum(row) for row in zip(*rows.values(), strict=True)] for rows in (self.totals, self.free))
        if not self.totals:
            text = "Ray has no machines"
        else:
            machines = f"{len(self.totals)} machine{'s' if len(self.totals) > 1 else ''}"
            parts = [f"{amount(free[0])} of {amount(total[0])} CPUs"]
            if total[1]:
                parts.append(f"{amount(free[1])} of {amount(total[1])} GPUs")
            text = f"Ray has {' and '.join(parts)} free on {machines}"
        if self.pending:
            text += f", and {self.pending} more being started"
        return text + "".join(f"; it could not start one: {why}" for why in self.failures[-1:])


def amount(number: float) -> str:
    """Return a number as people write it."""
    return f"{round(number, 2):g}"


def in_words(needs: Any) -> str:
    """Return what is needed, in words.

    >>> in_words([2, 0.5, 3e9]), in_words([1, 0, 0])
    ('2 CPUs, 0.5 GPUs, 3GB of memory', '1 CPU')
    """
    cpus, gpus, memory = needs
    parts = [f"{amount(cpus)} CPU{'' if cpus == 1 else 's'}"]
    if gpus:
        parts.append(f"{amount(gpus)} GPU{'' if gpus == 1 else 's'}")
    if memory:
        parts.append(f"{amount(memory / 1e9)}GB of memory")
    return ", ".join(parts)


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of the address of a cluster itself; None for that of a client's server, or a word.

    >>> host_and_port("[::1]:6379"), host_and_port("ray://head:10001"), host_and_port("auto")
    (('::1', 6379), None, None)
    """
    host, colon, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdecimal() and "/" not in address else None


def check_address(address: str) -> None:
    """Raise OSError at once for `host:port` where nothing listens; Ray would try for some minutes."""
    if (place := host_and_port(address)) is not None:
        socket.create_connection(place, timeout=10).close()


def wants_token(address: str) -> bool:
    """Return True if the cluster at `host:port` asks for this user's token, which Ray shows only if it is told to."""
    if "RAY_AUTH_MODE" in os.environ or host_and_port(address) is None:
        return False
    try:
        importlib.import_module("ray._raylet").GcsClient(address=address)
    except Exception as error:  # noqa: BLE001  whatever else it is, connecting will say
        return type(error).__name__ == "AuthenticationError"
    return False


def main() -> None:
    """Connect, and do what is wanted until the end of the input."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is no message
    address = sys.argv[1]
    ray = importlib.import_module("ray")
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        check_address(address)
        if wants_token(address):  # Ray has read its environment when it was imported: once more
            os.dup2(out.fileno(), 1)
            os.environ["RAY_AUTH_MODE"] = "token"
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606  this very program
        join = os.environ.pop("RUNNER_JOIN")  # a cluster that is started here would hand it to all that it starts
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # noqa: BLE001  whatever it is, the supervisor is told its words
        sys.exit(f"Ray at {address}: {' '.join(str(error).split())}")
    try:
        RayLauncher(ray, join, out).run()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
